"""The daemon's side of the shim: an asyncio client that holds what the shim must not lose.

For every living container it keeps copies of the pidfd, the reading ends of the output and the terminal. When
the shim dies it starts another, which adopts the containers from disk, and offers it those copies: the exit
status of a program that ended meanwhile is still in its pidfd (Linux 6.15), its last words in the FIFOs.
Requests that were under way are repeated where that is safe, and failed as retryable where it is not.

Before Linux 6.15 a pidfd does not tell. There it takes a process that is a subreaper (prctl(2)) and started the
shim, as the daemon is: what the dead shim leaves become its children, and stay zombies, whose exit code anybody
may read, until it reaps them here.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container import errors
from container.linux.process import children, exit_code, pidfd_exit_status, process_state, zombie_status
from container.paths import Paths
from container.shim.handles import (
    ExecHandle,
    Exit,
    Helper,
    NodeInfo,
    State,
    Stdio,
    open_reader,
    open_writer,
    parse_exit,
    parse_state,
)
from container.shim.link import START_TIMEOUT_S, Link, ShimLostError

__all__ = ["ExecHandle", "Exit", "Helper", "NodeInfo", "Shim", "ShimLostError", "State", "Stdio"]


log = logging.getLogger(__name__)

#: How often a start is tried again when the shim dies over it: once may be chance, ten times is a fault.
_TRIES = 10


@dataclass(slots=True)
class _Held:
    """What is kept of one container."""

    fds: dict[str, int] = field(default_factory=dict)
    pid: int = 0

    def take(self, fds: Mapping[str, int]) -> None:
        """Keep `fds`; what an adopting shim does not have yet, such as a terminal, is kept as it was."""
        for name, fd in fds.items():
            if name in self.fds:
                os.close(self.fds[name])
            self.fds[name] = fd

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}


class Shim:
    """The connection to the shim of one run directory."""

    def __init__(self, paths: Paths, uplink: bool) -> None:
        self._link = Link(paths, uplink, self._greet, self._on_event, self._on_loss)
        self._keys = itertools.count(1)
        self._held: dict[str, _Held] = {}
        self._exits: dict[str, Exit] = {}
        self._waiters: dict[str, list[asyncio.Future[Exit]]] = {}
        self._processes: dict[str, asyncio.Future[Exit]] = {}
        self._watched: dict[str, tuple[int, int]] = {}
        self.node = NodeInfo("root", [])

    @classmethod
    async def start(cls, paths: Paths, *, uplink: bool = True) -> "Shim":
        """Connect to the shim of `paths`, starting one if none runs.

        Raises:
            ContainerError: it could not be started; the message is the shim's own.
        """
        shim = cls(paths, uplink)
        await shim._link.connect()
        return shim

    # Containers

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> State:
        """Build a container that waits for `start_container`."""
        return await self._launch("create", container_id, bundle, stdio)

    async def run(self, container_id: str, bundle: Path, stdio: Stdio) -> State:
        """Build a container and start its program."""
        return await self._launch("run", container_id, bundle, stdio)

    async def _launch(self, operation: str, container_id: str, bundle: Path, stdio: Stdio) -> State:
        wanted = {"log": str(stdio.log), "stdin": stdio.stdin}
        message = {"op": operation, "container": container_id, "bundle": str(bundle), "stdio": wanted}
        self._exits.pop(container_id, None)
        for _ in range(_TRIES):
            try:
                answer = await self._link.ask(message)
            except ShimLostError:
                # The successor has either adopted it, started or ended, or undone it; then we begin again.
                found = {state.id: state for state in await self.states()}
                if container_id in found:
                    return found[container_id]
            else:
                for warning in answer["warnings"]:
                    log.warning("container=%s %s", container_id, warning)
                return parse_state(answer)
        raise errors.LaunchError(
            f"the shim died {_TRIES} times while it started `{container_id}`", "the daemon's log tells what it said"
        )

    async def start_container(self, container_id: str) -> State:
        """Start the program of a created container."""
        try:
            return parse_state(await self._link.ask({"op": "start", "container": container_id}))
        except ShimLostError:
            state = await self.state(container_id)
            return state if state.status != "created" else await self.start_container(container_id)

    async def exec(
        self,
        container_id: str,
        exec_id: str,
        process: Mapping[str, Any],
        *,
        terminal: bool = False,
        rows: int = 24,
        cols: int = 80,
    ) -> ExecHandle:
        """Run `process`, a runtime-spec process object, in a container; returns when it runs."""
        spec = {**process, "terminal": terminal}
        if terminal:
            spec["consoleSize"] = {"height": rows, "width": cols}
        key = f"{container_id}/{exec_id}"
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._processes[key] = ended
        try:
            ok, fds = await self._link.call({"op": "exec", "container": container_id, "exec": key, "process": spec})
        except BaseException:
            self._processes.pop(key, None)
            raise
        named = dict(zip(ok["names"], fds, strict=True))
        self._keep_pidfd(key, ok["pid"], named["pidfd"])
        return ExecHandle(ok["pid"], named, ended)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Signal the container's first process, or every one."""
        await self._link.ask_again({"op": "kill", "container": container_id, "signal": signal, "everyone": everyone})

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove a container and what the shim has of it; with `force` also a running or an absent one."""
        try:
            await self._link.ask({"op": "delete", "container": container_id, "force": force})
        except ShimLostError:
            await self._link.ask_again({"op": "delete", "container": container_id, "force": True})

    async def pause(self, container_id: str) -> None:
        """Freeze a container."""
        await self._link.ask_again({"op": "pause", "container": container_id})

    async def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        await self._link.ask_again({"op": "resume", "container": container_id})

    async def resize(self, container_id: str, rows: int, cols: int) -> None:
        """Tell a container's terminal its size in characters."""
        await self._link.ask_again({"op": "resize", "container": container_id, "rows": rows, "columns": cols})

    async def reopen_log(self, container_id: str) -> None:
        """Go on in a new file after the log was rotated."""
        await self._link.ask_again({"op": "reopen_log", "container": container_id})

    def open_stdin(self, container_id: str) -> int:
        """Return a descriptor that feeds a container's standard input or terminal; the caller closes it.

        Raises:
            StateError: the container has neither, or has ended.
        """
        held = self._held.get(container_id, _Held()).fds
        fd = held.get("master", held.get("stdin", -1))
        if fd < 0:
            raise errors.StateError(
                f"container `{container_id}` has no standard input", "start it with `--interactive`"
            )
        return os.dup(fd)

    async def close_stdin(self, container_id: str) -> None:
        """Let a container see the end of its standard input, once the caller has closed its own descriptor."""
        held = self._held.get(container_id, _Held()).fds
        fd = held.pop("stdin", -1)
        if fd >= 0:
            os.close(fd)
        await self._link.ask_again({"op": "close_stdin", "container": container_id})

    async def states(self) -> list[State]:
        """Return all containers."""
        ok = await self._link.ask_again({"op": "states"})
        return [parse_state(document) for document in ok["states"]]

    async def state(self, container_id: str) -> State:
        """Return one container; NotFoundError if there is none."""
        return parse_state(await self._link.ask_again({"op": "state", "container": container_id}))

    async def wait(self, container_id: str) -> Exit:
        """Return how a container ended, waiting until it does; NotFoundError if there is none."""
        if container_id in self._exits:
            return self._exits[container_id]
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(container_id, []).append(future)
        try:
            # Asked after the waiter is in place: an end between the two would be missed otherwise. Of one
            # that we hold descriptors of, the end will be told.
            if container_id not in self._held:
                state = await self.state(container_id)
                if state.exit is not None:
                    return state.exit
            return await future
        finally:
            waiting = self._waiters.get(container_id, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiters.pop(container_id, None)

    # Helpers

    async def spawn(self, argv: Sequence[str]) -> Helper:
        """Run `argv` in the node namespaces with pipes on its stdin and stdout; its stderr is ours."""
        stdin, feed = os.pipe2(os.O_CLOEXEC)
        out, stdout = os.pipe2(os.O_CLOEXEC)
        key = f"spawn-{next(self._keys)}"
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._processes[key] = ended
        try:
            message = {"op": "spawn", "spawn": key, "argv": list(argv), "env": dict(os.environ)}
            ok, fds = await self._link.call(message, (stdin, stdout, 2))
        except BaseException:
            self._processes.pop(key, None)
            os.close(feed)
            os.close(out)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        self._keep_pidfd(key, ok["pid"], fds[0])
        return Helper(ok["pid"], fds[0], await open_writer(feed), await open_reader(out), ended)

    async def hello(self) -> dict[str, Any]:
        """Return what the shim says of itself: `version`, `pid`, `node`."""
        return await self._link.ask_again({"op": "hello"})

    async def close(self) -> None:
        """Disconnect; the shim and its containers go on."""
        await self._link.close()
        for held in self._held.values():
            held.close()
        self._held.clear()
        for _, fd in self._watched.values():
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    async def shutdown(self, *, force: bool = False) -> None:
        """End the shim; StateError while containers run, unless `force`: then they are deleted."""
        pid = (await self.hello())["pid"]
        self._link.closing = True
        await self._link.ask({"op": "shutdown", "force": force})
        await self.close()
        await _wait_gone(pid)
        self._reap_orphans()

    # The connection

    async def _greet(self, link: Link) -> None:
        ok, _ = await link.exchange({"op": "hello", "follow": True})
        findings = [f"{name}: {detail} ({fix})" for name, detail, fix in ok["node"]["findings"]]
        self.node = NodeInfo(ok["node"]["mode"], findings)
        for container_id, held in list(self._held.items()):
            message = {"op": "offer", "container": container_id, "names": list(held.fds)}
            await link.exchange(message, tuple(held.fds.values()))
        await link.exchange({"op": "adopted"})
        ok, _ = await link.exchange({"op": "states"})
        for state in map(parse_state, ok["states"]):
            if state.exit is not None:
                self._ended(state.id, state.exit)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Reap what a dead shim left, itself and half-started containers, but for those whose end will be told."""
        kept = {held.pid for held in self._held.values()} | {pid for pid, _ in self._watched.values()}
        for pid in children() - kept:
            if process_state(pid) == "Z":
                _reap(pid)

    def _on_loss(self) -> None:
        for key, process in list(self._watched.items()):
            self._watch_process(key, *process)

    def _on_event(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message["event"]
        if kind == "born":
            held = self._held.setdefault(message["container"], _Held())
            held.pid = message["pid"]
            held.take(dict(zip(message["names"], fds, strict=True)))
            self._exits.pop(message["container"], None)
        elif kind == "exit" and "key" in message:
            self._process_ended(message["key"], Exit(message["code"]))
        elif kind == "exit":
            self._ended(message["container"], parse_exit(message))
        elif kind == "gone":
            self._release(message["container"])
            self._exits.pop(message["container"], None)
            self._fail_waiters(message["container"])

    def _ended(self, container_id: str, outcome: Exit) -> None:
        self._exits[container_id] = outcome
        self._release(container_id)
        for future in self._waiters.get(container_id, []):
            if not future.done():
                future.set_result(outcome)

    def _fail_waiters(self, container_id: str) -> None:
        for future in self._waiters.get(container_id, []):
            if not future.done():
                future.set_exception(errors.NotFoundError(f"container `{container_id}` was removed"))

    def _process_ended(self, key: str, outcome: Exit) -> None:
        future = self._processes.pop(key, None)
        if future is not None and not future.done():
            future.set_result(outcome)
        pid, fd = self._watched.pop(key, (0, -1))
        if fd >= 0:
            _reap(pid)
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _keep_pidfd(self, key: str, pid: int, pidfd: int) -> None:
        """Keep a copy for the case that the shim dies before it tells how the process ended."""
        if key in self._processes:
            self._watched[key] = (pid, os.dup(pidfd))

    def _release(self, container_id: str) -> None:
        held = self._held.pop(container_id, None)
        if held is not None:
            _reap(held.pid)
            held.close()

    def _watch_process(self, key: str, pid: int, pidfd: int) -> None:
        """Learn the end of an exec or helper from its pidfd: its parent, the shim, is no more."""

        def look() -> None:
            status = zombie_status(pid, None)
            if status is None:
                status = pidfd_exit_status(pidfd)
            code = 255 if status is None else exit_code(status)
            self._process_ended(key, Exit(code, known=status is not None))

        asyncio.get_running_loop().add_reader(pidfd, look)


def _reap(pid: int) -> None:
    """Reap `pid` if the death of its shim has made it our child; only now, when its exit code has been read."""
    if pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, _resolve, gone)
    try:
        await asyncio.wait_for(gone, START_TIMEOUT_S)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
