"""The shim's operations: what a request does, in the order requests come."""

import json
import os
import signal

from container.errors import LaunchError, NotFoundError, StateError
from container.linux.process import pidfd_open
from container.runtime import console, lifecycle
from container.runtime import exec as execs
from container.shim import containers, wire
from container.shim.connections import Client, Connections
from container.shim.containers import Container, Exit
from container.shim.loop import Loop
from container.shim.supervisor import Running, Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from container.errors import ContainerError

VERSION = 1


class Server:
    """The operations, over one supervisor.

    Attributes:
        is_over: it was shut down for good, so the node namespaces may go; false after SIGTERM.
    """

    def __init__(self, loop: Loop, root: str, node: "dict[str, Any]") -> None:
        self._loop = loop
        self._root = root
        self._node = node
        self.is_over = False
        self._connections = Connections(loop)
        self._supervisor = Supervisor(loop, root, self._connections)
        self._connections.operations = {
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
            "state": self.state,
            "states": self.states,
            "shutdown": self.shutdown,
        }

    def serve(self, listener: "_socket.socket") -> None:
        """Accept on `listener` and look after containers until `shutdown` or SIGTERM."""
        self._connections.listen(listener)
        self._supervisor.begin()
        self._loop.run()

    def hello(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Say who we are; with `follow` send a `born` for all that lives, and events from now on."""
        if message.get("follow"):
            client.follows = True
            for container in self._supervisor.containers.values():
                if container.exit is None and container.pidfd >= 0:
                    self._supervisor.tell_born(container, client)
        return {"version": VERSION, "pid": os.getpid(), "node": self._node}

    def offer(self, _client: Client, message: "dict[str, Any]", fds: "list[int]") -> "dict[str, Any]":
        """Take descriptors that the daemon kept over the death of our predecessor."""
        container = self._supervisor.containers.get(str(message["container"]))
        if container is None:
            return {}
        kept = dict(zip(message["names"], fds, strict=True))
        if container.pidfd < 0 and "pidfd" in kept:
            container.pidfd = os.dup(kept["pidfd"])
        if container.master < 0 and "master" in kept and container.pump is not None and container.exit is None:
            container.master = os.dup(kept["master"])
            container.pump.attach(container.master)
            self._supervisor.watch_logs(container)
        self._supervisor.check_ended(container)
        return {}

    def adopted(self, _client: Client, _message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """The daemon has offered all it had: whose end nobody knows has ended."""
        for container in list(self._supervisor.containers.values()):
            if container.exit is None and container.pidfd < 0 and container.launch is None:
                self._supervisor.finish(container, Exit(None, containers.now()))
        return {}

    def create(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Create a container; `run` also starts it. Answers when it is built, or runs."""
        container_id = str(message["container"])
        containers.refuse_taken(self._supervisor.containers, container_id)
        request = message.get("id", 0)
        runs = message["op"] == "run"
        container = containers.prepare(
            self._root, container_id, str(message["bundle"]), dict(message.get("stdio") or {}), gate=not runs
        )
        container.runs = runs
        container.waiting = lambda error: self._answer_start(client, request, container, error)
        self._supervisor.launch(container)

    def start(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Start a created container."""
        container = self._find(message)
        lifecycle.start(self._root, container.id)
        return container.document()

    def execute(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Run a process in a container; answers with its descriptors when it runs."""
        container = self._find(message)
        spec = message["process"]
        running = Running(client, message.get("id", 0), str(message["exec"]), container.id)
        ours, theirs = ([], None) if spec.get("terminal") else _pipes()
        try:
            running.launch = execs.begin(self._root, container.id, spec, theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs or ():
                os.close(fd)
        self._supervisor.launch_exec(running, tuple(ours))

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
        self._supervisor.children[pid] = running
        pidfd = pidfd_open(pid)
        self._connections.answer(client, message.get("id", 0), {"pid": pid}, (pidfd,))
        os.close(pidfd)

    def kill(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Signal the init or everybody."""
        container = self._find(message)
        if container.exit is not None:
            raise StateError(f"container not running: `{container.id}`")
        lifecycle.kill(self._root, container.id, int(message["signal"]), bool(message.get("everyone")))
        return {}

    def delete(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Remove a container; repeating it is fine with `force`."""
        container = self._supervisor.containers.get(str(message["container"]))
        if container is None:
            if message.get("force"):
                return {}
            raise NotFoundError(f"container does not exist: `{message['container']}`")
        if not message.get("force"):
            containers.refuse_alive(container)
        self._supervisor.remove(container)
        return {}

    def pause(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Freeze."""
        lifecycle.pause(self._root, self._find(message).id)
        return {}

    def resume(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Thaw."""
        lifecycle.resume(self._root, self._find(message).id)
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

    def state(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """Tell one container."""
        return self._find(message).document()

    def states(self, client: Client, message: "dict[str, Any]", _fds: "list[int]") -> None:
        """Tell all containers, in as many messages as it takes."""
        request = message.get("id", 0)
        chunk: list[dict[str, object]] = []
        size = 0
        for container in self._supervisor.containers.values():
            document = container.document()
            length = len(json.dumps(document))
            if chunk and size + length > wire.MAX_BYTES // 2:
                self._connections.send(client, {"id": request, "ok": {"states": chunk}, "more": True})
                chunk, size = [], 0
            chunk.append(document)
            size += length
        self._connections.answer(client, request, {"states": chunk})

    def shutdown(self, _client: Client, message: "dict[str, Any]", _fds: "list[int]") -> "dict[str, Any]":
        """End the shim; refused while containers run, unless forced: then all are deleted."""
        here = list(self._supervisor.containers.values())
        alive = [container for container in here if container.exit is None]
        if alive and not message.get("force"):
            raise StateError(f"{len(alive)} containers run, among them `{alive[0].id}`", "stop them first")
        for container in here if message.get("force") else ():
            self._supervisor.remove(container)
        self.is_over = True
        self._loop.later(0, self._loop.stop)
        return {}

    def _answer_start(self, client: Client, request: int, container: Container, error: "ContainerError | None") -> None:
        if error is not None:
            self._connections.refuse(client, request, error)
        else:
            self._connections.answer(client, request, {**container.document(), "warnings": container.warnings})

    def _find(self, message: "dict[str, Any]") -> Container:
        container = self._supervisor.containers.get(str(message["container"]))
        if container is None:
            raise NotFoundError(f"container does not exist: `{message['container']}`")
        return container


def _pipes() -> "tuple[list[int], tuple[int, int, int]]":
    """Return (our ends, the process's ends) of stdin, stdout and stderr."""
    stdin, feed = os.pipe2(os.O_CLOEXEC)
    out, stdout = os.pipe2(os.O_CLOEXEC)
    err, stderr = os.pipe2(os.O_CLOEXEC)
    return [feed, out, err], (stdin, stdout, stderr)
