"""Seccomp: from linux.seccomp of a config.json to a BPF program (by libseccomp), and its installation.

Compiling needs libseccomp.so.2 and happens before a container is entered; what crosses over is bytes.
Installing is one system call and needs nothing. Compiled programs are kept by the text of their
profile, in memory and, if asked, in a directory, because a profile of 400 rules takes milliseconds.
Out of scope: the profile that our own containers get (container.linux.seccomp_default), and what a
supervisor does with a notification.
"""

import ctypes
import errno
import os

from container.errors import ConfigError, HostError
from container.linux._libc import syscall
from container.linux.files import replace_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# include/uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_LOG = 1 << 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 1 << 4
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_KILL_THREAD = 0x00000000
SECCOMP_RET_TRAP = 0x00030000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_TRACE = 0x7FF00000
SECCOMP_RET_LOG = 0x7FFC0000
SECCOMP_RET_ALLOW = 0x7FFF0000

#: include/seccomp.h of libseccomp: enum scmp_compare.
SCMP_CMP = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
SCMP_ACT = {
    "SCMP_ACT_KILL": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": SECCOMP_RET_LOG,
    "SCMP_ACT_NOTIFY": SECCOMP_RET_USER_NOTIF,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

_SCMP_FLTATR_ACT_BADARCH = 2
_SCMP_FLTATR_CTL_NNP = 3
_NR_SCMP_ERROR = -1

#: Six arguments have a system call; more than one test of the same argument is one rule each
#: (libseccomp refuses two in one rule), which is what the large runtimes do too: any of them suffices.
_ARGUMENTS = 6

#: sizeof(struct sock_filter)
_INSTRUCTION_SIZE = 8

_NR_SECCOMP = {"x86_64": 317, "aarch64": 277}


class scmp_arg_cmp(ctypes.Structure):  # noqa: N801 - the library's name
    """struct scmp_arg_cmp { unsigned int arg; enum scmp_compare op; scmp_datum_t a, b; };  (seccomp.h)."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class sock_fprog(ctypes.Structure):  # noqa: N801 - the kernel's name
    """struct sock_fprog { unsigned short len; struct sock_filter *filter; };  (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A compiled profile: BPF instructions, and the flags to install them with."""

    __slots__ = ("bpf", "flags")

    def __init__(self, bpf: bytes, flags: int) -> None:
        self.bpf = bpf
        self.flags = flags

    @property
    def notifies(self) -> bool:
        """Whether `install` returns a descriptor to answer notifications on."""
        return bool(self.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)


_compiled: "dict[str, Filter]" = {}
_library: "list[ctypes.CDLL]" = []


def compile_profile(profile: "dict[str, Any]", cache_dir: "str | None" = None) -> Filter:
    """Turn linux.seccomp into a program; equal profiles are compiled once.

    Args:
        profile: the object of the runtime-spec.
        cache_dir: a directory of ours that keeps programs between processes.

    Raises:
        ConfigError: the profile names an action, operator, architecture or flag that does not exist.
        HostError: libseccomp is not installed.
    """
    text = f"{os.uname().machine} {profile!r}"
    if text not in _compiled:
        flags = _flags(profile)
        bpf = _read_cache(cache_dir, text) if cache_dir else None
        if bpf is None:
            bpf = _compile(profile)
            if cache_dir:
                _write_cache(cache_dir, text, bpf)
        _compiled[text] = Filter(bpf, flags)
    return _compiled[text]


def install(program: Filter) -> "int | None":
    """Put this thread under `program`; returns the listener where it notifies: seccomp(2).

    Raises:
        SyscallError: EACCES without no_new_privs and CAP_SYS_ADMIN, EBUSY if there is a listener already.
    """
    code = ctypes.create_string_buffer(program.bpf, len(program.bpf))
    argument = sock_fprog(len(program.bpf) // _INSTRUCTION_SIZE, ctypes.addressof(code))
    number = _NR_SECCOMP[os.uname().machine]
    result = syscall(number, "seccomp", SECCOMP_SET_MODE_FILTER, program.flags, ctypes.byref(argument))
    return result if program.notifies else None


def load_library() -> ctypes.CDLL:
    """Return libseccomp, opened at the first call; call it before a container's files are in sight.

    Raises:
        HostError: it is not installed.
    """
    if not _library:
        try:
            library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError as error:
            raise HostError("`libseccomp.so.2` is not installed", "install the `libseccomp2` package") from error
        _declare(library)
        _library.append(library)
    return _library[0]


def _declare(library: ctypes.CDLL) -> None:
    context, number = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.argtypes = (number,)
    library.seccomp_init.restype = context
    library.seccomp_release.argtypes = (context,)
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = (context, number)
    library.seccomp_arch_native.restype = number
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_resolve_name.restype = number
    library.seccomp_attr_set.argtypes = (context, ctypes.c_int, number)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        context, number, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(scmp_arg_cmp),
    )  # fmt: skip
    library.seccomp_export_bpf.argtypes = (context, ctypes.c_int)


def _compile(profile: "dict[str, Any]") -> bytes:
    library = load_library()
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "linux.seccomp.default")
    context = library.seccomp_init(default)
    if not context:
        raise ConfigError(f"linux.seccomp.defaultAction: `{profile['defaultAction']}` is refused", "use another")
    try:
        # The attribute only matters to seccomp_load, which is not used; the runtime sets no_new_privs.
        _checked(library.seccomp_attr_set(context, _SCMP_FLTATR_CTL_NNP, 0), "seccomp_attr_set")
        _add_architectures(library, context, profile.get("architectures") or [])
        for position, rule in enumerate(profile.get("syscalls") or []):
            _add_rule(library, context, rule, default, f"linux.seccomp.syscalls[{position}]")
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add_architectures(library: ctypes.CDLL, context: int, names: "list[str]") -> None:
    for name in names:
        token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if not token:
            raise ConfigError(
                f"linux.seccomp.architectures: `{name}` is unknown to libseccomp",
                "use names such as SCMP_ARCH_X86_64",
            )
        result = library.seccomp_arch_add(context, token)
        if result not in (0, -errno.EEXIST):
            _checked(result, f"seccomp_arch_add `{name}`")


def _add_rule(library: ctypes.CDLL, context: int, rule: "dict[str, Any]", default: int, where: str) -> None:
    action = _action(rule.get("action"), rule.get("errnoRet"), where)
    if action == default:
        return  # libseccomp refuses such a rule, and it would say nothing
    tests = [_test(item, f"{where}.args") for item in rule.get("args") or []]
    indexes = [test.arg for test in tests]
    groups = [[test] for test in tests] if len(set(indexes)) < len(indexes) else [tests]
    for name in rule.get("names") or []:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _NR_SCMP_ERROR:
            continue  # newer than libseccomp: the default action meets it
        for group in groups:
            array = (scmp_arg_cmp * max(len(group), 1))(*group)
            result = library.seccomp_rule_add_array(context, action, number, len(group), array)
            # EDOM and EEXIST: the call does not exist on one of the architectures, or is there already.
            if result not in (0, -errno.EDOM, -errno.EEXIST):
                _checked(result, f"{where}: seccomp_rule_add `{name}`")


def _action(name: object, number: object, where: str) -> int:
    action = SCMP_ACT.get(name) if isinstance(name, str) else None
    if action is None:
        raise ConfigError(f"{where}: action `{name}` is unknown", f"use one of {', '.join(sorted(SCMP_ACT))}")
    if action not in (SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE):
        return action
    value = errno.EPERM if number is None else number
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise ConfigError(f"{where}: errnoRet `{number}` is out of range", "use the number of an errno")
    return action | value


def _test(item: "dict[str, Any]", where: str) -> scmp_arg_cmp:
    index, op = item.get("index"), item.get("op")
    if not isinstance(index, int) or not 0 <= index < _ARGUMENTS:
        raise ConfigError(f"{where}: index `{index}` is out of range", "use 0 to 5")
    if op not in SCMP_CMP:
        raise ConfigError(f"{where}: op `{op}` is unknown", f"use one of {', '.join(SCMP_CMP)}")
    value, second = item.get("value", 0), item.get("valueTwo") or 0
    for number in (value, second):
        if not isinstance(number, int) or not 0 <= number < 1 << 64:
            raise ConfigError(f"{where}: value `{number}` is out of range", "use an unsigned 64-bit number")
    return scmp_arg_cmp(index, SCMP_CMP[op], value, second)


def _flags(profile: "dict[str, Any]") -> int:
    flags = 0
    for name in profile.get("flags") or []:
        if name not in FLAGS:
            raise ConfigError(f"linux.seccomp.flags: `{name}` is unknown", f"use one of {', '.join(FLAGS)}")
        flags |= FLAGS[name]
    actions = {rule.get("action") for rule in profile.get("syscalls") or []}
    if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
        # The call that hands the listener over would wait for the listener.
        raise ConfigError("linux.seccomp.defaultAction: `SCMP_ACT_NOTIFY` would lock up", "notify named calls only")
    if "SCMP_ACT_NOTIFY" in actions:
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
        if flags & SECCOMP_FILTER_FLAG_TSYNC:
            flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH  # without it the kernel refuses both together
    elif flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        flags &= ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV  # EINVAL without a listener, and of no use
    return flags


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _checked(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise ConfigError(f"{what}: {os.strerror(-result).lower()}", "check linux.seccomp of the config")


def _cache_path(cache_dir: str, text: str) -> str:
    import zlib  # a shared object more, which only those who keep a directory pay for

    return f"{cache_dir}/{zlib.crc32(text.encode()):08x}.seccomp"


def _read_cache(cache_dir: str, text: str) -> "bytes | None":
    """Return the program kept for `text`.

    The file begins with the whole text, so that two profiles of one checksum never share a program.
    """
    try:
        with open(_cache_path(cache_dir, text), "rb") as file:
            found = file.read()
    except FileNotFoundError:
        return None
    head = text.encode() + b"\0"
    bpf = found[len(head) :]
    return bpf if found.startswith(head) and bpf and len(bpf) % _INSTRUCTION_SIZE == 0 else None


def _write_cache(cache_dir: str, text: str, bpf: bytes) -> None:
    os.makedirs(cache_dir, mode=0o700, exist_ok=True)
    path = _cache_path(cache_dir, text)
    replace_file(path, text.encode() + b"\0" + bpf, 0o600)
