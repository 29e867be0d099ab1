"""Find the directories of a tree that an archive describes, without ever leaving the tree.

Names come from the archive: they may be absolute, climb with `..`, or lead through symlinks that an
earlier entry made. They are first cleaned as text, so that one directory has one name, and then given
to the kernel with RESOLVE_IN_ROOT, which takes the tree for the root of every link. What is missing
is made. Descriptors are kept, since archives name the same directories over and over.
"""

import errno
import os
import stat
from collections.abc import Callable

from container.linux.files import open_in_root

_OPEN = os.O_PATH | os.O_DIRECTORY
#: Far below the usual soft limit of 1024 descriptors.
_KEPT = 256
#: The kernel's own limit on links in one path.
_MOST_LINKS = 40


def clean(name: bytes) -> bytes:
    """Return `name` relative to the root, without empty, `.` and `..` parts; `b""` is the root itself."""
    parts = name.removeprefix(b"./").split(b"/")
    if b"" not in parts and b"." not in parts and b".." not in parts:
        return b"/".join(parts)
    kept: list[bytes] = []
    for part in parts:
        if part == b"..":
            if kept:
                kept.pop()
        elif part not in (b"", b"."):
            kept.append(part)
    return b"/".join(kept)


def is_whiteout(status: os.stat_result) -> bool:
    """Say whether overlayfs takes this file for a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Directories:
    """Descriptors of the directories below `root`, which stays the caller's.

    Args:
        root: descriptor of the tree's top.
        replaced: told the name of each directory that took the place of a whiteout.
    """

    def __init__(self, root: int, replaced: Callable[[bytes], None]) -> None:
        self._root = root
        self._replaced = replaced
        self._open: dict[bytes, int] = {}

    def open(self, path: bytes) -> int:
        """Return a descriptor of directory `path` (clean), made where missing; it stays ours.

        It is good until the next call.

        Raises:
            OSError: ENOTDIR where a file is in the way, ELOOP for a loop of links.
        """
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is None:
            if len(self._open) >= _KEPT:
                self.forget()
            fd = self._open[path] = self._find(path)
        return fd

    def open_both(self, first: bytes, second: bytes) -> tuple[int, int]:
        """Return descriptors of two directories, good until the next call."""
        if len(self._open) >= _KEPT - 1:
            self.forget()
        return self.open(first), self.open(second)

    def forget(self) -> None:
        """Close the descriptors: something was replaced, and names may now mean other directories."""
        for fd in self._open.values():
            os.close(fd)
        self._open = {}

    def _find(self, path: bytes) -> int:
        try:
            return open_in_root(self._root, path, _OPEN)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        self._make_missing(path, 0)
        return open_in_root(self._root, path, _OPEN)

    def _make_missing(self, path: bytes, links: int) -> None:
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
        parts = path.split(b"/")
        for count in range(1, len(parts) + 1):
            part = b"/".join(parts[:count])
            if part and part not in self._open:
                self._make(part, links)

    def _make(self, path: bytes, links: int) -> None:
        above, _, name = path.rpartition(b"/")
        parent = open_in_root(self._root, above or b".", _OPEN)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            self._make_way(path, parent, links)
        finally:
            os.close(parent)

    def _make_way(self, path: bytes, parent: int, links: int) -> None:
        above, _, name = path.rpartition(b"/")
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            # A link to what only a lower layer has: make its target here, so that both layers agree.
            target = os.readlink(name, dir_fd=parent)
            self._make_missing(clean(target if target.startswith(b"/") else above + b"/" + target), links + 1)
        elif is_whiteout(found):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            self._replaced(path)
        elif not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
