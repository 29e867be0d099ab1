"""Blobs on disk, by digest: what is here has been verified, always.

    blobs/<algorithm>/<first two hex digits>/<hex>     complete and verified, never changed
    tmp/<random>                                       being written; all of it is rubbish after a crash

A blob is written to `tmp`, verified, synced, renamed, and then the folder is synced. File names come from
parsed digests only. Methods block; call what writes from a thread. Out of scope: who may see a blob, and
which blobs to keep.
"""

import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blob.errors import BlobUnknownError, DigestError, StoreError, StoreFullError
from blob.oci.digest import Digest

_CHUNK = 1 << 20
# EFBIG: a file size limit (ulimit -f) is one more way for a disk to be full.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def mapped_errors(what: str) -> Iterator[None]:
    """Turn what the disk complains about into a StoreError; `what` was being done."""
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in _FULL else StoreError
        reason = (error.strerror or str(error)).lower()
        raise kind(f"cannot {what}: {reason}", "free some space" if kind is StoreFullError else "") from error


class BlobStore:
    """The blobs below one directory, which must belong to this process alone."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._tmp = root / "tmp"
        with mapped_errors(f"make store `{root}`"):
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._tmp.mkdir(exist_ok=True)
            for leftover in self._tmp.iterdir():
                leftover.unlink()

    def path_of(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return self._blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            BlobUnknownError: it is not here.
        """
        try:
            return self.path_of(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise BlobUnknownError(f"no blob `{digest}`") from None
        except OSError as error:
            raise StoreError(f"cannot read blob `{digest}`: {(error.strerror or '').lower()}") from error

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of a blob, None if it is not here."""
        try:
            return self.path_of(digest).stat().st_size
        except FileNotFoundError:
            return None

    def stage(self) -> "Staged":
        """Begin a blob."""
        with mapped_errors("begin a blob"):
            fd, name = tempfile.mkstemp(dir=self._tmp)
        return Staged(self, fd, Path(name))

    def delete(self, digest: Digest) -> None:
        """Forget a blob; whoever has it open may read on."""
        with mapped_errors(f"delete blob `{digest}`"):
            self.path_of(digest).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return how much the file system has left for us."""
        found = os.statvfs(self._tmp)
        return found.f_bavail * found.f_frsize

    def measure(self) -> tuple[int, int]:
        """Return the number of blobs and the sum of their sizes; this walks the directory."""
        sizes = [entry.stat().st_size for entry in _walk(str(self._blobs))]
        return len(sizes), sum(sizes)


class Staged:
    """A blob that is being written; it ends by `commit` or `discard`.

    A cancelled task leaves its thread running, so one lock keeps a late write from a descriptor that is closed
    and perhaps somebody else's by now.

    Attributes:
        size: how many bytes are written and hashed; what a failed write left behind does not count.
    """

    def __init__(self, store: BlobStore, fd: int, path: Path) -> None:
        self._store = store
        self._fd = fd
        self._path = path
        self._lock = threading.Lock()
        self._hash = hashlib.sha256(usedforsecurity=False)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes: all of them, or none that count.

        Raises:
            StoreFullError: there is no space.
        """
        with self._lock, mapped_errors("write a blob"):
            self._check_open()
            view, offset = memoryview(data), self.size
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
            self._hash.update(data)
            self.size += len(data)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self._fd >= 0

    def open(self) -> BinaryIO:
        """Open what is written so far for reading; stays readable after the end of this object."""
        return os.fdopen(os.dup(self._fd), "rb", buffering=0)

    def verify(self, expected: Digest) -> None:
        """Raise DigestError unless what is written has the digest."""
        actual = self._digest(expected.algorithm)
        if actual != expected:
            raise DigestError(f"{self.size} bytes have digest `{actual}`, not `{expected}`")

    def commit(self, expected: Digest) -> None:
        """Verify, make durable and show under the digest. Ends this object, unless it raises.

        Raises:
            DigestError: the bytes are others.
            StoreError: the disk fails.
        """
        target = self._store.path_of(expected)
        with self._lock, mapped_errors(f"store blob `{expected}`"):
            self._check_open()
            self.verify(expected)
            os.ftruncate(self._fd, self.size)
            os.fchmod(self._fd, 0o644)
            os.fdatasync(self._fd)
            _make_durably(target.parent)
            self._path.rename(target)
            _sync_directory(target.parent)
            self._close()

    def discard(self) -> None:
        """Forget everything; may be called at any time, and again."""
        with self._lock:
            if self.is_open:
                self._path.unlink(missing_ok=True)
                self._close()

    def _check_open(self) -> None:
        if not self.is_open:
            raise StoreError("the blob that is written was given up")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _digest(self, algorithm: str) -> Digest:
        if algorithm == "sha256":
            return Digest(algorithm, self._hash.hexdigest())
        # Rare: only sha256 is hashed on the way, since the name is known only at the end of a push.
        state, offset = hashlib.new(algorithm, usedforsecurity=False), 0
        while offset < self.size:
            data = os.pread(self._fd, min(_CHUNK, self.size - offset), offset)
            state.update(data)
            offset += len(data)
        return Digest(algorithm, state.hexdigest())


def _make_durably(directory: Path) -> None:
    for path in (directory.parent, directory):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _walk(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry
