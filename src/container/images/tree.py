"""Write the entries of a layer below one directory, as a lower directory for overlayfs.

A deletion (`.wh.NAME`) becomes a device 0:0, an opaque directory (`.wh..wh..opq`) an extended attribute.
Within the archive a later entry replaces an earlier one of its name. Modes, owners and times of directories
are set when all is written: by then nothing changes them any more, and nothing inherits from them.

What the host cannot represent is left out and counted, never guessed at: owners without a mapping
in a user namespace, devices there, attributes that belong to the host (SELinux labels) or to overlayfs
itself, with which an image could redirect lookups in other layers.
"""

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from container.images import tar
from container.images.bytestream import TarError
from container.images.directories import Directories, clean, is_whiteout
from container.images.removal import remove_at
from container.linux.files import open_in_root

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
_KEPT_XATTRS = (b"user.", b"security.capability", b"system.posix_acl_")


@dataclass(slots=True)
class Counts:
    """What was written, and what had to be left out."""

    entries: int = 0
    bytes: int = 0
    unmapped_owners: int = 0
    skipped_devices: int = 0
    dropped_xattrs: int = 0


class Tree:
    """Writes entries below `root`, a descriptor that stays the caller's.

    Args:
        root: an empty directory.
        opaque_xattr: `trusted.overlay.opaque`, or `user.overlay.opaque` in a user namespace.
        devices: whether device nodes can be made here.
    """

    def __init__(self, root: int, opaque_xattr: str, devices: bool) -> None:
        self.counts = Counts()
        self._root = root
        self._opaque_xattr = opaque_xattr
        self._make_devices = devices
        self._opaque: set[bytes] = set()
        self._attributes: dict[bytes, tar.Entry] = {}
        self._directories = Directories(root, self._opaque.add)

    def close(self) -> None:
        """Let go of all descriptors."""
        self._directories.forget()

    def add(self, entry: tar.Entry, content: Iterable[memoryview]) -> None:
        """Write one entry; `content` is the stored bytes of a file.

        Raises:
            TarError: the entry cannot be, as it stands.
            OSError: the disk refused.
        """
        self.counts.entries += 1
        path = clean(entry.name)
        above, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            self._delete(above, name)
        elif entry.kind == tar.DIRECTORY:
            self._add_directory(path, entry)
        elif not name:
            raise TarError("the root is not a directory", 0)
        elif entry.kind == tar.FILE:
            self._add_file(above, name, entry, content)
        elif entry.kind == tar.LINK:
            self._add_link(above, name, entry)
        elif entry.kind == tar.SYMLINK:
            self._add_symlink(above, name, entry)
        else:
            self._add_node(above, name, entry)

    def finish(self) -> None:
        """Set the attributes of directories, the deepest first."""
        for path in sorted(self._opaque.union(self._attributes), reverse=True):
            try:
                fd = open_in_root(self._root, path or b".", _OPEN_DIRECTORY)
            except OSError as error:
                # A later entry put something else there.
                if error.errno not in _GONE:
                    raise
                continue
            try:
                self._finish_directory(fd, path)
            finally:
                os.close(fd)

    def _finish_directory(self, fd: int, path: bytes) -> None:
        if path in self._opaque:
            os.setxattr(fd, self._opaque_xattr, b"y")
        entry = self._attributes.get(path)
        if entry is not None:
            mode = entry.mode
            if not self._own(fd, entry):
                mode &= ~(stat.S_ISUID | stat.S_ISGID)
            os.fchmod(fd, mode)
            self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _add_directory(self, path: bytes, entry: tar.Entry) -> None:
        above, _, name = path.rpartition(b"/")
        if name:
            parent = self._directories.open(above)
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                self._make_way_for_directory(parent, path, name)
        self._attributes[path] = entry

    def _make_way_for_directory(self, parent: int, path: bytes, name: bytes) -> None:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return
        if is_whiteout(found):
            self._opaque.add(path)
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)
        self._directories.forget()

    def _add_file(self, above: bytes, name: bytes, entry: tar.Entry, content: Iterable[memoryview]) -> None:
        parent = self._directories.open(above)
        mode = entry.mode & 0o1777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            fd = os.open(name, _CREATE, mode, dir_fd=self._replace(above, name))
        try:
            if entry.extents is None:
                for piece in content:
                    _write_all(fd, piece)
            else:
                _write_sparse(fd, content, entry.extents, entry.size)
            self.counts.bytes += entry.stored
            # chown clears set-id bits and capabilities, so it comes first; writing changes the time, so that is last.
            if self._own(fd, entry) and entry.mode & 0o6000:
                os.fchmod(fd, entry.mode)
            self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _add_link(self, above: bytes, name: bytes, entry: tar.Entry) -> None:
        target = clean(entry.target)
        target_above, _, target_name = target.rpartition(b"/")
        if not target_name or target == (above + b"/" + name if above else name):
            raise TarError("hard link to itself or to the root", 0)
        source, parent = self._directories.open_both(target_above, above)
        try:
            # Without AT_SYMLINK_FOLLOW: a link to a symlink is one more name of the symlink.
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._replace(above, name)
            source, parent = self._directories.open_both(target_above, above)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            shown = target.decode("utf-8", "replace")
            raise TarError(f"hard link to `{shown}`, which is not in this layer", 0) from error

    def _add_symlink(self, above: bytes, name: bytes, entry: tar.Entry) -> None:
        parent = self._directories.open(above)
        try:
            os.symlink(entry.target, name, dir_fd=parent)
        except FileExistsError:
            parent = self._replace(above, name)
            os.symlink(entry.target, name, dir_fd=parent)
        self.counts.dropped_xattrs += len(entry.xattrs or ())
        self._finish_name(parent, name, entry)

    def _add_node(self, above: bytes, name: bytes, entry: tar.Entry) -> None:
        kinds = {tar.CHAR: stat.S_IFCHR, tar.DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        is_device = entry.kind != tar.FIFO
        # A character device 0:0 in the archive would be a deletion that the archive did not spell as one.
        if is_device and (not self._make_devices or entry.device == (0, 0)):
            self.counts.skipped_devices += 1
            return
        mode = kinds[entry.kind] | entry.mode
        device = os.makedev(*entry.device) if is_device else 0
        parent = self._directories.open(above)
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        except FileExistsError:
            parent = self._replace(above, name)
            os.mknod(name, mode, device, dir_fd=parent)
        self._finish_name(parent, name, entry)

    def _finish_name(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        """Set owner and time of what cannot be opened without effect."""
        try:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            self._count_unmapped(error)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _delete(self, above: bytes, name: bytes) -> None:
        if name == _OPAQUE:
            self._directories.open(above)
            self._opaque.add(above)
            return
        target = name.removeprefix(_WHITEOUT)
        if name.startswith(_WHITEOUT_META) or target in (b"", b".", b".."):
            # Bookkeeping of aufs, or nothing that could be deleted.
            return
        parent = self._directories.open(above)
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # What this layer itself has stays; of a directory only the lower layers' part goes.
            found = os.stat(target, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._opaque.add(above + b"/" + target if above else target)

    def _replace(self, above: bytes, name: bytes) -> int:
        """Remove an earlier entry and return its directory."""
        remove_at(self._directories.open(above), name)
        self._directories.forget()
        return self._directories.open(above)

    def _own(self, fd: int, entry: tar.Entry) -> bool:
        try:
            os.fchown(fd, entry.uid, entry.gid)
        except OSError as error:
            self._count_unmapped(error)
            return False
        return True

    def _count_unmapped(self, error: OSError) -> None:
        # EINVAL: the id has no mapping in this user namespace; EPERM: we are not root in any.
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise error
        self.counts.unmapped_owners += 1

    def _set_xattrs(self, fd: int, entry: tar.Entry) -> None:
        for name, value in (entry.xattrs or {}).items():
            if not name.startswith(_KEPT_XATTRS) or name.startswith(b"user.overlay."):
                self.counts.dropped_xattrs += 1
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self.counts.dropped_xattrs += 1


def _write_all(fd: int, piece: memoryview) -> None:
    written = os.write(fd, piece)
    while written < len(piece):
        piece = piece[written:]
        written = os.write(fd, piece)


def _write_sparse(fd: int, content: Iterable[memoryview], extents: list[tuple[int, int]], size: int) -> None:
    ranges = iter(extents)
    at = left = 0
    for piece in content:
        while piece:
            while not left:
                at, left = next(ranges)
            part = piece[:left]
            os.lseek(fd, at, os.SEEK_SET)
            _write_all(fd, part)
            at, left, piece = at + len(part), left - len(part), piece[len(part) :]
    os.ftruncate(fd, size)
