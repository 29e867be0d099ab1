"""Files inside an archive: a directory, or a tar that is looked into without unpacking it.

Out of scope: what the files mean (`archive`).
"""

import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from blob.errors import ArchiveError
from blob.oci.manifest import LARGEST_MANIFEST
from blob.upstream.compression import open_plain

CHUNK = 1 << 20
_MOST_LINKS = 8


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of an open file."""

    file: BinaryIO
    offset: int
    size: int

    def read(self, start: int, count: int) -> bytes:
        """Return up to `count` bytes from `start` on."""
        return os.pread(self.file.fileno(), min(count, self.size - start), self.offset + start)

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes, a mebibyte at a time."""
        position = 0
        while position < self.size:
            data = self.read(position, CHUNK)
            if not data:
                raise ArchiveError("the archive ends early")
            yield data
            position += len(data)

    def whole(self, most: int = LARGEST_MANIFEST) -> bytes:
        """Return all bytes, which must not be more than `most`."""
        if self.size > most:
            raise ArchiveError(f"the archive holds a document of {self.size} bytes, more than {most}")
        return b"".join(self.chunks())


class Directory(Mapping[str, Extent]):
    """A directory's files by their names below it, opened when looked up."""

    def __init__(self, path: Path, files: list[BinaryIO]) -> None:
        self._path = path
        self._files = files

    def __getitem__(self, name: str) -> Extent:
        try:
            file = (self._path / name).open("rb")
        except FileNotFoundError:
            raise KeyError(name) from None
        except OSError as error:
            raise ArchiveError(f"cannot read `{self._path / name}`: {(error.strerror or '').lower()}") from error
        self._files.append(file)
        return Extent(file, 0, os.fstat(file.fileno()).st_size)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(str(p.relative_to(self._path)) for p in self._path.rglob("*") if p.is_file()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def spool_plain(path: Path, compression: str, files: list[BinaryIO]) -> BinaryIO:
    """Decompress into a nameless file, since blobs inside are read in any order; `files` will own it."""
    spool = cast("BinaryIO", tempfile.TemporaryFile())
    files.append(spool)
    with open_plain(path, compression) as source:
        while data := source.read(CHUNK):
            spool.write(data)
    spool.seek(0)
    return spool


def read_members(file: BinaryIO, path: Path) -> dict[str, Extent]:
    """Return where in a plain tar each regular file is; links count as what they point to."""
    found: dict[str, Extent] = {}
    links: dict[str, str] = {}
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = _normal(member.name)
                if member.isreg() and not member.issparse():
                    found[name] = Extent(file, member.offset_data, member.size)
                elif member.issym() or member.islnk():
                    base = os.path.dirname(name) if member.issym() else ""
                    links[name] = _normal(os.path.join(base, member.linkname))
                if member.offset_data + (member.size if member.isreg() else 0) > size:
                    raise ArchiveError(f"archive `{path}` ends early", "copy or make it again")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise ArchiveError(f"`{path}` is not a tar archive: {str(error).lower()}") from error
    resolved = {name: _resolve(name, links) for name in links}
    return {name: found[target] for name, target in resolved.items() if target in found} | found


def _normal(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


def _resolve(name: str, links: Mapping[str, str]) -> str:
    for _ in range(_MOST_LINKS):
        if name not in links:
            break
        name = links[name]
    return name
