"""What a process says about itself: prctl(2), personality, scheduling, I/O priority, memory policy."""

import ctypes
import os

from container.linux._libc import check, libc, syscall

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# include/uapi/linux/personality.h
PER_LINUX = 0x0000
PER_LINUX32 = 0x0008

_X86 = os.uname().machine == "x86_64"
# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
NR_sched_setattr = 314 if _X86 else 274
NR_ioprio_set = 251 if _X86 else 30
NR_set_mempolicy = 238 if _X86 else 237


class sched_attr(ctypes.Structure):  # noqa: N801 - the kernel's name
    """struct sched_attr of 48 bytes, SCHED_ATTR_SIZE_VER0 (include/uapi/linux/sched/types.h)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    return check(libc.prctl(option, arg2, arg3, arg4, arg5), "prctl")


def set_no_new_privs() -> None:
    """Give up gaining privileges by exec: PR_SET_NO_NEW_PRIVS."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """Allow or deny ptrace and /proc access by others: PR_SET_DUMPABLE."""
    prctl(PR_SET_DUMPABLE, int(dumpable))


def set_subreaper() -> None:
    """Become the parent of orphaned descendants: PR_SET_CHILD_SUBREAPER."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_personality(persona: int) -> None:
    """Set the execution domain: personality(2)."""
    check(libc.personality(persona), "personality")


def set_scheduler(attributes: sched_attr) -> None:
    """Set scheduling policy and parameters of this process: sched_setattr(2)."""
    attributes.size = ctypes.sizeof(attributes)
    syscall(NR_sched_setattr, "sched_setattr", 0, ctypes.byref(attributes), 0)


def set_io_priority(value: int) -> None:
    """Set class and level (class << 13 | level) of this process: ioprio_set(2), IOPRIO_WHO_PROCESS."""
    syscall(NR_ioprio_set, "ioprio_set", 1, 0, value)


def set_memory_policy(mode: int, nodes: "list[int]") -> None:
    """Set the NUMA policy of this process: set_mempolicy(2); no nodes means an empty mask."""
    highest = max(nodes, default=0)
    words = (ctypes.c_ulong * (highest // 64 + 1))()
    for node in nodes:
        words[node // 64] |= 1 << (node % 64)
    if nodes:
        syscall(NR_set_mempolicy, "set_mempolicy", mode, ctypes.byref(words), highest + 2)
    else:
        syscall(NR_set_mempolicy, "set_mempolicy", mode, None, 0)
