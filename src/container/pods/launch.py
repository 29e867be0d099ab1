"""From a wish to a running container: image, directory, bundle, start; and the way back.

What is made here is in one directory and in the shim; `discard` removes both, whatever state they are in.
"""

import asyncio
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from container.errors import ConfigError, HostError, NotFoundError
from container.images.children import remove_trees
from container.images.image import Image
from container.images.removal import remove_tree
from container.intent import ContainerRunSpec
from container.linux.seccomp_default import default_profile
from container.pods import etc, signals
from container.pods.bundle import Plan, config, hostname
from container.pods.devices import host_devices
from container.pods.needs import ImageStore, Runtime
from container.pods.process import arguments, capabilities
from container.pods.records import Record, Records
from container.pods.users import User, read_text, resolve
from container.progress import Progress, Report
from container.shim.client import Stdio

logger = logging.getLogger(__name__)

SIGTERM = 15
#: How much of the whole fetching the image is.
_IMAGE_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Wish:
    """One request to run."""

    id: str
    spec: ContainerRunSpec
    terminal_size: tuple[int, int] = (24, 80)


class Launcher:
    """Makes containers and takes them apart again."""

    def __init__(self, records: Records, images: ImageStore, shim: Runtime, *, rootless: bool, node: str) -> None:
        self._records = records
        self._images = images
        self._shim = shim
        self._rootless = rootless
        self._node = node

    async def launch(self, wish: Wish, report: Report) -> Record:
        """Start a container; if that fails or is cancelled nothing of it is left.

        Raises:
            ConfigError, NotFoundError, ImageError, HostError, LaunchError: why not.
        """
        _check_sources(wish.spec)
        image = await self._image(wish.spec, report)
        report(Progress(75, "bundle", f"preparing {wish.id}"))
        done = False
        try:
            record = await self._prepare(wish, image)
            report(Progress(85, "start", f"starting {wish.id}"))
            stdio = Stdio(self._records.directory(wish.id) / "log", wish.spec.stdin)
            await self._shim.run(wish.id, self._records.directory(wish.id), stdio)
            record = msgspec.structs.replace(record, started=time.time())
            await self._records.write(record)
            done = True
        finally:
            if not done:
                await self.discard(wish.id)
        report(Progress(100, "running", f"{wish.id} runs"))
        return record

    async def discard(self, container_id: str) -> None:
        """Remove a container from the shim and the disk; that either knows nothing of it is fine."""
        try:
            await self._shim.delete(container_id, force=True)
        except NotFoundError:
            pass
        directory = str(self._records.directory(container_id))
        try:
            await asyncio.to_thread(remove_tree, directory)
        except PermissionError:
            # Files of subordinate ids: only a process of the node's user namespace may remove them.
            await remove_trees(self._shim.spawn, [directory])

    def user(self, container_id: str, text: str) -> User:
        """Return the user that `text` names in the image of an existing container."""
        path = self._records.directory(container_id) / "config.json"
        return _user(text, msgspec.json.decode(path.read_bytes())["mounts"][0])

    async def _image(self, spec: ContainerRunSpec, report: Report) -> Image:
        if spec.pull != "always":
            try:
                return self._images.inspect(spec.image)
            except NotFoundError as error:
                if spec.pull == "never":
                    raise NotFoundError(
                        f"image `{spec.image}` is not here and may not be pulled",
                        f"pull it with `vappc pull {spec.image}`",
                    ) from error
        return await self._images.pull(spec.image, spec.platform, _scaled(report))

    async def _prepare(self, wish: Wish, image: Image) -> Record:
        directory = self._records.directory(wish.id)
        await asyncio.to_thread(_make_directory, directory)
        defaults = image.config.config
        record = Record(
            id=wish.id,
            spec=wish.spec,
            image_id=image.id,
            image_digest=image.manifest_digest,
            layers=list(image.layers),
            stop_signal=signals.parse(defaults.stop_signal) if defaults.stop_signal else SIGTERM,
            created=time.time(),
            command=arguments(wish.spec, defaults),
        )
        await self._records.write(record)
        rootfs = self._images.prepare(image, directory, self._rootless)
        self._write_bundle(wish, image, rootfs)
        return record

    def _write_bundle(self, wish: Wish, image: Image, rootfs: dict[str, Any]) -> None:
        spec, defaults = wish.spec, image.config.config
        directory = self._records.directory(wish.id)
        plan = Plan(
            id=wish.id,
            spec=spec,
            image=defaults,
            directory=directory,
            rootfs=rootfs,
            user=_user(spec.user or defaults.user, rootfs),
            rootless=self._rootless,
            node=self._node,
            devices=host_devices(rootless=self._rootless) if spec.privileged else (),
            seccomp=None if spec.privileged else default_profile(capabilities(spec), os.uname().machine),
            terminal_size=wish.terminal_size,
        )
        text = msgspec.json.encode(config(plan))
        # As root a container shares the host's network unless it has none: loopback servers are reachable.
        etc.write(directory, hostname(wish.id, spec), keep_loopback=not self._rootless and spec.network != "none")
        (directory / "config.json").write_bytes(text)


def layers_of(rootfs: dict[str, Any]) -> list[Path]:
    """Return the directories that a prepared root file system consists of, the top first."""
    found: list[Path] = []
    for option in rootfs.get("options", []):
        key, _, value = option.partition("=")
        if key == "lowerdir":
            found += [Path(re.sub(r"\\(.)", r"\1", path)) for path in re.split(r"(?<!\\):", value) if path]
    return found


def _user(text: str, rootfs: dict[str, Any]) -> User:
    layers = layers_of(rootfs)
    return resolve(text, read_text(layers, "etc/passwd"), read_text(layers, "etc/group"))


def _check_sources(spec: ContainerRunSpec) -> None:
    for mount in spec.mounts or []:
        if mount.host_path.startswith("/") and not os.path.lexists(mount.host_path):
            raise ConfigError(
                f"mount source `{mount.host_path}` does not exist", "make it first, as a directory or a file"
            )


def _make_directory(directory: Path) -> None:
    try:
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
        # Only a place for the overlay, which the container mounts for itself.
        (directory / "rootfs").mkdir(mode=0o755)
    except OSError as error:
        raise HostError(
            f"cannot make `{directory}`: {(error.strerror or '').lower()}",
            "free space in the app directory, or choose another with `--app-dir`",
        ) from error


def _scaled(report: Report) -> Report:
    def scaled(found: Progress) -> None:
        percentage = int(found.percentage * _IMAGE_SHARE)
        report(Progress(percentage, "image", found.message, found.bytes_done, found.bytes_total))

    return scaled
