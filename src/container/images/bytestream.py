"""Cut a stream of chunks into the pieces a tar reader asks for, and know the offset for its errors."""

from collections.abc import Iterable, Iterator


class TarError(Exception):
    """The archive is broken at byte `offset`."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class ByteStream:
    """Bytes by count, over chunks of any size; holds one chunk at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._position = 0
        self._base = 0

    @property
    def offset(self) -> int:
        """How many bytes were taken so far."""
        return self._base + self._position

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        result = self.take_or_end(size)
        if len(result) != size:
            raise TarError("archive ends in the middle of an entry", self.offset)
        return result

    def take_or_end(self, size: int) -> bytes:
        """Return exactly `size` bytes, or nothing if the stream ends here."""
        end = self._position + size
        if end <= len(self._chunk):
            result = self._chunk[self._position : end]
            self._position = end
            return result
        result = b"".join(self._available(size))
        if result and len(result) != size:
            raise TarError("archive ends in the middle of a block", self.offset)
        return result

    def pieces(self, size: int) -> Iterable[memoryview]:
        """Return exactly `size` bytes in pieces; they may be read once."""
        end = self._position + size
        if end <= len(self._chunk):
            piece = memoryview(self._chunk)[self._position : end]
            self._position = end
            return (piece,)
        return self._pieces_across(size)

    def _pieces_across(self, size: int) -> Iterator[memoryview]:
        done = 0
        for piece in self._available(size):
            done += len(piece)
            yield piece
        if done != size:
            raise TarError("archive ends in the middle of a file", self.offset)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        end = self._position + size
        if end <= len(self._chunk):
            self._position = end
            return
        for _ in self.pieces(size):
            pass

    def drain(self) -> None:
        """Read to the end of the stream, so that whoever counts or hashes it sees all of it."""
        self._base += len(self._chunk)
        self._chunk, self._position = b"", 0
        for chunk in self._chunks:
            self._base += len(chunk)

    def _available(self, size: int) -> Iterator[memoryview]:
        while size:
            if self._position == len(self._chunk):
                self._base += len(self._chunk)
                self._chunk, self._position = next(self._chunks, b""), 0
                if not self._chunk:
                    return
            end = min(self._position + size, len(self._chunk))
            piece = memoryview(self._chunk)[self._position : end]
            self._position = end
            size -= len(piece)
            yield piece
