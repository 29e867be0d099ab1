"""Run an iterator of chunks ahead of its reader, in a thread.

Receiving, hashing and inflating release the interpreter's lock, so they take the second core while the
reader makes files: a layer is done when the slower of the two is done. What waits is bounded.
"""

import threading
from collections import deque
from collections.abc import Iterator

#: Chunks have up to 1 MiB.
_AHEAD = 8


class Prefetch:
    """Iterates over `chunks`, which a thread reads ahead; errors arrive where the chunk would have."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._ready: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._done = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._changed:
            while not self._ready and not self._done:
                self._changed.wait()
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop reading ahead and wait for the thread; the iterator below is then ours alone again."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                if not self._hand_over(chunk):
                    break
        except BaseException as error:
            # Handed to the reader, whatever it is.
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _hand_over(self, chunk: bytes) -> bool:
        with self._changed:
            while len(self._ready) >= _AHEAD and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._ready.append(chunk)
            self._changed.notify_all()
        return True
