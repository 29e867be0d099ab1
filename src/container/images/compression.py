"""Decompress a stream of chunks: gzip, zstd or plain, told apart by their first bytes.

The media type is not asked: builders are known to write the wrong one, and the bytes do not lie.
Both formats may consist of several members, one behind the other (pigz, eStargz, zstd:chunked).
"""

import sys
from collections.abc import Iterator
from typing import Protocol, cast

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
#: A frame for other programs; zstd:chunked begins with none, but eStargz-like formats may.
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
#: How much one step may produce: it bounds the memory that a bomb can claim.
_STEP = 1 << 20
_ERRORS: tuple[type[Exception], ...] = (cast("type[Exception]", IsalError), ZstdError, EOFError)


class CompressionError(Exception):
    """The compressed stream is broken."""


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def decompress(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the decompressed bytes of `chunks` in pieces of at most 1 MiB.

    Raises:
        CompressionError: the stream is broken or ends too early.
    """
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= 4:
            break
    if first.startswith(_GZIP):
        yield from _members(first, chunks, "gzip")
    elif first.startswith(_ZSTD) or (first[:1].hex()[:1] == "5" and first[1:4] == _ZSTD_SKIPPABLE):
        yield from _members(first, chunks, "zstd")
    else:
        if first:
            yield first
        # Not `yield from`: whoever stops reading here goes on reading `chunks` itself.
        for chunk in chunks:
            yield chunk


def _open(kind: str) -> _Decompressor:
    # Both are written in C and described to type checkers not at all, or more narrowly than they are.
    opened = IgzipDecompressor(flag=DECOMP_GZIP) if kind == "gzip" else ZstdDecompressor()
    return cast("_Decompressor", opened)


def _members(data: bytes, chunks: Iterator[bytes], kind: str) -> Iterator[bytes]:
    decompressor = _open(kind)
    try:
        while True:
            produced = decompressor.decompress(data, _STEP)
            if produced:
                yield produced
            data = b""
            if decompressor.eof:
                # Programs that write to tapes pad with zeros; everything else must be a next member.
                data = decompressor.unused_data.lstrip(b"\0")
                while not data and (chunk := next(chunks, b"")):
                    data = chunk.lstrip(b"\0")
                if not data:
                    return
                decompressor = _open(kind)
            elif decompressor.needs_input:
                data = next(chunks, b"")
                if not data:
                    raise CompressionError(f"{kind} stream ends too early")
    except _ERRORS as error:
        raise CompressionError(f"{kind} stream is broken: {str(error).lower()}") from error
