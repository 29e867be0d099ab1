"""The launcher's side of a container's start: clone the init, serve it, and undo all if it fails.

`prepare` plans and opens everything, `Launch.clone` makes the process, `Launch.feed` handles one
message of the init and says what happened. The command line calls feed in a loop; the shim calls it when the
channel is readable, so one slow mount does not hold up other containers.
"""

import errno
import os

from container.cgroups.hierarchy import open_hierarchy
from container.errors import LaunchError
from container.linux import namespaces
from container.linux._libc import SyscallError
from container.linux.process import CLONE_CLEAR_SIGHAND, clone3, exit_code, pidfd_send_signal
from container.runtime import channel as wire
from container.runtime import hooks, idmap, joins, limits, listener, process, rootfs, sources
from container.runtime import state as states
from container.runtime.init import Init
from container.runtime.signals import SIGKILL
from container.spec import sysctls
from container.spec.document import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.cgroups.group import Cgroup
    from container.spec.types import Config, Hook

#: Annotation by which podman's `--group-add keep-groups` asks for the caller's groups.
KEEP_GROUPS = "run.oci.keep_original_groups"


class Options:
    """How a caller wants a container launched.

    Attributes:
        gate: the init waits at start.sock for a `start` from anywhere.
        stdio: descriptors for 0, 1, 2; None: the launcher's own.
        keep_fds: how many descriptors from 3 on are passed to the program.
        new_keyring: give the container a session keyring of its own.
        listen_fds: how many of these are sockets that the program is told of (sd_listen_fds(3)).
        cgroup_manager: `cgroupfs` or `disabled`.
        cache_dir: where compiled seccomp profiles are kept; None keeps them in memory alone.
    """

    __slots__ = ("cache_dir", "cgroup_manager", "gate", "keep_fds", "listen_fds", "new_keyring", "stdio")

    def __init__(self) -> None:
        self.gate = False
        self.stdio: tuple[int, int, int] | None = None
        self.keep_fds = self.listen_fds = 0
        self.cache_dir: str | None = None
        self.new_keyring = True
        self.cgroup_manager = "cgroupfs"


class Launch:
    """One container on its way to run.

    Attributes:
        state: what is written to disk.
        pid, pidfd: the init, 0 and -1 before it exists.
        channel: the launcher's end.
        console: master of the terminal, -1 if there is none.
        warnings: what had to be left out, for the caller's log.
    """

    __slots__ = (
        "_started_fd",
        "cgroup",
        "channel",
        "config",
        "console",
        "init",
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
        self.pidfd = self.console = self._started_fd = -1
        self.warnings: list[str] = []

    def clone(self) -> None:
        """Make the init; it then works by itself until it needs something (see `feed`)."""
        init = self.init
        cgroup_fd = self.cgroup.fd() if self.cgroup else None
        staged = joins.needs_stage(init)
        flags = (0 if staged else init.new) | CLONE_CLEAR_SIGHAND
        pid, pidfd = _clone(flags, None if staged else cgroup_fd)
        if pid == 0:
            if staged:
                joins.run_stage(init, cgroup_fd)
            init.run()
        init.close()
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
            listener.hand_over(self.config, self.state.document("running"), self.pid, fds[0])
            return "listener"
        if kind == wire.READY:
            self.warnings += payload.decode(errors="replace").split("\n") if payload else []
            self._finish_creation()
            return "ready"
        if self.state.was_started():
            if self.cgroup:
                self.cgroup.apply_after_start()
            return "started"
        raise LaunchError(f"init of `{self.state.id}` died before its program started{self._last_words()}")

    def go(self) -> None:
        """Tell the init, which waits on the channel, to start the program."""
        self.channel.send(wire.GO)

    def abort(self) -> None:
        """Undo everything: processes, cgroup, files. Safe at any point, also twice."""
        self.init.close()
        self.channel.close()
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
        if self.cgroup:
            self.cgroup.kill()
            self.cgroup.remove()
        states.remove_directory(self.state.directory)
        self.close()

    def close(self) -> None:
        """Close every descriptor of this launch that nobody took over."""
        self.channel.close()
        if self.cgroup:
            self.cgroup.close()
        for fd in (self.pidfd, self.console, self._started_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.console = self._started_fd = -1

    def _adopt(self, pid: int, pidfd: int) -> None:
        self.pid, self.pidfd = pid, pidfd
        self.state.set_pid(pid)
        self._map_ids()
        spec = self.config.get("process")
        if spec is not None and spec.get("oomScoreAdj") is not None:
            self._warn(limits.set_oom_score(pid, spec["oomScoreAdj"]))
        devices = (self.config.get("linux") or {}).get("netDevices")
        if devices:
            from container.runtime import netdevices  # imports `socket`: for those alone who move interfaces

            netdevices.move(dict(devices), pid)
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

    def _map_ids(self) -> None:
        if self.init.new & namespaces.CLONE_NEWUSER:
            linux = self.config.get("linux") or {}
            idmap.write_maps(self.pid, linux.get("uidMappings") or [], linux.get("gidMappings") or [])

    def _finish_creation(self) -> None:
        spec = self.config.get("process")
        if spec is not None and spec.get("rlimits"):
            for warning in limits.set_rlimits(spec, self.pid):
                self._warn(warning)
        self.state.later = self.cgroup.later if self.cgroup else None
        self.state.save()
        if self.init.gate is not None:
            self.channel.send(wire.PROCEED)

    def hook_state(self, status: str) -> bytes:
        """Return the document that hooks read."""
        return encode(self.state.document(status)).encode()

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
    try:
        # Once more, now that it is known which of the namespaces are really others than ours.
        sysctls.check(config, joins.plan(init, config))
        _default_maps(launch)
        _write_config(launch)
        launch.cgroup = _make_cgroup(config, state.id, options)
        _describe(state, launch)
        state.save()  # from here on `delete --force` finds the cgroup, whoever dies
        _plan_steps(launch)
        _plan_program(launch, options)
        _open_files(launch, options)
    except BaseException:
        launch.abort()
        raise
    return launch


def _default_maps(launch: Launch) -> None:
    linux = launch.config.get("linux") or {}
    if launch.init.new & namespaces.CLONE_NEWUSER and not (linux.get("uidMappings") and linux.get("gidMappings")):
        linux["uidMappings"], linux["gidMappings"] = idmap.own_map("uid"), idmap.own_map("gid")
        launch.warnings.append("the new user namespace has no `uidMappings`, `gidMappings`: it gets the caller's ids")


def _describe(state: states.State, launch: Launch) -> None:
    config = launch.config
    state.cgroup = dict(launch.cgroup.paths) if launch.cgroup else {}
    state.rootfs = os.path.join(state.bundle, (config.get("root") or {"path": ""})["path"])
    state.annotations = dict(config.get("annotations") or {})
    state.hooks = sorted(config.get("hooks") or {})


def _plan_steps(launch: Launch) -> None:
    """Plan when the init waits for us, and what it builds."""
    init, config, cgroup = launch.init, launch.config, launch.cgroup
    linux, hooked = config.get("linux") or {}, config.get("hooks") or {}
    new_user = bool(init.new & namespaces.CLONE_NEWUSER)
    init.waits = bool(new_user or hooked.get("prestart") or hooked.get("createRuntime") or linux.get("netDevices"))
    init.joins_late = bool(init.late and cgroup is not None and cgroup.joins_late())
    init.state = launch.hook_state("created")
    init.trees = sources.open_trees(config, launch.state.bundle, new_user)
    if new_user:
        init.nodes = sources.make_nodes(
            linux.get("devices") or [], linux.get("uidMappings") or [], linux.get("gidMappings") or []
        )
    init.operations = rootfs.plan(config, launch.state.bundle, _host(launch, new_user))


def _plan_program(launch: Launch, options: Options) -> None:
    init, config = launch.init, launch.config
    profile = (config.get("linux") or {}).get("seccomp")
    if profile:
        from container.linux import seccomp  # for those alone who have a profile

        init.filter = seccomp.compile_profile(dict(profile), options.cache_dir)
    init.stdio = options.stdio
    init.keep_fds, init.listen_fds = options.keep_fds, options.listen_fds
    init.keyring = f"_ses.{launch.state.id}" if options.new_keyring else ""
    spec = config.get("process")
    if spec is None:
        return
    keeps = launch.state.annotations.get(KEEP_GROUPS) in ("1", "true")
    init.groups = None if keeps else list((spec.get("user") or {}).get("additionalGids") or ())
    gids = (config.get("linux") or {}).get("gidMappings") or []
    denied = bool(init.new & namespaces.CLONE_NEWUSER) and idmap.denies_setgroups(gids)
    launch.warnings += process.identity_warnings(spec, not denied)


def _write_config(launch: Launch) -> None:
    with open(f"{launch.state.directory}/config.json", "wb") as file:
        file.write(encode(launch.config).encode())


def _open_files(launch: Launch, options: Options) -> None:
    directory = launch.state.directory
    launch._started_fd = os.open(f"{directory}/started", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    launch.init.started = launch._started_fd
    if options.gate:
        launch.init.gate = wire.listen(f"{directory}/start.sock")


def _make_cgroup(config: "Config", container_id: str, options: Options) -> "Cgroup | None":
    if options.cgroup_manager == "disabled":
        return None
    linux = config.get("linux") or {}
    path = linux.get("cgroupsPath") or container_id
    return open_hierarchy().create(path, linux.get("resources"), starts_small=True)


def _host(launch: Launch, new_user: bool) -> rootfs.Host:
    init = launch.init
    host = rootfs.Host(
        userns=new_user or joins.in_user_namespace(),
        cgroups=launch.state.cgroup,
        cgroupns=bool(init.late & namespaces.CLONE_NEWCGROUP),
    )
    host.trees, host.nodes = init.trees, init.nodes
    wanted = (launch.config.get("hooks") or {}).get("createContainer")
    if wanted:
        host.hooks = lambda: hooks.run(wanted, init.state, "createContainer", launch.state.bundle)
    return host


def _clone(flags: int, cgroup_fd: "int | None") -> "tuple[int, int]":
    try:
        return clone3(flags, cgroup_fd)
    except SyscallError as error:
        raise LaunchError(
            f"cannot create the container's process: {error}", _clone_hint(error), error.errno or 0
        ) from error


def _clone_hint(error: SyscallError) -> str:
    return {
        errno.EPERM: "run as root, or give the container a user namespace (`vappc doctor` tells more)",
        errno.ENOSPC: "a limit in /proc/sys/user/max_*_namespaces is reached",
        errno.EINVAL: "this kernel lacks one of the namespaces, or clone3 needs Linux 5.7",
    }.get(error.errno or 0, "")
