"""A container's cgroup on the unified hierarchy (cgroup version 2).

The functions on (root, relative) are also what version 1 uses for tracking on hybrid hosts, where the
unified hierarchy has no controllers but can still place, freeze and kill.
"""

import errno
import os
import time

from container.cgroups import devices, tree
from container.cgroups.group import Cgroup, write_limit
from container.cgroups.resources import check_before_update, plan_v2
from container.cgroups.stats import read_v2
from container.errors import DeadlineError, HostError, StateError
from container.linux._libc import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.tree import Root

_SIGKILL = 9

#: Where our own processes go when they sit in the cgroup that shall hand out controllers.
_LEAF = "vapp-self"


class Cgroup2(Cgroup):
    """One directory; children are cloned right into it."""

    __slots__ = ("_directory", "_relative", "_root")

    def __init__(self, root: "Root", relative: str) -> None:
        super().__init__({"unified": root.path(relative)})
        self._root = root
        self._relative = relative
        self._directory: tree.Directory | None = None

    def fd(self) -> "int | None":
        """Return the directory, open until `close`."""
        if self._directory is None:
            self._directory = tree.Directory(self._root, self._relative)
        return self._directory.fd

    def add(self, pid: int, cloned: bool = True) -> None:
        """Move `pid` here unless clone already did."""
        if not cloned:
            move(self._root, self._relative, pid)

    def apply(self, resources: "dict[str, Any] | None") -> None:
        """Set limits and, as root, the device program."""
        writes = plan_v2(resources)
        enable(self._root, self._relative, {write[0] for write in writes} - {"cgroup"})
        with tree.Directory(self._root, self._relative) as directory:
            _check_usage(directory, check_before_update(resources))
            for write in writes:
                write_limit(directory, write)
            if resources and resources.get("devices"):
                _apply_devices(directory.fd, resources["devices"])

    def freeze(self, timeout_s: float = 5.0) -> None:
        """Stop all processes and wait for the kernel's word that they stand."""
        freeze(self._root, self._relative, timeout_s)

    def thaw(self) -> None:
        """Let them run."""
        thaw(self._root, self._relative)

    def pids(self) -> "list[int]":
        """Return all processes here and below."""
        return tree.read_pids(self._root, self._relative)

    def kill(self) -> None:
        """Kill all, atomically where the kernel has cgroup.kill (5.14)."""
        kill(self._root, self._relative)

    def remove(self, timeout_s: float = 5.0) -> None:
        """Remove it with all below."""
        self.close()
        tree.remove(self._root, self._relative, time.monotonic() + timeout_s)

    def stats(self) -> "dict[str, Any]":
        """Return memory, cpu, pids and pressure."""
        with tree.Directory(self._root, self._relative) as directory:
            return read_v2(directory)

    def oom_count(self) -> int:
        """Return `oom_kill` of memory.events, which counts those below too."""
        memory = self.stats().get("memory", {})
        return int(memory.get("events", {}).get("oom_kill", 0))

    def close(self) -> None:
        """Close the directory."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None


def is_populated(root: "Root", relative: str) -> bool:
    """Tell whether any process is in the cgroup or below."""
    with tree.Directory(root, relative) as directory:
        return "populated 1" in directory.read("cgroup.events")


def move(root: "Root", relative: str, pid: int) -> None:
    """Move one process with all its threads."""
    with tree.Directory(root, relative) as directory:
        directory.write("cgroup.procs", str(pid))


def can_freeze(root: "Root") -> bool:
    """Tell whether cgroups here have cgroup.freeze (Linux 5.2); the root itself never does."""
    release = os.uname().release.split(".")
    return root.is_v2 and (int(release[0]), int("".join(c for c in release[1] if c.isdigit()) or 0)) >= (5, 2)


def freeze(root: "Root", relative: str, timeout_s: float) -> None:
    """Write cgroup.freeze and wait until cgroup.events says `frozen 1`."""
    deadline = time.monotonic() + timeout_s
    with tree.Directory(root, relative) as directory:
        directory.write("cgroup.freeze", "1")
        while "frozen 1" not in directory.read("cgroup.events"):
            if time.monotonic() > deadline:
                directory.write("cgroup.freeze", "0")
                raise DeadlineError(
                    f"cgroup `{directory.path}` does not freeze", "a process hangs in the kernel: try again"
                )
            time.sleep(0.001)


def thaw(root: "Root", relative: str) -> None:
    """Undo freeze."""
    with tree.Directory(root, relative) as directory:
        directory.write("cgroup.freeze", "0")


def kill(root: "Root", relative: str) -> None:
    """Kill all processes here and below; an absent cgroup has none."""
    try:
        with tree.Directory(root, relative) as directory:
            try:
                directory.write("cgroup.kill", "1")
            except FileNotFoundError:
                _kill_frozen(root, relative)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _kill_frozen(root: "Root", relative: str) -> None:
    # Frozen first, so that none can fork past us; in version 2 SIGKILL reaches frozen processes.
    freeze(root, relative, 2.0)
    kill_each(tree.read_pids(root, relative))
    thaw(root, relative)


def kill_each(pids: "list[int]") -> None:
    """Send SIGKILL to each; those that are gone do not matter."""
    for pid in pids:
        try:
            os.kill(pid, _SIGKILL)
        except ProcessLookupError:
            continue


def enable(root: "Root", relative: str, controllers: "set[str]") -> None:
    """Hand `controllers` down from the mount point to the cgroup above `relative`.

    Raises:
        HostError: the host does not have or does not delegate one of them.
    """
    if not controllers:
        return
    above = "."
    for part in relative.split("/"):
        with tree.Directory(root, above) as directory:
            missing = controllers - set(directory.read("cgroup.subtree_control").split())
            if missing:
                _enable_here(root, above, directory, missing)
        above = part if above == "." else f"{above}/{part}"


def _enable_here(root: "Root", relative: str, directory: tree.Directory, missing: "set[str]") -> None:
    offered = set(directory.read("cgroup.controllers").split())
    if not missing <= offered:
        lacking = " ".join(sorted(missing - offered))
        raise HostError(
            f"cgroup controllers `{lacking}` are not available in `{directory.path}`",
            "delegate them: `Delegate=cpu cpuset io memory pids` in user@.service, then log in again",
        )
    value = " ".join(f"+{name}" for name in sorted(missing))
    try:
        directory.write("cgroup.subtree_control", value)
    except OSError as error:
        if error.errno != errno.EBUSY or relative != root.own:
            raise HostError(
                f"cannot hand `{value}` down from `{directory.path}`: {(error.strerror or '').lower()}",
                "start the daemon in a cgroup of its own, such as a systemd unit with `Delegate=yes`",
            ) from error
        _step_aside(root, relative)
        directory.write("cgroup.subtree_control", value)


def _step_aside(root: "Root", relative: str) -> None:
    """Move all processes of our own cgroup one level down.

    Only a cgroup without processes may hand out controllers (the "no internal process" rule of
    cgroup-v2.rst). One that was delegated to us holds nobody but us and our children.
    """
    leaf = _LEAF if relative == "." else f"{relative}/{_LEAF}"
    tree.make(root, leaf)
    with tree.Directory(root, relative) as directory:
        pids = directory.read("cgroup.procs").split()
    for pid in pids:
        try:
            move(root, leaf, int(pid))
        except ProcessLookupError:
            continue


def _check_usage(directory: tree.Directory, limit: "int | None") -> None:
    if limit is None:
        return
    used = int(directory.read("memory.current"))
    if used > limit:
        raise StateError(
            f"linux.resources.memory.limit: `{limit}` is less than the `{used}` bytes in use",
            "free memory first, or leave checkBeforeUpdate out",
        )


def _apply_devices(cgroup_fd: int, rules: object) -> None:
    program = devices.build_program(rules)
    try:
        devices.attach(cgroup_fd, program)
    except SyscallError as error:
        # In a user namespace no program may be attached, and none is needed: there a device node
        # cannot be made at all (mknod(2), EPERM).
        if error.errno not in (errno.EPERM, errno.EACCES) or _in_first_user_namespace():
            raise


def _in_first_user_namespace() -> bool:
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() == [b"0", b"0", b"4294967295"]
