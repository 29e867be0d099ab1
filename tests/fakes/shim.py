"""A shim without containers: the same interface, with plain processes of this machine.

It runs the args of config.json as they are, writes a log in CRI format, and keeps exit codes.
"""

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from container.errors import LaunchError, NotFoundError, StateError


@dataclass
class Exit:
    code: int
    signal: int = 0
    finished: float = 0.0
    oom: bool = False


@dataclass
class State:
    id: str
    status: str
    pid: int
    bundle: str
    created: float
    exit: Exit | None = None


@dataclass
class Handle:
    process: asyncio.subprocess.Process
    fds: dict[str, int]

    def steal(self, name: str) -> int:
        return self.fds.pop(name, -1)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    async def wait(self) -> Exit:
        return _exit(await self.process.wait())


@dataclass
class _Container:
    state: State
    process: asyncio.subprocess.Process
    stdin: int = -1
    task: "asyncio.Task[None] | None" = None


@dataclass
class FakeShim:
    """Also counts, so that tests can see what was asked."""

    rootless: bool = False
    containers: dict[str, _Container] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    last_exec: Handle | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)

    async def run(self, container_id: str, bundle: Path, stdio) -> State:
        self.calls.append(f"run {container_id}")
        process = json.loads((bundle / "config.json").read_bytes())["process"]
        reader, writer = os.pipe()
        if not stdio.stdin:
            os.close(writer)
            writer = -1
        pipe = asyncio.subprocess.PIPE
        try:
            started = await asyncio.create_subprocess_exec(
                *process["args"], env=_env(process), stdin=reader, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            if writer >= 0:
                os.close(writer)
            raise LaunchError(
                f"cannot run `{process['args'][0]}`: {error.strerror.lower()}", errno=error.errno
            ) from error
        finally:
            os.close(reader)
        state = State(container_id, "running", started.pid, str(bundle), time.time())
        container = _Container(state, started, writer)
        container.task = asyncio.create_task(_log(container, stdio.log))
        self.containers[container_id] = container
        return state

    async def exec(self, container_id, exec_id, process, *, terminal=False, rows=24, cols=80) -> Handle:
        self._find(container_id)
        stdin, feed = os.pipe()
        out, stdout = os.pipe()
        err, stderr = os.pipe()
        try:
            started = await asyncio.create_subprocess_exec(
                *process["args"], env=_env(process), stdin=stdin, stdout=stdout, stderr=stderr
            )
        except OSError as error:
            for fd in (feed, out, err):
                os.close(fd)
            raise LaunchError(f"cannot run `{process['args'][0]}`: {error.strerror.lower()}") from error
        finally:
            for fd in (stdin, stdout, stderr):
                os.close(fd)
        self.last_exec = Handle(started, {"stdin": feed, "stdout": out, "stderr": err})
        return self.last_exec

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        self.calls.append(f"kill {container_id} {signal}")
        container = self._find(container_id)
        if container.state.exit is not None:
            raise StateError(f"container not running: `{container_id}`")
        _kill(container.state.pid, signal)

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        if force and container_id not in self.containers:
            return
        container = self._find(container_id)
        if container.state.exit is None:
            if not force:
                raise StateError("it runs")
            _kill(container.state.pid, 9)
        await asyncio.wait({container.task})
        if container.stdin >= 0:
            os.close(container.stdin)
        # What is in the background holds our pipes open; the real shim kills it through its cgroup.
        container.process._transport.close()
        del self.containers[container_id]

    async def pause(self, container_id: str) -> None:
        self._find(container_id).state.status = "paused"

    async def resume(self, container_id: str) -> None:
        self._find(container_id).state.status = "running"

    async def resize(self, container_id: str, rows: int, cols: int) -> None:
        self.sizes.append((rows, cols))

    async def states(self) -> list[State]:
        return [container.state for container in self.containers.values()]

    async def wait(self, container_id: str) -> Exit:
        container = self._find(container_id)
        await asyncio.wait({container.task})
        return container.state.exit

    def open_stdin(self, container_id: str) -> int:
        fd = self._find(container_id).stdin
        if fd < 0:
            raise StateError(f"container `{container_id}` has no standard input")
        return os.dup(fd)

    async def close_stdin(self, container_id: str) -> None:
        container = self._find(container_id)
        if container.stdin >= 0:
            os.close(container.stdin)
            container.stdin = -1

    async def spawn(self, argv):
        raise StateError("the fake starts no helpers")

    async def close(self) -> None:
        for name in list(self.containers):
            await self.delete(name, force=True)

    def _find(self, container_id: str) -> _Container:
        try:
            return self.containers[container_id]
        except KeyError:
            raise NotFoundError(f"container does not exist: `{container_id}`") from None


async def _log(container: _Container, path: Path) -> None:
    process = container.process
    with open(path, "wb", buffering=0) as log:
        await asyncio.gather(_copy(process.stdout, b"stdout", log), _copy(process.stderr, b"stderr", log))
        code = await process.wait()
    container.state.exit = _exit(code)
    container.state.status = "stopped"


async def _copy(reader, name: bytes, log) -> None:
    while data := await reader.read(1 << 16):
        for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
            tag = b"F" if line.endswith(b"\n") else b"P"
            log.write(b"2026-01-02T03:04:05.000000006Z %s %s %s\n" % (name, tag, line.removesuffix(b"\n")))


def _kill(pid: int, signal: int) -> None:
    try:
        os.killpg(pid, signal)
    except ProcessLookupError:
        pass  # it has ended, but its log is not closed yet


def _exit(code: int) -> Exit:
    return Exit(code if code >= 0 else 128 - code, max(0, -code), time.time())


def _env(process: dict) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in process["env"])
