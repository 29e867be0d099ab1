"""Making, watching and signalling processes: clone3, pidfds, wait status, start time.

`clone3` is called raw: glibc's and CPython's fork handlers do not run. That is right only in a
process with one thread and no buffered output, which is what our fork server and `vapp-oci` are;
the child must leave by execve or os._exit.
"""

import ctypes
import errno
import fcntl
import os
import struct

from container.linux._libc import SyscallError, syscall

# include/uapi/asm-generic/unistd.h
NR_pidfd_send_signal = 424
NR_pidfd_open = 434
NR_clone3 = 435
NR_pidfd_getfd = 438

# include/uapi/linux/sched.h
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

# include/uapi/linux/pidfd.h
PIDFD_INFO_EXIT = 1 << 3

#: _IOWR(0xFF, 11, struct pidfd_info) with the 64 bytes of the first version (PIDFD_INFO_SIZE_VER0).
PIDFD_GET_INFO = 0xC040FF0B

SIGCHLD = 17


class clone_args(ctypes.Structure):  # noqa: N801 - the kernel's name
    """struct clone_args, eleven __u64 (include/uapi/linux/sched.h)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


def clone3(flags: int, cgroup: "int | None" = None) -> "tuple[int, int]":
    """Clone this process; returns (pid, pidfd) in the parent and (0, -1) in the child: clone3(2).

    Args:
        flags: CLONE_NEW* and the like; CLONE_PIDFD is added.
        cgroup: descriptor of the cgroup v2 directory that the child is born in.
    """
    pidfd = ctypes.c_int(-1)
    arguments = clone_args(
        flags=flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup is not None else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if flags & CLONE_PARENT else SIGCHLD,
        cgroup=0 if cgroup is None else cgroup,
    )
    pid = syscall(NR_clone3, "clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
    return pid, pidfd.value if pid else -1


def pidfd_open(pid: int) -> int:
    """Return a descriptor of process `pid`: pidfd_open(2)."""
    return syscall(NR_pidfd_open, "pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal the process behind `pidfd`, never a later one of the same number: pidfd_send_signal(2)."""
    syscall(NR_pidfd_send_signal, "pidfd_send_signal", pidfd, signal, None, 0)


def pidfd_exit_status(pidfd: int) -> "int | None":
    """Return the wait status of a process that anybody has reaped, None if the kernel cannot tell.

    Linux 6.15 and later: ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT. The struct begins with __u64 mask,
    __u64 cgroupid and ends at byte 60 with __s32 exit_code (include/uapi/linux/pidfd.h).
    """
    request = bytearray(64)
    struct.pack_into("Q", request, 0, PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, request)
    except OSError:
        return None
    (mask,) = struct.unpack_from("Q", request, 0)
    if not mask & PIDFD_INFO_EXIT:
        return None
    (status,) = struct.unpack_from("i", request, 60)
    return int(status)


def exit_code(status: int) -> int:
    """Return what a shell would: the exit status, or 128 plus the number of the signal."""
    if status & 0x7F:
        return 128 + (status & 0x7F)
    return (status >> 8) & 0xFF


def start_time(pid: int) -> "int | None":
    """Return when `pid` started, in clock ticks since boot; None if there is no such process.

    A pid and its start time together name a process for good: field 22 of /proc/PID/stat (proc(5)),
    counted from behind the last `)` because the command's name may hold anything.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def is_alive(pid: int, started: "int | None") -> bool:
    """Tell whether the process that had `pid` and start time `started` still runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in (b"Z", b"X") and (started is None or int(fields[19]) == started)


def open_verified(pid: int, started: "int | None") -> "int | None":
    """Return a pidfd of the process with that pid and start time; None if it is gone."""
    try:
        pidfd = pidfd_open(pid)
    except SyscallError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    if started is not None and start_time(pid) != started:
        os.close(pidfd)
        return None
    return pidfd


def zombie_status(pid: int, started: "int | None") -> "int | None":
    """Return the wait status of a process that ended and that nobody has reaped; field 52 of /proc/PID/stat."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] != b"Z" or (started is not None and int(fields[19]) != started):
        return None
    return int(fields[49])


def process_state(pid: int) -> str:
    """Return the letter of a process's state, such as R, S, T or Z, and "" if there is none (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children() -> "set[int]":
    """Return the pids of this process's children, zombies included: /proc/self/task/TID/children (proc(5))."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:
            continue  # the thread has ended, or the kernel has no CONFIG_PROC_CHILDREN
    return found
