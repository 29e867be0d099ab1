"""Fills: one download per digest, for any number of clients, as it arrives.

The download runs in a task of its own at the upstream's speed and appends to a file in the store. Each client
reads that file at its own speed (`Follower`), so neither a slow nor a departing client matters to the others. The last
`HELD_BACK` bytes of what is written are shown only when the digest of the whole is right; a client
of a download that turns out wrong is left with less than it was promised, and never with a whole
wrong blob. A blob of less than that is therefore verified before its first byte is sent.

When the connection breaks, the download continues where it stopped, as long as it gets any further.

Out of scope: where blobs come from first (`remote`), and sending them on (the server).
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from blob.cache.blobs import BlobStore, Staged
from blob.errors import BlobError, DigestError, StoreFullError, UpstreamDigestError, UpstreamError
from blob.oci.digest import Digest
from blob.upstream.client import BlobStream, RegistryClient

logger = logging.getLogger(__name__)

HELD_BACK = 64 << 10
#: A connection that breaks more often than this for one blob is not worth waiting for.
MOST_BREAKS = 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a blob can be had from."""

    client: RegistryClient
    repository: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells one origin from another."""
        return self.client.name, self.repository


class Fill:
    """One download. Only `Fills` makes them; clients see it through a `Follower`."""

    def __init__(self, digest: Digest, origin: Origin, staged: Staged, free_bytes: Callable[[], int]) -> None:
        self.digest = digest
        self.origin = origin
        self.size: int | None = None
        self.shown = 0
        self.is_verified = False
        self.error: Exception | None = None
        self._staged = staged
        self._free_bytes = free_bytes
        self._moved = asyncio.Event()
        self._has_head = False

    @property
    def has_head(self) -> bool:
        """Whether the upstream has answered, so that `size` is what it will ever be."""
        return self._has_head

    @property
    def written(self) -> int:
        """How many bytes of the file are good, shown or not."""
        return self._staged.size

    @property
    def is_over(self) -> bool:
        """Whether it has failed, or the blob is in the store."""
        return not self._staged.is_open

    def open(self) -> BinaryIO:
        """Open the growing file."""
        return self._staged.open()

    async def wait(self) -> None:
        """Wait until anything has changed."""
        await self._moved.wait()

    async def run(self) -> None:
        """Download, verify, store. Never raises but when it is cancelled; `error` tells."""
        try:
            await self._download()
            await asyncio.to_thread(self._verify)
            self.shown, self.is_verified = self._staged.size, True
            self._notify()
            await asyncio.to_thread(self._staged.commit, self.digest)
        except asyncio.CancelledError:
            self._fail(UpstreamError("the registry is shutting down"))
            raise
        except BlobError as error:
            self._report(error)
            self._fail(error)
        except Exception as error:
            # Followers wait for this task: whatever ends it must reach them.
            logger.exception("fill broke digest=%s", self.digest)
            self._fail(error)
        finally:
            self._staged.discard()

    def _report(self, error: BlobError) -> None:
        logger.warning("fill failed digest=%s upstream=%s: %s", self.digest, self.origin.client.name, error)

    def _fail(self, error: Exception) -> None:
        if not self.is_verified:
            self.error = error
        self._notify()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _verify(self) -> None:
        try:
            self._staged.verify(self.digest)
        except DigestError as error:
            name = self.origin.client.name
            raise UpstreamDigestError(f"registry `{name}` sends a wrong blob: {error.message}") from error

    async def _download(self) -> None:
        for _ in range(MOST_BREAKS):
            before = self._staged.size
            try:
                async with self.origin.client.open_blob(self.origin.repository, self.digest, before) as stream:
                    self._take_head(stream)
                    return await self._receive(stream)
            except UpstreamError as error:
                if not error.retryable or self._staged.size == before:
                    raise
                logger.info("fill continues digest=%s at=%d: %s", self.digest, self._staged.size, error)
        name = self.origin.client.name
        raise UpstreamError(f"registry `{name}` breaks the download of `{self.digest}` again and again")

    def _take_head(self, stream: BlobStream) -> None:
        if self._has_head and stream.size != self.size:
            raise UpstreamDigestError(f"registry `{self.origin.client.name}` changes the size of `{self.digest}`")
        self.size, self._has_head = stream.size, True
        if self.size is not None and self.size - self._staged.size > self._free_bytes():
            raise StoreFullError(f"no space for a blob of {self.size} bytes", "free some space")
        self._notify()

    async def _receive(self, stream: BlobStream) -> None:
        surplus = self._staged.size - stream.start
        while data := await stream.read():
            if surplus:
                data, surplus = data[surplus:], max(0, surplus - len(data))
            # While a thread hashes and writes, the next bytes gather in the client's buffer.
            await asyncio.to_thread(self._staged.write, data)
            self.shown = max(self.shown, self._staged.size - HELD_BACK)
            self._notify()


class Follower:
    """One client's view of a fill; close it."""

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self.digest = fill.digest
        self.file = fill.open()

    @property
    def size(self) -> int | None:
        """The size as far as it is known."""
        return self._fill.size

    @property
    def written(self) -> int:
        """How many bytes of `file` are good, shown or not."""
        return self._fill.written

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    async def wait_head(self) -> int | None:
        """Wait for the upstream's answer and return the size, None if it does not say.

        Raises:
            BlobError: what the fill failed with.
        """
        while not self._fill.has_head and not self._fill.error:
            await self._fill.wait()
        self._check()
        return self._fill.size

    async def wait_beyond(self, position: int) -> int:
        """Wait for bytes beyond `position` and return up to where there are any; `position` at the end.

        Raises:
            BlobError: what the fill failed with.
        """
        fill = self._fill
        while fill.shown <= position and not fill.is_verified and not fill.error:
            await fill.wait()
        self._check()
        return max(fill.shown, position)

    def _check(self) -> None:
        if self._fill.error:
            raise self._fill.error


class Fills:
    """The downloads that run, by digest."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._fills: dict[Digest, Fill] = {}
        self._tasks: dict[asyncio.Task[None], Fill] = {}

    def __len__(self) -> int:
        return len(self._fills)

    def join(self, digest: Digest, origin: Origin) -> tuple[Follower, bool]:
        """Follow the download of `digest`, starting it from `origin` if there is none.

        Returns:
            The follower, and whether the download is from `origin` (another one may fail where this
            one would not).

        Raises:
            StoreFullError: nothing can be written.
        """
        fill = self._fills.get(digest)
        if fill is None or fill.error or fill.is_over:
            fill = self._start(digest, origin)
        return Follower(fill), fill.origin.key == origin.key

    def find(self, digest: Digest) -> Fill | None:
        """Return the download of `digest` if it runs."""
        return self._fills.get(digest)

    async def close(self) -> None:
        """Cancel what is half there, and remove it; what is verified is still put into the store."""
        for task, fill in list(self._tasks.items()):
            if not fill.is_verified:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, digest: Digest, origin: Origin) -> Fill:
        fill = self._fills[digest] = Fill(digest, origin, self._blobs.stage(), self._blobs.free_bytes)
        task = asyncio.create_task(fill.run())
        self._tasks[task] = fill
        task.add_done_callback(lambda done: self._forget(fill, done))
        return fill

    def _forget(self, fill: Fill, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self._fills.get(fill.digest) is fill:
            del self._fills[fill.digest]
