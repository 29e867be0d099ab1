"""Unpack one layer: verify, decompress and write it, all while it streams by.

Two digests are checked: that of the compressed bytes, which the manifest names, and that of the tar
inside, the diff id, which the image config names and under which the layer is kept. The tree only
gets its final name when both are right, so a directory below `layers` with a diff id for a name is whole.

Each layer is unpacked by itself, so that images share it and all layers of an image unpack at once. Hence what an
archive leaves unsaid cannot be looked up in the layers below: parents that it does not list get mode 0755.

A lock on the unfinished directory keeps two processes from unpacking the same layer; the second finds it done.
Where the bytes come from is the caller's business.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blob.errors import DigestError as BlobDigestError
from blob.oci.digest import Verifier, parse_digest
from container.errors import DigestError, HostError, ImageError
from container.images.bytestream import ByteStream, TarError
from container.images.compression import CompressionError, decompress
from container.images.prefetch import Prefetch
from container.images.removal import empty_directory, remove_tree
from container.images.tar import TarReader
from container.images.tree import Counts, Tree

PARTIAL = ".partial"

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Layer:
    """What is to be unpacked, and where.

    Attributes:
        digest: of the bytes as they come.
        size: their number.
        diff_id: digest of the tar inside.
        directory: the `layers` directory of the store.
    """

    digest: str
    size: int
    diff_id: str
    directory: str

    @property
    def name(self) -> str:
        """The directory's name, also used as the key of the layer."""
        return layer_name(self.diff_id)

    @property
    def path(self) -> str:
        """Where the finished tree is."""
        return os.path.join(self.directory, self.name)

    @property
    def partial(self) -> str:
        """Where the unfinished tree is."""
        return os.path.join(self.directory, f".{self.name}{PARTIAL}")


def layer_name(diff_id: str) -> str:
    """Return the name of a layer's directory; only digests have one, so it cannot lead anywhere else."""
    digest = parse_digest(diff_id)
    return digest.encoded if digest.algorithm == "sha256" else f"{digest.algorithm}-{digest.encoded}"


def is_real_root() -> bool:
    """Say whether we are root of the machine, and not of a user namespace only."""
    with open("/proc/self/uid_map", encoding="ascii") as mapping:
        return os.geteuid() == 0 and mapping.read().split() == ["0", "0", "4294967295"]


def unpack(layer: Layer, fetch: Callable[[], Iterator[bytes]]) -> Counts | None:
    """Unpack `layer` from the chunks that `fetch` begins to yield; None if it is there already.

    Raises:
        DigestError: the bytes are not those that were asked for.
        ImageError: they are, but no archive can be read from them.
        HostError: the disk is full or read-only.
    """
    with _host_errors(layer), _lock(layer) as root:
        if root is None:
            return None
        try:
            empty_directory(root)
            counts = _unpack_into(root, layer, fetch())
            os.rename(layer.partial, layer.path)
        except BaseException:
            remove_tree(layer.partial)
            raise
    return counts


def remove_leftovers(directory: str) -> None:
    """Remove what killed processes left below `directory`, but not what somebody is working on."""
    for entry in os.listdir(directory):
        path = os.path.join(directory, entry)
        if not entry.startswith("."):
            continue
        try:
            fd = os.open(path, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, fd):
                remove_tree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)


def _unpack_into(root: int, layer: Layer, chunks: Iterator[bytes]) -> Counts:
    _make_plain(root)
    compressed, inner = Verifier(parse_digest(layer.digest)), Verifier(parse_digest(layer.diff_id))
    source = _watch(chunks, compressed, layer.size)
    ahead = Prefetch(_watch(decompress(source), inner))
    try:
        try:
            counts = _write(root, ahead)
        finally:
            ahead.close()
    except (TarError, CompressionError, EOFError) as error:
        # Before the archive is blamed: are these the bytes that its author wrote?
        for _ in source:
            pass
        _verify(compressed, layer.size, layer)
        raise ImageError(f"layer `{layer.digest}` is broken{_place(error)}: {error}") from error
    _verify(compressed, layer.size, layer)
    _verify(inner, inner.size, layer)
    return counts


def _write(root: int, chunks: Iterator[bytes]) -> Counts:
    privileged = is_real_root()
    # Whoever is not will mount this in a user namespace, where overlayfs reads `user.*` only.
    tree = Tree(root, f"{'trusted' if privileged else 'user'}.overlay.opaque", devices=privileged)
    stream = ByteStream(chunks)
    reader = TarReader(stream)
    # Modes come from the archive and from nowhere else.
    umask = os.umask(0)
    try:
        for entry in reader:
            try:
                tree.add(entry, reader.content(entry))
            except (OSError, TarError) as error:
                if isinstance(error, OSError) and error.errno in (*_FULL, errno.EROFS, errno.EIO):
                    raise
                shown = entry.name[:200].decode("utf-8", "backslashreplace")
                text = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
                raise TarError(f"`{shown}`: {text}", stream.offset) from error
        tree.finish()
    finally:
        os.umask(umask)
        tree.close()
    stream.drain()
    return tree.counts


def _watch(chunks: Iterator[bytes], verifier: Verifier, limit: int | None = None) -> Iterator[bytes]:
    for chunk in chunks:
        verifier.update(chunk)
        if limit is not None and verifier.size > limit:
            raise DigestError(f"more than {limit} bytes were sent for `{verifier.expected}`")
        yield chunk


def _verify(verifier: Verifier, size: int, layer: Layer) -> None:
    try:
        verifier.verify()
    except BlobDigestError as error:
        raise DigestError(f"layer `{layer.digest}`: {error}", "pull again, or ask the image's author") from error
    if verifier.size != size:
        raise DigestError(f"layer `{layer.digest}` has {verifier.size} bytes, not {size}")


def _place(error: Exception) -> str:
    return f" at byte {error.offset}" if isinstance(error, TarError) else ""


def _make_plain(root: int) -> None:
    """Undo what the directory inherited from the store's: group, set-gid bit and default ACL."""
    try:
        os.removexattr(root, "system.posix_acl_default")
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
    os.fchown(root, os.geteuid(), os.getegid())
    os.fchmod(root, 0o755)


@contextmanager
def _lock(layer: Layer) -> Iterator[int | None]:
    """Yield a descriptor of the unfinished directory, locked; None if the layer is finished."""
    while True:
        if os.path.isdir(layer.path):
            yield None
            return
        try:
            os.mkdir(layer.partial, 0o700)
        except FileExistsError:
            # Being written by somebody, or left behind by a process that was killed: the lock tells.
            pass
        try:
            fd = os.open(layer.partial, _OPEN)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_still(layer.partial, fd):
                yield fd
                return
        finally:
            os.close(fd)


def _is_still(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


@contextmanager
def _host_errors(layer: Layer) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        hint = f"free space for `{layer.directory}`" if error.errno in _FULL else ""
        raise HostError(f"cannot write layer `{layer.digest}`: {text}", hint) from error
