"""Blobs as a client gets them: pieces that are either a stretch of a file or bytes.

Stretches can be sent by the kernel; bytes come when the disk is full and a blob is passed through without being
kept. Whatever the way, the last bytes appear only when the digest of the whole is right.

Out of scope: sockets.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import BinaryIO

from blob.cache.fills import HELD_BACK, Follower, Origin
from blob.errors import DigestError, StoreFullError, UpstreamDigestError
from blob.oci.digest import Digest, Verifier

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that are in a file."""

    file: BinaryIO
    offset: int
    count: int


class Body(ABC):
    """An open blob; close it.

    Attributes:
        size: of the whole, None while nobody knows.
        is_hit: whether it was here before it was asked for.
    """

    size: int | None
    is_hit: bool

    @abstractmethod
    def pieces(self, start: int, end: int | None) -> AsyncGenerator[Stretch | bytes, None]:
        """Yield the bytes from `start` up to `end` (None: all) as they become available."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""


class FileBody(Body):
    """A blob in the store."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size: int = os.fstat(file.fileno()).st_size
        self.is_hit = True

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Stretch | bytes, None]:
        """Yield everything at once."""
        yield Stretch(self._file, start, (self.size if end is None else end) - start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FillBody(Body):
    """A blob that is being downloaded into the store."""

    def __init__(self, follower: Follower, origin: Origin) -> None:
        self._follower = follower
        self._origin = origin
        self.size = follower.size
        self.is_hit = False

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Stretch | bytes, None]:
        """Yield what arrives; when the disk is full, what follows is passed through."""
        follower, position = self._follower, start
        try:
            while end is None or position < end:
                shown = await follower.wait_beyond(position)
                if shown == position:
                    return
                count = (shown if end is None else min(shown, end)) - position
                yield Stretch(follower.file, position, count)
                position += count
        except StoreFullError:
            known = min(position, follower.written)
            passed = PassedBody(self._origin, follower.digest, self.size, follower.file, known)
            async with aclosing(passed.pieces(position, end)) as pieces:
                async for piece in pieces:
                    yield piece

    def close(self) -> None:
        """Stop following; the download goes on."""
        self._follower.close()


class PassedBody(Body):
    """A blob that is handed on without being kept.

    Args:
        file: a file that holds the first `known` bytes, so that these are not fetched again.
    """

    def __init__(
        self, origin: Origin, digest: Digest, size: int | None, file: BinaryIO | None = None, known: int = 0
    ) -> None:
        self._origin = origin
        self._digest = digest
        self._file = file
        self._known = known
        self.size = size
        self.is_hit = False

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Stretch | bytes, None]:
        """Yield bytes, the last of them only when the whole was right."""
        verifier, held = Verifier(self._digest), bytearray()
        if self._file:
            await asyncio.to_thread(_hash_file, verifier, self._file, self._known)
            held += os.pread(self._file.fileno(), max(0, self._known - start), start)
        origin = self._origin
        async with origin.client.open_blob(origin.repository, self._digest, verifier.size) as stream:
            surplus = verifier.size - stream.start
            while data := await stream.read():
                fresh, surplus = data[surplus:], max(0, surplus - len(data))
                held += _within(fresh, verifier.size, start, end)
                verifier.update(fresh)
                if len(held) > HELD_BACK:
                    yield bytes(held[:-HELD_BACK])
                    del held[:-HELD_BACK]
        self._verify(verifier)
        if held:
            yield bytes(held)

    def close(self) -> None:
        """Do nothing: the file belongs to whoever lent it."""

    def _verify(self, verifier: Verifier) -> None:
        try:
            verifier.verify()
        except DigestError as error:
            name = self._origin.client.name
            raise UpstreamDigestError(f"registry `{name}` sends a wrong blob: {error.message}") from error


def _within(data: bytes, offset: int, start: int, end: int | None) -> bytes:
    """Return the part of `data`, which begins at `offset`, that is between `start` and `end`."""
    stop = len(data) if end is None else max(0, end - offset)
    return data[max(0, start - offset) : stop]


def _hash_file(verifier: Verifier, file: BinaryIO, count: int) -> None:
    while verifier.size < count:
        verifier.update(os.pread(file.fileno(), min(_CHUNK, count - verifier.size), verifier.size))
