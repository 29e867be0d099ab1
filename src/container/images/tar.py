"""Read tar archives as a stream: bytes in, entries out.

Understands ustar, pax, GNU long names and GNU sparse files (`container.images.sparse`), because those
are what layers come in. Nothing here touches a file: what an entry may do to the disk is decided
in `container.images.tree`. Names are bytes, as the kernel has them.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zlib import adler32

from container.images import sparse
from container.images.bytestream import ByteStream, TarError

BLOCK = 512

FILE, LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_CONTIGUOUS, _OLD_FILE = b"7", b"\0"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
_FILES = frozenset((FILE, _OLD_FILE, _CONTIGUOUS, _GNU_SPARSE))
_WITHOUT_CONTENT = frozenset((LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO))

_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_ADLER = 65521
#: What a header may say about the next one; xattr values are at most 64 KiB each.
_LONGEST_EXTENSION = 1 << 20
_LARGEST_ID = 2**32 - 2
_LARGEST_DEVICE = 2**20 - 1
#: Beyond any file system's range, within time_t.
_LATEST_NS = 2**40 * 1_000_000_000
_MOST_REMEMBERED = 4096
_XATTR = b"SCHILY.xattr."

Pax = dict[bytes, bytes]


@dataclass(slots=True)
class Entry:
    """One member of an archive.

    Attributes:
        kind: one of FILE, LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO.
        name: as written in the archive; not to be trusted.
        target: what a link points to.
        size: the file's length.
        stored: how many bytes of it are in the archive; less than `size` for a sparse file.
        device: major and minor number.
        extents: (offset, length) of what is stored of a sparse file; None for any other.
    """

    kind: bytes
    name: bytes
    target: bytes
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime_ns: int
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] | None = None
    extents: list[tuple[int, int]] | None = None


class TarReader:
    """Iterates over the entries of an archive; the content of a file is read between two of them."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._global: Pax = {}
        self._next_header = 0
        self._memo: dict[bytes, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        while True:
            entry = self._read_entry()
            if entry is None:
                return
            yield entry

    def content(self, entry: Entry) -> Iterable[memoryview]:
        """Return the stored bytes of the entry that was read last; may be called once."""
        return self._stream.pieces(entry.stored)

    def _read_entry(self) -> Entry | None:
        pax: Pax = dict(self._global) if self._global else {}
        while True:
            header = self._read_header()
            if header is None:
                return None
            kind = header[7]
            if kind == _PAX:
                pax.update(parse_pax(self._read_extension(header), self._stream.offset))
            elif kind == _PAX_GLOBAL:
                self._global.update(parse_pax(self._read_extension(header), self._stream.offset))
                pax = {**self._global, **pax}
            elif kind == _GNU_NAME:
                pax[b"path"] = _until_nul(self._read_extension(header))
            elif kind == _GNU_LINK:
                pax[b"linkpath"] = _until_nul(self._read_extension(header))
            else:
                entry = self._build(header, pax)
                if entry is not None:
                    return entry
                pax = dict(self._global)

    def _read_header(self) -> tuple[bytes, ...] | None:
        """Return the fields of the next header with the raw block behind them; None at the end."""
        stream = self._stream
        stream.skip(self._next_header - stream.offset)
        self._next_header += BLOCK
        block = stream.take_or_end(BLOCK)
        # A stream that ends where a header would begin ends well: GNU tar reads such archives too.
        if not block or block.count(0) == BLOCK:
            return None
        fields = _HEADER.unpack(block)
        if not _checksum_matches(block, fields[6]):
            raise TarError("header checksum does not match", stream.offset - BLOCK)
        return (*fields, block)

    def _read_extension(self, header: tuple[bytes, ...]) -> bytes:
        size = self._number(header[4])
        if size > _LONGEST_EXTENSION:
            raise TarError(f"extended header of {size} bytes is too long", self._stream.offset - BLOCK)
        self._next_header += _padded(size)
        return self._stream.take(size)

    def _build(self, header: tuple[bytes, ...], pax: Pax) -> Entry | None:
        kind = header[7]
        if kind not in _FILES and kind not in _WITHOUT_CONTENT:
            # Volume labels and vendor records describe no file; their content is passed over.
            size = _decimal(pax[b"size"], self._stream.offset) if b"size" in pax else self._number(header[4])
            self._next_header += _padded(size)
            return None
        stored = self._number(header[4]) if kind in _FILES else 0
        entry = Entry(
            kind=FILE if kind in _FILES else kind,
            name=_name(header),
            target=header[8].split(b"\0", 1)[0],
            mode=self._remember(header[1]) & 0o7777,
            uid=self._remember(header[2]),
            gid=self._remember(header[3]),
            size=stored,
            stored=stored,
            mtime_ns=self._signed(header[5]) * 1_000_000_000,
        )
        if kind in (CHAR, DEVICE):
            entry.device = (self._number(header[12]), self._number(header[13]))
        if pax:
            self._apply(entry, pax)
        if entry.kind == FILE:
            self._next_header += _padded(entry.stored)
            if pax or kind != FILE:
                self._refine_file(entry, kind, header[-1], pax)
        self._check(entry)
        return entry

    def _refine_file(self, entry: Entry, kind: bytes, block: bytes, pax: Pax) -> None:
        if kind == _GNU_SPARSE:
            before = self._stream.offset
            entry.size, entry.extents = sparse.read_gnu(block, self._stream)
            self._next_header += self._stream.offset - before
        elif b"GNU.sparse.realsize" in pax or b"GNU.sparse.size" in pax:
            entry.name = pax.get(b"GNU.sparse.name", entry.name)
            before = self._stream.offset
            entry.size, entry.extents = sparse.read_pax(pax, self._stream)
            entry.stored -= self._stream.offset - before
        elif entry.name.endswith(b"/") and kind == _OLD_FILE:
            # Before ustar a directory was a file whose name ended in a slash.
            entry.kind = DIRECTORY
        if entry.extents is not None:
            sparse.check(entry.extents, entry.size, entry.stored, self._stream.offset)

    def _apply(self, entry: Entry, pax: Pax) -> None:
        offset = self._stream.offset
        entry.name = pax.get(b"path", entry.name)
        entry.target = pax.get(b"linkpath", entry.target)
        if b"size" in pax and entry.kind == FILE:
            entry.size = entry.stored = _decimal(pax[b"size"], offset)
        if b"uid" in pax:
            entry.uid = _decimal(pax[b"uid"], offset)
        if b"gid" in pax:
            entry.gid = _decimal(pax[b"gid"], offset)
        if b"mtime" in pax:
            entry.mtime_ns = parse_time(pax[b"mtime"], offset)
        entry.xattrs = {key.removeprefix(_XATTR): value for key, value in pax.items() if key.startswith(_XATTR)}

    def _check(self, entry: Entry) -> None:
        offset = self._stream.offset
        if b"\0" in entry.name or b"\0" in entry.target:
            raise TarError("name with a NUL byte", offset)
        if entry.uid > _LARGEST_ID or entry.gid > _LARGEST_ID:
            raise TarError(f"owner {entry.uid}:{entry.gid} is out of range", offset)
        if entry.device > (0, 0) and max(entry.device) > _LARGEST_DEVICE:
            raise TarError(f"device {entry.device[0]}:{entry.device[1]} is out of range", offset)
        if not -_LATEST_NS <= entry.mtime_ns <= _LATEST_NS:
            entry.mtime_ns = _LATEST_NS if entry.mtime_ns > 0 else -_LATEST_NS

    def _remember(self, raw: bytes) -> int:
        """Return a number of which an archive has few: modes and owners."""
        value = self._memo.get(raw)
        if value is None:
            value = self._number(raw)
            if len(self._memo) < _MOST_REMEMBERED:
                self._memo[raw] = value
        return value

    def _number(self, raw: bytes) -> int:
        value = self._signed(raw)
        if value < 0:
            raise TarError(f"negative number {value} in header", self._stream.offset - BLOCK)
        return value

    def _signed(self, raw: bytes) -> int:
        # Nearly every field is octal digits with a blank or NUL behind them, which `int` reads at once.
        if not raw[-1] & 0xDF:
            try:
                return int(raw[:-1], 8)
            except ValueError:
                pass
        return _parse_odd_number(raw, self._stream.offset - BLOCK)


def parse_pax(records: bytes, offset: int) -> Pax:
    """Parse the records `LENGTH KEY=VALUE\\n` of a pax header.

    The offsets and lengths of GNU's first sparse format repeat their keys; they are gathered into the
    one record of its second format.
    """
    pax: Pax = {}
    extents: list[bytes] = []
    position = 0
    while position < len(records) and records[position]:
        length, _, _ = records[position : position + 12].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            raise TarError("malformed pax record", offset)
        record = records[position + len(length) + 1 : position + int(length)]
        position += int(length)
        key, equals, value = record[:-1].partition(b"=")
        if position > len(records) or not equals or record[-1:] != b"\n":
            raise TarError("malformed pax record", offset)
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            extents.append(value)
        pax[key] = value
    if extents:
        pax[b"GNU.sparse.map"] = b",".join(extents)
    return pax


def parse_time(text: bytes, offset: int) -> int:
    """Return the nanoseconds of a pax time such as `1700000000.25` or `-1.5`."""
    seconds, _, fraction = text.partition(b".")
    digits = seconds.removeprefix(b"-")
    if not digits.isdigit() or not (fraction or b"0").isdigit() or len(digits) > 20:
        raise TarError(f"malformed time `{text[:40].decode('ascii', 'replace')}`", offset)
    value = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if seconds.startswith(b"-") else value


def _decimal(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise TarError(f"malformed number `{text[:40].decode('ascii', 'replace')}`", offset)
    return int(text)


def _parse_odd_number(raw: bytes, offset: int) -> int:
    """Return a number that is blank, without terminator, or base 256 as GNU tar writes large ones."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (8 * len(raw) - 1)) - 1)
        negative = raw[0] & 0x40
        return value - (1 << (8 * len(raw) - 1)) if negative else value
    text = raw.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(text or b"0", 8)
    except ValueError as error:
        raise TarError("malformed number in header", offset) from error


def _checksum_matches(block: bytes, raw: bytes) -> bool:
    # The low half of Adler-32 is 1 + the sum of the bytes, modulo 65521: the sum that tar wants, without
    # a loop in Python. The field itself counts as eight blanks.
    try:
        expected = int(raw.split(b"\0", 1)[0], 8)
    except ValueError:
        return False
    if (adler32(block) & 0xFFFF) == (1 + expected + sum(raw) - 8 * 32) % _ADLER:
        return True
    # Some old programs added up signed characters.
    signed = struct.unpack("512b", block)
    total: int = sum(signed) - sum(signed[148:156]) + 8 * 32
    return total == expected


def _name(header: tuple[bytes, ...]) -> bytes:
    name = header[0].split(b"\0", 1)[0]
    # GNU's own format has times where ustar has the prefix; its magic ends in a blank.
    if header[9][:6] == b"ustar\0" and header[14][0]:
        return header[14].split(b"\0", 1)[0] + b"/" + name
    return name


def _until_nul(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _padded(size: int) -> int:
    return (size + BLOCK - 1) & -BLOCK
