"""Namespaces: their flags, unshare(2) and setns(2), and what a /proc/PID/ns file is."""

from container.linux._libc import check, libc

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

#: The runtime-spec's names of namespaces and the kernel's flags.
FLAGS = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

#: The runtime-spec's names and those of the files in /proc/PID/ns.
PROC_NAMES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones: unshare(2)."""
    check(libc.unshare(flags), "unshare")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace of `fd`, or with a pidfd all of `flags` at once: setns(2)."""
    check(libc.setns(fd, flags), "setns")


def sethostname(name: str) -> None:
    """Set the host name of the UTS namespace: sethostname(2)."""
    raw = name.encode()
    check(libc.sethostname(raw, len(raw)), "sethostname", name)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the UTS namespace: setdomainname(2)."""
    raw = name.encode()
    check(libc.setdomainname(raw, len(raw)), "setdomainname", name)
