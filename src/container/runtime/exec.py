"""A further process in a running container.

The launcher opens the container's namespaces and root; a short stage enters them all at once and
clones the process as the launcher's own child, already in the container's cgroup. The stage is not
dumpable, so nothing in the container can look into it (CVE-2016-9962).
"""

import os
import signal

from container.cgroups.group import Cgroup
from container.errors import ContainerError, LaunchError, StateError
from container.linux import namespaces, prctl, seccomp
from container.linux._libc import SyscallError
from container.linux.process import (
    CLONE_CLEAR_SIGHAND,
    CLONE_PARENT,
    clone3,
    open_verified,
    pidfd_send_signal,
)
from container.runtime import channel as wire
from container.runtime import console, init, lifecycle, operations, process
from container.runtime import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from container.linux.seccomp import Filter
    from container.spec.types import Process


class Exec:
    """One process on its way into a container.

    Attributes:
        pid, pidfd: the process, 0 and -1 before it exists.
        console: master of its terminal, -1 if there is none.
        channel: the launcher's end.
    """

    __slots__ = (
        "cgroup", "channel", "console", "keep_fds", "pid", "pidfd", "rules", "setgroups", "spec", "stage", "stdio",
    )  # fmt: skip

    def __init__(self, spec: "Process", channel: wire.Channel) -> None:
        self.spec = spec
        self.channel = channel
        self.stdio: tuple[int, int, int] | None = None
        self.rules: Filter | None = None
        self.cgroup: Cgroup | None = None
        self.keep_fds = self.pid = self.stage = 0
        self.pidfd = self.console = -1
        self.setgroups = True

    def feed(self) -> str:
        """Handle the next message; returns `staged`, `console`, `listener`, or `started` at the end.

        After `staged` the process exists and waits for `proceed`.

        Raises:
            LaunchError: the process could not be started.
        """
        kind, payload, fds = self.channel.receive()
        if kind == wire.ERROR:
            raise wire.parse_error(payload)
        if kind == wire.STAGED:
            self.pid, self.pidfd = int(payload), fds[0]
            return "staged"
        if kind == wire.CONSOLE:
            self.console = fds[0]
            return "console"
        if kind == wire.LISTENER:
            os.close(fds[0])
            return "listener"
        if not self.pid:
            raise LaunchError("the process died before it entered the container")
        return "started"

    def proceed(self) -> None:
        """Put the process where it belongs and let it go on."""
        if self.cgroup is not None:
            self.cgroup.add(self.pid, cloned=self.cgroup.fd() is not None)
        if self.spec.get("rlimits"):
            process.set_rlimits(self.spec, self.pid)
        if self.spec.get("oomScoreAdj") is not None:
            process.set_oom_score(self.pid, self.spec["oomScoreAdj"])
        self.channel.send(wire.PROCEED)

    def abort(self) -> None:
        """Kill what was made and close everything."""
        if self.pidfd >= 0:
            try:
                pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except SyscallError:
                pass  # it is gone already
        for pid in (self.stage, self.pid):
            if pid:
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    continue
        self.close()

    def close(self) -> None:
        """Close every descriptor that nobody took over."""
        self.channel.close()
        for fd in (self.pidfd, self.console):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.console = -1


def begin(
    root: str,
    container_id: str,
    spec: "Process",
    stdio: "tuple[int, int, int] | None" = None,
    keep_fds: int = 0,
) -> Exec:
    """Start `spec` in the container; feed the result until `started`.

    Raises:
        StateError: the container does not run.
    """
    state = states.load(root, container_id)
    status = lifecycle.status_of(state)
    if status == "paused":
        raise StateError(f"container paused: `{container_id}`", f"resume it first: `resume {container_id}`")
    if status not in ("running", "created"):
        raise StateError(f"container not running: `{container_id}`")
    target = open_verified(state.pid, state.started_ticks)
    if target is None:
        raise StateError(f"container not running: `{container_id}`")
    ours, theirs = wire.pair()
    running = Exec(spec, ours)
    running.stdio, running.keep_fds = stdio, keep_fds
    try:
        profile = (lifecycle.load_config(state).get("linux") or {}).get("seccomp")
        running.rules = seccomp.compile_profile(dict(profile)) if profile else None
        running.cgroup = lifecycle.cgroup_of(state) if state.cgroup else None
        with open(f"/proc/{state.pid}/setgroups", encoding="ascii") as file:
            running.setgroups = file.read().strip() == "allow"
        flags = _foreign_namespaces(state.pid)
        pid, pidfd = clone3(CLONE_CLEAR_SIGHAND)
        if pid == 0:
            _run_stage(running, theirs, target, flags)
        os.close(pidfd)
        running.stage = pid
    finally:
        theirs.close()
        os.close(target)
    return running


def _foreign_namespaces(pid: int) -> int:
    """Return the CLONE_ flags of the namespaces of `pid` that are not ours; entering one's own fails."""
    flags = 0
    for kind, name in namespaces.PROC_NAMES.items():
        try:
            here, there = os.stat(f"/proc/self/ns/{name}"), os.stat(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            continue  # this kernel has no time namespaces
        if not os.path.samestat(here, there):
            flags |= namespaces.FLAGS[kind]
    return flags


def _run_stage(running: Exec, channel: wire.Channel, target: int, flags: int) -> "NoReturn":
    try:
        prctl.set_dumpable(False)
        namespaces.setns(target, flags)
        cgroup_fd = running.cgroup.fd() if running.cgroup is not None else None
        pid, pidfd = clone3(CLONE_PARENT, cgroup_fd)
        if pid == 0:
            _run(running, channel, bool(flags & namespaces.CLONE_NEWUSER))
        channel.send(wire.STAGED, str(pid).encode(), (pidfd,))
    except (OSError, ContainerError) as error:
        channel.send_error(error)
    finally:
        os._exit(0)


def _run(running: Exec, channel: wire.Channel, new_user: bool) -> "NoReturn":
    try:
        kind, _, _ = channel.receive()
        if kind != wire.PROCEED:
            os._exit(127)
        if new_user:
            if running.setgroups:
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.setsid()
        if running.spec.get("terminal"):
            _open_console(running, channel)
        elif running.stdio:
            init.install_stdio(running.stdio)
        init.finish(running.spec, running.rules, running.setgroups, running.keep_fds, channel)
    except (OSError, ContainerError, ValueError) as error:
        channel.send_error(error)
    finally:
        os._exit(127)


def _open_console(running: Exec, channel: wire.Channel) -> None:
    size = running.spec.get("consoleSize") or {"height": 0, "width": 0}
    uid = (running.spec.get("user") or {}).get("uid", 0)
    root = os.open("/", operations.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave = console.open_console(root, size["height"], size["width"], uid, mounted=False)
    channel.send(wire.CONSOLE, fds=(master,))
    console.take(slave)
    for fd in (root, master, slave):
        os.close(fd)
