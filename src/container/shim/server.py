"""The shim's server: requests in, answers and events out, children reaped.

Requests are carried out in the order they come; only the start of a container takes turns in the event
loop, so a slow one holds up nobody. Any process of the same user that can open the socket may speak.
"""

import _socket
import json
import os
import signal
import struct

from container.errors import ConfigError, ContainerError, DeadlineError, LaunchError, NotFoundError, StateError
from container.linux._libc import SyscallError
from container.linux.process import exit_code, pidfd_open, zombie_status
from container.runtime import console, lifecycle
from container.runtime import exec as execs
from container.runtime.state import ids
from container.shim import containers, logs, wire
from container.shim.containers import Container, Exit
from container.shim.loop import HANGUP, READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: How long a stuck log waits before it is tried again, seconds.
RETRY_S = 0.5

#: How long a container may take from clone to exec. A network file system may be slow; for ever is too long.
START_TIMEOUT_S = 60.0

VERSION = 1


class Client:
    """One connection; `follows` tells that it wants events."""

    __slots__ = ("follows", "sock")

    def __init__(self, sock: "_socket.socket") -> None:
        self.sock = sock
        self.follows = False


class Running:
    """An exec or a helper on its way or running: who asked, and as what it is known."""

    __slots__ = ("client", "container", "key", "launch", "pid", "request")

    def __init__(self, client: Client, request: int, key: str, container: str = "") -> None:
        self.client = client
        self.request = request
        self.key = key
        self.container = container
        self.launch: execs.Exec | None = None
        self.pid = 0


class Server:
    """All of the shim's state.

    Attributes:
        root: the state directory, `<run>/containers`.
        node: what `hello` tells of the node namespaces.
        is_over: it was shut down for good, so the node namespaces may go; false after SIGTERM.
    """

    def __init__(self, loop: Loop, root: str, node: "dict[str, Any]") -> None:
        self.loop = loop
        self.root = root
        self.node = node
        self.is_over = False
        self.containers: dict[str, Container] = {}
        self.children: dict[int, Container | Running] = {}
        self.clients: list[Client] = []
        self.operations: dict[str, Callable[[Client, dict[str, Any], list[int]], dict[str, Any] | None]] = {
            "hello": self.hello,
            "offer": self.offer,
            "adopted": self.adopted,
            "create": self.create,
            "run": self.create,
            "start": self.start,
            "exec": self.execute,
            "spawn": self.spawn,
            "kill": self.kill,
            "delete": self.delete,
            "pause": self.pause,
            "resume": self.resume,
            "resize": self.resize,
            "close_stdin": self.close_stdin,
            "reopen_log": self.reopen_log,
            "states": self.states,
            "shutdown": self.shutdown,
        }

    # Connections

    def serve(self, listener: "_socket.socket") -> None:
        """Accept on `listener` and reap children until `shutdown`."""
        self.loop.add(listener.fileno(), lambda _events: self._accept(listener))
        self.loop.on_signals((signal.SIGCHLD, signal.SIGTERM), self._on_signals)
        for container_id in ids(self.root):
            self._adopt(container_id)
        self.loop.run()

    def _accept(self, listener: "_socket.socket") -> None:
        fd, _address = listener._accept()  # type: ignore[attr-defined] # accept4(2); typeshed lacks it
        sock = _socket.socket(fileno=fd)
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            sock.close()
            return
        client = Client(sock)
        self.clients.append(client)
        self.loop.add(fd, lambda events: self._on_client(client, events), READ)

    def _on_client(self, client: Client, events: int) -> None:
        try:
            received = wire.receive(client.sock) if events & READ else None
        except (OSError, ValueError):
            received = None
        if received is None:
            self._drop(client)
            return
        message, fds = received
        try:
            self._carry_out(client, message, fds)
        finally:
            for fd in fds:
                try:
                    os.close(fd)
                except OSError:
                    continue  # taken over by the operation

    def _carry_out(self, client: Client, message: "dict[str, Any]", fds: "list[int]") -> None:
        request = message.get("id", 0)
        try:
            operation = self.operations.get(str(message.get("op")))
            if operation is None:
                raise ConfigError(f"unknown operation `{message.get('op')}`")
            answer = operation(client, message, fds)
        except ContainerError as error:
            self.refuse(client, request, error)
            return
        except (OSError, KeyError, TypeError, ValueError) as error:
            self.refuse(
                client, request, LaunchError(f"`{message.get('op')}` failed: {str(error) or type(error).__name__}")
            )
            return
        if answer is not None:
            self.answer(client, request, answer)

    def answer(self, client: Client, request: int, ok: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        """Send the answer to `request`."""
        self._send(client, {"id": request, "ok": ok}, fds)

    def refuse(self, client: Client, request: int, error: ContainerError) -> None:
        """Send why `request` failed."""
        fault = {"code": error.code, "category": error.category, "message": error.message, "hint": error.hint,
                 "errno": getattr(error, "errno", 0)}  # fmt: skip
        self._send(client, {"id": request, "error": fault})

    def tell(self, event: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        """Send `event` to everybody who follows."""
        for client in list(self.clients):
            if client.follows:
                self._send(client, event, fds)

    def _send(self, client: Client, message: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        try:
            wire.send(client.sock, message, fds)
        except OSError:
            self._drop(client)  # it died, or never reads: it will ask again when it is back

    def _drop(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
            self.loop.remove(client.sock.fileno())
            client.sock.close()

    # Operations

    def hello(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Say who we are; with `follow` send a `born` for all that lives, and events from now on."""
        if message.get("follow"):
            client.follows = True
            for container in self.containers.values():
                if container.exit is None and container.pidfd >= 0:
                    self._tell_born(container, client)
        return {"version": VERSION, "pid": os.getpid(), "node": self.node}

    def offer(self, _client: Client, message: "dict[str, Any]", fds: "list[int]") -> "dict[str, Any]":
        """Take descriptors that the daemon kept over the death of our predecessor."""
        container = self.containers.get(str(message["container"]))
        if container is None:
            return {}
        kept = dict(zip(message["names"], fds, strict=True))
        if container.pidfd < 0 and "pidfd" in kept:
            container.pidfd = os.dup(kept["pidfd"])
        if container.master < 0 and "master" in kept and container.pump is not None and container.exit is None:
            container.master = os.dup(kept["master"])
            container.pump.attach(container.master)
            self._watch_logs(container)
        self._check_ended(container)
        return {}

    def adopted(self, _client: Client, _message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """The daemon has offered all it had: whose end nobody knows has ended."""
        for container in list(self.containers.values()):
            if container.exit is None and container.pidfd < 0 and container.launch is None:
                self._finish(container, Exit(None, containers.now()))
        return {}

    def create(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Create a container; `run` also starts it. Answers when it is built, or runs."""
        container_id = str(message["container"])
        containers.refuse_taken(self.containers, container_id)
        request = message.get("id", 0)
        runs = message["op"] == "run"
        container = containers.prepare(
            self.root, container_id, str(message["bundle"]), dict(message.get("stdio") or {}), gate=not runs
        )
        started = container.launch
        assert started is not None
        container.runs = runs
        container.waiting = lambda error: self._answer_start(client, request, container, error)
        self.containers[container_id] = container
        try:
            started.clone()
            containers.close_inherited(container)
            if started.pid:
                self.children[started.pid] = container
        except (ContainerError, OSError) as error:
            self._fail(container, error)
            return
        self.loop.add(started.channel.fileno(), lambda _events: self._on_channel(container))
        self.loop.later(START_TIMEOUT_S, lambda: self._expire(container, started))

    def start(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Start a created container."""
        container = self._find(message)
        lifecycle.start(self.root, container.id)
        return container.document()

    def execute(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Run a process in a container; answers with its descriptors when it runs."""
        container = self._find(message)
        spec = message["process"]
        running = Running(client, message.get("id", 0), str(message["exec"]), container.id)
        ours, theirs = ([], None) if spec.get("terminal") else _pipes()
        try:
            running.launch = execs.begin(self.root, container.id, spec, theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs or ():
                os.close(fd)
        self.loop.add(running.launch.channel.fileno(), lambda _events: self._on_exec(running, tuple(ours)))

    def spawn(self, client: Client, message: "dict[str, Any]", fds: "list[int]") -> None:
        """Run a helper of the daemon in the node namespaces, with the three descriptors sent along."""
        argv = [str(word) for word in message["argv"]]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds[:3])]
        try:
            pid = os.posix_spawn(argv[0], argv, dict(message["env"]), file_actions=actions, setsigdef=[signal.SIGPIPE])
        except OSError as error:
            raise LaunchError(f"cannot run `{argv[0]}`: {(error.strerror or '').lower()}") from error
        running = Running(client, 0, str(message["spawn"]))
        running.pid = pid
        self.children[pid] = running
        pidfd = pidfd_open(pid)
        self.answer(client, message.get("id", 0), {"pid": pid}, (pidfd,))
        os.close(pidfd)

    def kill(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Signal the init or everybody."""
        container = self._find(message)
        if container.exit is not None:
            raise StateError(f"container not running: `{container.id}`")
        lifecycle.kill(self.root, container.id, int(message["signal"]), bool(message.get("everyone")))
        return {}

    def delete(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Remove a container; repeating it is fine with `force`."""
        container = self.containers.get(str(message["container"]))
        if container is None:
            if message.get("force"):
                return {}
            raise NotFoundError(f"container does not exist: `{message['container']}`")
        if container.launch is not None:
            self._fail(container, StateError(f"container `{container.id}` was deleted while it was being started"))
            return {}
        if not message.get("force"):
            containers.refuse_alive(container)
        self._remove(container)
        return {}

    def pause(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Freeze."""
        lifecycle.pause(self.root, self._find(message).id)
        return {}

    def resume(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Thaw."""
        lifecycle.resume(self.root, self._find(message).id)
        return {}

    def resize(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Tell a container's terminal its size."""
        container = self._find(message)
        if container.master < 0:
            raise StateError(f"container `{container.id}` has no terminal")
        console.set_size(container.master, int(message["rows"]), int(message["columns"]))
        return {}

    def close_stdin(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Close our end of a container's standard input, so that it sees the end."""
        container = self._find(message)
        if container.stdin >= 0:
            os.close(container.stdin)
            container.stdin = -1
        return {}

    def reopen_log(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Go on in a new log file after a rotation."""
        container = self._find(message)
        if container.pump is not None:
            container.pump.reopen()
        return {}

    def states(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Tell all containers, in as many messages as it takes."""
        request = message.get("id", 0)
        chunk: list[dict[str, object]] = []
        size = 0
        for container in self.containers.values():
            document = container.document()
            length = len(json.dumps(document))
            if chunk and size + length > wire.MAX_BYTES // 2:
                self._send(client, {"id": request, "ok": {"states": chunk}, "more": True})
                chunk, size = [], 0
            chunk.append(document)
            size += length
        self.answer(client, request, {"states": chunk})

    def shutdown(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """End the shim; refused while containers run, unless forced: then they are deleted."""
        alive = [container for container in self.containers.values() if container.exit is None]
        if alive and not message.get("force"):
            raise StateError(f"{len(alive)} containers run, among them `{alive[0].id}`", "stop them first")
        for container in alive:
            self._remove(container)
        self.is_over = True
        self.loop.later(0, self.loop.stop)
        return {}

    # Containers on their way

    def _on_channel(self, container: Container) -> None:
        self._on_launch(container)
        if container.launch is None:
            self._reap()  # a short program may have ended before its start was told

    def _on_launch(self, container: Container) -> None:
        started = container.launch
        if started is None:
            return
        try:
            event = started.feed()
            if event == "staged":
                self.children[started.pid] = container
            elif event == "console":
                container.master, started.console = started.console, -1
                if container.pump is not None:
                    container.pump.attach(container.master)
            elif event == "ready":
                self._on_ready(container)
            elif event == "started":
                self._on_started(container)
        except (ContainerError, OSError) as error:
            self._fail(container, error)

    def _on_ready(self, container: Container) -> None:
        """Let the daemon hold what it needs before the program can produce anything that could be lost."""
        started = container.launch
        assert started is not None
        container.pidfd, started.pidfd = started.pidfd, -1
        self._watch_logs(container)
        self._tell_born(container)
        if container.runs:
            started.go()
        else:
            self._on_started(container)

    def _on_started(self, container: Container) -> None:
        started = container.launch
        assert started is not None
        self.loop.remove(started.channel.fileno())
        started.close()
        container.launch = None
        self._report(container, None)

    def _fail(self, container: Container, error: Exception) -> None:
        started = container.launch
        assert started is not None
        self.loop.remove(started.channel.fileno())
        containers.close_inherited(container)
        self.children.pop(started.pid, None)
        started.pidfd = container.pidfd if started.pidfd < 0 else started.pidfd
        if started.pidfd == container.pidfd:
            container.pidfd = -1
        self._unwatch_logs(container)
        started.abort()
        self.containers.pop(container.id, None)
        container.close()
        self._report(container, error if isinstance(error, ContainerError) else LaunchError(str(error)))
        self.loop.later(0, self._reap)

    def _expire(self, container: Container, started: "object") -> None:
        if container.launch is started:
            self._fail(container, DeadlineError(f"container `{container.id}` did not start in {START_TIMEOUT_S:g} s"))

    def _report(self, container: Container, error: "ContainerError | None") -> None:
        if container.waiting is not None:
            waiting, container.waiting = container.waiting, None
            waiting(error)

    def _answer_start(self, client: Client, request: int, container: Container, error: "ContainerError | None") -> None:
        if error is not None:
            self.refuse(client, request, error)
        else:
            self.answer(client, request, container.document())

    def _tell_born(self, container: Container, only: "Client | None" = None) -> None:
        held = container.descriptors()
        event = {"event": "born", "container": container.id, "names": list(held)}
        if only is not None:
            self._send(only, event, tuple(held.values()))
        else:
            self.tell(event, tuple(held.values()))

    # Further processes

    def _on_exec(self, running: Running, fds: "tuple[int, ...]") -> None:
        launch = running.launch
        assert launch is not None
        try:
            event = launch.feed()
            if event == "staged":
                running.pid = launch.pid
                self.children[launch.pid] = running
                launch.proceed()
                return
            if event != "started":
                return
        except (ContainerError, OSError) as error:
            self.loop.remove(launch.channel.fileno())
            self.children.pop(running.pid, None)
            launch.abort()
            failure = error if isinstance(error, ContainerError) else LaunchError(str(error))
            self.refuse(running.client, running.request, failure)
        else:
            self.loop.remove(launch.channel.fileno())
            handed = {"pidfd": launch.pidfd}
            handed |= {"master": launch.console} if launch.console >= 0 else {}
            handed |= dict(zip(("stdin", "stdout", "stderr"), fds, strict=False))
            answer = {"pid": running.pid, "names": list(handed)}
            self.answer(running.client, running.request, answer, tuple(handed.values()))
            launch.close()
        for fd in fds:
            os.close(fd)

    # Ends

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self.loop.stop()
        self._reap()

    def _reap(self) -> None:
        """Record and reap every child that has ended; those that are nobody's were orphans of a container."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            child = self.children.get(found.si_pid)
            if isinstance(child, Container) and child.launch is not None:
                self._hear_out(child)
                continue
            status = found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status
            self.children.pop(found.si_pid, None)
            if isinstance(child, Container):
                self._finish(child, Exit(status, containers.now(), _was_oom(child)))
            os.waitpid(found.si_pid, 0)
            if isinstance(child, Running):
                self._send(child.client, {"event": "exit", "key": child.key, "code": exit_code(status),
                                          "container": child.container})  # fmt: skip

    def _hear_out(self, container: Container) -> None:
        """Read the rest of what a container that ended has to tell: the start comes before the end."""
        while container.launch is not None:
            self._on_launch(container)

    def _finish(self, container: Container, outcome: Exit) -> None:
        """Write down and tell the end of a container, after the last line of its log."""
        if container.exit is not None:
            return
        if container.pump is not None:
            container.pump.drain()
        container.save_exit(outcome)
        self._unwatch_logs(container)
        if container.pidfd >= 0:
            self.loop.remove(container.pidfd)
        self.tell({"event": "exit", "container": container.id, **outcome.document()})

    def _adopt(self, container_id: str) -> None:
        container = containers.adopt(self.root, container_id)
        if container is None:
            return
        self.containers[container_id] = container
        if container.exit is None:
            self._watch_logs(container)
            self._check_ended(container)

    def _check_ended(self, container: Container) -> None:
        """Learn the end of a container that is not our child, now or when its pidfd tells."""
        if container.exit is not None or container.pidfd < 0:
            return
        outcome = containers.learn_exit(container)
        if outcome is not None:
            self._finish(container, outcome)
            return
        self.loop.remove(container.pidfd)
        self.loop.add(container.pidfd, lambda events: self._on_pidfd(container, events), READ | HANGUP)

    def _on_pidfd(self, container: Container, events: int) -> None:
        if events & HANGUP or zombie_status(container.state.pid, container.state.started_ticks) is not None:
            self._check_ended(container)

    def _remove(self, container: Container) -> None:
        """Kill what is left of a container, see its end, then remove everything."""
        if container.exit is None:
            lifecycle.destroy(container.state)
            self._reap()
            if container.exit is None:  # not our child
                self._finish(container, containers.learn_exit(container) or Exit(None, containers.now()))
        lifecycle.delete(self.root, container.id, force=True)
        self._unwatch_logs(container)
        if container.pidfd >= 0:
            self.loop.remove(container.pidfd)
        self.children.pop(container.state.pid, None)
        self.containers.pop(container.id, None)
        container.close()
        self.tell({"event": "gone", "container": container.id})

    # Logs

    def _watch_logs(self, container: Container) -> None:
        if container.pump is not None:
            logs.watch(container.pump, self.loop.add, lambda stream: self._on_output(container, stream))

    def _unwatch_logs(self, container: Container) -> None:
        if container.pump is not None:
            for stream in container.pump.streams:
                if stream.source >= 0:
                    self.loop.remove(stream.source)

    def _on_output(self, container: Container, stream: logs.Stream) -> None:
        pump = container.pump
        if pump is None:
            return
        if not pump.take(stream):
            self.loop.remove(stream.source)
            pump.close_source(stream)
        if pump.is_full():
            self._unwatch_logs(container)
        if pump.stuck:
            self.loop.later(RETRY_S, lambda: self._retry_log(container))

    def _retry_log(self, container: Container) -> None:
        pump = container.pump
        if pump is None or not pump.stuck:
            return
        was_full = pump.is_full()
        pump.retry()
        if was_full and not pump.is_full():
            self._watch_logs(container)
        if pump.stuck:
            self.loop.later(RETRY_S, lambda: self._retry_log(container))

    def _find(self, message: "dict[str, Any]") -> Container:
        container = self.containers.get(str(message["container"]))
        if container is None:
            raise NotFoundError(f"container does not exist: `{message['container']}`")
        return container


def _pipes() -> "tuple[list[int], tuple[int, int, int]]":
    """Return (our ends, the process's ends) of stdin, stdout and stderr."""
    stdin, feed = os.pipe2(os.O_CLOEXEC)
    out, stdout = os.pipe2(os.O_CLOEXEC)
    err, stderr = os.pipe2(os.O_CLOEXEC)
    return [feed, out, err], (stdin, stdout, stderr)


def _was_oom(container: Container) -> bool:
    if "memory" not in container.state.cgroup and "unified" not in container.state.cgroup:
        return False
    try:
        return lifecycle.cgroup_of(container.state).oom_count() > 0
    except (ContainerError, OSError, SyscallError):
        return False  # the cgroup is gone already: nothing tells it any more
