"""Landlock: which version the kernel has, and rulesets that take rights to files away (landlock(7)).

Out of scope: deciding which paths a program may touch.
"""

import ctypes
import errno
import os
import struct

from container.linux._libc import SyscallError, syscall

# include/uapi/asm-generic/unistd.h (the same on every architecture)
NR_landlock_create_ruleset = 444
NR_landlock_add_rule = 445
NR_landlock_restrict_self = 446

# include/uapi/linux/landlock.h
LANDLOCK_CREATE_RULESET_VERSION = 1 << 0
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_FS_EXECUTE = 1 << 0
LANDLOCK_ACCESS_FS_WRITE_FILE = 1 << 1
LANDLOCK_ACCESS_FS_READ_FILE = 1 << 2
LANDLOCK_ACCESS_FS_READ_DIR = 1 << 3
LANDLOCK_ACCESS_FS_REMOVE_DIR = 1 << 4
LANDLOCK_ACCESS_FS_REMOVE_FILE = 1 << 5
LANDLOCK_ACCESS_FS_MAKE_CHAR = 1 << 6
LANDLOCK_ACCESS_FS_MAKE_DIR = 1 << 7
LANDLOCK_ACCESS_FS_MAKE_REG = 1 << 8
LANDLOCK_ACCESS_FS_MAKE_SOCK = 1 << 9
LANDLOCK_ACCESS_FS_MAKE_FIFO = 1 << 10
LANDLOCK_ACCESS_FS_MAKE_BLOCK = 1 << 11
LANDLOCK_ACCESS_FS_MAKE_SYM = 1 << 12
LANDLOCK_ACCESS_FS_REFER = 1 << 13
LANDLOCK_ACCESS_FS_TRUNCATE = 1 << 14
LANDLOCK_ACCESS_FS_IOCTL_DEV = 1 << 15

#: ABI -> the highest right that it knows; 1 came with Linux 5.13, 2 with 5.19, 3 with 6.2, 5 with 6.10.
_HIGHEST = {
    1: LANDLOCK_ACCESS_FS_MAKE_SYM,
    2: LANDLOCK_ACCESS_FS_REFER,
    3: LANDLOCK_ACCESS_FS_TRUNCATE,
    4: LANDLOCK_ACCESS_FS_TRUNCATE,
    5: LANDLOCK_ACCESS_FS_IOCTL_DEV,
}

READ = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR


def landlock_abi() -> int:
    """Return the ABI version of the running kernel, 0 where Landlock is missing or switched off."""
    try:
        return syscall(NR_landlock_create_ruleset, "landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except SyscallError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def known_rights(abi: int) -> int:
    """Return all rights to files that ABI `abi` can take away. PURE."""
    highest = _HIGHEST[min(abi, max(_HIGHEST))] if abi > 0 else 0
    return highest * 2 - 1 if highest else 0


def create_ruleset(handled: int) -> int:
    """Return a new ruleset that denies `handled` except where `allow_beneath` says otherwise.

    struct landlock_ruleset_attr { __u64 handled_access_fs; ... }; the first field alone is ABI 1.
    """
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    return syscall(NR_landlock_create_ruleset, "landlock_create_ruleset", attributes, 8, 0)


def allow_beneath(ruleset: int, path: str, rights: int) -> None:
    """Allow `rights` to what lies below `path`.

    struct landlock_path_beneath_attr { __u64 allowed_access; __s32 parent_fd; } __attribute__((packed));
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        attributes = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        syscall(
            NR_landlock_add_rule,
            "landlock_add_rule",
            ruleset,
            LANDLOCK_RULE_PATH_BENEATH,
            attributes,
            0,
            path=path,
        )
    finally:
        os.close(fd)


def restrict_self(ruleset: int) -> None:
    """Put this thread under `ruleset` for good; it must have no_new_privs or CAP_SYS_ADMIN."""
    syscall(NR_landlock_restrict_self, "landlock_restrict_self", ruleset, 0)
