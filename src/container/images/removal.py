"""Remove a tree that its owner filled with anything: by descriptors, never through a link.

Neither the depth nor the width of the tree matters: a directory inside a directory is moved to the top
instead of being descended into, so two descriptors are open at a time. Directories that forbid reading
or writing are opened up first, for users who are not root.
"""

import errno
import os
import stat

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: rename(2) onto something that cannot be replaced: the name is taken.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def remove_tree(path: str) -> None:
    """Remove whatever `path` names; that it is gone already is fine."""
    above, name = os.path.split(path.rstrip("/"))
    try:
        parent = os.open(above or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(parent, os.fsencode(name))
    finally:
        os.close(parent)


def remove_at(parent: int, name: bytes) -> None:
    """Remove `name` in the directory `parent` with all that is below it."""
    if _unlink(parent, name):
        return
    top = _open_directory(parent, name)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def empty_directory(directory: int) -> None:
    """Remove all that is in `directory`, but not itself."""
    top = _open_directory(directory, b".")
    try:
        _empty(top)
    finally:
        os.close(top)


def _empty(top: int) -> None:
    serial = 0
    while names := os.listdir(top):
        for name in map(os.fsencode, names):
            if _unlink(top, name):
                continue
            inner = _open_directory(top, name)
            try:
                serial = _empty_into(top, inner, serial)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _empty_into(top: int, inner: int, serial: int) -> int:
    """Unlink the files of `inner`, move its directories to `top`, and return the next free serial."""
    for name in map(os.fsencode, os.listdir(inner)):
        if not _unlink(inner, name) and not _remove_empty(inner, name):
            serial = _move_up(inner, name, top, serial)
    return serial


def _move_up(inner: int, name: bytes, top: int, serial: int) -> int:
    # Moving a directory changes its `..`, for which it must be writable.
    os.close(_open_directory(inner, name))
    while True:
        serial += 1
        try:
            os.rename(name, b".remove-%d" % serial, src_dir_fd=inner, dst_dir_fd=top)
            return serial
        except OSError as error:
            if error.errno not in _TAKEN:
                raise


def _remove_empty(parent: int, name: bytes) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _unlink(parent: int, name: bytes) -> bool:
    """Unlink `name`; False if it is a directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        # unlink(2) of a directory: EISDIR on Linux, EPERM by POSIX and on some file systems.
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        return False
    return True


def _open_directory(parent: int, name: bytes) -> int:
    """Open a directory for listing, and make it ours to read and write where it is not."""
    handle = os.open(name, _OPEN, dir_fd=parent)
    try:
        mode = os.fstat(handle).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            # Through /proc the mode of this very directory is changed, whatever its name means by now.
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(mode) | stat.S_IRWXU)
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
