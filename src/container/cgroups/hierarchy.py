"""Which cgroups this host has, found out once per process, and the way to make one in them.

Absolute cgroup paths lie below the mount points, relative ones below `vapp`: of the mount points where
we may write there (root, or a cgroup namespace of our own), else of the cgroup that was delegated to
us. Out of scope: systemd's D-Bus interface.
"""

import errno
import os

from container.cgroups import tree, v1, v2
from container.cgroups.group import Cgroup, NoCgroup
from container.cgroups.resources import asks_for_limits, plan_v1, split_path, split_small_memory
from container.cgroups.tree import Root, magic_of
from container.errors import HostError, StateError
from container.linux.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PARENT = "vapp"


class Hierarchy:
    """The cgroup hierarchies of this host.

    Attributes:
        version: `v2`, `v1`, `hybrid` (controllers in v1, plus a unified tree) or `none`.
        finding: why there is nothing to write to, None where there is.
    """

    __slots__ = ("_roots", "finding", "version")

    def __init__(self, version: str, roots: "dict[str, Root]", finding: "HostError | None") -> None:
        self.version = version
        self.finding = finding
        self._roots = roots

    def create(
        self,
        path: str,
        resources: "dict[str, Any] | None" = None,
        account: "tuple[str, ...]" = (),
        *,
        starts_small: bool = False,
    ) -> Cgroup:
        """Make the cgroup of the OCI `path` with limits; an empty one left over is replaced.

        Args:
            path: linux.cgroupsPath: absolute below the hierarchy's root, relative below `vapp`.
            resources: linux.resources.
            account: controllers to have for their numbers alone, where they are to be had.
            starts_small: leave a memory limit that the starting process would not survive to
                `Cgroup.apply_after_start`; who asks for this must call that.

        Raises:
            StateError: the cgroup exists and has processes.
            ConfigError, HostError: as of `Cgroup.apply`; then nothing is left behind.
        """
        if self.finding is not None:
            if asks_for_limits(resources):
                raise HostError("cannot limit resources: " + self.finding.message, self.finding.hint)
            split_path(path)
            return NoCgroup(self.finding)
        cgroup = (
            self._create_v2(path, resources, account)
            if self.version == "v2"
            else self._create_v1(path, resources, account)
        )
        try:
            if starts_small:
                resources, cgroup.later = split_small_memory(resources or {})
            cgroup.apply(resources)
        except BaseException:
            cgroup.remove()
            raise
        return cgroup

    def remove_parent(self, path: str) -> None:
        """Remove the cgroups named by `path` and above it up to ours, as far as nothing is in them any more."""
        for root in self._roots.values():
            relative = self._place(path, root)
            while relative and os.path.basename(relative) and relative != self._base(root):
                try:
                    os.rmdir(relative, dir_fd=root.fd)
                except OSError:
                    break
                relative = os.path.dirname(relative)

    def load(self, paths: "dict[str, str]") -> Cgroup:
        """Return the cgroup whose `Cgroup.paths` were saved; it may be gone meanwhile."""
        if not paths:
            return NoCgroup(self.finding or HostError("it was made without a cgroup", "create it again"))
        known = [name for name in paths if name in self._roots]
        if not known:
            raise StateError(f"cgroup hierarchies `{' '.join(paths)}` are gone", "were they remounted?")
        relative = self._roots[known[0]].relative(paths[known[0]])
        if self.version == "v2":
            return v2.Cgroup2(self._roots["unified"], relative)
        return v1.Cgroup1(self._roots, relative, known)

    def has(self, controller: str) -> bool:
        """Tell whether `controller` can be used here."""
        if controller in self._roots:
            return _usable(self._roots[controller])
        root = self._roots.get("unified")
        if root is None or self.version != "v2":
            return False
        with tree.Directory(root, self._base(root) or ".") as directory:
            return controller in directory.read("cgroup.controllers").split()

    def close(self) -> None:
        """Close the descriptors of the mount points; they open again at the next use."""
        for root in self._roots.values():
            root.close()

    def _base(self, root: Root) -> str:
        return "" if root.own == "." or root.is_writable() else root.own

    def _place(self, path: str, root: Root) -> str:
        parts = split_path(path)
        if path.startswith("/"):
            return "/".join(parts)
        base = self._base(root)
        return "/".join(([base] if base else []) + [_PARENT, *parts])

    def _create_v2(self, path: str, resources: "dict[str, Any] | None", account: "tuple[str, ...]") -> Cgroup:
        del resources  # `apply` enables what they need
        root = self._roots["unified"]
        relative = self._place(path, root)
        _make_fresh(root, relative)
        try:
            v2.enable(root, relative, {name for name in account if self.has(name)})
        except HostError:
            pass  # numbers are nice to have; limits would raise again
        return v2.Cgroup2(root, relative)

    def _create_v1(self, path: str, resources: "dict[str, Any] | None", account: "tuple[str, ...]") -> Cgroup:
        needed = {write[0] for write in plan_v1(resources)} | {name for name in account if self.has(name)}
        tracker = _tracker(self._roots)
        names = [tracker, *sorted(needed - {tracker})]
        relative = self._place(path, v1.find_root(self._roots, tracker))
        made: list[Root] = []
        try:
            for root in dict.fromkeys(v1.find_root(self._roots, name) for name in names):
                _make_fresh(root, relative)
                made.append(root)
        except BaseException:
            for root in made:
                tree.remove(root, relative, 0)
            raise
        return v1.Cgroup1(self._roots, relative, names)


def _make_fresh(root: Root, relative: str) -> None:
    """Make the cgroup anew: one that is left over would keep the limits and counters of its last user."""
    for _ in range(3):
        if v1.make_path(root, relative):
            return
        if v1.is_busy(root, relative):
            raise StateError(f"cgroup `{root.path(relative)}` has processes", "kill them, or use another cgroupsPath")
        tree.remove(root, relative, 0)
    raise StateError(f"cgroup `{root.path(relative)}` comes back", "somebody else makes it: use another name")


class Mount:
    """A cgroup mount as /proc/self/mountinfo has it."""

    __slots__ = ("fstype", "mountpoint", "options", "root")

    def __init__(self, fstype: str, root: str, mountpoint: str, options: "list[str]") -> None:
        self.fstype = fstype
        self.root = root
        self.mountpoint = mountpoint
        self.options = options


def parse_mountinfo(text: str) -> "list[Mount]":
    """Return the cgroup mounts of a mountinfo text; of two at one place the upper one. PURE."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(), tail.split()
        if len(rest) >= 3 and rest[0] in ("cgroup", "cgroup2"):
            mountpoint = unescape(fields[4])
            found[mountpoint] = Mount(rest[0], unescape(fields[3]), mountpoint, rest[2].split(","))
    return list(found.values())


def unescape(text: str) -> str:
    r"""Undo the octal escapes of mountinfo (`\040` and the like). PURE."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def parse_own(text: str) -> "dict[str, str]":
    """Return controller -> path of /proc/self/cgroup; the unified one has the name `unified`. PURE."""
    found = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        for name in ["unified"] if number == "0" else controllers.split(","):
            found[name] = path
    return found


def find_roots(mounts: "list[Mount]", own: "dict[str, str]") -> "dict[str, Root]":
    """Return controller -> hierarchy. PURE."""
    roots: dict[str, Root] = {}
    for mount in mounts:
        if mount.fstype == "cgroup2":
            names = ["unified"]
        else:
            # The options mix controllers with flags; /proc/self/cgroup knows which are which.
            names = [name for name in mount.options if name in own and not name.startswith("name=")]
        if names and not any(name in roots for name in names):
            below = _below(own.get(names[0], "/"), mount.root)
            root = Root(mount.mountpoint, below, magic_of(mount.fstype))
            roots.update(dict.fromkeys(names, root))
    return roots


def _below(path: str, root: str) -> str:
    """Return `path` relative to the part of the hierarchy that a mount shows; `.` where it is not in it."""
    if root != "/" and path != root and not path.startswith(root + "/"):
        return "."
    return (path[len(root) :] if root != "/" else path).strip("/") or "."


def detect() -> Hierarchy:
    """Look at this host anew."""
    mounts = parse_mountinfo(read_file("/proc/self/mountinfo").decode(errors="surrogateescape"))
    roots = find_roots(mounts, parse_own(read_file("/proc/self/cgroup").decode(errors="surrogateescape")))
    if not roots:
        return Hierarchy("none", {}, HostError("no cgroup hierarchy is mounted", "mount cgroup2 on /sys/fs/cgroup"))
    version = _version(roots)
    # Only the tracking hierarchy is tried: the others are when a limit needs them, if ever.
    tracker = roots.get(_tracker(roots))
    finding = None if tracker is not None and _usable(tracker) else _no_delegation(version)
    return Hierarchy(version, roots, finding)


def _version(roots: "dict[str, Root]") -> str:
    if set(roots) == {"unified"}:
        return "v2"
    return "hybrid" if "unified" in roots else "v1"


def _usable(root: Root) -> bool:
    return root.is_writable() or (root.own != "." and root.is_writable(root.own))


def _tracker(roots: "dict[str, Root]") -> str:
    """Return the hierarchy to find, freeze and kill processes by."""
    unified = roots.get("unified")
    return "unified" if unified is not None and v2.can_freeze(unified) else "freezer"


def _no_delegation(version: str) -> HostError:
    if version == "v2":
        return HostError(
            f"no cgroup is delegated to uid {os.geteuid()}",
            "log in through systemd, or run the daemon by `systemd-run --user --scope -p Delegate=yes`",
        )
    return HostError(
        f"cgroup version 1 cannot be delegated to uid {os.geteuid()}",
        "run as root, or boot with `systemd.unified_cgroup_hierarchy=1`",
    )


_known: "list[Hierarchy]" = []


def open_hierarchy() -> Hierarchy:
    """Return the hierarchies of this host, looked up at the first call in this process.

    After entering another mount or cgroup namespace call `forget` first.
    """
    if not _known:
        try:
            _known.append(detect())
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return Hierarchy("none", {}, HostError("/proc is not mounted", "mount it"))
    return _known[0]


def forget() -> None:
    """Close and forget what `open_hierarchy` found."""
    while _known:
        _known.pop().close()
