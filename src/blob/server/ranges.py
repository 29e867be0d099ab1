"""PURE. Byte ranges of RFC 9110, section 14.

One range per request; a request for several gets the whole, which the RFC allows and every client understands.
"""

import re

from blob.errors import RangeError

_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first position and the one after the last, None for the whole.

    Raises:
        RangeError: nothing of what is asked for exists.
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            # Backwards: not a range at all says the RFC, but 416 says what is wrong.
            raise RangeError(f"range `{header[:60]}` ends before it starts", size)
    if start >= end:
        raise RangeError(f"range `{header[:60]}` is outside of {size} bytes", size)
    return start, end


def format_content_range(start: int, end: int, size: int) -> str:
    """Return the `Content-Range` of the bytes from `start` up to `end`."""
    return f"bytes {start}-{end - 1}/{size}"


def parse_chunk_range(header: str) -> tuple[int, int] | None:
    """Parse the `Content-Range` of an upload, `first-last`; None if it is something else."""
    match = re.fullmatch(r"(?:bytes[ =])?(\d{1,19})-(\d{1,19})(?:/.*)?", header)
    return (int(match[1]), int(match[2])) if match else None
