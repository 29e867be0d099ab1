"""One blocking connection: send a command, get answers. Knows sockets, not commands."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator

from vappc.client.core import READ_BYTES, Core, check, raise_failure
from vappc.errors import ConnectError
from vappc.protocol import Answer, Command, HelloData
from vappc.protocol.commands import Hello


class Connection:
    """A socket, its core, and the answers that came with others."""

    def __init__(self, sock: socket.socket, token: str | None = None) -> None:
        self._sock = sock
        self._core = Core()
        #: A thread may feed stdin while a signal handler reports a new window size.
        self._sending = threading.RLock()
        self._waiting: deque[Answer] = deque()
        if token is not None:
            try:
                check(self.call(Hello(token=token)), "OkHello", HelloData)
            except BaseException:
                self.close()
                raise

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def send(self, command: Command) -> int:
        """Send a command and return the id of the request."""
        with self._sending:
            request_id, line = self._core.request(command)
        try:
            with self._sending:
                self._sock.sendall(line)
        except OSError as error:
            # A daemon that refuses says why before it closes.
            with contextlib.suppress(OSError, ConnectError):
                for answer in self.receive():
                    raise_failure(answer)
            raise _broken(error) from error
        return request_id

    def receive(self) -> list[Answer]:
        """Return answers that are here already, else wait for bytes once."""
        if self._waiting:
            found = list(self._waiting)
            self._waiting.clear()
            return found
        try:
            data = self._sock.recv(READ_BYTES)
        except TimeoutError as error:
            raise ConnectError("the daemon did not answer in time", "raise the timeout or look at its log") from error
        except OSError as error:
            raise _broken(error) from error
        if not data:
            raise ConnectError("the daemon closed the connection", "look at its log")
        return self._core.feed(data)

    def next(self) -> Answer:
        """Wait for one answer."""
        while not self._waiting:
            self._waiting.extend(self.receive())
        return self._waiting.popleft()

    def answers(self, command: Command) -> Iterator[Answer]:
        """Send `command` and yield its answers up to the final one."""
        request_id = self.send(command)
        while True:
            answer = self.next()
            if answer.id not in (request_id, None):
                continue
            raise_failure(answer)
            yield answer
            if answer.is_final:
                return

    def call(self, command: Command) -> Answer:
        """Send `command` and return its final answer."""
        *_, last = self.answers(command)
        return last


def _broken(error: OSError) -> ConnectError:
    return ConnectError(f"the connection broke: {(error.strerror or str(error)).lower()}", "is the daemon alive?")
