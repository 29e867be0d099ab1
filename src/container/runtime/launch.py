"""The launcher's side of a container's start: clone the init, serve it, and undo all if it fails.

`prepare` plans and opens everything, `Launch.clone` makes the process, `Launch.feed` handles one
message of the init and says what happened. The command line calls feed in a loop; the shim calls it when the
channel is readable, so one slow mount does not hold up other containers.
"""

import fcntl
import json
import os
import signal

from container.cgroups.hierarchy import open_hierarchy
from container.errors import ConfigError, ContainerError, LaunchError
from container.linux import namespaces, seccomp
from container.linux._libc import SyscallError
from container.linux.namespaces import FLAGS
from container.linux.process import CLONE_CLEAR_SIGHAND, CLONE_PARENT, clone3, exit_code, pidfd_send_signal
from container.runtime import channel as wire
from container.runtime import hooks, idmap, process, rootfs
from container.runtime import state as states
from container.runtime.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from container.cgroups.group import Cgroup
    from container.spec.types import Config, Hook, IDMapping

# include/uapi/linux/nsfs.h: _IO(0xb7, 3)
NS_GET_NSTYPE = 0xB703

#: What an init does in its own namespaces, in the order in which existing ones must be entered: the user
#: namespace first, it gives the right to enter the others; mount last, it changes what paths mean.
_JOIN_ORDER = ("user", "ipc", "uts", "network", "pid", "cgroup", "time", "mount")


class Options:
    """How a caller wants a container launched.

    Attributes:
        gate: the init waits at start.sock for a `start` from anywhere.
        stdio: descriptors for 0, 1, 2; None: the launcher's own.
        keep_fds: how many descriptors from 3 on are passed to the program.
        new_keyring: give the container a session keyring of its own.
        cgroup_manager: `cgroupfs` or `disabled`.
    """

    __slots__ = ("cgroup_manager", "gate", "keep_fds", "new_keyring", "stdio")

    def __init__(self) -> None:
        self.gate = False
        self.stdio: tuple[int, int, int] | None = None
        self.keep_fds = 0
        self.new_keyring = True
        self.cgroup_manager = "cgroupfs"


class Launch:
    """One container on its way to run.

    Attributes:
        state: what is written to disk.
        pid, pidfd: the init, 0 and -1 before it exists.
        channel: the launcher's end.
        console: master of the terminal, -1 if there is none.
        listener: the seccomp listener, -1 if there is none.
        warnings: what had to be left out, for the caller's log.
    """

    __slots__ = (
        "_started_fd",
        "cgroup",
        "channel",
        "config",
        "console",
        "init",
        "listener",
        "pid",
        "pidfd",
        "stage",
        "state",
        "warnings",
    )

    def __init__(self, config: "Config", state: states.State, init: Init, channel: wire.Channel) -> None:
        self.config = config
        self.state = state
        self.init = init
        self.channel = channel
        self.cgroup: Cgroup | None = None
        self.pid = 0
        self.stage = 0
        self.pidfd = self.console = self.listener = self._started_fd = -1
        self.warnings: list[str] = []

    def clone(self) -> None:
        """Make the init; it then works by itself until it needs something (see `feed`)."""
        init = self.init
        cgroup_fd = self.cgroup.fd() if self.cgroup else None
        staged = needs_stage(init)
        flags = (0 if staged else init.new) | CLONE_CLEAR_SIGHAND
        pid, pidfd = _clone(flags, None if staged else cgroup_fd)
        if pid == 0:
            if staged:
                _run_stage(init, cgroup_fd)
            init.run()
        init.channel.close()
        if staged:
            os.close(pidfd)
            self.stage = pid
        else:
            self._adopt(pid, pidfd)

    def feed(self) -> str:
        """Handle the init's next message; returns `staged`, `console`, `listener`, `ready` or `started`.

        Raises:
            LaunchError: the init gave up, or died.
        """
        kind, payload, fds = self.channel.receive()
        if kind == wire.ERROR:
            raise wire.parse_error(payload)
        if kind == wire.STAGED:
            self._adopt(int(payload), fds[0])
            return "staged"
        if kind == wire.CONSOLE:
            self.console = fds[0]
            return "console"
        if kind == wire.LISTENER:
            self.listener = fds[0]
            return "listener"
        if kind == wire.READY:
            self.warnings += payload.decode(errors="replace").split("\n") if payload else []
            self._finish_creation()
            return "ready"
        if self.state.was_started():
            return "started"
        raise LaunchError(f"init of `{self.state.id}` died before its program started{self._last_words()}")

    def go(self) -> None:
        """Tell the init, which waits on the channel, to start the program."""
        self.channel.send(wire.GO)

    def abort(self) -> None:
        """Undo everything: processes, cgroup, files. Safe at any point, also twice."""
        self.channel.close()
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
        if self.cgroup:
            self.cgroup.kill()
            self.cgroup.remove()
        states.remove_directory(self.state.directory)
        self.close()

    def close(self) -> None:
        """Close every descriptor of this launch that nobody took over."""
        self.channel.close()
        for fd in (self.pidfd, self.console, self.listener, self._started_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.console = self.listener = self._started_fd = -1

    def _adopt(self, pid: int, pidfd: int) -> None:
        self.pid, self.pidfd = pid, pidfd
        self.state.set_pid(pid)
        linux = self.config.get("linux") or {}
        if self.init.new & namespaces.CLONE_NEWUSER:
            idmap.write_maps(pid, linux.get("uidMappings") or [], linux.get("gidMappings") or [])
        spec = self.config.get("process")
        if spec is not None and spec.get("oomScoreAdj") is not None:
            self._warn(process.set_oom_score(pid, spec["oomScoreAdj"]))
        wanted: dict[str, list[Hook]] = dict(self.config.get("hooks") or {})  # type: ignore[arg-type] # phases
        for phase in ("prestart", "createRuntime"):
            if wanted.get(phase):
                hooks.run(wanted[phase], self.hook_state("creating"), phase, self.state.bundle)
        if self.init.waits:
            self.channel.send(wire.PROCEED)
        if self.cgroup:
            self.cgroup.add(pid, cloned=self.cgroup.fd() is not None)
        if self.init.joins_late:
            self.channel.send(wire.PROCEED)

    def _finish_creation(self) -> None:
        spec = self.config.get("process")
        if spec is not None and spec.get("rlimits"):
            for warning in process.set_rlimits(spec, self.pid):
                self._warn(warning)
        self.state.save()

    def hook_state(self, status: str) -> bytes:
        """Return the document that hooks read."""
        return json.dumps(self.state.document(status)).encode()

    def _warn(self, text: "str | None") -> None:
        if text:
            self.warnings.append(text)

    def _last_words(self) -> str:
        if not self.pid:
            return ""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return ""
        return f", exit status {exit_code(status)}" if pid else ""


def prepare(root: str, container_id: str, bundle: str, config: "Config", options: Options) -> Launch:
    """Claim the id, make the cgroup, plan the file system, open what is needed; no process yet.

    Raises:
        ContainerError: the document cannot be carried out here; nothing is left behind.
    """
    bundle = os.path.abspath(bundle)
    state = states.create(root, container_id, bundle)
    try:
        return _prepare(state, config, options)
    except BaseException:
        states.remove_directory(state.directory)
        raise


def _prepare(state: states.State, config: "Config", options: Options) -> Launch:
    ours, theirs = wire.pair()
    init = Init(config, theirs)
    launch = Launch(config, state, init, ours)
    linux = config.get("linux") or {}
    try:
        launch.cgroup = _make_cgroup(config, state.id, options)
        state.cgroup = dict(launch.cgroup.paths) if launch.cgroup else {}
        state.rootfs = os.path.join(state.bundle, (config.get("root") or {"path": ""})["path"])
        state.annotations = dict(config.get("annotations") or {})
        state.hooks = sorted(config.get("hooks") or {})
        _plan_namespaces(init, config, launch.cgroup)
        init.setgroups = _setgroups_allowed(init, linux.get("gidMappings") or [])
        init.operations = rootfs.plan(config, state.bundle, _host(launch, init))
        init.filter = seccomp.compile_profile(dict(linux["seccomp"])) if linux.get("seccomp") else None
        init.stdio = options.stdio
        init.keep_fds = options.keep_fds
        init.keyring = f"_ses.{state.id}" if options.new_keyring else ""
        init.state = launch.hook_state("created")
        _write_files(launch, options)
    except BaseException:
        theirs.close()
        for fd, _ in init.joins:
            os.close(fd)
        launch.abort()
        raise
    return launch


def _write_files(launch: Launch, options: Options) -> None:
    directory = launch.state.directory
    launch._started_fd = os.open(f"{directory}/started", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    launch.init.started = launch._started_fd
    with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(launch.config))  # not json.dump: that encodes in Python, this in C
    if options.gate:
        launch.init.gate = wire.listen(f"{directory}/start.sock")


def _make_cgroup(config: "Config", container_id: str, options: Options) -> "Cgroup | None":
    linux = config.get("linux") or {}
    resources = linux.get("resources")
    if options.cgroup_manager == "disabled":
        return None
    return open_hierarchy().create(linux.get("cgroupsPath") or container_id, resources)


def _host(launch: Launch, init: Init) -> rootfs.Host:
    config = launch.config
    host = rootfs.Host(
        userns=bool(init.new & namespaces.CLONE_NEWUSER) or in_user_namespace(),
        cgroups=launch.state.cgroup,
        cgroupns=bool(init.late & namespaces.CLONE_NEWCGROUP),
    )
    for index, mount in enumerate(config.get("mounts") or ()):
        if mount.get("uidMappings") or mount.get("gidMappings"):
            host.idmaps[index] = idmap.open_namespace(mount.get("uidMappings") or [], mount.get("gidMappings") or [])
    wanted = (config.get("hooks") or {}).get("createContainer")
    if wanted:
        host.hooks = lambda: hooks.run(wanted, init.state, "createContainer", launch.state.bundle)
    return host


def _plan_namespaces(init: Init, config: "Config", cgroup: "Cgroup | None") -> None:
    linux = config.get("linux") or {}
    wanted = {namespace["type"]: namespace.get("path") for namespace in linux.get("namespaces") or ()}
    for kind in _JOIN_ORDER:
        if kind not in wanted:
            continue
        path = wanted[kind]
        if not path:
            init.new |= FLAGS[kind]
        elif (fd := _open_namespace(kind, path)) is not None:
            init.joins.append((fd, FLAGS[kind]))
    if init.new & namespaces.CLONE_NEWUSER and not linux.get("uidMappings"):
        raise ConfigError("a new user namespace needs `linux.uidMappings` and `linux.gidMappings`")
    init.late = init.new & namespaces.CLONE_NEWCGROUP
    init.new &= ~namespaces.CLONE_NEWCGROUP
    init.joins_late = bool(init.late and cgroup is not None and set(cgroup.paths) != {"unified"})
    wanted_hooks = config.get("hooks") or {}
    init.waits = bool(
        init.new & namespaces.CLONE_NEWUSER or wanted_hooks.get("prestart") or wanted_hooks.get("createRuntime")
    )


def _open_namespace(kind: str, path: str) -> "int | None":
    """Return a descriptor of the namespace file `path`; None if this process is in it already."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError as error:
        raise ConfigError(
            f"cannot join {kind} namespace `{path}`: {(error.strerror or '').lower()}",
            "the path must be a namespace file such as /proc/PID/ns/net",
        ) from error
    if found != FLAGS[kind]:
        os.close(fd)
        raise ConfigError(f"`{path}` is not a {kind} namespace")
    here = os.stat(f"/proc/self/ns/{namespaces.PROC_NAMES[kind]}")
    if os.path.samestat(here, os.fstat(fd)):
        os.close(fd)
        return None
    return fd


def needs_stage(init: Init) -> bool:
    """Tell whether an intermediate process must enter namespaces before the init can be cloned.

    A pid namespace is entered by one's children only; a process may enter a user namespace but not clone
    into it and into others of its at once; and once in a new user namespace it has no rights over the
    existing namespaces that it should join.
    """
    joined = 0
    for _, flag in init.joins:
        joined |= flag
    return bool(
        joined & (namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWTIME)
        or (joined and init.new & namespaces.CLONE_NEWUSER)
        or init.new & namespaces.CLONE_NEWTIME
    )


def _clone(flags: int, cgroup_fd: "int | None") -> "tuple[int, int]":
    try:
        return clone3(flags, cgroup_fd)
    except SyscallError as error:
        raise LaunchError(
            f"cannot create the container's process: {error}", _clone_hint(error), error.errno or 0
        ) from error


def _clone_hint(error: SyscallError) -> str:
    name = os.strerror(error.errno or 0)
    return {
        "Operation not permitted": "run as root, or give the container a user namespace (`vappc doctor` tells more)",
        "No space left on device": "a limit in /proc/sys/user/max_*_namespaces is reached",
        "Invalid argument": "this kernel lacks one of the namespaces, or clone3 needs Linux 5.7",
    }.get(name, "")


def _run_stage(init: Init, cgroup_fd: "int | None") -> "NoReturn":
    """Enter existing namespaces, clone the init as a sibling, and leave."""
    try:
        for fd, flag in init.joins:
            namespaces.setns(fd, flag)
            if flag == namespaces.CLONE_NEWUSER:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
        if init.new & namespaces.CLONE_NEWTIME:
            _unshare_time(init)
        init.joins = []
        pid, pidfd = clone3((init.new & ~namespaces.CLONE_NEWTIME) | CLONE_PARENT, cgroup_fd)
        if pid == 0:
            init.run()
        init.channel.send(wire.STAGED, str(pid).encode(), (pidfd,))
    except (OSError, ContainerError) as error:
        init.channel.send_error(error)
    finally:
        os._exit(0)


def _unshare_time(init: Init) -> None:
    namespaces.unshare(namespaces.CLONE_NEWTIME)
    offsets = (init.config.get("linux") or {}).get("timeOffsets") or {}
    lines = [f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}" for clock, offset in offsets.items()]
    if lines:
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write("\n".join(lines))


def _setgroups_allowed(init: Init, gids: "list[IDMapping]") -> bool:
    if init.new & namespaces.CLONE_NEWUSER:
        return idmap.setgroups_allowed(gids)
    with open("/proc/self/setgroups", encoding="ascii") as file:
        return file.read().strip() == "allow"


def in_user_namespace() -> bool:
    """Tell whether this process is in a user namespace other than the first (whose map is the identity)."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]
