"""Capabilities: the names, and the five sets of a process (capabilities(7))."""

import ctypes
import errno
import os

from container.linux._libc import SyscallError, syscall
from container.linux.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    prctl,
)

# include/uapi/linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_X86 = os.uname().machine == "x86_64"
NR_capset = 126 if _X86 else 91

#: In the order of include/uapi/linux/capability.h; the index is the number.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


class _capset(ctypes.Structure):  # noqa: N801 - header and data of capset(2) in one block
    _fields_ = (("header", ctypes.c_uint32 * 2), ("data", ctypes.c_uint32 * 6))


def mask(names: "list[str]") -> int:
    """Return the bit set of `names`; names that this table lacks are left out."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            bits |= 1 << number
    return bits


def drop_bounding(keep: int) -> None:
    """Drop every capability outside of the bit set `keep` from the bounding set."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except SyscallError as error:
            if error.errno == errno.EINVAL:  # past the last capability of this kernel
                return
            raise


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three classic sets of this process: capset(2)."""
    block = _capset()
    block.header[:] = (_LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    for half, shift in ((0, 0), (3, 32)):
        block.data[half : half + 3] = [
            effective >> shift & low,
            permitted >> shift & low,
            inheritable >> shift & low,
        ]
    address = ctypes.addressof(block)
    syscall(NR_capset, "capset", address, address + 8)


def set_ambient(bits: int) -> None:
    """Make `bits` the ambient set; needs them permitted and inheritable. What cannot be raised is left out."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if bits >> number & 1:
            try:
                prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
            except SyscallError as error:
                if error.errno != errno.EPERM:
                    raise


def permitted() -> int:
    """Return the permitted set of this process: CapPrm in /proc/self/status."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0
