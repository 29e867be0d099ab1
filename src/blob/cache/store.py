"""The store as a whole: one directory, one process.

    lock          held by the process that uses the directory
    meta.db       manifests, tags, links
    blobs/ tmp/   see `blobs`

Out of scope: what goes in.
"""

import fcntl
import os
from pathlib import Path
from typing import Self

from blob.cache.blobs import BlobStore, mapped_errors
from blob.cache.manifests import ManifestStore
from blob.errors import StoreError


class Store:
    """Everything on disk; a context manager.

    Raises:
        StoreError: the directory cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path) -> None:
        with mapped_errors(f"make store `{directory}`"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(directory)
            self.blobs = BlobStore(directory)
            self.manifests = ManifestStore(directory / "meta.db")
        except BaseException:
            os.close(self._lock_fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and let another process have the directory."""
        self.manifests.close()
        os.close(self._lock_fd)

    def _acquire(self, directory: Path) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"store `{directory}` is in use by another process",
                "stop it, or choose another with `--store`",
            ) from None
