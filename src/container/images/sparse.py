"""The maps of GNU sparse files: which parts of the file are in the archive, and how long it is.

GNU tar has four ways to write them: its own header type, and three generations within pax headers.
Writing such archives is out of scope.
"""

from container.images.bytestream import ByteStream, TarError

Extents = list[tuple[int, int]]

_BLOCK = 512
#: 24 bytes each on disk; enough for a map of 1 GiB with a hole in every 4 KiB block.
_MOST_EXTENTS = 1 << 18


def read_gnu(header: bytes, stream: ByteStream) -> tuple[int, Extents]:
    """Return size and extents of an entry of type `S`; the map goes on in blocks behind the header."""
    size = _octal(header[483:495], stream)
    extents = _read_pairs(header[386:482], stream)
    more = header[482]
    while more:
        block = stream.take(_BLOCK)
        extents += _read_pairs(block[:504], stream)
        more = block[504]
        _bound(len(extents), stream)
    return size, extents


def read_pax(pax: dict[bytes, bytes], stream: ByteStream) -> tuple[int, Extents]:
    """Return size and extents from pax records; in format 1.0 the map stands before the content."""
    size = _decimal(pax.get(b"GNU.sparse.realsize") or pax[b"GNU.sparse.size"], stream)
    if pax.get(b"GNU.sparse.major") == b"1":
        return size, _read_map(stream)
    numbers = [_decimal(text, stream) for text in pax.get(b"GNU.sparse.map", b"").split(b",") if text]
    _bound(len(numbers) // 2, stream)
    return size, list(zip(numbers[::2], numbers[1::2], strict=False))


def check(extents: Extents, size: int, stored: int, offset: int) -> None:
    """Raise TarError unless the extents ascend, fit into the file and add up to what is stored."""
    end = 0
    for start, length in extents:
        if start < end:
            raise TarError("sparse map overlaps", offset)
        end = start + length
    if end > size or sum(length for _, length in extents) != stored:
        raise TarError("sparse map does not match the file's size", offset)


def _read_map(stream: ByteStream) -> Extents:
    block = stream.take(_BLOCK)
    count_text, _, rest = block.partition(b"\n")
    count = _decimal(count_text, stream)
    _bound(count, stream)
    while rest.count(b"\n") < 2 * count:
        rest += stream.take(_BLOCK)
    numbers = [_decimal(text, stream) for text in rest.split(b"\n")[: 2 * count]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _read_pairs(raw: bytes, stream: ByteStream) -> Extents:
    pairs: Extents = []
    for at in range(0, len(raw) - 23, 24):
        if not raw[at + 12]:
            break
        pairs.append((_octal(raw[at : at + 12], stream), _octal(raw[at + 12 : at + 24], stream)))
    return pairs


def _bound(count: int, stream: ByteStream) -> None:
    if count > _MOST_EXTENTS:
        raise TarError("sparse map has too many entries", stream.offset)


def _octal(raw: bytes, stream: ByteStream) -> int:
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    try:
        return int(raw.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise TarError("malformed number in sparse map", stream.offset) from error


def _decimal(text: bytes, stream: ByteStream) -> int:
    if not text.isdigit() or len(text) > 20:
        raise TarError("malformed number in sparse map", stream.offset)
    return int(text)
