"""Making the files and directories that mounts go over, inside a root that the image controls.

Every step is relative to a descriptor and resolved by openat2 with RESOLVE_IN_ROOT: a symbolic link in
the image, even one exchanged while we look, cannot lead outside (CVE-2021-30465, CVE-2024-45310).
"""

import errno
import os

from container.errors import LaunchError
from container.linux._libc import SyscallError
from container.linux.files import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)

O_PATH = 0o10000000
_DIRECTORY = O_PATH | os.O_DIRECTORY


def open_directory(root: int, path: str, mode: int = 0o755) -> int:
    """Return an O_PATH descriptor of directory `path` below `root`, made where it is missing."""
    try:
        return open_in_root(root, path, _DIRECTORY)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    return _make_directories(root, path, mode)


def open_real_directory(root: int, path: str) -> int:
    """Return directory `path` as open_directory does, and refuse it if any part of it is a symbolic link.

    proc, sysfs and cgroup file systems go only over real directories: writes that we later make
    below them must reach the kernel and nothing else (CVE-2019-16884, CVE-2019-19921).
    """
    os.close(open_directory(root, path))
    try:
        return openat2(root, path, _DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS)
    except SyscallError as error:
        if error.errno == errno.ELOOP:
            raise LaunchError(f"`{path}` in the image is a symbolic link and cannot be mounted over") from error
        raise


def open_file(root: int, path: str) -> int:
    """Return an O_PATH descriptor of the non-directory `path` below `root`, made empty if missing."""
    try:
        return open_in_root(root, path, O_PATH)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    parent = open_parent(root, path)
    try:
        name = os.path.basename(path)
        try:
            fd = os.open(
                name,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o644,
                dir_fd=parent,
            )
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise _refused(path, error) from error
            # A dangling link: make what it points at, inside the root.
            os.close(open_parent(root, _follow(parent, path)))
            fd = openat2(root, path, os.O_WRONLY | os.O_CREAT, 0o644, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        os.close(fd)
        return open_in_root(root, path, O_PATH)
    finally:
        os.close(parent)


def open_parent(root: int, path: str) -> int:
    """Return an O_PATH descriptor of the directory that holds `path`, made where it is missing."""
    return open_directory(root, os.path.dirname(path.rstrip("/")) or "/")


def open_like(root: int, path: str, is_directory: bool) -> int:
    """Return a target at `path` of the kind that the source of a bind mount is."""
    return open_directory(root, path) if is_directory else open_file(root, path)


def _make_directories(root: int, path: str, mode: int) -> int:
    walked = ""
    parent = open_in_root(root, ".", _DIRECTORY)
    for part in path.split("/"):
        if part in ("", "."):
            continue
        walked = f"{walked}/{part}"
        try:
            child = _enter(root, parent, walked, mode)
        finally:
            os.close(parent)
        parent = child
    return parent


def _enter(root: int, parent: int, walked: str, mode: int) -> int:
    try:
        return open_in_root(root, walked, _DIRECTORY)
    except SyscallError as error:
        if error.errno != errno.ENOENT or walked.endswith("/.."):
            raise
    return _make_one(root, parent, walked, os.path.basename(walked), mode)


def _make_one(root: int, parent: int, walked: str, part: str, mode: int) -> int:
    try:
        os.mkdir(part, mode, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise _refused(walked, error) from error
        # It exists but could not be opened: a dangling link. Make what it points at, inside the root.
        return _make_directories(root, _follow(parent, walked), mode)
    return open_in_root(root, walked, _DIRECTORY)


def _follow(parent: int, path: str) -> str:
    """Return where the link `path`, whose directory is `parent`, points; a plain file has come in between."""
    link = os.readlink(os.path.basename(path), dir_fd=parent)
    return link if link.startswith("/") else f"{os.path.dirname(path)}/{link}"


def _refused(path: str, error: OSError) -> LaunchError:
    return LaunchError(
        f"cannot make mount point `{path}` in the image: {(error.strerror or '').lower()}",
        "make it beforehand, or let the container's root user write there",
        error.errno or 0,
    )
