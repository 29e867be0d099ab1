"""A process in a container while somebody talks with it: descriptors to chunks and back.

The descriptors come from the shim and are ours; everything here is non-blocking on the loop.
"""

import asyncio
import errno
import os
import termios
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from container.errors import StateError
from container.intent import ExitStatus, Stream
from container.pods.needs import ExecHandle, Exit, Runtime

_READ_BYTES = 1 << 16
#: ^D, which a terminal in its usual mode takes for the end of input.
_EOT = b"\x04"

Send = Callable[[Stream, bytes], Awaitable[None]]


class Input:
    """The writing end of a process's stdin or terminal."""

    def __init__(self, fd: int, *, is_terminal: bool) -> None:
        self._fd = fd
        self._is_terminal = is_terminal
        if fd >= 0:
            os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Give `data` to the process; what it no longer wants is dropped.

        Raises:
            StateError: there is no stdin, or it has been ended.
        """
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise StateError("the process has no open stdin", "start it with stdin, and do not end it")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await _ready(self._fd, for_reading=False)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return

    async def end(self) -> None:
        """End the stdin; on a terminal by the character that means it."""
        if self._is_terminal and self._fd >= 0:
            await self.write(_EOT)
        else:
            self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


class Attachment:
    """The stdin and the terminal of a container's own process; its output is read from the log."""

    def __init__(self, container_id: str, shim: Runtime, *, is_terminal: bool) -> None:
        self._container_id = container_id
        self._shim = shim
        self._is_terminal = is_terminal
        self._input = Input(shim.open_stdin(container_id), is_terminal=is_terminal)

    async def write(self, data: bytes) -> None:
        """Give `data` to the process."""
        await self._input.write(data)

    async def close_input(self) -> None:
        """End its stdin."""
        await self._input.end()
        if not self._is_terminal:
            await self._shim.close_stdin(self._container_id)

    async def resize(self, rows: int, cols: int) -> None:
        """Tell it the size of its terminal."""
        await self._shim.resize(self._container_id, rows, cols)

    def close(self) -> None:
        """Let go; the stdin of the process stays open."""
        self._input.close()


class Session:
    """One exec: pump it with `run`, feed it with `write`."""

    def __init__(self, exec_id: str, handle: ExecHandle) -> None:
        self.exec_id = exec_id
        self._handle = handle
        self._ended = asyncio.Event()
        self._master = handle.steal("master")
        self._outputs: list[tuple[Stream, int]] = []
        if self._master >= 0:
            os.set_blocking(self._master, False)
            self._outputs.append(("stdout", self._master))
            self._input = Input(os.dup(self._master), is_terminal=True)
        else:
            self._outputs += [("stdout", handle.steal("stdout")), ("stderr", handle.steal("stderr"))]
            self._input = Input(handle.steal("stdin"), is_terminal=False)

    async def run(self, send: Send) -> ExitStatus:
        """Pass on all output until the process has ended, and say how it ended."""
        pumps = [asyncio.create_task(self._pump(stream, fd, send)) for stream, fd in self._outputs]
        try:
            outcome = exit_status(await self._handle.wait())
            self._ended.set()
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.close()
        return outcome

    async def write(self, data: bytes) -> None:
        """Give `data` to the process."""
        await self._input.write(data)

    async def close_input(self) -> None:
        """End its stdin."""
        await self._input.end()

    async def resize(self, rows: int, cols: int) -> None:
        """Tell it the size of its terminal; without one nothing happens."""
        if self._master >= 0:
            termios.tcsetwinsize(self._master, (rows, cols))

    def close(self) -> None:
        """Close every descriptor; a process that goes on sees a hangup."""
        self._input.close()
        for _, fd in self._outputs:
            os.close(fd)
        self._outputs = []
        self._master = -1
        self._handle.close()

    async def _pump(self, stream: Stream, fd: int, send: Send) -> None:
        async with aclosing(chunks(fd, self._ended)) as found:
            async for data in found:
                await send(stream, data)


def exit_status(found: Exit) -> ExitStatus:
    """Return the wire's form of how a process ended."""
    return ExitStatus(found.code, found.signal, found.finished, found.oom)


async def chunks(fd: int, ended: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """Yield what can be read from `fd` until its end, or until `ended` and nothing is left.

    A process that went to the background may hold the other end open for ever; it is not waited for.
    """
    os.set_blocking(fd, False)
    while True:
        last = ended.is_set()
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            if last:
                return
            await _ready(fd, for_reading=True, until=ended)
            continue
        except OSError as error:
            # A terminal whose other side is closed reads as EIO.
            if error.errno == errno.EIO:
                return
            raise
        if not data:
            return
        yield data


async def _ready(fd: int, *, for_reading: bool, until: asyncio.Event | None = None) -> None:
    """Wait until `fd` can be read or written, or until `until`."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    waiting: set[asyncio.Future[Any]] = {ready}
    if until is not None:
        waiting.add(asyncio.ensure_future(until.wait()))
    add, remove = (loop.add_reader, loop.remove_reader) if for_reading else (loop.add_writer, loop.remove_writer)
    add(fd, _resolve, ready)
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        remove(fd)
        for future in waiting:
            future.cancel()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
