"""Turning this process into the user's: limits, ids, capabilities, filters, exec. Shared by init and exec.

Order as in oci.md 4.4: what needs privileges first; capabilities are gone before no_new_privs and the
last filter. After the container's root was entered nothing may be imported; user and group names
are never looked up through the C library, which would load the image's NSS modules.
"""

import errno
import os
import resource
import signal

from container.errors import LaunchError
from container.linux import capabilities, prctl
from container.linux._libc import SyscallError
from container.linux.files import close_range_on_exec, open_in_root, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Process

_RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

# include/uapi/linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IOPRIO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: How much of the image's /etc/passwd is read for HOME.
_PASSWD_LIMIT = 1 << 20


def set_rlimits(process: "Process", pid: int = 0) -> "list[str]":
    """Set the limits of `pid` (0: this process); returns a warning for each that had to be clamped.

    A limit above the hard one we run under needs CAP_SYS_RESOURCE, which no rootless user has:
    it is lowered to what may be, and said so.
    """
    warnings = []
    for rlimit in process.get("rlimits") or ():
        number = _RLIMITS.get(rlimit["type"])
        if number is None:
            raise LaunchError(f"`process.rlimits`: unknown type `{rlimit['type']}`")
        soft, hard = (_infinite(rlimit[which]) for which in ("soft", "hard"))
        try:
            resource.prlimit(pid, number, (soft, hard))
        except PermissionError:
            _, ceiling = resource.prlimit(pid, number)
            lowered = min(_unsigned(soft), _unsigned(ceiling)), min(_unsigned(hard), _unsigned(ceiling))
            resource.prlimit(pid, number, (_infinite(lowered[0]), _infinite(lowered[1])))
            warnings.append(f"`{rlimit['type']}` is clamped to the hard limit {ceiling} of the caller")
    return warnings


def set_oom_score(pid: int, value: int) -> "str | None":
    """Write `value` to oom_score_adj of `pid` from outside; returns a warning where it may not be lowered."""
    path = f"/proc/{pid}/oom_score_adj"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    except PermissionError:
        with open(path, encoding="ascii") as file:
            current = file.read().strip()
        return f"`process.oomScoreAdj` {value} is below {current} and needs CAP_SYS_RESOURCE; left at {current}"
    return None


def set_scheduling(process: "Process") -> None:
    """Apply scheduler and ioPriority of `process` to this process."""
    scheduler = process.get("scheduler")
    if scheduler:
        if scheduler["policy"] not in _POLICIES:
            raise LaunchError(f"`process.scheduler.policy` `{scheduler['policy']}` is unknown")
        attributes = prctl.sched_attr()
        attributes.sched_policy = _POLICIES[scheduler["policy"]]
        attributes.sched_flags = _flags(scheduler.get("flags"), _SCHED_FLAGS, "process.scheduler.flags")
        attributes.sched_nice = scheduler.get("nice", 0)
        attributes.sched_priority = scheduler.get("priority", 0)
        attributes.sched_runtime = scheduler.get("runtime", 0)
        attributes.sched_deadline = scheduler.get("deadline", 0)
        attributes.sched_period = scheduler.get("period", 0)
        prctl.set_scheduler(attributes)
    priority: dict[str, object] = dict(process.get("ioPriority") or {})
    if priority:
        kind = _IOPRIO_CLASSES.get(str(priority.get("class")))
        level = priority.get("priority", 0)
        if kind is None or not isinstance(level, int):
            raise LaunchError(f"`process.ioPriority.class` `{priority.get('class')}` is unknown")
        prctl.set_io_priority(kind << 13 | level)


def set_memory_policy(policy: "dict[str, object]") -> None:
    """Apply linux.memoryPolicy to this process."""
    mode = _MEMORY_MODES.get(str(policy.get("mode")))
    if mode is None:
        raise LaunchError(f"`linux.memoryPolicy.mode` `{policy.get('mode')}` is unknown")
    flags = policy.get("flags")
    words = [str(flag) for flag in flags] if isinstance(flags, list) else []
    mode |= _flags(words, _MEMORY_FLAGS, "linux.memoryPolicy.flags")
    prctl.set_memory_policy(mode, _parse_list(str(policy.get("nodes") or "")))


def set_affinity(cpus: str) -> None:
    """Run this process on `cpus`, a list such as `0-3,7`."""
    os.sched_setaffinity(0, _parse_list(cpus))


def find_program(process: "Process") -> str:
    """Return the path of args[0] in the container, as execvp(3) would find it.

    Raises:
        LaunchError: it is not there or may not be executed; the words are those that podman looks for.
    """
    name = process["args"][0]
    if "/" in name:
        _check_program(name, name)
        return name
    denied = None
    for directory in (_environment(process).get("PATH") or _DEFAULT_PATH).split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            _check_program(candidate, name)
        except LaunchError as error:
            denied = error if error.errno == errno.EACCES else denied
            continue
        return candidate
    if denied:
        raise denied
    raise LaunchError(f"exec: `{name}`: executable file not found in $PATH", errno=errno.ENOENT)


def change_identity(process: "Process", setgroups: bool) -> "str | None":
    """Take on the ids and capabilities of `process`; returns a warning where groups had to be left out."""
    user = process.get("user") or {}
    wanted: dict[str, list[str]] = dict(process.get("capabilities") or {})  # type: ignore[arg-type] # five lists
    sets = {name: capabilities.mask(wanted.get(name) or []) for name in _SETS}
    held = capabilities.permitted()
    capabilities.drop_bounding(sets["bounding"])
    prctl.prctl(prctl.PR_SET_KEEPCAPS, 1)
    warning = _set_groups(list(user.get("additionalGids") or ()), setgroups)
    gid, uid = user.get("gid", 0), user.get("uid", 0)
    try:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise LaunchError(
            f"cannot become user {uid}:{gid}: {(error.strerror or '').lower()}",
            "the id is not mapped in the container's user namespace; give the user more subordinate ids in "
            "/etc/subuid and /etc/subgid",
            error.errno or 0,
        ) from error
    prctl.prctl(prctl.PR_SET_KEEPCAPS, 0)
    permitted = sets["permitted"] & held
    capabilities.capset(sets["effective"] & permitted, permitted, sets["inheritable"] & held)
    capabilities.set_ambient(sets["ambient"])
    os.umask(user.get("umask", 0o022))
    return warning


_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def enter_directory(path: str) -> None:
    """Go to `path` in the container and make sure that it is inside (CVE-2024-21626)."""
    try:
        os.chdir(path)
    except OSError as error:
        raise LaunchError(
            f"cannot change to `process.cwd` `{path}`: {(error.strerror or '').lower()}",
            errno=error.errno or 0,
        ) from error
    # A directory outside of the root has no path in it: the kernel then answers with "(unreachable)".
    if not os.getcwd().startswith("/"):
        raise LaunchError(f"`process.cwd` `{path}` is outside of the container")


def make_directory(path: str) -> None:
    """Make `process.cwd` where the image lacks it, as every runtime does."""
    if not os.path.isdir(path):
        try:
            os.makedirs(path, 0o755)
        except OSError:
            return  # a read-only root; `enter_directory` tells the user


def environment(process: "Process") -> "dict[str, str]":
    """Return the environment of `process`, with HOME from the image's /etc/passwd where it is unset."""
    variables = _environment(process)
    if not variables.get("HOME"):
        variables["HOME"] = _home((process.get("user") or {}).get("uid", 0))
    return variables


def set_security_label(proc: int, process: "Process") -> None:
    """Set the AppArmor profile and SELinux label of the coming exec, through the procfs handle `proc`.

    Raises:
        LaunchError: a label is asked for and the host has no such module.
    """
    profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile and profile != "unconfined":
        _write_attribute(proc, "self/attr/apparmor/exec", f"exec {profile}", "AppArmor profile", profile)
    if label:
        _write_attribute(proc, "self/attr/exec", label, "SELinux label", label)


def reset_signals() -> None:
    """Undo what CPython did to signals: it ignores SIGPIPE and SIGXFSZ, which would survive exec."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP) and number not in (32, 33):
            try:
                if signal.getsignal(number) != signal.SIG_DFL:
                    signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(program: str, process: "Process", variables: "dict[str, str]", keep_fds: int = 0) -> None:
    """Become `program`; every descriptor above 2 + `keep_fds` closes. Returns only by raising."""
    reset_signals()
    close_range_on_exec(3 + keep_fds)
    for fd in range(3 + keep_fds):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            continue
    try:
        os.execve(program, process["args"], variables)
    except OSError as error:
        raise LaunchError(
            f"exec: `{program}`: {(error.strerror or '').lower()}", _exec_hint(error.errno), error.errno or 0
        ) from error


def _exec_hint(number: "int | None") -> str:
    if number == errno.ENOEXEC:
        return "the program is for another architecture, or a script without a `#!` line"
    if number == errno.ENOENT:
        return "the file exists, so its interpreter (`#!` line or ELF loader) is what is missing in the image"
    return ""


def _environment(process: "Process") -> "dict[str, str]":
    pairs = (variable.partition("=") for variable in process.get("env") or ())
    return {name: value for name, _, value in pairs}


def _check_program(path: str, name: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise LaunchError(
            f"exec: `{name}`: {'no such file or directory' if error.errno == errno.ENOENT else error.strerror}",
            errno=error.errno or 0,
        ) from error
    # access(2) would ask for our ids, not the user's; any execute bit will do, exec itself decides.
    if found.st_mode & 0o170000 == 0o040000 or not found.st_mode & 0o111:
        raise LaunchError(f"exec: `{name}`: permission denied", errno=errno.EACCES)


def _home(uid: int) -> str:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        passwd = open_in_root(root, "etc/passwd", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return "/"
    finally:
        os.close(root)
    content = os.read(passwd, _PASSWD_LIMIT)
    os.close(passwd)
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == b"%d" % uid:
            return os.fsdecode(fields[5]) or "/"
    return "/"


def _set_groups(groups: "list[int]", allowed: bool) -> "str | None":
    if allowed:
        os.setgroups(groups)
        return None
    if groups:
        return "`process.user.additionalGids` are left out: setgroups(2) is denied in this user namespace"
    return None


def _write_attribute(proc: int, path: str, text: str, what: str, name: str) -> None:
    try:
        fd = open_in_root(proc, path, os.O_WRONLY)
        try:
            write_all(fd, text.encode())
        finally:
            os.close(fd)
    except (OSError, SyscallError) as error:
        raise LaunchError(
            f"cannot set {what} `{name}`: {(error.strerror or '').lower()}",
            "this host does not run that security module, or the name is not loaded",
            error.errno or 0,
        ) from error


def _infinite(value: int) -> int:
    # RLIM_INFINITY is -1 to Python's resource module and 2**64 - 1 in config.json.
    return -1 if value >= 1 << 63 else value


def _unsigned(value: int) -> int:
    return value if value >= 0 else 1 << 64


def _flags(words: "list[str] | None", table: "dict[str, int]", where: str) -> int:
    bits = 0
    for word in words or ():
        if word not in table:
            raise LaunchError(f"`{where}`: `{word}` is unknown")
        bits |= table[word]
    return bits


def _parse_list(text: str) -> "list[int]":
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise LaunchError(f"`{text}` is not a list of numbers such as `0-3,7`")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
