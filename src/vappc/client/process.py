"""A process in a container, as the blocking client holds it: its output, its stdin, its end."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from container.intent import ExitStatus
from vappc.client.connection import Connection
from vappc.client.core import check, raise_failure
from vappc.errors import ProtocolError, VappcError
from vappc.protocol import Answer, Command, OutputData, ProgressData, StartedData
from vappc.protocol.commands import Input, Resize

OnProgress = Callable[[ProgressData], None]


#: A chunk that stays far below the longest line as base64.
INPUT_BYTES = 1 << 18


class Source(Protocol):
    """What `feed` reads: an unbuffered binary file."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes as soon as there are any, none at the end."""


def no_progress(_: ProgressData) -> None:
    """Report to nobody."""


class Process:
    """An exec or an attached run; it owns its connection, and closing that lets go of the process.

    Iterate for the output. For a select loop: `fileno` and `receive`.
    """

    def __init__(self, connection: Connection, command: Command, on_progress: OnProgress = no_progress) -> None:
        self._connection = connection
        self._on_progress = on_progress
        self._request = connection.send(command)
        self.started: StartedData | None = None
        self.exit: ExitStatus | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[OutputData]:
        while self.exit is None:
            yield from self.receive()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `receive` has something to do."""
        return self._connection.fileno()

    def wait_started(self) -> StartedData:
        """Wait until the process runs; output that comes before is impossible."""
        while self.started is None:
            self._take(self._connection.next())
        return self.started

    def receive(self) -> list[OutputData]:
        """Wait for bytes of the daemon once, and return the output in them."""
        taken = [self._take(answer) for answer in self._connection.receive()]
        return [found for found in taken if found is not None]

    def write(self, data: bytes) -> None:
        """Send bytes to the stdin of the process."""
        exec_id = self.wait_started().exec_id
        for start in range(0, len(data), INPUT_BYTES):
            self._connection.send(Input(exec_id, data[start : start + INPUT_BYTES]))

    def close_stdin(self) -> None:
        """End the stdin of the process."""
        self._connection.send(Input(self.wait_started().exec_id, eof=True))

    def feed(self, source: Source) -> None:
        """Send all of `source` as stdin, from a thread: some processes write while they read."""
        self.wait_started()
        threading.Thread(target=self._feed, args=(source,), name="stdin", daemon=True).start()

    def resize(self, rows: int, cols: int) -> None:
        """Tell the process the size of its terminal."""
        self._connection.send(Resize(self.wait_started().exec_id, rows, cols))

    def close(self) -> None:
        """Let go of the process."""
        self._connection.close()

    def _feed(self, source: Source) -> None:
        # The process may end, and the connection with it, before it has read everything.
        with contextlib.suppress(OSError, VappcError, ValueError):
            while data := source.read(INPUT_BYTES):
                self.write(data)
            self.close_stdin()

    def _take(self, answer: Answer) -> OutputData | None:
        # Answers to Input and Resize are not waited for: a process that has ended meanwhile is no error.
        if answer.id != self._request:
            return None
        raise_failure(answer)
        if isinstance(answer.data, OutputData):
            return answer.data
        if isinstance(answer.data, ProgressData):
            self._on_progress(answer.data)
        elif isinstance(answer.data, StartedData):
            self.started = answer.data
        elif answer.is_final:
            self.exit = check(answer, "OkExit", ExitStatus)
        else:
            raise ProtocolError(f"unexpected answer `{answer.type}`", "is the daemon of another version?")
        return None
