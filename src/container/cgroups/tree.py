"""Directories of a cgroup file system, by descriptors whose file system type was checked.

A `Root` is one mounted hierarchy; a `Directory` is one cgroup in it. Every control file is opened
relative to such a directory, so a mount or a link that somebody put over /sys/fs/cgroup is noticed
instead of written to (CVE-2025-52881). Out of scope: which files mean what.
"""

import errno
import os
import time

from container.errors import DeadlineError, HostError, StateError
from container.linux.files import CGROUP2_SUPER_MAGIC, CGROUP_SUPER_MAGIC, filesystem_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

#: The wait between two looks at a cgroup that still has dying processes: it starts at this and doubles.
_FIRST_WAIT_S = 0.0002
_LONGEST_WAIT_S = 0.02


class Root:
    """One mounted hierarchy.

    Attributes:
        mountpoint: where it is mounted.
        own: the cgroup of this process in it, relative to the mount point.
        magic: the file system type that it must have.
    """

    __slots__ = ("_fd", "magic", "mountpoint", "own")

    def __init__(self, mountpoint: str, own: str, magic: int) -> None:
        self.mountpoint = mountpoint
        self.own = own
        self.magic = magic
        self._fd = -1

    @property
    def fd(self) -> int:
        """The directory, opened and checked at first use and then kept."""
        if self._fd < 0:
            fd = os.open(self.mountpoint, _DIRECTORY)
            if filesystem_type(fd) != self.magic:
                os.close(fd)
                raise HostError(f"`{self.mountpoint}` is not a cgroup file system", "mount it again")
            self._fd = fd
        return self._fd

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return self.magic == CGROUP2_SUPER_MAGIC

    def is_writable(self, relative: str = ".") -> bool:
        """Tell whether we may make cgroups in `relative` and move processes into them."""
        try:
            return all(
                os.access(os.path.join(relative, name), os.W_OK, dir_fd=self.fd, effective_ids=True)
                for name in (".", "cgroup.procs")
            )
        except OSError:
            return False

    def path(self, relative: str) -> str:
        """Return the absolute path of the cgroup `relative`."""
        return self.mountpoint if relative == "." else f"{self.mountpoint}/{relative}"

    def relative(self, path: str) -> str:
        """Return the way from the mount point to the absolute `path`.

        Raises:
            StateError: it does not lie in this hierarchy.
        """
        if not path.startswith(self.mountpoint + "/") or ".." in path.split("/"):
            raise StateError(f"cgroup `{path}` is not below `{self.mountpoint}`", "was the hierarchy remounted?")
        return path[len(self.mountpoint) + 1 :]

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Directory:
    """One cgroup, open; used in a `with` block or closed by its owner."""

    __slots__ = ("fd", "path")

    def __init__(self, root: Root, relative: str) -> None:
        self.path = root.path(relative)
        self.fd = os.open(relative, _DIRECTORY, dir_fd=root.fd)
        if filesystem_type(self.fd) != root.magic:
            self.close()
            raise HostError(f"`{self.path}` is not a cgroup", "something is mounted over it: unmount it")

    def read(self, file: str) -> str:
        """Return the text of a control file."""
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            return b"".join(chunks).decode()
        finally:
            os.close(fd)

    def write(self, file: str, value: str) -> None:
        """Write `value` to a control file in one write, as the kernel wants it."""
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def children(self) -> "list[str]":
        """Return the names of the cgroups right below."""
        with os.scandir(self.fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make(root: Root, relative: str) -> bool:
    """Make one cgroup; False if it was there already. Its parent must exist.

    Raises:
        HostError: we may not.
    """
    try:
        os.mkdir(relative, 0o755, dir_fd=root.fd)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise HostError(
            f"cannot make cgroup `{root.path(relative)}`: {(error.strerror or '').lower()}",
            "have this hierarchy delegated, or leave out the limits that need it",
        ) from error
    return True


def read_pids(root: Root, relative: str) -> "list[int]":
    """Return the processes of the cgroup and of all below it; an absent one has none."""
    try:
        with Directory(root, relative) as directory:
            pids = [int(line) for line in directory.read("cgroup.procs").split()]
            names = directory.children()
    except OSError as error:
        # EOPNOTSUPP: a threaded cgroup of version 2 names its processes in the parent only.
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise
    for name in names:
        pids += read_pids(root, f"{relative}/{name}")
    return pids


def remove(root: Root, relative: str, deadline: float) -> None:
    """Remove the cgroup with all below it, waiting until `deadline` (time.monotonic) for the last process.

    A cgroup stays busy for a moment after the last wait(2): its tasks leave it only when they are torn
    down. There is no event for that in version 1, so the removal itself is repeated.

    Raises:
        DeadlineError: processes are left.
    """
    wait_s = _FIRST_WAIT_S
    while not _removed(root, relative):
        if time.monotonic() > deadline:
            left = " ".join(str(pid) for pid in read_pids(root, relative))
            raise DeadlineError(
                f"cgroup `{root.path(relative)}` cannot be removed: processes `{left}` are left",
                "kill them, then delete again",
            )
        time.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


def _removed(root: Root, relative: str) -> bool:
    """Remove the cgroup once, deepest first; False if something is still in the way."""
    try:
        os.rmdir(relative, dir_fd=root.fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return True
    try:
        with Directory(root, relative) as directory:
            names = directory.children()
    except FileNotFoundError:
        return True
    # Every child is tried, so no generator that stops at the first which is busy.
    gone = [_removed(root, f"{relative}/{name}") for name in names]
    return bool(gone) and all(gone) and _removed(root, relative)


def magic_of(fstype: str) -> int:
    """Return the magic number of the file system type `cgroup` or `cgroup2`."""
    return CGROUP2_SUPER_MAGIC if fstype == "cgroup2" else CGROUP_SUPER_MAGIC
