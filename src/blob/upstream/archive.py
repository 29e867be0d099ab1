"""Image archives on disk as one shape: manifests, and where the bytes of each blob are.

Three kinds are understood, as a directory or a tar, plain or compressed with gzip or zstd:

- an OCI image layout (`index.json`);
- a Docker archive (`manifest.json`, from `docker save` and `skopeo copy … docker-archive:`);
- a plain root file system (anything else): it becomes the one layer of an image for this machine.

Names inside an archive are only ever looked up, never used as paths of this machine. Out of scope:
verification of layers, which whoever receives the bytes does anyway, and unpacking.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import msgspec

from blob.errors import ArchiveError, BlobError
from blob.oci import media_types
from blob.oci.digest import Digest, digest_of, parse_digest, verify_bytes
from blob.oci.image import ContainerConfig, ImageConfig, RootFs, format_image
from blob.oci.manifest import (
    Descriptor,
    Document,
    Index,
    Manifest,
    choose_manifest,
    format_manifest,
    parse_manifest,
)
from blob.oci.platform import host_platform
from blob.upstream.compression import compression_of_file, mapped_errors
from blob.upstream.members import Directory, Extent, read_members, spool_plain

_T = TypeVar("_T")

_REF_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_LAYER_TYPES = {
    "": media_types.OCI_LAYER,
    "gzip": media_types.OCI_LAYER_GZIP,
    "zstd": media_types.OCI_LAYER_ZSTD,
}


class _DockerImage(msgspec.Struct, rename="pascal"):
    config: str
    layers: tuple[str, ...] = ()
    repo_tags: tuple[str, ...] | None = None


class Archive:
    """An opened archive; a context manager that owns the files.

    Attributes:
        documents: manifests and indexes, what is named before what names it; the last is the image.
    """

    def __init__(self, files: list[BinaryIO], documents: list[Document], blobs: dict[Digest, Extent | bytes]) -> None:
        self._files = files
        self._blobs = blobs
        self.documents = tuple(documents)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    @property
    def top(self) -> Document:
        """The image itself: its manifest, or an index of several."""
        return self.documents[-1]

    @property
    def config(self) -> bytes:
        """The config of the image (of the one that fits this machine, where there are several)."""
        content = self.top.content
        if isinstance(content, Index):
            chosen = choose_manifest(content, host_platform()).digest
            content = next(d.content for d in self.documents if str(d.digest) == chosen)
        if isinstance(content, Index):
            raise ArchiveError("the archive's index names another index")
        return b"".join(self.chunks(parse_digest(content.config.digest)))

    def blob_digests(self) -> list[Digest]:
        """Return configs and layers in the order in which manifests name them, each once."""
        images = [d.content for d in self.documents if isinstance(d.content, Manifest)]
        named = [entry for image in images for entry in (image.config, *image.layers)]
        return list(dict.fromkeys(parse_digest(entry.digest) for entry in named if self._has(entry)))

    def size_of(self, digest: Digest) -> int:
        """Return the size of a blob in the archive."""
        blob = self._find(digest)
        return len(blob) if isinstance(blob, bytes) else blob.size

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """Yield the bytes of a blob.

        Raises:
            ArchiveError: the archive does not have it.
        """
        blob = self._find(digest)
        return iter((blob,)) if isinstance(blob, bytes) else blob.chunks()

    def _find(self, digest: Digest) -> Extent | bytes:
        try:
            return self._blobs[digest]
        except KeyError:
            raise ArchiveError(f"the archive does not have blob `{digest}`") from None

    def _has(self, entry: Descriptor) -> bool:
        if parse_digest(entry.digest) in self._blobs:
            return True
        if media_types.is_foreign(entry.media_type):
            return False
        raise ArchiveError(f"the archive does not have blob `{entry.digest}`", "it may be cut off: make it again")


def open_archive(path: Path, select: str = "") -> Archive:
    """Open an image archive of any kind.

    Args:
        path: a file or a directory.
        select: which image, by its name in the archive, where there are several.

    Raises:
        ArchiveError: it cannot be read, is broken, or holds several images and none is selected.
    """
    files: list[BinaryIO] = []
    try:
        return _open(path, select, files)
    except BaseException as error:
        for file in files:
            file.close()
        if isinstance(error, BlobError) and not isinstance(error, ArchiveError):
            raise ArchiveError(f"archive `{path}`: {error.message}", error.hint) from error
        raise


def _open(path: Path, select: str, files: list[BinaryIO]) -> Archive:
    if path.is_dir():
        return _open_layout(Directory(path, files), select, files)
    with mapped_errors(path):
        compression = compression_of_file(path)
        if compression:
            plain = spool_plain(path, compression, files)
        else:
            files.append(plain := path.open("rb"))
    members = read_members(plain, path)
    if "index.json" in members and "oci-layout" in members:
        return _open_layout(members, select, files)
    if "manifest.json" in members:
        return _open_docker(members, select, files)
    if not members:
        raise ArchiveError(f"archive `{path}` is empty")
    return _open_rootfs(path, compression, plain, members, files)


def _open_layout(members: Mapping[str, Extent], select: str, files: list[BinaryIO]) -> Archive:
    try:
        root = parse_manifest(members["index.json"].whole(), media_types.OCI_INDEX)
    except KeyError:
        raise ArchiveError("the directory has no `index.json`", "name an OCI image layout, or pack it") from None
    if not isinstance(root.content, Index):
        raise ArchiveError("`index.json` is not an index")
    layout = _Layout(members)
    layout.add(_select(root.content.manifests, select, _names_of))
    return Archive(files, layout.documents, layout.blobs)


class _Layout:
    """Walks from a descriptor down and collects documents, the leaves first."""

    def __init__(self, members: Mapping[str, Extent]) -> None:
        self._members = members
        self.documents: list[Document] = []
        self.blobs: dict[Digest, Extent | bytes] = {}

    def add(self, entry: Descriptor, depth: int = 0) -> None:
        digest = parse_digest(entry.digest)
        extent = self._locate(digest)
        if extent is None or depth > 2:
            raise ArchiveError(f"the archive does not have manifest `{entry.digest}`")
        raw = extent.whole()
        verify_bytes(raw, digest)
        document = parse_manifest(raw, entry.media_type, digest.algorithm)
        if isinstance(document.content, Manifest):
            self._add_blobs(document.content)
        elif all(self._locate(parse_digest(child.digest)) for child in document.content.manifests):
            for child in document.content.manifests:
                self.add(child, depth + 1)
        else:
            # `docker save` keeps the index of all platforms but only one platform's image.
            return self.add(choose_manifest(document.content, host_platform()), depth + 1)
        if document not in self.documents:
            self.documents.append(document)
        return None

    def _add_blobs(self, image: Manifest) -> None:
        for entry in (image.config, *image.layers):
            digest = parse_digest(entry.digest)
            extent = self._locate(digest)
            if extent is None:
                continue
            if extent.size != entry.size:
                raise ArchiveError(
                    f"blob `{digest}` has {extent.size} bytes in the archive, not {entry.size}",
                    "make it again",
                )
            self.blobs[digest] = extent

    def _locate(self, digest: Digest) -> Extent | None:
        return self._members.get(f"blobs/{digest.algorithm}/{digest.encoded}")


def _select(choices: Sequence[_T], wanted: str, names: Callable[[_T], tuple[str, ...]]) -> _T:
    """Return the only choice, or the one that has the wanted name."""
    fitting = [choice for choice in choices if not wanted or wanted in names(choice)]
    if len(fitting) == 1:
        return fitting[0]
    known = sorted({name for choice in choices for name in names(choice)})
    hint = f"there is: {', '.join(known)}" if known else "pack one image per archive"
    if not choices:
        raise ArchiveError("the archive holds no image")
    if not fitting:
        raise ArchiveError(f"the archive has no image `{wanted}`", hint)
    raise ArchiveError(f"the archive holds {len(fitting)} images", hint)


def _names_of(entry: Descriptor) -> tuple[str, ...]:
    annotations = entry.annotations or {}
    return tuple(annotations[key] for key in _REF_NAMES if key in annotations)


def _open_docker(members: dict[str, Extent], select: str, files: list[BinaryIO]) -> Archive:
    try:
        images = msgspec.json.decode(members["manifest.json"].whole(), type=list[_DockerImage])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArchiveError(f"`manifest.json` is broken: {str(error).lower()}") from error
    image = _select(images, select, lambda image: tuple(image.repo_tags or ()))
    config = _member(members, image.config).whole()
    blobs: dict[Digest, Extent | bytes] = {digest_of(config): config}
    layers: list[Descriptor] = []
    for name in image.layers:
        extent = _member(members, name)
        digest = _hash(extent.chunks())
        start = extent.read(0, 4)
        kind = "gzip" if start[:2] == b"\x1f\x8b" else "zstd" if start == b"\x28\xb5\x2f\xfd" else ""
        blobs[digest] = extent
        layers.append(Descriptor(_LAYER_TYPES[kind], str(digest), extent.size))
    return Archive(files, [_make_manifest(config, layers)], blobs)


def _open_rootfs(
    path: Path, compression: str, plain: BinaryIO, members: dict[str, Extent], files: list[BinaryIO]
) -> Archive:
    diff_id = _hash(Extent(plain, 0, os.fstat(plain.fileno()).st_size).chunks())
    packed = path.open("rb")
    files.append(packed)
    layer = Extent(packed, 0, os.fstat(packed.fileno()).st_size)
    digest = _hash(layer.chunks()) if compression else diff_id
    platform = host_platform()
    image = ImageConfig(
        platform.architecture,
        platform.os,
        ContainerConfig(cmd=("/bin/sh",) if _has_shell(members) else ()),
        RootFs(diff_ids=(str(diff_id),)),
        variant=platform.variant,
    )
    config = format_image(image)
    descriptor = Descriptor(_LAYER_TYPES[compression], str(digest), layer.size)
    return Archive(files, [_make_manifest(config, [descriptor])], {digest_of(config): config, digest: layer})


def _has_shell(members: Mapping[str, Extent]) -> bool:
    # /bin is a link to usr/bin on merged systems.
    return any(name in members for name in ("bin/sh", "usr/bin/sh"))


def _make_manifest(config: bytes, layers: list[Descriptor]) -> Document:
    manifest = Manifest(
        schema_version=2,
        config=Descriptor(media_types.OCI_CONFIG, str(digest_of(config)), len(config)),
        layers=tuple(layers),
        media_type=media_types.OCI_MANIFEST,
    )
    return parse_manifest(format_manifest(manifest))


def _member(members: dict[str, Extent], name: str) -> Extent:
    try:
        return members[os.path.normpath(name)]
    except KeyError:
        raise ArchiveError(f"the archive does not have `{name[:200]}`", "it may be cut off: make it again") from None


def _hash(chunks: Iterator[bytes]) -> Digest:
    state = hashlib.sha256(usedforsecurity=False)
    for chunk in chunks:
        state.update(chunk)
    return Digest("sha256", state.hexdigest())
