"""A further process in a running container.

The launcher opens the container's namespaces and root; a short stage enters them all at once and
clones the process as the launcher's own child, already in the container's cgroup. The stage is not
dumpable, so nothing in the container can look into it (CVE-2016-9962).
"""

import os

from container.cgroups.group import Cgroup
from container.errors import LaunchError, StateError
from container.linux import namespaces, prctl
from container.linux._libc import SyscallError
from container.linux.files import close_all_but, read_file
from container.linux.process import (
    CLONE_CLEAR_SIGHAND,
    CLONE_PARENT,
    clone3,
    open_verified,
    pidfd_send_signal,
)
from container.runtime import channel as wire
from container.runtime import console, init, launch, lifecycle, limits, listener, process
from container.runtime import state as states
from container.runtime.paths import O_PATH
from container.runtime.signals import SIGKILL

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
        "cgroup", "channel", "console", "groups", "keep_fds", "listen_fds", "pid", "pidfd", "rules", "spec", "stage",
        "state", "stdio",
    )  # fmt: skip

    def __init__(self, spec: "Process", state: states.State, channel: wire.Channel) -> None:
        self.spec = spec
        self.state = state
        self.channel = channel
        self.stdio: tuple[int, int, int] | None = None
        self.rules: Filter | None = None
        self.cgroup: Cgroup | None = None
        self.groups: list[int] | None = list((spec.get("user") or {}).get("additionalGids") or ())
        self.keep_fds = self.listen_fds = self.pid = self.stage = 0
        self.pidfd = self.console = -1

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
            listener.hand_over(lifecycle.load_config(self.state), self.state.document("running"), self.pid, fds[0])
            return "listener"
        if not self.pid:
            raise LaunchError("the process died before it entered the container")
        return "started"

    def proceed(self) -> None:
        """Put the process where it belongs and let it go on."""
        if self.cgroup is not None:
            self.cgroup.add(self.pid, cloned=self.cgroup.fd() is not None)
        if self.spec.get("rlimits"):
            limits.set_rlimits(self.spec, self.pid)
        if self.spec.get("oomScoreAdj") is not None:
            limits.set_oom_score(self.pid, self.spec["oomScoreAdj"])
        self.channel.send(wire.PROCEED)

    def abort(self) -> None:
        """Kill what was made and close everything."""
        if self.pidfd >= 0:
            try:
                pidfd_send_signal(self.pidfd, SIGKILL)
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
        if self.cgroup is not None:
            self.cgroup.close()
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
    listen_fds: int = 0,
    cache_dir: "str | None" = None,
) -> Exec:
    """Start `spec` in the container; feed the result until `started`.

    Args:
        root, container_id: the container.
        spec: the program; checked.
        stdio: descriptors for 0, 1, 2; None: ours.
        keep_fds, listen_fds, cache_dir: as of launch.Options.

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
    running = Exec(spec, state, ours)
    running.stdio, running.keep_fds, running.listen_fds = stdio, keep_fds, listen_fds
    try:
        _prepare(running, cache_dir)
        flags = _foreign_namespaces(state.pid)
        pid, pidfd = clone3(CLONE_CLEAR_SIGHAND)
        if pid == 0:
            _run_stage(running, theirs, target, state.pid, flags)
        os.close(pidfd)
        running.stage = pid
    except BaseException:
        running.close()
        raise
    finally:
        theirs.close()
        os.close(target)
    return running


def _prepare(running: Exec, cache_dir: "str | None") -> None:
    state = running.state
    profile = (lifecycle.load_config(state).get("linux") or {}).get("seccomp")
    if profile:
        from container.linux import seccomp  # for those alone who have a profile

        running.rules = seccomp.compile_profile(dict(profile), cache_dir)
    running.cgroup = lifecycle.cgroup_of(state) if state.cgroup else None
    if read_file(f"/proc/{state.pid}/setgroups").strip() != b"allow":
        running.groups = None
    if state.annotations.get(launch.KEEP_GROUPS) in ("1", "true"):
        running.groups = None


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


def _run_stage(running: Exec, channel: wire.Channel, target: int, init: int, flags: int) -> "NoReturn":
    try:
        process.seal_imports()
        prctl.set_dumpable(False)
        cgroup_fd = running.cgroup.fd() if running.cgroup is not None else None
        kept = {0, 1, 2, channel.fileno(), target, *range(3, 3 + running.keep_fds), *(running.stdio or ())}
        close_all_but(kept | ({cgroup_fd} if cgroup_fd is not None else set()))
        cpus = running.spec.get("execCPUAffinity") or {}
        if cpus.get("initial"):
            limits.set_affinity(cpus["initial"])
        root = os.open(f"/proc/{init}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces.setns(target, flags)
        # The container's root is not always that of its mount namespace: it may share the host's, in a chroot.
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
        pid, pidfd = clone3(CLONE_PARENT, cgroup_fd)
        if pid == 0:
            _run(running, channel, bool(flags & namespaces.CLONE_NEWUSER))
        channel.send(wire.STAGED, str(pid).encode(), (pidfd,))
    except Exception as error:  # nobody is above us: what is not sent is lost
        channel.send_error(error)
    finally:
        os._exit(0)


def _run(running: Exec, channel: wire.Channel, new_user: bool) -> "NoReturn":
    try:
        kind, _, _ = channel.receive()
        if kind != wire.PROCEED:
            os._exit(127)
        if new_user:
            if running.groups is not None:
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.setsid()
        if running.spec.get("terminal"):
            _open_console(running, channel)
        elif running.stdio:
            init.install_stdio(running.stdio)
        inherited = {}
        if running.listen_fds:
            inherited = {"LISTEN_FDS": str(running.listen_fds), "LISTEN_PID": str(os.getpid())}
        cpus = running.spec.get("execCPUAffinity") or {}
        if cpus.get("final"):
            limits.set_affinity(cpus["final"])
        init.finish(running.spec, running.rules, running.groups, channel, running.keep_fds, inherited)
    except Exception as error:  # nobody is above us: what is not sent is lost
        channel.send_error(error)
    finally:
        os._exit(127)


def _open_console(running: Exec, channel: wire.Channel) -> None:
    size = running.spec.get("consoleSize") or {"height": 0, "width": 0}
    uid = (running.spec.get("user") or {}).get("uid", 0)
    root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave = console.open_console(root, size["height"], size["width"], uid, mounted=False)
    channel.send(wire.CONSOLE, fds=(master,))
    console.take(slave)
    for fd in (root, master, slave):
        os.close(fd)
