"""Turning this process into the user's: ids, capabilities, working directory, exec. Shared by init and exec.

Order matters: what needs privileges first; capabilities are gone before no_new_privs and the
last filter. After the container's root was entered nothing may be imported, not even the codec of a text
file; user and group names are never looked up through the C library, which would load the image's NSS modules.
"""

import ctypes
import errno
import os
import stat
import sys

from container.errors import LaunchError
from container.linux import capabilities, prctl
from container.linux._libc import syscall
from container.linux.files import close_range_on_exec, open_in_root
from container.runtime import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Process

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# include/uapi/linux/capability.h; arch/x86/entry/syscalls/syscall_64.tbl and asm-generic/unistd.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_NR_CAPGET = 125 if os.uname().machine == "x86_64" else 90

#: The interpreter that runs us, as the host has it.
_OURSELVES = os.stat("/proc/self/exe")

#: How many interpreters deep a script may be: BINPRM of fs/exec.c follows five.
_SCRIPT_DEPTH = 6

_NULL_DEVICE = os.makedev(1, 3)

#: How much of the image's /etc/passwd is read for HOME.
_PASSWD_LIMIT = 1 << 20


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


def refuse_ourselves(program: str) -> None:
    """Raise LaunchError if `program`, or the interpreter of such a script, is the interpreter that runs us.

    `#!/proc/self/exe` would run the host's Python inside, and the image's libraries in it could then open
    /proc/self/exe for writing (CVE-2019-5736). To be called while we may still read every file.
    """
    for _ in range(_SCRIPT_DEPTH):
        try:
            fd = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # the exec itself will say what is wrong
        try:
            if os.path.samestat(os.fstat(fd), _OURSELVES):
                raise LaunchError(
                    f"exec: `{program}`: permission denied: this is the runtime itself", errno=errno.EACCES
                )
            head = os.read(fd, 256)
        finally:
            os.close(fd)
        words = head.partition(b"\n")[0][2:].split()
        if not head.startswith(b"#!") or not words:
            return
        program = os.fsdecode(words[0])


def change_identity(process: "Process", groups: "list[int] | None") -> None:
    """Take on the ids and capabilities of `process`, with `groups` as further ones; None leaves those that are."""
    user = process.get("user") or {}
    wanted: dict[str, list[str]] = dict(process.get("capabilities") or {})  # type: ignore[arg-type] # five lists
    sets = {name: capabilities.mask(wanted.get(name) or []) for name in _SETS}
    held = permitted_capabilities()
    capabilities.drop_bounding(sets["bounding"])
    prctl.prctl(prctl.PR_SET_KEEPCAPS, 1)
    if groups is not None:
        os.setgroups(groups)
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


def identity_warnings(process: "Process", setgroups: bool) -> "list[str]":
    """Return what of the identity of `process` will be left out: config.md wants it told, not refused."""
    wanted: dict[str, list[str]] = dict(process.get("capabilities") or {})  # type: ignore[arg-type] # five lists
    unknown = {name for names in wanted.values() for name in names or () if name not in capabilities.NUMBERS}
    warnings = [f"capability `{name}` is unknown and left out" for name in sorted(unknown)]
    if not setgroups and (process.get("user") or {}).get("additionalGids"):
        warnings.append("`process.user.additionalGids` are left out: setgroups(2) is denied in this user namespace")
    return warnings


def permitted_capabilities() -> int:
    """Return the permitted set of this process: capget(2), because the container may have no /proc."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    syscall(_NR_CAPGET, "capget", ctypes.byref(header), ctypes.byref(data))
    return int(data[1]) | int(data[4]) << 32


_SEALED: list[object] = []


def seal_imports() -> None:
    """Make every later import fail: it would find its modules in the image.

    The old tables are kept, not cleared: freeing what they hold would copy a hundred pages that we share with
    our parent.
    """
    _SEALED.extend((sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache))
    sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache = [], [], [], {}


def give_stdio(uid: int) -> None:
    """Make the files behind 0, 1 and 2 the user's, so that programs can open /dev/stdout again (as runc does)."""
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != uid and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL_DEVICE):
                os.fchown(fd, uid, -1)
        except OSError:
            continue  # closed, on a read-only file system, or owned by an id that is not mapped


_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def enter_directory(path: str) -> None:
    """Go to `path` in the container and make sure that it is inside (CVE-2024-21626)."""
    try:
        os.chdir(path)
    except OSError as error:
        raise LaunchError(
            f"cannot chdir to `process.cwd` `{path}`: {(error.strerror or '').lower()}",
            errno=error.errno or 0,
        ) from error
    # A directory outside of the root has no path in it: the kernel answers "(unreachable)", the C library ENOENT.
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise LaunchError(
            f"`process.cwd` `{path}` is outside of the container",
            "name a directory of the image",
        )


def environment(process: "Process") -> "dict[str, str]":
    """Return the environment of `process`, with HOME from the image's /etc/passwd where it is unset."""
    variables = _environment(process)
    if not variables.get("HOME"):
        variables["HOME"] = _home((process.get("user") or {}).get("uid", 0))
    return variables


def execute(program: str, process: "Process", variables: "dict[str, str]", keep_fds: int = 0) -> None:
    """Become `program`; every descriptor above 2 + `keep_fds` closes. Returns only by raising."""
    signals.reset()
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
    if stat.S_ISDIR(found.st_mode) or not found.st_mode & 0o111:
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
