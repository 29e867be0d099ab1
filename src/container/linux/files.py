"""Opening paths that somebody else controls, and the few file calls that `os` lacks.

Out of scope: mounts (container.linux.mount) and what is done with the descriptors.
"""

import ctypes
import errno
import os
import struct

from container.linux._libc import SyscallError, libc, syscall

# include/uapi/asm-generic/unistd.h (the numbers from 424 on are the same on every architecture)
NR_close_range = 436
NR_openat2 = 437

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# include/uapi/linux/close_range.h
CLOSE_RANGE_CLOEXEC = 1 << 2

# include/uapi/linux/magic.h
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
NSFS_MAGIC = 0x6E736673

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

#: How often openat2 is asked again when a rename elsewhere makes it give up (openat2(2), EAGAIN).
_RETRIES = 128


class open_how(ctypes.Structure):  # noqa: N801 - the kernel's name
    """struct open_how { __u64 flags; __u64 mode; __u64 resolve; };  (include/uapi/linux/openat2.h)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: "bytes | str", flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below `dirfd` under the rules of `resolve`: openat2(2). Always close-on-exec.

    Raises:
        SyscallError: ELOOP for a forbidden link, EXDEV for a forbidden crossing, and those of open(2).
    """
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path)
    for _ in range(_RETRIES):
        try:
            return syscall(NR_openat2, "openat2", dirfd, raw, ctypes.byref(how), ctypes.sizeof(how), path=raw)
        except SyscallError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    raise SyscallError("openat2", errno.EAGAIN, os.fsdecode(raw))


def open_in_root(root: int, path: "bytes | str", flags: int, mode: int = 0) -> int:
    """Open `path` as a process would whose root is `root`; no link leads outside."""
    return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def close_range_on_exec(first: int) -> None:
    """Make every descriptor from `first` on close at exec: close_range(2); by hand before Linux 5.11."""
    try:
        syscall(NR_close_range, "close_range", first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
    except SyscallError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        for fd in range(first, os.sysconf("SC_OPEN_MAX")):
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue


def close_all_but(keep: "set[int]") -> None:
    """Close every descriptor that is not in `keep`, by one close_range(2) for each gap."""
    first = 0
    for fd in sorted(keep):
        if fd > first:
            syscall(NR_close_range, "close_range", first, fd - 1, 0)
        first = fd + 1
    syscall(NR_close_range, "close_range", first, 0xFFFFFFFF, 0)


def filesystem_type(fd: int) -> int:
    """Return the magic number of the file system that `fd` lies on: fstatfs(2)."""
    # struct statfs is 120 bytes on 64-bit Linux; f_type is its first long. Twice the size costs nothing.
    buffer = ctypes.create_string_buffer(240)
    if libc.fstatfs(ctypes.c_int(fd), buffer) < 0:
        raise SyscallError("fstatfs", ctypes.get_errno())
    (magic,) = struct.unpack_from("l", buffer.raw)
    return int(magic)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_file(path: str, limit: int = 1 << 20) -> bytes:
    """Return at most `limit` bytes of `path`; right for files whose size the kernel reports as 0."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while limit > 0 and (chunk := os.read(fd, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes) -> None:
    """Write `data` to the existing file `path` in one write, as /proc and cgroup files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def replace_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` by a rename, so that a reader sees the old bytes or the new ones."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)
