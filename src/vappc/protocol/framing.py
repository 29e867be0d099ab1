"""Bytes to lines: one JSON object a line, at most 1 MiB. No I/O, no JSON types.

The first clients sent an object without a newline and never more than 64 KiB. What is buffered is
therefore also taken as a message when it is one complete object; a line's newline that comes later
is then an empty line, and empty lines are nothing.
"""

from collections.abc import Iterator

import msgspec

from vappc.errors import LineTooLongError

MAX_LINE_BYTES = 1 << 20
#: The read buffer of the first daemon: no client of that time sent more in one message.
MAX_BARE_BYTES = 1 << 16


class LineDecoder:
    """Cut a byte stream into messages; however the stream is split, the messages are the same."""

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES, bare_objects: bool = True) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._max_bytes = max_bytes
        self._bare_objects = bare_objects

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes.

        Raises:
            LineTooLongError: a line exceeds the limit; the decoder is of no further use.
        """
        self._buffer += data
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            self._searched = 0
            if end > self._max_bytes:
                raise _too_long(self._max_bytes)
            if line:
                yield line
        self._searched = len(self._buffer)
        if self._searched > self._max_bytes:
            self._buffer.clear()
            raise _too_long(self._max_bytes)
        if self._bare_objects and self._is_whole_object():
            line = bytes(self._buffer).strip()
            self._buffer.clear()
            self._searched = 0
            yield line

    @property
    def buffered(self) -> int:
        """How many bytes wait for the rest of their line."""
        return len(self._buffer)

    def _is_whole_object(self) -> bool:
        if not 2 <= len(self._buffer) <= MAX_BARE_BYTES or not self._buffer.rstrip().endswith(b"}"):
            return False
        try:
            return isinstance(msgspec.json.decode(self._buffer), dict)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False


def _too_long(max_bytes: int) -> LineTooLongError:
    return LineTooLongError(f"a line is longer than {max_bytes} bytes", "send large data in several `Input` requests")
