"""The shim's children: containers and other processes from their clone to their end.

Only the start of a container takes turns in the event loop, so a slow one holds up nobody. Every end
is written down before the child is reaped or anybody is told.
"""

import os
import signal

from container.errors import ContainerError, DeadlineError, LaunchError, StateError
from container.linux._libc import SyscallError
from container.linux.process import exit_code
from container.runtime import exec as execs
from container.runtime import lifecycle
from container.runtime.state import ids
from container.shim import containers, logs
from container.shim.connections import Client, Connections
from container.shim.containers import Container, Exit
from container.shim.loop import READ, Loop

TYPE_CHECKING = False

#: How long a stuck log waits before it is tried again, seconds.
RETRY_S = 0.5

#: How long a container may take from clone to exec. A network file system may be slow; for ever is too long.
START_TIMEOUT_S = 60.0


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


class Supervisor:
    """All that lives in this shim.

    Attributes:
        root: the state directory, `<run>/containers`.
    """

    __slots__ = ("_connections", "_loop", "children", "containers", "root")

    def __init__(self, loop: Loop, root: str, connections: Connections) -> None:
        self._loop = loop
        self._connections = connections
        self.root = root
        self.containers: dict[str, Container] = {}
        self.children: dict[int, Container | Running] = {}

    def begin(self) -> None:
        """Adopt what a predecessor left, and see children end from now on."""
        self._loop.on_signals((signal.SIGCHLD, signal.SIGTERM), self._on_signals)
        for container_id in ids(self.root):
            self._adopt(container_id)

    # Containers on their way

    def launch(self, container: Container) -> None:
        """Clone the init of a prepared container; its `waiting` hears how that went."""
        started = container.launch
        assert started is not None
        self.containers[container.id] = container
        try:
            started.clone()
            containers.close_inherited(container)
            if started.pid:
                self.children[started.pid] = container
        except (ContainerError, OSError) as error:
            self.fail(container, error)
            return
        self._loop.add(started.channel.fileno(), lambda _events: self._on_channel(container))
        container.deadline = self._loop.later(START_TIMEOUT_S, lambda: self._expire(container))

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
            self.fail(container, error)

    def _on_ready(self, container: Container) -> None:
        """Let the daemon hold what it needs before the program can produce anything that could be lost."""
        started = container.launch
        assert started is not None
        container.pidfd, started.pidfd = started.pidfd, -1
        self.watch_logs(container)
        self.tell_born(container)
        if container.runs:
            started.go()
        else:
            self._on_started(container)

    def _on_started(self, container: Container) -> None:
        started = container.launch
        assert started is not None
        self._loop.cancel(container.deadline)
        self._loop.remove(started.channel.fileno())
        container.warnings = started.warnings
        started.close()
        container.launch = None
        self._report(container, None)

    def fail(self, container: Container, error: Exception) -> None:
        """Undo a container that is being started and report why."""
        started = container.launch
        assert started is not None
        self._loop.cancel(container.deadline)
        self._loop.remove(started.channel.fileno())
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
        self._loop.later(0, self._reap)

    def _expire(self, container: Container) -> None:
        self.fail(container, DeadlineError(f"container `{container.id}` did not start in {START_TIMEOUT_S:g} s"))

    def _report(self, container: Container, error: "ContainerError | None") -> None:
        if container.waiting is not None:
            waiting, container.waiting = container.waiting, None
            waiting(error)

    def tell_born(self, container: Container, only: "Client | None" = None) -> None:
        """Hand out what must outlive us, to everybody who follows or to one."""
        held = container.descriptors()
        event = {"event": "born", "container": container.id, "pid": container.state.pid, "names": list(held)}
        if only is not None:
            self._connections.send(only, event, tuple(held.values()))
        else:
            self._connections.tell(event, tuple(held.values()))

    # Further processes

    def launch_exec(self, running: Running, ours: "tuple[int, ...]") -> None:
        """Serve an exec until it runs; `ours` are our ends of its stdio, which the client gets."""
        assert running.launch is not None
        self._loop.add(running.launch.channel.fileno(), lambda _events: self._on_exec(running, ours))

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
            self._loop.remove(launch.channel.fileno())
            self.children.pop(running.pid, None)
            launch.abort()
            failure = error if isinstance(error, ContainerError) else LaunchError(str(error))
            self._connections.refuse(running.client, running.request, failure)
        else:
            self._loop.remove(launch.channel.fileno())
            handed = {"pidfd": launch.pidfd}
            handed |= {"master": launch.console} if launch.console >= 0 else {}
            handed |= dict(zip(("stdin", "stdout", "stderr"), fds, strict=False))
            answer = {"pid": running.pid, "names": list(handed)}
            self._connections.answer(running.client, running.request, answer, tuple(handed.values()))
            launch.close()
        for fd in fds:
            os.close(fd)

    # Ends

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self._loop.stop()
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
                self.finish(child, Exit(status, containers.now(), _was_oom(child)))
            os.waitpid(found.si_pid, 0)
            if isinstance(child, Running):
                self._connections.send(child.client, {"event": "exit", "key": child.key, "code": exit_code(status),
                                          "container": child.container})  # fmt: skip

    def _hear_out(self, container: Container) -> None:
        """Read the rest of what a container that ended has to tell: the start comes before the end."""
        while container.launch is not None:
            self._on_launch(container)

    def finish(self, container: Container, outcome: Exit) -> None:
        """Write down and tell the end of a container, after the last line of its log."""
        if container.exit is not None:
            return
        if container.pump is not None:
            container.pump.drain()
        container.save_exit(outcome)
        self._unwatch_logs(container)
        if container.pidfd >= 0:
            self._loop.remove(container.pidfd)
        self._connections.tell({"event": "exit", "container": container.id, **outcome.document()})

    def _adopt(self, container_id: str) -> None:
        container = containers.adopt(self.root, container_id)
        if container is None:
            return
        self.containers[container_id] = container
        if container.exit is None:
            self.watch_logs(container)
            self.check_ended(container)

    def check_ended(self, container: Container) -> None:
        """Learn the end of a container that is not our child, now or when its pidfd tells."""
        if container.exit is not None or container.pidfd < 0:
            return
        outcome = containers.learn_exit(container)
        if outcome is not None:
            self.finish(container, outcome)
            return
        self._loop.remove(container.pidfd)
        # Readable when the process has ended. That it was reaped is told by a hangup, since Linux 6.9 only.
        self._loop.add(container.pidfd, lambda _events: self.check_ended(container), READ)

    def remove(self, container: Container) -> None:
        """Kill what is left of a container, see its end, then remove everything."""
        if container.launch is not None:
            self.fail(container, StateError(f"container `{container.id}` was deleted while it was being started"))
            return
        if container.exit is None:
            lifecycle.destroy(container.state)
            self._reap()
            if container.exit is None:  # not our child
                self.finish(container, containers.learn_exit(container) or Exit(None, containers.now()))
        lifecycle.delete(self.root, container.id, force=True)
        self._unwatch_logs(container)
        if container.pidfd >= 0:
            self._loop.remove(container.pidfd)
        self.children.pop(container.state.pid, None)
        self.containers.pop(container.id, None)
        container.close()
        self._connections.tell({"event": "gone", "container": container.id})

    # Logs

    def watch_logs(self, container: Container) -> None:
        """Take the output of a container as it comes."""
        if container.pump is not None:
            logs.watch(container.pump, self._loop.add, lambda stream: self._on_output(container, stream))

    def _unwatch_logs(self, container: Container) -> None:
        if container.pump is not None:
            for stream in container.pump.streams:
                if stream.source >= 0:
                    self._loop.remove(stream.source)

    def _on_output(self, container: Container, stream: logs.Stream) -> None:
        pump = container.pump
        if pump is None:
            return
        if not pump.take(stream):
            self._loop.remove(stream.source)
            pump.close_source(stream)
        if pump.is_full():
            self._unwatch_logs(container)
        if pump.stuck:
            self._loop.later(RETRY_S, lambda: self._retry_log(container))

    def _retry_log(self, container: Container) -> None:
        pump = container.pump
        if pump is None or not pump.stuck:
            return
        was_full = pump.is_full()
        pump.retry()
        if was_full and not pump.is_full():
            self.watch_logs(container)
        if pump.stuck:
            self._loop.later(RETRY_S, lambda: self._retry_log(container))


def _was_oom(container: Container) -> bool:
    if "memory" not in container.state.cgroup and "unified" not in container.state.cgroup:
        return False
    try:
        return lifecycle.cgroup_of(container.state).oom_count() > 0
    except (ContainerError, OSError, SyscallError):
        return False  # the cgroup is gone already: nothing tells it any more
