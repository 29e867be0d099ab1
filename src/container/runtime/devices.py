"""Operations that make nodes, links and directories in a container's tree.

Out of scope: which of them there are (container.runtime.rootfs), and the device rules of a cgroup.
"""
# ruff: noqa: D102 - the methods of an operation are explained once, in the base class

import os
import stat

from container.errors import LaunchError
from container.linux import mount
from container.linux._libc import SyscallError
from container.runtime import paths
from container.runtime.operations import Context, Operation, attach_tree
from container.runtime.options import Options


class MakeDirectory(Operation):
    """Make a directory with those above it where the image lacks it; a read-only place is left as it is."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make directory `{self.path}`"

    def execute(self, context: Context) -> None:
        try:
            os.close(paths.open_directory(context.root, self.path))
        except OSError:
            return  # going there will say what is wrong, in the user's words and with the user's rights


class MakeDevice(Operation):
    """Make a device node; where mknod(2) is denied, in a user namespace, bind the launcher's or the host's."""

    __slots__ = ("bind", "gid", "kind", "major", "minor", "mode", "node", "path", "uid")

    def __init__(
        self,
        path: str,
        kind: str,
        major: int,
        minor: int,
        mode: int = 0o666,
        uid: int = 0,
        gid: int = 0,
        bind: bool = False,
        node: int = -1,
    ) -> None:
        self.path, self.kind, self.major, self.minor = path, kind, major, minor
        self.mode, self.uid, self.gid, self.bind, self.node = mode, uid, gid, bind, node

    def describe(self) -> str:
        verb = "bind" if self.bind else "make"
        return f"{verb} device `{self.path}` {self.kind} {self.major}:{self.minor}"

    def execute(self, context: Context) -> None:
        if self.bind:
            self._bind(context)
        else:
            self._make(context)

    def _bind(self, context: Context) -> None:
        tree = self.node
        if tree < 0:
            try:
                tree = mount.clone_tree(self.path, recursive=False)
            except SyscallError as error:
                raise LaunchError(
                    f"cannot bind device `{self.path}`: {error}",
                    "in a user namespace only devices of the host can be had, under their names there",
                    error.errno or 0,
                ) from error
        if not self._is_it(os.fstat(tree)):
            os.close(tree)
            raise LaunchError(f"`{self.path}` of the host is not device {self.kind} {self.major}:{self.minor}")
        options = Options()
        options.bind = True
        options.attr_set = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC
        attach_tree(tree, paths.open_file(context.root, self.path), options)

    def _make(self, context: Context) -> None:
        parent = paths.open_parent(context.root, self.path)
        name = os.path.basename(self.path)
        umask = os.umask(0)
        try:
            os.mknod(name, self._type() | self.mode, os.makedev(self.major, self.minor), dir_fd=parent)
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if not self._is_it(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise LaunchError(
                    f"`{self.path}` exists in the image and is another device or no device", "remove it from the image"
                ) from None
        finally:
            os.umask(umask)
            os.close(parent)

    def _type(self) -> int:
        return {"b": stat.S_IFBLK, "p": stat.S_IFIFO}.get(self.kind, stat.S_IFCHR)

    def _is_it(self, found: os.stat_result) -> bool:
        kind = self._type()
        same_device = kind == stat.S_IFIFO or found.st_rdev == os.makedev(self.major, self.minor)
        return stat.S_IFMT(found.st_mode) == kind and same_device


class MakeLink(Operation):
    """Make a symbolic link, unless something is there."""

    __slots__ = ("path", "target")

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.target = target

    def describe(self) -> str:
        return f"link `{self.path}` to `{self.target}`"

    def execute(self, context: Context) -> None:
        parent = paths.open_parent(context.root, self.path)
        try:
            os.symlink(self.target, os.path.basename(self.path), dir_fd=parent)
        except FileExistsError:
            return
        finally:
            os.close(parent)
