"""What the shim's client hands out: states, ends, and handles of processes."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from container.linux.process import pidfd_send_signal


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended.

    Attributes:
        code: what a shell would say: the status, or 128 plus the signal.
        signal: number of the signal that killed it, 0 if none.
        finished: seconds since the epoch.
        oom: the kernel killed a process of the container for want of memory.
        known: False if nobody could see the end; the code is then 255.
    """

    code: int
    signal: int = 0
    finished: float = 0.0
    oom: bool = False
    known: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """One container as the shim knows it; status as in the runtime-spec, `created` in seconds since the epoch."""

    id: str
    status: str
    pid: int
    bundle: str
    created: float
    exit: Exit | None = None


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a container's stdio goes; a terminal is asked for in its config.json."""

    log: Path
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The node namespaces: mode `root`, `subids` or `single`, and what this host lacks."""

    mode: str
    findings: list[str]

    @property
    def rootless(self) -> bool:
        """Whether the containers live in a user namespace."""
        return self.mode != "root"


class ExecHandle:
    """A process in a container, with our ends of its stdio; close it when done.

    Attributes:
        stdin, stdout, stderr: descriptors, -1 for a process with a terminal.
        master: its terminal, -1 without.
    """

    def __init__(self, pid: int, fds: Mapping[str, int], ended: "asyncio.Future[Exit]") -> None:
        self.pid = pid
        self._fds = dict(fds)
        self._ended = ended

    stdin = property(lambda self: self._fds.get("stdin", -1))
    stdout = property(lambda self: self._fds.get("stdout", -1))
    stderr = property(lambda self: self._fds.get("stderr", -1))
    master = property(lambda self: self._fds.get("master", -1))
    pidfd = property(lambda self: self._fds.get("pidfd", -1))

    def steal(self, name: str) -> int:
        """Return the descriptor `name` and leave closing it to the caller."""
        return self._fds.pop(name, -1)

    async def wait(self) -> Exit:
        """Return how it ended."""
        return await asyncio.shield(self._ended)

    def kill(self, number: int) -> None:
        """Signal it; a process that has ended is left alone."""
        with contextlib.suppress(OSError):
            pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Close the descriptors that nobody stole."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


class Helper:
    """A helper process in the node namespaces, shaped like asyncio's Process."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        ended: "asyncio.Future[Exit]",
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self.stdin = stdin
        self.stdout = stdout
        self._ended = ended

    async def wait(self) -> int:
        """Return its exit code."""
        try:
            return (await asyncio.shield(self._ended)).code
        finally:
            if self._ended.done() and self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                pidfd_send_signal(self._pidfd, 9)


def parse_state(document: Mapping[str, Any]) -> State:
    """Read what the shim sends of a container."""
    outcome = document.get("exit")
    return State(
        document["id"],
        document["status"],
        document["pid"],
        document["bundle"],
        document["created"],
        parse_exit(outcome) if outcome else None,
    )


def parse_exit(document: Mapping[str, Any]) -> Exit:
    """Read what the shim sends of an end."""
    return Exit(
        document["code"],
        document["signal"],
        document["finished"],
        document["oom"],
        document["known"],
    )


async def open_reader(fd: int) -> asyncio.StreamReader:
    """Return a reader that owns the pipe `fd`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


async def open_writer(fd: int) -> asyncio.StreamWriter:
    """Return a writer that owns the pipe `fd`."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(fd, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
