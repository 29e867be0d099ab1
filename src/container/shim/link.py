"""The connection to the shim: started where it is missing, started again when it dies.

Knows nothing of containers. Whoever uses it gives two callbacks: `on_message` for events, and `greet`, which
speaks first on every new connection while everybody else's requests wait.
"""

import _socket
import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from container import errors
from container.paths import Paths
from container.shim import wire

log = logging.getLogger(__name__)

Answer = tuple[dict[str, Any], list[int]]

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = (
    f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); "
    "from container.shim.main import main; sys.exit(main(sys.argv[1:]))"
)

#: How long a shim may take to make its namespaces and listen. pasta on a busy machine is the slow part.
START_TIMEOUT_S = 30.0

_ERRORS: dict[str, type[errors.ContainerError]] = {
    cls.code: cls
    for cls in (
        errors.ConfigError,
        errors.NotFoundError,
        errors.StateError,
        errors.ExistsError,
        errors.HostError,
        errors.DeadlineError,
    )
}


class ShimLostError(errors.ContainerError):
    """The shim died while it carried out a request; asking again is safe."""

    code = "shim-lost"
    retryable = True


class Link:
    """One connection at a time to the shim of one run directory."""

    def __init__(
        self,
        paths: Paths,
        uplink: bool,
        greet: Callable[["Link"], Awaitable[None]],
        on_event: Callable[[dict[str, Any], list[int]], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._paths = paths
        self._uplink = uplink
        self._greet = greet
        self._on_event = on_event
        self._on_loss = on_loss
        self._sock: _socket.socket | None = None
        self._numbers = itertools.count(1)
        self._requests: dict[int, asyncio.Future[Answer]] = {}
        self._chunks: dict[int, list[dict[str, Any]]] = {}
        self._connected = asyncio.Event()
        self._rescue: asyncio.Task[None] | None = None
        self.closing = False

    async def connect(self) -> None:
        """Connect to the running shim, or to a new one, and greet it.

        Raises:
            ContainerError: no shim could be started; the message is its own.
        """
        try:
            self._sock = _open_socket(self._paths.shim_socket)
        except (FileNotFoundError, ConnectionRefusedError):
            await self._start_process()
            self._sock = _open_socket(self._paths.shim_socket)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._on_readable)
        # Other requests wait until this is over: the shim first has to learn what its predecessor knew.
        await self._greet(self)
        self._connected.set()

    async def close(self) -> None:
        """Disconnect for good."""
        self.closing = True
        if self._rescue is not None:
            self._rescue.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rescue
        self._disconnect()

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to `message`; ShimLostError if the shim dies over it."""
        ok, fds = await self.call(message)
        for fd in fds:
            os.close(fd)
        return ok

    async def ask_again(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask, and ask the next shim if this one dies: for requests that may be repeated."""
        while True:
            try:
                return await self.ask(message)
            except ShimLostError:
                if self.closing:
                    raise

    async def call(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> Answer:
        """Return the answer to `message` with its descriptors, which the caller owns."""
        if not self._connected.is_set():
            try:
                await asyncio.wait_for(self._connected.wait(), START_TIMEOUT_S)
            except TimeoutError:
                raise errors.DeadlineError(
                    f"no shim for {START_TIMEOUT_S:g} s", "the daemon's log tells why it does not start"
                ) from None
        return await self.exchange(message, fds)

    async def exchange(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> Answer:
        """Do as `call` while everybody else waits: for `greet` alone."""
        if self._sock is None:
            raise ShimLostError("the shim died")
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        try:
            wire.send(self._sock, {"id": number, **message}, fds)
        except BlockingIOError:
            await self._send_when_possible({"id": number, **message}, fds)
        except OSError as error:
            self._requests.pop(number, None)
            self._lost()  # the socket's end may not have been read yet, and asking again must not find it open
            raise ShimLostError("the shim died") from error
        return await future

    async def _send_when_possible(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._sock.fileno(), _resolve, writable)
        try:
            await writable
        finally:
            if self._sock is not None:
                loop.remove_writer(self._sock.fileno())
        wire.send(self._sock, message, fds)

    async def _start_process(self) -> None:
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, str(self._paths.run)]
        process = await asyncio.create_subprocess_exec(
            *argv,
            *(() if self._uplink else ("--no-uplink",)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            raise errors.DeadlineError(f"the shim did not start within {START_TIMEOUT_S:g} s") from None
        told = json.loads(line) if line.strip() else {}
        if "ready" not in told:
            fault = told.get("error") or {"message": f"the shim ended with {await process.wait()} at its start"}
            raise _error(fault)

    def _on_readable(self) -> None:
        assert self._sock is not None
        try:
            received = wire.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            log.warning("shim connection broke: %s", error)
            received = None
        if received is None:
            self._lost()
            return
        self._on_message(*received)

    def _read_rest(self) -> None:
        """Hear what the shim said before it died: descriptors may be among it that nobody else has."""
        while self._sock is not None:
            try:
                received = wire.receive(self._sock)
            except (OSError, ValueError):
                return
            if received is None:
                return
            self._on_message(*received)

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        if "event" in message:
            self._on_event(message, fds)
        else:
            self._on_answer(message, fds)

    def _on_answer(self, message: dict[str, Any], fds: list[int]) -> None:
        number = message["id"]
        if message.get("more"):
            self._chunks.setdefault(number, []).extend(message["ok"]["states"])
            return
        future = self._requests.pop(number, None)
        earlier = self._chunks.pop(number, None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        elif "error" in message:
            future.set_exception(_error(message["error"]))
        else:
            if earlier is not None:
                message["ok"]["states"] = earlier + message["ok"]["states"]
            future.set_result((message["ok"], fds))

    def _disconnect(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._connected.clear()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(ShimLostError("the shim died"))
                future.exception()  # whoever asked may have been cancelled
        self._requests.clear()
        self._chunks.clear()

    def _lost(self) -> None:
        self._read_rest()
        self._disconnect()
        if self.closing:
            return
        log.warning("shim lost, starting another")
        self._on_loss()
        if self._rescue is None or self._rescue.done():
            self._rescue = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        delay = 0.05
        while not self.closing:
            try:
                await self.connect()
            except (errors.ContainerError, OSError) as error:
                log.error("shim does not start: %s", error)
                self._disconnect()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            else:
                return


def _open_socket(path: Path) -> _socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _error(fault: Mapping[str, Any]) -> errors.ContainerError:
    if fault.get("code") == "launch":
        return errors.LaunchError(fault["message"], fault.get("hint", ""), fault.get("errno", 0))
    cls = _ERRORS.get(fault.get("code", ""), errors.LaunchError)
    return cls(fault["message"], fault.get("hint", ""))


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
