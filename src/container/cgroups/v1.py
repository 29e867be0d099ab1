"""A container's cgroup where controllers are mounted one by one (version 1), with or without a unified tree.

A hierarchy costs a directory, a migration and a removal for each container, so only those are joined
that the resources need. To find the processes any of those will do; a hybrid host's unified one is best,
clone places the child there for nothing. The freezer gets its directory, but the processes are moved into
it only when they are to be frozen or killed: each move waits for an RCU grace period, milliseconds of a start.
"""

import errno
import time

from container.cgroups import tree, v2
from container.cgroups.group import Cgroup, write_limit
from container.cgroups.resources import plan_v1
from container.cgroups.stats import read_oom_v1, read_v1
from container.errors import ConfigError, DeadlineError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.fields import Write
    from container.cgroups.tree import Root

_LIMIT = "memory.limit_in_bytes"
_SWAP_LIMIT = "memory.memsw.limit_in_bytes"

#: How long the freezer is given before the cgroup is thawed and frozen anew (see `_freeze_v1`).
_FREEZE_ROUND_S = 0.1


class Cgroup1(Cgroup):
    """One directory per hierarchy in use."""

    __slots__ = ("_directory", "_relative", "_roots", "_tracker")

    def __init__(self, roots: "dict[str, Root]", relative: str, controllers: "list[str]") -> None:
        super().__init__({name: roots[name].path(relative) for name in controllers})
        self._roots = roots
        self._relative = relative
        self._tracker = _choose_tracker(roots, controllers)
        self._directory: tree.Directory | None = None

    def fd(self) -> "int | None":
        """Return the directory in the unified hierarchy, None where there is none."""
        if "unified" not in self.paths:
            return None
        if self._directory is None:
            self._directory = tree.Directory(self._roots["unified"], self._relative)
        return self._directory.fd

    def add(self, pid: int, cloned: bool = True) -> None:
        """Move `pid` into every hierarchy in use but a late freezer; into the unified one only if clone did not."""
        for root in self._used():
            if not (cloned and root.is_v2) and root is not self._late_freezer():
                v2.move(root, self._relative, pid)

    def joins_late(self) -> bool:
        """Tell whether there are hierarchies besides the unified one."""
        return any(not root.is_v2 for root in self._used())

    def apply(self, resources: "dict[str, Any] | None") -> None:
        """Set limits; a hierarchy that was not needed until now is joined."""
        writes = plan_v1(resources)
        self._join({write[0] for write in writes})
        for controller in dict.fromkeys(write[0] for write in writes):
            with tree.Directory(self._roots[controller], self._relative) as directory:
                _write_batch(directory, [write for write in writes if write[0] == controller])

    def freeze(self, timeout_s: float = 5.0) -> None:
        """Stop all processes and wait until they stand."""
        root = self._roots[self._tracker]
        if root.is_v2:
            v2.freeze(root, self._relative, timeout_s)
        else:
            self._gather()
            _freeze_v1(self._roots["freezer"], self._relative, timeout_s)

    def thaw(self) -> None:
        """Let them run."""
        root = self._roots[self._tracker]
        if root.is_v2:
            v2.thaw(root, self._relative)
        else:
            _set_freezer(self._roots["freezer"], self._relative, "THAWED")

    def pids(self) -> "list[int]":
        """Return all processes here and below, as the tracking hierarchy has them."""
        return tree.read_pids(self._roots[self._tracker], self._relative)

    def kill(self) -> None:
        """Kill all processes; with the freezer alone they are stopped first so that none forks away."""
        root = self._roots[self._tracker]
        if root.is_v2:
            v2.kill(root, self._relative)
            return
        try:
            if not self.pids():
                return  # nobody is left to fork: three writes to the freezer would be for nothing
            self._gather()
            freezer = self._roots["freezer"]
            _freeze_v1(freezer, self._relative, 2.0)
            v2.kill_each(self.pids())
            _set_freezer(freezer, self._relative, "THAWED")
        except FileNotFoundError:
            return

    def remove(self, timeout_s: float = 5.0) -> None:
        """Remove the directories of all hierarchies."""
        self.close()
        deadline = time.monotonic() + timeout_s
        for root in self._used():
            tree.remove(root, self._relative, deadline)

    def stats(self) -> "dict[str, Any]":
        """Return memory, cpu and pids of the hierarchies in use, and the pressure of a unified one."""
        found: dict[str, Any] = {}
        for name in self.paths:
            with tree.Directory(self._roots[name], self._relative) as directory:
                read_v1(name, directory, found)
        return found

    def oom_count(self) -> int:
        """Return `oom_kill` of memory.oom_control; 0 without a memory hierarchy."""
        if "memory" not in self.paths:
            return 0
        with tree.Directory(self._roots["memory"], self._relative) as directory:
            return read_oom_v1(directory)

    def close(self) -> None:
        """Close the directory in the unified hierarchy."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _late_freezer(self) -> "Root | None":
        """Return the freezer if processes are not in it from their start."""
        root = self._roots.get("freezer")
        return root if "freezer" in self.paths and root is not self._roots[self._tracker] else None

    def _gather(self) -> None:
        """Move every process into a freezer that was left for later; who is forked meanwhile comes next round."""
        root = self._late_freezer()
        while root is not None:
            missing = set(self.pids()) - set(tree.read_pids(root, self._relative))
            if not missing:
                return
            for pid in missing:
                try:
                    v2.move(root, self._relative, pid)
                except ProcessLookupError:
                    continue  # it has ended

    def _used(self) -> "list[Root]":
        """Return the hierarchies in use, each once: `cpu,cpuacct` is one with two names."""
        return list(dict.fromkeys(self._roots[name] for name in self.paths))

    def _join(self, controllers: "set[str]") -> None:
        missing = sorted(controllers - set(self.paths))
        if not missing:
            return
        pids = self.pids()
        for name in missing:
            root = find_root(self._roots, name)
            make_path(root, self._relative)
            self.paths[name] = root.path(self._relative)
            for pid in pids:
                v2.move(root, self._relative, pid)


def _choose_tracker(roots: "dict[str, Root]", controllers: "list[str]") -> str:
    """Return the hierarchy to find processes by: the unified one, one that limits need, else the freezer."""
    if "unified" in controllers:
        return "unified"
    freezer = roots.get("freezer")
    return next((name for name in controllers if roots[name] is not freezer), controllers[0])


def find_root(roots: "dict[str, Root]", controller: str) -> "Root":
    """Return the hierarchy of `controller`.

    Raises:
        HostError: it is not mounted, or we may not write to it.
    """
    root = roots.get(controller)
    if root is None:
        raise HostError(
            f"cgroup controller `{controller}` is not available",
            f"mount it, or leave out limits of `{controller}`",
        )
    return root


def make_path(root: "Root", relative: str) -> bool:
    """Make the cgroup with those above it; False if it was there. A new cpuset gets its parent's values."""
    try:
        made = tree.make(root, relative)
    except FileNotFoundError:
        above = relative.rpartition("/")[0]
        make_path(root, above)
        made = tree.make(root, relative)
    if made and not root.is_v2:
        _inherit_cpuset(root, relative)
    return made


def _inherit_cpuset(root: "Root", relative: str) -> None:
    """Copy the parent's CPUs and nodes: an empty cpuset takes no processes (cgroup-v1/cpusets.rst)."""
    with tree.Directory(root, relative) as directory:
        for file in ("cpuset.cpus", "cpuset.mems"):
            try:
                if directory.read(file).strip():
                    continue
            except FileNotFoundError:
                return
            with tree.Directory(root, relative.rpartition("/")[0] or ".") as parent:
                directory.write(file, parent.read(file).strip())


def _write_batch(directory: tree.Directory, batch: "list[Write]") -> None:
    files = [write[1] for write in batch]
    for write in _ordered(directory, batch) if _LIMIT in files and _SWAP_LIMIT in files else batch:
        write_limit(directory, write)


def _ordered(directory: tree.Directory, batch: "list[Write]") -> "list[Write]":
    """Put the limit with swap first where the memory limit alone would exceed the present one.

    The kernel keeps memory <= memory+swap at every moment, so the order depends on the direction.
    """
    by_file = {write[1]: write for write in batch}
    try:
        present = int(directory.read(_SWAP_LIMIT))
    except FileNotFoundError as error:
        raise ConfigError(
            f"linux.resources.memory.swap: `{by_file[_SWAP_LIMIT][2]}` needs swap accounting",
            "boot with `swapaccount=1`, or leave memory.swap out",
        ) from error
    limit = int(by_file[_LIMIT][2])
    first = [_SWAP_LIMIT, _LIMIT] if limit < 0 or limit > present else [_LIMIT, _SWAP_LIMIT]
    return [by_file[file] for file in first] + [write for write in batch if write[1] not in first]


def _set_freezer(root: "Root", relative: str, state: str) -> str:
    with tree.Directory(root, relative) as directory:
        directory.write("freezer.state", state)
        return directory.read("freezer.state").strip()


def _freeze_v1(root: "Root", relative: str, timeout_s: float) -> None:
    """Freeze; a cgroup that hangs in FREEZING is thawed and frozen anew.

    A process that is forked between the scan and the freeze can keep the state at FREEZING for ever
    (freezer-subsystem.rst); only another transition makes the kernel look again.
    """
    deadline = time.monotonic() + timeout_s
    round_end = time.monotonic() + _FREEZE_ROUND_S
    while _set_freezer(root, relative, "FROZEN") != "FROZEN":
        if time.monotonic() > deadline:
            _set_freezer(root, relative, "THAWED")
            raise DeadlineError(
                f"cgroup `{root.path(relative)}` does not freeze", "a process hangs in the kernel: try again"
            )
        if time.monotonic() > round_end:
            _set_freezer(root, relative, "THAWED")
            round_end = time.monotonic() + _FREEZE_ROUND_S
        time.sleep(0.001)


def is_busy(root: "Root", relative: str) -> bool:
    """Tell whether an existing cgroup holds processes, here or below."""
    if root.is_v2:
        try:
            return v2.is_populated(root, relative)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return False
    return bool(tree.read_pids(root, relative))
