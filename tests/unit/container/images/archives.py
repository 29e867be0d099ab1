"""Archives for the tests: ordinary ones by tarfile, hostile ones byte by byte."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from backports import zstd

from container.images.layers import Layer

COMPRESS = {"plain": bytes, "gzip": lambda data: gzip.compress(data, 6, mtime=0), "zstd": zstd.compress}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_600_000_000
    # Owned by whoever runs the tests: nobody else's files can be made without root.
    info.uid, info.gid = os.geteuid(), os.getegid()
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def make_tar(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            if data:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if info.size else None)
    return buffer.getvalue()


def file(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, **fields), data


def directory(name: str, **fields: object) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, linkname=target)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_of(tar: bytes, layers: Path, how: str = "gzip") -> tuple[Layer, bytes]:
    packed = COMPRESS[how](tar)
    return Layer(digest(packed), len(packed), digest(tar), str(layers)), packed


def pieces(data: bytes, size: int = 65536) -> Iterator[bytes]:
    return iter([data[at : at + size] for at in range(0, len(data), size)])
