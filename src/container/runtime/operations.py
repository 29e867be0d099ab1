"""What is done to build a container's file system: one small class per kind of step.

A planner (container.runtime.rootfs) makes a list of these without touching anything; the init of the
container executes them in order, inside its namespaces. `describe` is what `vapp-oci plan` and the
debug log print. Nothing here may import at execution time: after `Pivot` the files are the image's.
"""

import errno
import os
import stat

from container.errors import LaunchError
from container.linux import mount, namespaces
from container.linux._libc import SyscallError
from container.linux.files import open_in_root
from container.runtime import copyup, paths
from container.runtime.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

O_PATH = paths.O_PATH


class Context:
    """What one operation leaves for the next.

    Attributes:
        root: descriptor of the container's root mount, -1 before it is attached.
        null: O_PATH descriptor of the host's /dev/null, checked; the mask of files; -1 until needed.
        masks: an empty read-only tmpfs, mounted over the first masked directory and copied to the others.
        warnings: what was skipped because this host cannot do it, for the log.
    """

    __slots__ = ("masks", "null", "root", "warnings")

    def __init__(self) -> None:
        self.root = self.masks = self.null = -1
        self.warnings: list[str] = []


class Operation:
    """One step; `execute` either did it or raises."""

    __slots__ = ()

    def describe(self) -> str:
        """Return the step in words, literals in backticks."""
        raise AssertionError(f"{type(self).__name__} has no description")

    def execute(self, context: Context) -> None:
        """Do the step."""
        raise AssertionError(f"{type(self).__name__} has no action")


class SetPropagation(Operation):
    """Cut or keep the flow of mount events between the host and this namespace."""

    __slots__ = ("flags",)

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def describe(self) -> str:
        return f"set propagation of all mounts to {self.flags:#x}"

    def execute(self, context: Context) -> None:
        mount.mount(None, "/", None, self.flags)


class IsolateParent(Operation):
    """Make the mount that holds `path` private: the parent of a root to pivot into may not be shared."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make the mount of `{self.path}` private"

    def execute(self, context: Context) -> None:
        path = os.path.realpath(self.path)
        while True:
            try:
                mount.mount(None, path, None, mount.MS_PRIVATE)
            except SyscallError as error:
                # Not the root of a mount: that is further up.
                if error.errno != errno.EINVAL or path == "/":
                    raise
                path = os.path.dirname(path)
            else:
                return


class AttachRoot(Operation):
    """Mount the root file system over `path`: a copy of what is there, or a new overlay."""

    __slots__ = ("options", "path", "type")

    def __init__(self, path: str, fstype: str = "", options: "Options | None" = None) -> None:
        self.path = path
        self.type = fstype
        self.options = options

    def describe(self) -> str:
        return f"attach {self.type or 'bind of'} `{self.path}` as root"

    def execute(self, context: Context) -> None:
        try:
            target = os.open(self.path, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            tree = self._open_tree()
        except OSError as error:
            raise LaunchError(
                f"cannot take `{self.path}` as root: {error if self.type else (error.strerror or '').lower()}",
                "it must be a directory, and those above it let the container's root user pass (`chmod o+x`)",
                error.errno or 0,
            ) from error
        # The parent mount of a new root may not be shared (pivot_root(2), EINVAL); the copy is private.
        mount.setattr_mount(tree, propagation=mount.MS_PRIVATE)
        mount.attach(tree, target)
        os.close(target)
        context.root = tree

    def _open_tree(self) -> int:
        if self.options and not self.options.bind:
            return _new_file_system(self.type, self.options)
        return mount.clone_tree(self.path, recursive=True)


class MountFileSystem(Operation):
    """Mount a new file system, such as proc, tmpfs or devpts, at `destination`."""

    __slots__ = ("destination", "fallback", "options", "type")

    def __init__(self, destination: str, fstype: str, options: Options, fallback: "Operation | None" = None) -> None:
        self.destination = destination
        self.type = fstype
        self.options = options
        self.fallback = fallback

    def describe(self) -> str:
        return f"mount {self.type} at `{self.destination}`"

    def execute(self, context: Context) -> None:
        if self.type in ("proc", "sysfs", "cgroup", "cgroup2"):
            target = paths.open_real_directory(context.root, self.destination)
        else:
            target = paths.open_directory(context.root, self.destination)
        if self.type == "tmpfs" and not any(key == "mode" for key, _ in self.options.data):
            # What the image says of its directory holds also for what covers it (as runc does).
            self.options.data.append(("mode", f"{stat.S_IMODE(os.fstat(target).st_mode):o}"))
        try:
            tree = self._create()
        except SyscallError as error:
            if self.fallback is None or error.errno not in (
                errno.EPERM,
                errno.EBUSY,
                errno.EINVAL,
                errno.ENODEV,
            ):
                raise self._explain(error) from error
            os.close(target)
            self.fallback.execute(context)
            return
        if self.options.copy_up:
            copyup.copy_up(target, tree)
        attach_tree(tree, target, self.options)

    def _create(self) -> int:
        try:
            return _new_file_system(self.type, self.options)
        except SyscallError as error:
            if self.type != "devpts" or error.errno != errno.EINVAL:
                raise
        # gid=5 is not mapped in a user namespace with one id: the mode alone then has to do.
        options = Options()
        options.attr_set = self.options.attr_set
        options.data = [(key, value) for key, value in self.options.data if key not in ("gid", "uid")]
        return _new_file_system(self.type, options)

    def _explain(self, error: SyscallError) -> Exception:
        if self.type in ("proc", "sysfs") and error.errno == errno.EPERM:
            return LaunchError(
                f"cannot mount {self.type} at `{self.destination}`: {error}",
                f"inside a user namespace the kernel wants a fully visible {self.type} outside; where this runs in "
                "a container, that one must be started with unmasked /proc and /sys",
                error.errno or 0,
            )
        return LaunchError(f"cannot mount {self.type} at `{self.destination}`: {error}", errno=error.errno or 0)


class BindMount(Operation):
    """Make what is at `source` on the host appear at `destination`."""

    __slots__ = ("destination", "optional", "options", "source", "tree")

    def __init__(self, source: str, destination: str, options: Options, optional: bool = False, tree: int = -1) -> None:
        self.source = source
        self.destination = destination
        self.options = options
        self.optional = optional
        self.tree = tree

    def describe(self) -> str:
        return f"bind `{self.source}` at `{self.destination}`"

    def execute(self, context: Context) -> None:
        if self.tree >= 0:
            is_directory = stat.S_ISDIR(os.fstat(self.tree).st_mode)
            attach_tree(self.tree, paths.open_like(context.root, self.destination, is_directory), self.options)
            return
        try:
            tree = mount.clone_tree(self.source, self.options.recursive)
        except SyscallError as error:
            if self.optional and error.errno == errno.ENOENT:
                return
            raise LaunchError(
                f"cannot bind mount `{self.source}` at `{self.destination}`: {error}",
                "check `source` in `mounts`",
                error.errno or 0,
            ) from error
        is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        attach_tree(tree, paths.open_like(context.root, self.destination, is_directory), self.options)


class Call(Operation):
    """A step that belongs to another module, such as hooks between the mounts and the pivot."""

    __slots__ = ("action", "words")

    def __init__(self, words: str, action: "Callable[[], None]") -> None:
        self.words = words
        self.action = action

    def describe(self) -> str:
        return self.words

    def execute(self, context: Context) -> None:
        self.action()


class Pivot(Operation):
    """Make the root mount the root of this mount namespace and drop the host's.

    Who runs in a chroot has another root than the namespace. Pivoting that one alone would leave the host's files
    at the top, where every setns(2) into this namespace would land; entering our own namespace goes to its top.
    """

    __slots__ = ("propagation",)

    def __init__(self, propagation: int = 0) -> None:
        self.propagation = propagation

    def describe(self) -> str:
        return "pivot into the root"

    def execute(self, context: Context) -> None:
        here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(here, namespaces.CLONE_NEWNS)
        os.close(here)
        old = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(context.root)
        # With both arguments "." the old root lands on top of the new one and is then cut off
        # (pivot_root(2), NOTES): no directory for it is needed in the image.
        mount.pivot_root(".", ".")
        os.fchdir(old)
        # Before the cut nothing may flow back to the host.
        mount.mount(None, ".", None, mount.MS_SLAVE | mount.MS_REC)
        mount.umount(".", mount.MNT_DETACH)
        os.chdir("/")
        os.close(old)
        os.close(context.root)
        context.root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if self.propagation:
            mount.mount(None, "/", None, self.propagation)


class Chroot(Operation):
    """Make the root by chroot(2), for a container that shares the host's mount namespace."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"chroot into `{self.path}`"

    def execute(self, context: Context) -> None:
        os.chdir(self.path)
        os.chroot(".")
        context.root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Mask(Operation):
    """Hide `path`: a file behind the host's /dev/null, a directory behind an empty read-only tmpfs.

    This comes before the pivot: the null device is then the host's, never the image's (CVE-2025-31133), and
    still a mount of this namespace, which is what may be copied.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"mask `{self.path}`"

    def execute(self, context: Context) -> None:
        try:
            target = open_in_root(context.root, self.path, O_PATH)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        if stat.S_ISDIR(os.fstat(target).st_mode):
            self._hide_directory(context, target)
        else:
            if context.null < 0:
                context.null = open_null()
            cover = mount.clone_fd(context.null)
            mount.attach(cover, target)
            os.close(cover)
        os.close(target)

    def _hide_directory(self, context: Context, target: int) -> None:
        if context.masks >= 0:
            cover = mount.clone_fd(context.masks)
            mount.attach(cover, target)
            os.close(cover)
            return
        flags = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
        context.masks = mount.new_mount("tmpfs", [("nr_blocks", "1"), ("nr_inodes", "1")], flags)
        mount.attach(context.masks, target)


class ReadOnly(Operation):
    """Make `path` and all below it read-only by a read-only copy over itself."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make `{self.path}` read-only"

    def execute(self, context: Context) -> None:
        try:
            target = open_in_root(context.root, self.path, O_PATH)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        copy = mount.clone_fd(target, recursive=True)
        mount.setattr_mount(copy, mount.MOUNT_ATTR_RDONLY, recursive=True)
        mount.attach(copy, target)
        os.close(copy)
        os.close(target)


class ReadOnlyRoot(Operation):
    """Make the root mount read-only; what is mounted below it keeps its own flags."""

    __slots__ = ()

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, context: Context) -> None:
        mount.setattr_mount(context.root, mount.MOUNT_ATTR_RDONLY)


def open_null() -> int:
    """Return an O_PATH descriptor of the host's /dev/null, refusing anything else of that name."""
    fd = os.open("/dev/null", O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        raise LaunchError("`/dev/null` of this host is not the null device")
    return fd


def _new_file_system(fstype: str, options: Options) -> int:
    if fstype != "overlay":
        return mount.new_mount(fstype, options.data, options.attr_set)
    return mount.new_mount("overlay", list(_split_lower_directories(options.data)), options.attr_set)


def _split_lower_directories(data: "list[tuple[str, str | None]]") -> "list[tuple[str, str | None]]":
    """Return overlay options with one `lowerdir+` per layer (Linux 6.7), free of mount(2)'s 4 KiB page.

    Only where that many characters are there: older kernels know `lowerdir` alone.
    """
    split: list[tuple[str, str | None]] = []
    for key, value in data:
        if key == "lowerdir" and value is not None and len(value) > 255:
            split += [("lowerdir+", layer.replace("\\:", ":")) for layer in _split_escaped(value)]
        else:
            split.append((key, value))
    return split


def _split_escaped(value: str) -> "list[str]":
    parts = [""]
    escaped = False
    for char in value:
        if char == ":" and not escaped:
            parts.append("")
        else:
            parts[-1] += char
        escaped = char == "\\" and not escaped
    return parts


def attach_tree(tree: int, target: int, options: Options) -> None:
    """Give the detached `tree` its attributes, then let it be seen at `target`; both are closed."""
    try:
        if options.bind and (options.attr_set or options.attr_clr):
            mount.setattr_mount(tree, options.attr_set, options.attr_clr)
        if options.tree_set or options.tree_clr:
            mount.setattr_mount(tree, options.tree_set, options.tree_clr, recursive=True)
        mount.attach(tree, target)
        if options.propagation:
            mount.setattr_mount(
                tree,
                propagation=options.propagation & ~mount.MS_REC,
                recursive=bool(options.propagation & mount.MS_REC),
            )
    finally:
        os.close(tree)
        os.close(target)
