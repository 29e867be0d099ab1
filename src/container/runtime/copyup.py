"""tmpcopyup: a tmpfs that begins with what the image has in the directory it covers (config.md, mount options)."""

import os
import stat


def copy_up(source: int, tree: int) -> None:
    """Copy the content of the directory `source` into the new file system `tree` (tmpcopyup)."""
    here = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    there = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _copy_directory(here, there)
    finally:
        os.close(here)
        os.close(there)


def _copy_directory(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listdir(source):
        entry = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(entry.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        if stat.S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner, outer = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            _copy_directory(inner, outer)
        elif stat.S_ISREG(entry.st_mode):
            inner = os.open(name, flags, dir_fd=source)
            outer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            while os.sendfile(outer, inner, None, 1 << 20):
                pass
            os.fchown(outer, entry.st_uid, entry.st_gid)
            os.fchmod(outer, stat.S_IMODE(entry.st_mode))
        else:
            continue
        os.close(inner)
        os.close(outer)
