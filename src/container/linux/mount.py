"""Mounts: the old interface (mount(2)) and the new one (fsopen, open_tree, move_mount, mount_setattr).

The new one is preferred everywhere: it works on descriptors, so no path of an image reaches the
kernel, and attributes are set before a mount can be seen. Out of scope: what is mounted where
(container.runtime.rootfs) and the words of fstab (container.runtime.options).
"""

import ctypes
import errno
import os

from container.linux._libc import SyscallError, check, libc, syscall
from container.linux.files import AT_EMPTY_PATH, AT_FDCWD

# include/uapi/asm-generic/unistd.h
NR_open_tree = 428
NR_move_mount = 429
NR_fsopen = 430
NR_fsconfig = 431
NR_fsmount = 432
NR_mount_setattr = 442

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
FSOPEN_CLOEXEC = 0x00000001
FSMOUNT_CLOEXEC = 0x00000001
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# include/uapi/linux/fcntl.h
AT_RECURSIVE = 0x8000

# include/linux/fs.h (umount2(2))
MNT_DETACH = 2


class mount_attr(ctypes.Structure):  # noqa: N801 - the kernel's name
    """struct mount_attr { __u64 attr_set, attr_clr, propagation, userns_fd; };  (linux/mount.h)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: "str | None", target: str, fstype: "str | None", flags: int, data: str = "") -> None:
    """mount(2): only for propagation and for targets named by /proc/self/fd."""
    check(
        libc.mount(_bytes(source), os.fsencode(target), _bytes(fstype), flags, data.encode() or None),
        "mount",
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """Unmount `target`: umount2(2)."""
    check(libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace: pivot_root(2)."""
    nr = 155 if os.uname().machine == "x86_64" else 41
    syscall(nr, "pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def fsopen(fstype: str) -> int:
    """Begin a new file system of type `fstype`; returns its configuration descriptor: fsopen(2)."""
    return syscall(NR_fsopen, "fsopen", fstype.encode(), FSOPEN_CLOEXEC, path=fstype)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set option `key` to `value`: fsconfig(2) FSCONFIG_SET_STRING."""
    syscall(
        NR_fsconfig,
        "fsconfig",
        fd,
        FSCONFIG_SET_STRING,
        key.encode(),
        os.fsencode(value),
        0,
        path=f"{key}={value}",
    )


def fsconfig_flag(fd: int, key: str) -> None:
    """Set the option `key` that has no value: fsconfig(2) FSCONFIG_SET_FLAG."""
    syscall(NR_fsconfig, "fsconfig", fd, FSCONFIG_SET_FLAG, key.encode(), None, 0, path=key)


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Set option `key` to the descriptor `value`: fsconfig(2) FSCONFIG_SET_FD."""
    syscall(NR_fsconfig, "fsconfig", fd, FSCONFIG_SET_FD, key.encode(), None, value, path=key)


def fsmount(fd: int, attributes: int = 0) -> int:
    """Create the configured file system; returns a detached mount: fsconfig(2), fsmount(2).

    Raises:
        SyscallError: with the words of the file system's own log where it left some.
    """
    try:
        syscall(NR_fsconfig, "fsconfig", fd, FSCONFIG_CMD_CREATE, None, None, 0)
    except SyscallError as error:
        raise SyscallError("fsconfig create", error.errno or 0, read_log(fd) or None) from error
    return syscall(NR_fsmount, "fsmount", fd, FSMOUNT_CLOEXEC, attributes)


def read_log(fd: int) -> str:
    """Return what the file system said while it was configured (fsopen(2)), lines joined by `; `."""
    lines = []
    while True:
        try:
            lines.append(os.read(fd, 4096).decode(errors="replace").strip())
        except OSError:
            return "; ".join(lines)


def new_mount(fstype: str, options: "list[tuple[str, str | None]]", attributes: int = 0) -> int:
    """Return a detached mount of a new `fstype` with `options` (None: a flag) and MOUNT_ATTR_ `attributes`."""
    fd = fsopen(fstype)
    try:
        for key, value in options:
            if value is None:
                fsconfig_flag(fd, key)
            else:
                fsconfig_string(fd, key, value)
        return fsmount(fd, attributes)
    finally:
        os.close(fd)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Return a descriptor of the mount tree at `path`: open_tree(2); O_CLOEXEC is added."""
    return syscall(NR_open_tree, "open_tree", dirfd, os.fsencode(path), flags | os.O_CLOEXEC, path=path)


def clone_tree(path: str, recursive: bool = True) -> int:
    """Return a detached copy of the mounts at `path`, a bind mount not yet attached."""
    return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))


def clone_fd(fd: int, recursive: bool = False) -> int:
    """Return a detached copy of the mount that `fd` points into, rooted at `fd`."""
    return open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0))


def attach(mount_fd: int, target_fd: int) -> None:
    """Attach the detached mount `mount_fd` over `target_fd`: move_mount(2); no path is involved."""
    syscall(
        NR_move_mount,
        "move_mount",
        mount_fd,
        b"",
        target_fd,
        b"",
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
    )


def setattr_mount(
    fd: int,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Change attributes of the mount at `fd`, with `recursive` of all below: mount_setattr(2)."""
    attributes = mount_attr(attr_set, attr_clr, propagation, userns_fd)
    syscall(
        NR_mount_setattr,
        "mount_setattr",
        fd,
        b"",
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )


def has_new_api() -> bool:
    """Tell whether the kernel has mount_setattr(2), the youngest call we rely on (Linux 5.12)."""
    try:
        syscall(NR_mount_setattr, "mount_setattr", -1, None, 0, None, 0)
    except SyscallError as error:
        return error.errno != errno.ENOSYS
    return True


def _bytes(text: "str | None") -> "bytes | None":
    return None if text is None else os.fsencode(text)
