"""The image store on disk: which names there are, what they mean, and which layers are in use.

    names.json       {"version": 1, "names": {NAME: {"image": ID, "manifest": DIGEST}}}
    <hex>.json       {"version": 1, "size": N, "config": {...}}     one per image, by its id
    layers/<hex>/    one per layer, by its diff id; complete once it has this name
    layers/.*        unfinished or half-removed layers
    lock             flock'ed by whoever changes names.json

Out of scope: filling and emptying `layers` (pull, service), since the files in there may belong to ids
that only a process in the node's user namespace can touch.
"""

import fcntl
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from blob.errors import BlobError
from blob.oci.digest import parse_digest
from blob.oci.image import ImageConfig
from blob.oci.reference import parse_reference
from container.errors import ConfigError, HostError, ImageError, NotFoundError
from container.images.image import Image
from container.images.layers import layer_name

_VERSION = 1
_SHORTEST_ID = 4
REMOVED = ".removed"

_T = TypeVar("_T")


class _Name(msgspec.Struct, frozen=True):
    image: str
    manifest: str


class _Version(msgspec.Struct):
    version: int


class _Names(msgspec.Struct):
    version: int = _VERSION
    names: dict[str, _Name] = {}


class _Record(msgspec.Struct, frozen=True):
    version: int
    size: int
    config: ImageConfig


class ImageStore:
    """The images below one directory; several processes may share it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layers = directory / "layers"
        try:
            self.layers.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make image store `{directory}`: {(error.strerror or '').lower()}") from error

    def add(self, name: str, image_id: str, manifest_digest: str, size: int, config: ImageConfig) -> Image:
        """Give an image whose layers are unpacked a name, taking the name from any other image.

        An image that loses its last name stays, as `docker pull` leaves it too: containers may use it.
        """
        name = canonical(name)
        with self._locked():
            self._write(self._record_path(image_id), _Record(_VERSION, size, config))
            names = self._read_names()
            names.names[name] = _Name(image_id, manifest_digest)
            self._write(self.directory / "names.json", names)
        return self.inspect(name)

    def list(self) -> list[Image]:
        """Return all images, those with names first."""
        names = self._read_names().names
        images = [self._load(image_id, names) for image_id in self._ids()]
        return sorted(images, key=lambda image: (not image.names, image.names, image.id))

    def inspect(self, text: str) -> Image:
        """Return the image with this name, digest reference, id, or unique beginning of an id.

        Raises:
            NotFoundError: there is none.
            ConfigError: several ids begin so.
        """
        names = self._read_names().names
        found = self._find(text, names)
        image = self._load(found.image, names)
        return msgspec.structs.replace(image, manifest_digest=found.manifest or image.manifest_digest)

    def tag(self, text: str, name: str) -> Image:
        """Give an image one more name."""
        image = self.inspect(text)
        return self.add(name, image.id, image.manifest_digest, image.size, image.config)

    def remove(self, text: str, used_layers: Collection[str] = ()) -> Sequence[Path]:
        """Remove a name, or by id all names; with the last name the image goes.

        Args:
            text: as `inspect` takes it.
            used_layers: diff ids that must stay, of containers and of running pulls.

        Returns:
            Directories that are out of the store now and that the caller must delete.
        """
        with self._locked():
            names = self._read_names()
            found = self._find(text, names.names)
            try:
                doomed = {canonical(text)} & set(names.names)
            except ConfigError:
                doomed = set()
            doomed = doomed or {name for name, entry in names.names.items() if entry.image == found.image}
            image = self._load(found.image, names.names)
            names.names = {name: entry for name, entry in names.names.items() if name not in doomed}
            self._write(self.directory / "names.json", names)
            if any(entry.image == found.image for entry in names.names.values()):
                return []
            self._record_path(found.image).unlink(missing_ok=True)
            return self.drop_layers(image.layers, used_layers)

    def drop_layers(self, diff_ids: Collection[str], used_layers: Collection[str] = ()) -> Sequence[Path]:
        """Take those layers out of the store that no image and nobody in `used_layers` uses.

        Returns:
            Where they are now; the caller must delete them.
        """
        kept = self.used_layers().union(used_layers)
        moved = []
        for diff_id in set(diff_ids) - kept:
            path = self.layer_path(diff_id)
            target = path.with_name(f".{path.name}{REMOVED}")
            try:
                path.rename(target)
            except FileNotFoundError:
                continue
            moved.append(target)
        return moved

    def used_layers(self) -> set[str]:
        """Return the diff ids that images use."""
        return {layer for image in self.list() for layer in image.layers}

    def unused_layers(self, used_layers: Collection[str]) -> Sequence[str]:
        """Return the diff ids of layers on disk that nothing uses."""
        kept = self.used_layers().union(used_layers)
        return sorted(set(_digests(os.listdir(self.layers))) - kept)

    def has_layer(self, diff_id: str) -> bool:
        """Tell whether the layer is unpacked, whole."""
        return self.layer_path(diff_id).is_dir()

    def layer_path(self, diff_id: str) -> Path:
        """Return where the layer is or will be."""
        return self.layers / layer_name(diff_id)

    def _find(self, text: str, names: dict[str, _Name]) -> _Name:
        try:
            name = canonical(text)
        except ConfigError:
            name = ""
        if name in names:
            return names[name]
        return self._find_digest(name, names) or self._find_id(text)

    def _find_digest(self, name: str, names: dict[str, _Name]) -> _Name | None:
        """Find `repository@digest` for an image that was pulled by tag."""
        _, at, digest = name.partition("@")
        if not at:
            return None
        wanted = parse_reference(name).name
        fitting = (entry for key, entry in names.items() if parse_reference(key).name == wanted)
        return next((entry for entry in fitting if entry.manifest == digest), None)

    def _find_id(self, text: str) -> _Name:
        start = text.removeprefix("sha256:")
        exact = len(start) >= _SHORTEST_ID
        fitting = [i for i in self._ids() if exact and i.removeprefix("sha256:").startswith(start)]
        if len(fitting) > 1:
            raise ConfigError(f"`{text}` is the beginning of {len(fitting)} image ids", "write more of it")
        if not fitting:
            raise NotFoundError(f"no image `{text}`", "pull it first, or see what there is with `vappc images`")
        return _Name(fitting[0], "")

    def _ids(self) -> Sequence[str]:
        return _digests(path.stem for path in self.directory.glob("*.json"))

    def _load(self, image_id: str, names: dict[str, _Name]) -> Image:
        record = self._read(self._record_path(image_id), _Record)
        config = record.config
        mine = sorted(name for name, entry in names.items() if entry.image == image_id)
        return Image(
            id=image_id,
            names=tuple(mine),
            manifest_digest=names[mine[0]].manifest if mine else "",
            created=config.created,
            size=record.size,
            architecture=config.architecture,
            os=config.os,
            layers=config.rootfs.diff_ids,
            config=config,
        )

    def _record_path(self, image_id: str) -> Path:
        return self.directory / f"{layer_name(image_id)}.json"

    def _read_names(self) -> _Names:
        try:
            return self._read(self.directory / "names.json", _Names)
        except NotFoundError:
            return _Names()

    def _read(self, path: Path, kind: type[_T]) -> _T:
        try:
            raw = path.read_bytes()
            if msgspec.json.decode(raw, type=_Version).version > _VERSION:
                raise ImageError(f"`{path}` was written by a newer version", "upgrade, or remove it")
            return msgspec.json.decode(raw, type=kind)
        except FileNotFoundError:
            raise NotFoundError(f"no image record `{path}`", "pull the image again") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ImageError(f"image record `{path}` is broken: {str(error).lower()}", "remove it") from error
        except OSError as error:
            raise HostError(f"cannot read `{path}`: {(error.strerror or '').lower()}") from error

    def _write(self, path: Path, value: object) -> None:
        try:
            replace_durably(path, msgspec.json.encode(value))
        except OSError as error:
            raise HostError(
                f"cannot write `{path}`: {(error.strerror or '').lower()}", "free space, or make it writable"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def canonical(name: str) -> str:
    """Return the one spelling of an image name: `alpine` is `docker.io/library/alpine:latest`.

    Raises:
        ConfigError: it is no image name.
    """
    try:
        return str(parse_reference(name))
    except BlobError as error:
        raise ConfigError(error.message, error.hint) from error


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that after a power loss either the old or the new bytes are there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _digests(names: Iterable[str]) -> list[str]:
    """Return the digests that have these file names, the reverse of `layer_name`; other files are not ours."""
    found = []
    for name in names:
        algorithm, dash, encoded = name.partition("-")
        try:
            found.append(str(parse_digest(f"{algorithm}:{encoded}" if dash else f"sha256:{name}")))
        except BlobError:
            continue
    return found
