"""What a container's first process does between clone and exec.

It runs in the new namespaces with everything planned and opened by the launcher, whose memory it
shares by fork. From `Pivot` on every file is the image's: nothing is imported, no name is looked up
through the C library, no codec is loaded. It leaves by exec or os._exit, never by returning.

Order (as in runc, whose order each CVE has refined): namespaces, session, mounts, pivot, host name,
sysctl, terminal, program lookup; then it is "created" and waits; then hooks, scheduling, identity,
filters, exec.
"""

import _socket
import errno
import fcntl
import os
import struct

from container.errors import LaunchError
from container.linux import keyring, namespaces, prctl
from container.linux._libc import SyscallError
from container.linux.files import close_all_but, read_file, write_file
from container.runtime import channel as wire
from container.runtime import console, hooks, limits, operations, process, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from container.linux.seccomp import Filter
    from container.spec.types import Config, Process

# include/uapi/linux/sockios.h, if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


class Init:
    """Everything the init needs, prepared before the clone.

    Attributes:
        config: the container's document.
        operations: from container.runtime.rootfs.
        channel: the init's end.
        joins: (descriptor, CLONE_ flag) of existing namespaces, still to be entered by the init itself.
        new: CLONE_ flags of the namespaces that the clone made.
        late: CLONE_ flags to unshare when this process is in its cgroups: the root of a cgroup namespace is
            where the process is at that time.
        time: the container gets a time namespace, which it enters by itself.
        waits: the launcher will say when to proceed: ids to map, hooks to run.
        joins_late: cgroups are joined from outside, meanwhile; wait for that after the file system is built.
            In cgroup v1 that takes milliseconds, the time of an RCU grace period.
        groups: further groups of the program; None where setgroups(2) is denied or the caller's are kept.
        gate: listening socket of the `start` command; None where the launcher itself says start.
        started: descriptor of the file that tells whether the program was started.
        stdio: descriptors for 0, 1, 2, or None to keep the launcher's.
        filter: the compiled seccomp profile.
        state: the document hooks read, without the pid.
        keep_fds: how many descriptors above 2 the program gets.
        listen_fds: how many of them are sockets that it is told of (sd_listen_fds(3)).
        trees, nodes: descriptors that the operations use, opened by the launcher with its own rights.
        keyring: name of a new session keyring, "" for none.
        context: what operations need open.
    """

    __slots__ = (
        "channel",
        "config",
        "context",
        "filter",
        "gate",
        "groups",
        "joins",
        "joins_late",
        "keep_fds",
        "keyring",
        "late",
        "listen_fds",
        "new",
        "nodes",
        "operations",
        "started",
        "state",
        "stdio",
        "time",
        "trees",
        "waits",
    )

    def __init__(self, config: "Config", channel: wire.Channel) -> None:
        self.config = config
        self.channel = channel
        self.operations: list[operations.Operation] = []
        self.context = operations.Context()
        self.joins: list[tuple[int, int]] = []
        self.trees: dict[int, int] = {}
        self.nodes: dict[str, int] = {}
        self.new = self.late = self.keep_fds = self.listen_fds = 0
        self.waits = self.joins_late = self.time = False
        self.groups: list[int] | None = []
        self.gate: _socket.socket | None = None
        self.started = -1
        self.stdio: tuple[int, int, int] | None = None
        self.filter: Filter | None = None
        self.state = b"{}"
        self.keyring = ""

    def run(self) -> "NoReturn":
        """Become the container."""
        try:
            process.seal_imports()
            self._build()
            self._wait_for_start()
            self._become()
        except Exception as error:  # nobody is above us: what is not sent is lost
            self.channel.send_error(error)
        finally:
            os._exit(127)

    def close(self) -> None:
        """Close the launcher's copies of what was opened for the init."""
        self.channel.close()
        if self.gate is not None:
            self.gate.close()
        for fd in (*(fd for fd, _ in self.joins), *self.trees.values(), *self.nodes.values()):
            os.close(fd)
        self.joins, self.trees, self.nodes = [], {}, {}

    def let_go(self, *more: int) -> None:
        """Close what the launcher had open besides ours: its sockets, other containers' channels.

        As long as we hold the other end of any channel, an init that waits on it does not see its launcher die.
        """
        keep = {0, 1, 2, self.channel.fileno(), self.started, *range(3, 3 + self.keep_fds), *(self.stdio or ()), *more}
        keep |= {fd for fd, _ in self.joins} | {*self.trees.values(), *self.nodes.values()}
        if self.gate is not None:
            keep.add(self.gate.fileno())
        close_all_but(keep - {-1})

    def _build(self) -> None:
        self.let_go()
        self._enter_namespaces()
        os.umask(0o022)
        os.setsid()
        if self.keyring:
            self._join_keyring()
        if self.new & namespaces.CLONE_NEWNET:
            raise_loopback()
        for operation in self.operations:
            operation.execute(self.context)
        self._name_host()
        procfs.set_sysctls((self.config.get("linux") or {}).get("sysctl") or {})
        self._open_stdio()
        spec = self.config.get("process")
        if spec is not None:
            process.find_program(spec)
        self._join_late()
        self.channel.send(wire.READY, "\n".join(self.context.warnings).encode())

    def _join_keyring(self) -> None:
        # A user has 200 keys (kernel.keys.maxkeys), and those of ended processes are counted until the kernel
        # has swept them up: a crash loop must not end with containers that do not start.
        try:
            keyring.join_session_keyring(self.keyring)
        except SyscallError as error:
            if error.errno not in (errno.EDQUOT, errno.ENOSYS, errno.EPERM):
                raise
            self.context.warnings.append(f"the container shares our session keyring: {error}")

    def _enter_namespaces(self) -> None:
        for fd, flag in self.joins:
            namespaces.setns(fd, flag)
            os.close(fd)
        if self.waits:
            self._wait_to_proceed()
        if self.groups is not None and not _setgroups_allowed():
            self.groups = None
        if self.new & namespaces.CLONE_NEWUSER:
            if self.groups is not None:
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            # Changing ids made us undumpable, and /proc/self/* root's outside of the namespace.
            prctl.set_dumpable(True)
        if self.time:
            self._enter_time_namespace()
        if self.late and not self.joins_late:
            namespaces.unshare(self.late)

    def _enter_time_namespace(self) -> None:
        """Make one and enter it: the new one is our children's until we join it, and its offsets must be set before."""
        namespaces.unshare(namespaces.CLONE_NEWTIME)
        offsets = (self.config.get("linux") or {}).get("timeOffsets") or {}
        lines = [f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}" for clock, offset in offsets.items()]
        if lines:
            write_file("/proc/self/timens_offsets", "\n".join(lines).encode())
        fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.CLONE_NEWTIME)
        os.close(fd)

    def _wait_to_proceed(self) -> None:
        kind, _, _ = self.channel.receive()
        if kind != wire.PROCEED:
            os._exit(127)

    def _join_late(self) -> None:
        if self.joins_late:
            self._wait_to_proceed()
            namespaces.unshare(self.late)

    def _name_host(self) -> None:
        if self.config.get("hostname"):
            namespaces.sethostname(self.config["hostname"])
        if self.config.get("domainname"):
            namespaces.setdomainname(self.config["domainname"])

    def _open_stdio(self) -> None:
        spec = self.config.get("process")
        if spec is not None and spec.get("terminal"):
            size = spec.get("consoleSize") or {"height": 0, "width": 0}
            uid = (spec.get("user") or {}).get("uid", 0)
            master, slave = console.open_console(self.context.root, size["height"], size["width"], uid)
            self.channel.send(wire.CONSOLE, fds=(master,))
            os.close(master)
            console.take(slave)
            os.close(slave)
        elif self.stdio:
            install_stdio(self.stdio)

    def _wait_for_start(self) -> None:
        if self.gate is None:
            kind, _, _ = self.channel.receive()
            if kind != wire.GO:
                os._exit(127)
            return
        # Only who is on disk may outlive the launcher: of others nobody would know.
        self._wait_to_proceed()
        # The launcher is gone by now; who says start hears of failures from now on.
        self.channel.close()
        self.channel = wire.accept(self.gate)
        self.gate.close()

    def _become(self) -> None:
        spec = self.config.get("process")
        if spec is None:
            raise LaunchError("cannot start: `process` is missing in config.json")
        start_hooks = (self.config.get("hooks") or {}).get("startContainer")
        if start_hooks:
            hooks.run(start_hooks, self.state, "startContainer")
        linux = self.config.get("linux") or {}
        personality = linux.get("personality")
        if personality:
            prctl.set_personality(prctl.PER_LINUX32 if personality["domain"] == "LINUX32" else prctl.PER_LINUX)
        if linux.get("memoryPolicy"):
            limits.set_memory_policy(dict(linux["memoryPolicy"]))
        if self.started >= 0:
            os.write(self.started, b"1")
        inherited = {}
        if self.listen_fds:
            inherited = {"LISTEN_FDS": str(self.listen_fds), "LISTEN_PID": str(os.getpid())}
        finish(spec, self.filter, self.groups, self.channel, self.keep_fds, inherited)


def finish(
    spec: "Process",
    rules: "Filter | None",
    groups: "list[int] | None",
    channel: wire.Channel,
    keep_fds: int = 0,
    inherited: "dict[str, str] | None" = None,
) -> None:
    """Take on identity and filters of `spec` and exec it; raises where that fails.

    Args:
        spec: the program.
        rules: the seccomp filter.
        groups: as of `process.change_identity`.
        channel: where a seccomp listener goes.
        keep_fds: how many descriptors above 2 the program gets.
        inherited: variables that are ours to say.
    """
    program = process.find_program(spec)
    process.refuse_ourselves(program)
    variables = process.environment(spec) | (inherited or {})
    profile, label = spec.get("apparmorProfile"), spec.get("selinuxLabel")
    labels = procfs.private_proc() if profile or label else -1
    limits.set_scheduling(spec)
    uid = (spec.get("user") or {}).get("uid", 0)
    if uid:
        process.give_stdio(uid)
    no_new_privs = bool(spec.get("noNewPrivileges"))
    if rules is not None and not no_new_privs:
        install_filter(rules, channel)  # without no_new_privs it takes CAP_SYS_ADMIN, which is about to go
    process.change_identity(spec, groups)
    process.enter_directory(spec["cwd"])
    if no_new_privs:
        prctl.set_no_new_privs()
    if labels >= 0:
        procfs.set_security_label(labels, profile, label)
        os.close(labels)
    if rules is not None and no_new_privs:
        install_filter(rules, channel)
    process.execute(program, spec, variables, keep_fds)


def _setgroups_allowed() -> bool:
    """Tell whether setgroups(2) is allowed in our user namespace; asked while /proc is still the host's."""
    try:
        return read_file("/proc/self/setgroups").strip() == b"allow"
    except FileNotFoundError:
        return True


def install_filter(rules: "Filter", channel: wire.Channel) -> None:
    """Load the seccomp filter; a listener goes to the launcher."""
    from container.linux import seccomp  # loaded since the profile was compiled

    listener = seccomp.install(rules)
    if listener is not None and listener >= 0:
        channel.send(wire.LISTENER, fds=(listener,))
        os.close(listener)


def install_stdio(fds: "tuple[int, int, int]") -> None:
    """Make `fds` this process's 0, 1 and 2."""
    # First out of the way of each other: a descriptor of `fds` may itself be 0, 1 or 2.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    for number, fd in enumerate(moved):
        os.dup2(fd, number)
        os.close(fd)


def raise_loopback() -> None:
    """Set `lo` of this network namespace up: netdevice(7)."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    request = struct.pack("16sh22x", b"lo", IFF_UP)
    fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, request)
    sock.close()
