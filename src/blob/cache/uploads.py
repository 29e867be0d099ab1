"""Uploads: blobs that clients send in one or many pieces.

Sessions live in memory and end with the process; a client then starts again. Those that nobody continues
are dropped after a while. Out of scope: to which repository a finished blob belongs (`local`).
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

from blob.cache.blobs import BlobStore, Staged
from blob.errors import UploadError, UploadUnknownError
from blob.oci.digest import Digest

IDLE_S = 3600.0


class Upload:
    """One session."""

    def __init__(self, repository: str, staged: Staged, now: float) -> None:
        self.id = uuid.uuid4().hex
        self.repository = repository
        self.touched = now
        self._staged = staged
        self._lock = asyncio.Lock()

    @property
    def size(self) -> int:
        """How many bytes are here."""
        return self._staged.size

    @property
    def is_busy(self) -> bool:
        """Whether a request is writing to it."""
        return self._lock.locked()

    async def append(self, chunks: AsyncIterator[bytes], extent: tuple[int, int] | None = None) -> None:
        """Append bytes.

        Args:
            chunks: what arrives.
            extent: first and last position that the client says these bytes have.

        Raises:
            UploadError: they do not continue what is here, or are not as many as the client says.
            StoreFullError: there is no space.
        """
        async with self._lock:
            if extent and extent[0] != self.size:
                raise UploadError(f"chunk starts at {extent[0]}, not at {self.size}", offset=self.size)
            async for chunk in chunks:
                await asyncio.to_thread(self._staged.write, chunk)
            if extent and extent[1] + 1 != self.size:
                raise UploadError(f"chunk ends at {self.size - 1}, not at {extent[1]}", offset=self.size)

    async def commit(self, digest: Digest) -> None:
        """Verify and store.

        Raises:
            DigestError: the bytes are others.
        """
        async with self._lock:
            await asyncio.to_thread(self._staged.commit, digest)

    def discard(self) -> None:
        """Forget the bytes."""
        self._staged.discard()


class Uploads:
    """The sessions of one process."""

    def __init__(self, blobs: BlobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._blobs = blobs
        self._clock = clock
        self._uploads: dict[str, Upload] = {}

    def __len__(self) -> int:
        return len(self._uploads)

    def start(self, repository: str) -> Upload:
        """Begin an upload."""
        self._drop_idle()
        upload = Upload(repository, self._blobs.stage(), self._clock())
        self._uploads[upload.id] = upload
        return upload

    def get(self, repository: str, upload_id: str) -> Upload:
        """Return a session.

        Raises:
            UploadUnknownError: there is none of that id in the repository.
        """
        upload = self._uploads.get(upload_id)
        if upload is None or upload.repository != repository:
            raise UploadUnknownError(f"no upload `{upload_id[:64]}` in `{repository}`", "start again")
        upload.touched = self._clock()
        return upload

    def drop(self, upload: Upload) -> None:
        """End a session and forget its bytes, unless they were committed."""
        self._uploads.pop(upload.id, None)
        upload.discard()

    def close(self) -> None:
        """End all sessions."""
        for upload in list(self._uploads.values()):
            self.drop(upload)

    def _drop_idle(self) -> None:
        limit = self._clock() - IDLE_S
        for upload in [u for u in self._uploads.values() if u.touched < limit and not u.is_busy]:
            self.drop(upload)
