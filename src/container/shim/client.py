"""The daemon's side of the shim: an asyncio client that holds what the shim must not lose.

For every living container it keeps copies of the pidfd, the reading ends of the output and the terminal. When
the shim dies it starts another, which adopts the containers from disk, and offers it those copies: the exit
status of a program that ended meanwhile is still in its pidfd (Linux 6.15), its last words in the FIFOs.
Requests that were under way are repeated where that is safe, and failed as retryable where it is not.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container import errors
from container.linux.process import exit_code, pidfd_exit_status, pidfd_send_signal
from container.paths import Paths
from container.shim import wire

log = logging.getLogger(__name__)

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


@dataclass(slots=True)
class _Held:
    """What is kept of one container."""

    fds: dict[str, int] = field(default_factory=dict)

    def replace(self, fds: Mapping[str, int]) -> None:
        self.close()
        self.fds = dict(fds)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}


class Shim:
    """The connection to the shim of one run directory."""

    def __init__(self, paths: Paths, uplink: bool) -> None:
        self._paths = paths
        self._uplink = uplink
        self._sock: _socket.socket | None = None
        self._numbers = itertools.count(1)
        self._requests: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._chunks: dict[int, list[dict[str, Any]]] = {}
        self._held: dict[str, _Held] = {}
        self._exits: dict[str, Exit] = {}
        self._waiters: dict[str, list[asyncio.Future[Exit]]] = {}
        self._processes: dict[str, asyncio.Future[Exit]] = {}
        self._pidfds: dict[str, int] = {}
        self._connected = asyncio.Event()
        self._closing = False
        self._rescue: asyncio.Task[None] | None = None
        self.node = NodeInfo("root", [])

    @classmethod
    async def start(cls, paths: Paths, *, uplink: bool = True) -> "Shim":
        """Connect to the shim of `paths`, starting one if none runs.

        Raises:
            ContainerError: it could not be started; the message is the shim's own.
        """
        shim = cls(paths, uplink)
        await shim._connect()
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
        while True:
            try:
                return _state(await self._ask(message))
            except ShimLostError:
                # The successor has either adopted it, started or ended, or undone it; then we begin again.
                found = {state.id: state for state in await self.states()}
                if container_id in found:
                    return found[container_id]

    async def start_container(self, container_id: str) -> State:
        """Start the program of a created container."""
        try:
            return _state(await self._ask({"op": "start", "container": container_id}))
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
            ok, fds = await self._call({"op": "exec", "container": container_id, "exec": key, "process": spec})
        except BaseException:
            self._processes.pop(key, None)
            raise
        named = dict(zip(ok["names"], fds, strict=True))
        self._keep_pidfd(key, named["pidfd"])
        return ExecHandle(ok["pid"], named, ended)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Signal the container's first process, or every one."""
        await self._ask_again({"op": "kill", "container": container_id, "signal": signal, "everyone": everyone})

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove a container and what the shim has of it; with `force` also a running or an absent one."""
        try:
            await self._ask({"op": "delete", "container": container_id, "force": force})
        except ShimLostError:
            await self._ask_again({"op": "delete", "container": container_id, "force": True})

    async def pause(self, container_id: str) -> None:
        """Freeze a container."""
        await self._ask_again({"op": "pause", "container": container_id})

    async def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        await self._ask_again({"op": "resume", "container": container_id})

    async def resize(self, container_id: str, rows: int, cols: int) -> None:
        """Tell a container's terminal its size in characters."""
        await self._ask_again({"op": "resize", "container": container_id, "rows": rows, "columns": cols})

    async def reopen_log(self, container_id: str) -> None:
        """Go on in a new file after the log was rotated."""
        await self._ask_again({"op": "reopen_log", "container": container_id})

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
        await self._ask_again({"op": "close_stdin", "container": container_id})

    async def states(self) -> list[State]:
        """Return all containers."""
        ok = await self._ask_again({"op": "states"})
        return [_state(document) for document in ok["states"]]

    async def state(self, container_id: str) -> State:
        """Return one container; NotFoundError if there is none."""
        for state in await self.states():
            if state.id == container_id:
                return state
        raise errors.NotFoundError(f"container does not exist: `{container_id}`")

    async def wait(self, container_id: str) -> Exit:
        """Return how a container ended, waiting until it does; NotFoundError if there is none."""
        if container_id in self._exits:
            return self._exits[container_id]
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(container_id, []).append(future)
        try:
            # Asked after the waiter is in place: an end between the two would be missed otherwise.
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
        key = f"spawn-{next(self._numbers)}"
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._processes[key] = ended
        try:
            message = {"op": "spawn", "spawn": key, "argv": list(argv), "env": dict(os.environ)}
            ok, fds = await self._call(message, (stdin, stdout, 2))
        except BaseException:
            self._processes.pop(key, None)
            os.close(feed)
            os.close(out)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        self._keep_pidfd(key, fds[0])
        return Helper(ok["pid"], fds[0], await _writer(feed), await _reader(out), ended)

    async def close(self) -> None:
        """Disconnect; the shim and its containers go on."""
        self._closing = True
        if self._rescue is not None:
            self._rescue.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rescue
        self._disconnect()
        for held in self._held.values():
            held.close()
        self._held.clear()
        for fd in self._pidfds.values():
            os.close(fd)
        self._pidfds.clear()

    async def shutdown(self, *, force: bool = False) -> None:
        """End the shim; StateError while containers run, unless `force`: then they are deleted."""
        pid = (await self._ask({"op": "hello"}))["pid"]
        self._closing = True
        await self._ask({"op": "shutdown", "force": force})
        await self.close()
        await _wait_gone(pid)

    # The connection

    async def _connect(self) -> None:
        try:
            self._sock = _open_socket(self._paths.shim_socket)
        except (FileNotFoundError, ConnectionRefusedError):
            await self._start_process()
            self._sock = _open_socket(self._paths.shim_socket)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._on_readable)
        # Other requests wait until this is over: the shim first has to learn what its predecessor knew.
        ok, _ = await self._exchange({"op": "hello", "follow": True})
        findings = [f"{name}: {detail} ({fix})" for name, detail, fix in ok["node"]["findings"]]
        self.node = NodeInfo(ok["node"]["mode"], findings)
        for container_id, held in list(self._held.items()):
            message = {"op": "offer", "container": container_id, "names": list(held.fds)}
            await self._exchange(message, tuple(held.fds.values()))
        await self._exchange({"op": "adopted"})
        await self._learn_exits()
        self._connected.set()

    async def _learn_exits(self) -> None:
        ok, _ = await self._exchange({"op": "states"})
        for state in map(_state, ok["states"]):
            if state.exit is not None:
                self._ended(state.id, state.exit)

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

    def _on_event(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message["event"]
        if kind == "born":
            held = self._held.setdefault(message["container"], _Held())
            held.replace(dict(zip(message["names"], fds, strict=True)))
            self._exits.pop(message["container"], None)
        elif kind == "exit" and "key" in message:
            self._process_ended(message["key"], Exit(message["code"]))
        elif kind == "exit":
            self._ended(message["container"], _exit(message))
        elif kind == "gone":
            self._release(message["container"])
            self._exits.pop(message["container"], None)

    def _ended(self, container_id: str, outcome: Exit) -> None:
        self._exits[container_id] = outcome
        self._release(container_id)
        for future in self._waiters.get(container_id, []):
            if not future.done():
                future.set_result(outcome)

    def _process_ended(self, key: str, outcome: Exit) -> None:
        future = self._processes.pop(key, None)
        if future is not None and not future.done():
            future.set_result(outcome)
        fd = self._pidfds.pop(key, None)
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _keep_pidfd(self, key: str, pidfd: int) -> None:
        """Keep a copy for the case that the shim dies before it tells how the process ended."""
        if key in self._processes:
            self._pidfds[key] = os.dup(pidfd)

    def _release(self, container_id: str) -> None:
        held = self._held.pop(container_id, None)
        if held is not None:
            held.close()

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
        if self._closing:
            return
        log.warning("shim lost, starting another: containers=%d", len(self._held))
        for key, pidfd in list(self._pidfds.items()):
            self._watch_process(key, pidfd)
        if self._rescue is None or self._rescue.done():
            self._rescue = asyncio.get_running_loop().create_task(self._reconnect())

    def _watch_process(self, key: str, pidfd: int) -> None:
        """Learn the end of an exec or helper from its pidfd: its parent, the shim, is no more."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            status = pidfd_exit_status(pidfd)
            code = 255 if status is None else exit_code(status)
            self._process_ended(key, Exit(code, known=status is not None))

        loop.add_reader(pidfd, look)

    async def _reconnect(self) -> None:
        delay = 0.05
        while not self._closing:
            try:
                await self._connect()
            except (errors.ContainerError, OSError) as error:
                log.error("shim does not start: %s", error)
                self._disconnect()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            else:
                return

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        ok, fds = await self._call(message)
        for fd in fds:
            os.close(fd)
        return ok

    async def _ask_again(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask, and ask the next shim if this one dies: for requests that may be repeated."""
        while True:
            try:
                return await self._ask(message)
            except ShimLostError:
                if self._closing:
                    raise

    async def _call(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> tuple[dict[str, Any], list[int]]:
        if not self._connected.is_set():
            try:
                await asyncio.wait_for(self._connected.wait(), START_TIMEOUT_S)
            except TimeoutError:
                raise errors.DeadlineError(
                    f"no shim for {START_TIMEOUT_S:g} s", "the daemon's log tells why it does not start"
                ) from None
        return await self._exchange(message, fds)

    async def _exchange(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> tuple[dict[str, Any], list[int]]:
        if self._sock is None:
            raise ShimLostError("the shim died")
        number = next(self._numbers)
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
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


def _open_socket(path: Path) -> _socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _state(document: Mapping[str, Any]) -> State:
    outcome = document.get("exit")
    return State(
        document["id"],
        document["status"],
        document["pid"],
        document["bundle"],
        document["created"],
        _exit(outcome) if outcome else None,
    )


def _exit(document: Mapping[str, Any]) -> Exit:
    return Exit(
        document["code"],
        document["signal"],
        document["finished"],
        document["oom"],
        document["known"],
    )


def _error(fault: Mapping[str, Any]) -> errors.ContainerError:
    if fault.get("code") == "launch":
        return errors.LaunchError(fault["message"], fault.get("hint", ""), fault.get("errno", 0))
    cls = _ERRORS.get(fault.get("code", ""), errors.LaunchError)
    return cls(fault["message"], fault.get("hint", ""))


async def _reader(fd: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(fd, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


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
