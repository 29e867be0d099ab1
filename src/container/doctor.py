"""What this host lacks for us, each with the command that gives it: `vappc doctor`.

Wherever a setting does not prove anything, the thing is tried, in a forked child that leaves no trace.
Needs neither the daemon nor root, and takes well under a second. Out of scope: mending anything.
"""

import ctypes
import errno
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from container.cgroups import hierarchy
from container.errors import ContainerError, HostError
from container.linux import mount
from container.linux._libc import SyscallError
from container.linux.files import openat2
from container.linux.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, unshare
from container.linux.seccomp import load_library
from container.network.links import loopback_up
from container.network.pasta import check_tun
from container.network.program import find_program
from container.shim import subids
from container.shim.node import is_root

Severity = Literal["error", "warning", "info"]

_OLDEST_KERNEL = (5, 12)
_CHILD_TIMEOUT_S = 2.0
_LITTLE_SPACE = 1 << 30
_ENOUGH_SPACE = 5 << 30

_NOT_NEEDED = "not needed as root"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: stable, kebab-case, for programs.
        ok: whether all is well.
        severity: what it means if not: `error`, nothing runs; `warning`, one feature is missing;
            `info`, something is slower or coarser.
        detail: one line for a person.
        fix: the exact command or setting, empty if all is well.
    """

    name: str
    ok: bool
    severity: Severity
    detail: str
    fix: str = ""


def findings(app_dir: Path) -> list[Finding]:
    """Return the result of every check, those first that all others build on."""
    app = Path(os.path.abspath(app_dir))
    root = is_root()
    user_namespace = _check_user_namespace(root)
    return [
        _check_kernel(),
        *_check_features(),
        user_namespace,
        *_check_ids(root),
        *_check_uplink(root),
        *_check_app(app),
        _check_overlay(app, root, user_namespace.ok),
        _check_proc(root, user_namespace.ok),
        _check_cgroups(),
        _check_seccomp(),
        _check_runtime_dir(root),
    ]


def _ok(name: str, detail: str) -> Finding:
    return Finding(name, True, "info", detail)


def _from_error(name: str, severity: Severity, error: ContainerError) -> Finding:
    return Finding(name, False, severity, error.message, error.hint)


def _check_kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_KERNEL:
        wanted = ".".join(map(str, _OLDEST_KERNEL))
        return Finding("kernel", False, "error", f"Linux {release} is older than {wanted}", "upgrade the kernel")
    return _ok("kernel", f"Linux {release}")


def _check_features() -> Iterator[Finding]:
    """Try the calls that we cannot do without, and the one whose lack costs something."""
    upgrade = (
        f"upgrade to Linux {'.'.join(map(str, _OLDEST_KERNEL))} or later, or allow the call in the seccomp profile"
    )
    for name, call in (("openat2", _try_openat2), ("mount-api", mount.has_new_api), ("clone3", _has_clone3)):
        if call():
            yield _ok(name, "works")
        else:
            yield Finding(name, False, "error", f"`{name}` is not to be had from this kernel", upgrade)
    if _has_exit_info():
        yield _ok("pidfd-exit", "exit codes survive whoever reaped the process")
    else:
        yield Finding(
            "pidfd-exit",
            False,
            "info",
            "the kernel does not tell exit codes through pidfds; they go by way of the disk",
            "upgrade to Linux 6.15 or later",
        )


def _try_openat2() -> bool:
    try:
        os.close(openat2(-100, "/", os.O_RDONLY | os.O_DIRECTORY))
    except SyscallError:
        return False
    return True


def _has_clone3() -> bool:
    """Ask with a size that is too small: EINVAL says that the call exists, ENOSYS that it does not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(435), None, ctypes.c_long(0))
    return bool(result < 0 and ctypes.get_errno() == errno.EINVAL)


def _has_exit_info() -> bool:
    numbers = os.uname().release.split(".")
    return (int(numbers[0]), int("".join(char for char in numbers[1] if char.isdigit()))) >= (6, 15)


def _check_user_namespace(root: bool) -> Finding:
    name = "user-namespaces"
    if root:
        return _ok(name, _NOT_NEEDED)
    reason = _in_child(_enter_user_namespace)
    if reason is None:
        return _ok(name, "can be made")
    return Finding(name, False, "error", f"cannot be made: {reason}", _user_namespace_fix())


def _user_namespace_fix() -> str:
    """Return the command for the setting that is in the way; the likeliest, if none is seen."""
    settings = (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "15000"),
    )
    for path, bad, good in settings:
        try:
            found = Path("/proc/sys", path).read_text(encoding="ascii").strip()
        except OSError:
            continue  # this kernel or distribution does not have it
        if found == bad:
            return f"`sudo sysctl -w {path.replace('/', '.')}={good}` (in /etc/sysctl.d to keep it)"
    return "`sudo sysctl -w user.max_user_namespaces=15000`, or allow `unshare` where this container is run"


def _enter_user_namespace() -> None:
    """Make user, mount and network namespaces as root of them, and use a right that this gives.

    A security module may let the namespace be made and then deny what it is good for, so `lo` is set up.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text, encoding="ascii")
    loopback_up()


def _check_ids(root: bool) -> Iterator[Finding]:
    if root:
        yield _ok("idmap-tools", _NOT_NEEDED)
        yield _ok("subids", _NOT_NEEDED)
        return
    missing = [tool for tool in subids.TOOLS if find_program(tool) is None]
    powerless = [tool for tool in subids.TOOLS if tool not in missing and subids.find_tool(tool) is None]
    if missing:
        fix = "`sudo apt install uidmap` (Fedora: `shadow-utils`)"
        yield Finding("idmap-tools", False, "warning", f"`{' '.join(missing)}` is not installed", fix)
    elif powerless:
        paths = " ".join(find_program(tool) or tool for tool in powerless)
        detail = f"`{paths}` is neither setuid root nor has a file capability"
        yield Finding("idmap-tools", False, "warning", detail, f"`sudo chmod u+s {paths}`")
    else:
        yield _ok("idmap-tools", "newuidmap and newgidmap are there")
    yield _check_subids()


def _check_subids() -> Finding:
    uid = os.geteuid()
    counts = {path: sum(n for _, n in subids.read_ranges(path, uid)) for path in subids.TOOLS.values()}
    short = [path for path, count in counts.items() if count < subids.RANGE - 1]
    if not short:
        return _ok("subids", f"{min(counts.values())} ids may be mapped")
    having = ", ".join(f"{counts[path]} in `{path}`" for path in short)
    detail = f"uid {uid} has too few ids: {having}; images with several users will not work"
    return Finding("subids", False, "warning", detail, subids.suggest_fix(uid))


def _check_uplink(root: bool) -> Iterator[Finding]:
    if root:
        yield _ok("pasta", _NOT_NEEDED)
        yield _ok("tun", _NOT_NEEDED)
        return
    path = find_program("pasta")
    if path is None:
        detail = "`pasta` is not installed: containers have no network beyond the node"
        yield Finding("pasta", False, "warning", detail, "`sudo apt install passt`")
    else:
        yield _ok("pasta", path)
    try:
        check_tun()
        yield _ok("tun", "/dev/net/tun can be used")
    except HostError as error:
        yield _from_error("tun", "warning", error)


def _check_app(app: Path) -> Iterator[Finding]:
    place = _nearest(app)
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        fix = f"`sudo chown {os.geteuid()} {place}`, or name another with `--app-dir`"
        yield Finding("app-dir", False, "error", f"`{place}` is not writable", fix)
        return
    yield _ok("app-dir", f"`{app}` can be written")
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    if free < _ENOUGH_SPACE:
        severity: Severity = "error" if free < _LITTLE_SPACE else "warning"
        detail = f"only {free >> 20} MiB are free for `{app}`"
        yield Finding("disk-space", False, severity, detail, f"`df -h {place}`; free some, or use `--app-dir`")
    else:
        yield _ok("disk-space", f"{free >> 30} GiB are free")
    yield _check_xattrs(place)


def _check_xattrs(place: Path) -> Finding:
    with tempfile.NamedTemporaryFile(dir=place, prefix=".vapp-doctor-") as file:
        try:
            os.setxattr(file.name, "user.vapp", b"1")
        except OSError as error:
            detail = f"`{place}` takes no user attributes: {(error.strerror or '').lower()}"
            fix = "put the app directory on ext4, xfs or btrfs with `--app-dir`"
            return Finding("user-xattrs", False, "warning", detail, fix)
    return _ok("user-xattrs", "are kept")


def _nearest(path: Path) -> Path:
    """Return `path` or the nearest directory above it that exists."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def _check_overlay(app: Path, root: bool, namespaces: bool) -> Finding:
    name = "overlay"
    place = _nearest(app)
    if not os.access(place, os.W_OK | os.X_OK) or not namespaces:
        return Finding(name, False, "error", "could not be tried", "mend what is reported above first")
    scratch = Path(tempfile.mkdtemp(dir=place, prefix=".vapp-doctor-"))
    try:
        reason = _in_child(lambda: _mount_overlay(scratch, root))
    finally:
        _remove_scratch(scratch)
    if reason is None:
        return _ok(name, "can be mounted with its upper layer in the app directory")
    fix = "use a kernel of 5.11 or later and an app directory on ext4, xfs or btrfs (`--app-dir`)"
    return Finding(name, False, "error", f"cannot be mounted: {reason}", fix)


def _mount_overlay(scratch: Path, root: bool) -> None:
    if root:
        unshare(CLONE_NEWNS)
    else:
        _enter_user_namespace()
    mount.mount("none", "/", None, mount.MS_REC | mount.MS_PRIVATE)
    for name in ("lower", "upper", "work", "merged"):
        (scratch / name).mkdir()
    options: list[tuple[str, str | None]] = [
        ("lowerdir", str(scratch / "lower")),
        ("upperdir", str(scratch / "upper")),
        ("workdir", str(scratch / "work")),
    ]
    fd = mount.new_mount("overlay", [*options, *([] if root else [("userxattr", None)])])
    target = os.open(scratch / "merged", os.O_PATH | os.O_DIRECTORY)
    mount.attach(fd, target)
    (scratch / "merged" / "file").write_bytes(b"")
    if not (scratch / "upper" / "file").exists():
        raise OSError(errno.EIO, "what is written does not arrive in the upper layer")


def _remove_scratch(scratch: Path) -> None:
    inner = scratch / "work" / "work"
    if inner.is_dir():
        inner.chmod(0o700)  # overlay makes it with mode 000
    shutil.rmtree(scratch)


def _check_proc(root: bool, namespaces: bool) -> Finding:
    """Mount a procfs where a container would: it is refused where the one around us has parts hidden."""
    name = "procfs"
    if not namespaces:
        return Finding(name, False, "error", "could not be tried", "mend what is reported above first")
    reason = _in_child(lambda: _mount_proc(root))
    if reason is None:
        return _ok(name, "can be mounted")
    return Finding(
        name,
        False,
        "error",
        f"cannot be mounted: {reason}; parts of the one around us are masked",
        "run this container with `--security-opt unmask=ALL` (podman) or `systempaths=unconfined` (docker)",
    )


def _mount_proc(root: bool) -> None:
    if root:
        unshare(CLONE_NEWNS)
    else:
        _enter_user_namespace()
    unshare(CLONE_NEWPID)
    reason = _in_child(lambda: os.close(mount.new_mount("proc", [])))
    if reason is not None:
        raise OSError(errno.EPERM, reason)


def _check_cgroups() -> Finding:
    found = hierarchy.detect()
    try:
        if found.finding is not None:
            detail = f"{found.finding.message} (cgroups: {found.version}); no limits, no pause"
            return Finding("cgroups", False, "warning", detail, found.finding.hint)
        missing = [name for name in ("cpu", "memory", "pids") if not found.has(name)]
        if missing:
            detail = f"controllers `{' '.join(missing)}` are not delegated (cgroups: {found.version})"
            fix = "`Delegate=cpu cpuset io memory pids` in /etc/systemd/system/user@.service.d/delegate.conf"
            return Finding("cgroups", False, "warning", detail, fix)
        return _ok("cgroups", f"{found.version}, may be written")
    finally:
        found.close()


def _check_seccomp() -> Finding:
    try:
        load_library()
    except HostError as error:
        return Finding("libseccomp", False, "warning", error.message, "`sudo apt install libseccomp2`")
    return _ok("libseccomp", "is installed")


def _check_runtime_dir(root: bool) -> Finding:
    name = "runtime-dir"
    if root and os.getuid() == 0:
        return _ok(name, "/run/vapp")
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    if not path:
        detail = "XDG_RUNTIME_DIR is not set; /tmp is used, which outlives your session"
        fix = f"`sudo loginctl enable-linger {os.geteuid()}`, then `export XDG_RUNTIME_DIR=/run/user/{os.geteuid()}`"
        return Finding(name, False, "info", detail, fix)
    try:
        status = os.stat(path)
    except OSError as error:
        detail = f"XDG_RUNTIME_DIR `{path}`: {(error.strerror or '').lower()}"
        return Finding(name, False, "warning", detail, "`unset XDG_RUNTIME_DIR`, or log in anew")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        detail = f"XDG_RUNTIME_DIR `{path}` is not yours alone"
        return Finding(name, False, "warning", detail, "`unset XDG_RUNTIME_DIR`, or log in without `su`")
    return _ok(name, path)


def _in_child(action: Callable[[], None]) -> str | None:
    """Do `action` in a forked child; returns why it failed, None if it did not."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(action, target)
    os.close(target)
    try:
        if not select.select([source], [], [], _CHILD_TIMEOUT_S)[0]:
            os.kill(pid, signal.SIGKILL)
            return f"no answer within {_CHILD_TIMEOUT_S:g} s"
        words = os.read(source, 4096).decode(errors="replace")
    finally:
        os.close(source)
        _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return None
    return words or f"the child ended with {os.waitstatus_to_exitcode(status)}"


def _be_child(action: Callable[[], None], target: int) -> NoReturn:
    code = 1
    try:
        action()
        code = 0
    except OSError as error:
        text = str(error) if isinstance(error, SyscallError) else (error.strerror or "").lower()
        os.write(target, text.encode())
    finally:
        # Whatever else happened: the child must never return into the caller's program.
        os._exit(code)
