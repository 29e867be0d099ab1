"""What a container's first process does between clone and exec.

It runs in the new namespaces with everything planned and opened by the launcher, whose memory it
shares by fork. From `Pivot` on every file is the image's: nothing is imported, no name is looked up
through the C library, no codec is loaded. It leaves by exec or os._exit, never by returning.

Order (runc's standard_init is the reference, oci.md 4.4): namespaces, session, mounts, pivot, host name,
sysctl, terminal, program lookup; then it is "created" and waits; then hooks, scheduling, identity,
filters, exec.
"""

import _socket
import errno
import fcntl
import os
import struct

from container.errors import ContainerError, LaunchError
from container.linux import keyring, mount, namespaces, prctl, seccomp
from container.linux._libc import SyscallError
from container.linux.files import PROC_SUPER_MAGIC, filesystem_type, open_in_root, write_all
from container.runtime import channel as wire
from container.runtime import console, hooks, operations, process

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
        waits: the launcher will say when to proceed: ids to map, hooks to run.
        joins_late: cgroups are joined from outside, meanwhile; wait for that after the file system is built.
            In cgroup v1 that takes milliseconds, the time of an RCU grace period.
        setgroups: setgroups(2) is allowed in the user namespace.
        gate: listening socket of the `start` command; None where the launcher itself says start.
        started: descriptor of the file that tells whether the program was started.
        stdio: descriptors for 0, 1, 2, or None to keep the launcher's.
        filter: the compiled seccomp profile.
        state: the document hooks read, without the pid.
        keep_fds: how many descriptors above 2 the program gets.
        keyring: name of a new session keyring, "" for none.
        context: what operations need open.
    """

    __slots__ = (
        "channel",
        "config",
        "context",
        "filter",
        "gate",
        "joins",
        "joins_late",
        "keep_fds",
        "keyring",
        "late",
        "new",
        "operations",
        "setgroups",
        "started",
        "state",
        "stdio",
        "waits",
    )

    def __init__(self, config: "Config", channel: wire.Channel) -> None:
        self.config = config
        self.channel = channel
        self.operations: list[operations.Operation] = []
        self.context = operations.Context()
        self.joins: list[tuple[int, int]] = []
        self.new = self.late = self.keep_fds = 0
        self.waits = self.joins_late = False
        self.setgroups = True
        self.gate: _socket.socket | None = None
        self.started = -1
        self.stdio: tuple[int, int, int] | None = None
        self.filter: Filter | None = None
        self.state = b"{}"
        self.keyring = ""

    def run(self) -> "NoReturn":
        """Become the container."""
        try:
            self._build()
            self._wait_for_start()
            self._become()
        except (OSError, ContainerError, ValueError) as error:
            self.channel.send_error(error)
        finally:
            os._exit(127)

    def _build(self) -> None:
        self._enter_namespaces()
        os.umask(0o022)
        os.setsid()
        if self.keyring:
            keyring.join_session_keyring(self.keyring)
        if self.new & namespaces.CLONE_NEWNET:
            raise_loopback()
        for operation in self.operations:
            operation.execute(self.context)
        self._name_host()
        self._set_sysctls()
        self._open_stdio()
        spec = self.config.get("process")
        if spec is not None:
            process.make_directory(spec["cwd"])
            process.find_program(spec)
        self._join_late()
        self.channel.send(wire.READY, "\n".join(self.context.warnings).encode())

    def _enter_namespaces(self) -> None:
        for fd, flag in self.joins:
            namespaces.setns(fd, flag)
            os.close(fd)
        if self.waits:
            self._wait_to_proceed()
        if self.new & namespaces.CLONE_NEWUSER:
            if self.setgroups:
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            # Changing ids made us undumpable, and /proc/self/* root's outside of the namespace.
            prctl.set_dumpable(True)
        if self.late and not self.joins_late:
            namespaces.unshare(self.late)

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

    def _set_sysctls(self) -> None:
        sysctls = (self.config.get("linux") or {}).get("sysctl") or {}
        if not sysctls:
            return
        proc = private_proc(whole=True)
        for name, value in sysctls.items():
            write_sysctl(proc, name, value)
        os.close(proc)

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
            process.set_memory_policy(dict(linux["memoryPolicy"]))
        if self.started >= 0:
            os.write(self.started, b"1")
        finish(spec, self.filter, self.setgroups, self.keep_fds, self.channel)


def finish(spec: "Process", rules: "Filter | None", setgroups: bool, keep_fds: int, channel: wire.Channel) -> None:
    """Take on identity and filters of `spec` and exec it; raises where that fails."""
    program = process.find_program(spec)
    variables = process.environment(spec)
    labels = private_proc() if spec.get("apparmorProfile") or spec.get("selinuxLabel") else -1
    process.set_scheduling(spec)
    no_new_privs = bool(spec.get("noNewPrivileges"))
    if rules is not None and not no_new_privs:
        install_filter(rules, channel)  # without no_new_privs it takes CAP_SYS_ADMIN, which is about to go
    process.change_identity(spec, setgroups)
    process.enter_directory(spec["cwd"])
    if no_new_privs:
        prctl.set_no_new_privs()
    if labels >= 0:
        process.set_security_label(labels, spec)
        os.close(labels)
    if rules is not None and no_new_privs:
        install_filter(rules, channel)
    process.execute(program, spec, variables, keep_fds)


def install_filter(rules: "Filter", channel: wire.Channel) -> None:
    """Load the seccomp filter; a listener goes to the launcher."""
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


def private_proc(whole: bool = False) -> int:
    """Return a procfs that no mount of the image can cover: a detached one of our own.

    With `whole` it has /proc/sys; otherwise only processes (oci.md 4.2, CVE-2019-16884).
    """
    try:
        fd = mount.new_mount("proc", [] if whole else [("subset", "pid")])
    except SyscallError as error:
        # A user namespace under a masked /proc may not mount one: the visible one will do if it is procfs.
        if error.errno != errno.EPERM:
            raise
        fd = os.open("/proc", operations.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if filesystem_type(fd) != PROC_SUPER_MAGIC:
        raise LaunchError("`/proc` in the container is not procfs")
    return fd


def write_sysctl(proc: int, name: str, value: str) -> None:
    """Set one sysctl through the procfs handle `proc`."""
    # Slashes stay slashes: names of interfaces may contain dots (sysctl.d(5)).
    path = "sys/" + (name if "/" in name else name.replace(".", "/"))
    try:
        fd = open_in_root(proc, path, os.O_WRONLY)
        try:
            write_all(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchError(
            f"cannot set sysctl `{name}` to `{value}`: {(error.strerror or '').lower()}",
            errno=error.errno or 0,
        ) from error
