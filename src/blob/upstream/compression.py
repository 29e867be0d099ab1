"""Reading compressed files: gzip and zstd, recognised by their first bytes.

Out of scope: layers (the image store has its own reader, which unpacks while bytes arrive), and writing.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from blob.errors import ArchiveError, UnsupportedError

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}


def compression_of_file(path: Path) -> str:
    """Return `gzip`, `zstd`, or the empty string for anything that is not compressed.

    Raises:
        UnsupportedError: it is compressed in another way.
    """
    with path.open("rb") as file:
        start = file.read(8)
    name = next((name for magic, name in _MAGICS.items() if start.startswith(magic)), "")
    if name in ("bzip2", "xz"):
        raise UnsupportedError(f"`{path}` is compressed with {name}", "recompress it with gzip or zstd")
    return name


def open_plain(path: Path, compression: str) -> BinaryIO:
    """Open a file for reading what is inside the compression."""
    if compression == "gzip":
        return _open_gzip(path)
    if compression == "zstd":
        return _open_zstd(path)
    return path.open("rb")


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Turn what a decompressor or the disk complains about into an ArchiveError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArchiveError(f"cannot read archive `{path}`: {reason.lower()}") from error
    except Exception as error:
        # isal and zstd have error classes of their own that share no base but Exception.
        if type(error).__name__ not in ("ZstdError", "IsalError", "error"):
            raise
        raise ArchiveError(f"cannot read archive `{path}`: {str(error).lower()}") from error


def _open_gzip(path: Path) -> BinaryIO:
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return cast("BinaryIO", gzip.open(path, "rb"))
    opened = igzip.open(path, "rb")  # type: ignore[no-untyped-call] # isal annotates only some arguments
    return cast("BinaryIO", opened)


def _open_zstd(path: Path) -> BinaryIO:
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise UnsupportedError(
                f"`{path}` is compressed with zstd", "install `4lock-core[node]`, which can read it"
            ) from None
    return cast("BinaryIO", zstd.open(path, "rb"))
