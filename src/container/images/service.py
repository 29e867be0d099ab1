"""All that a daemon does with images, in one place.

Reading is immediate; what takes time is a coroutine. Whoever removes things says which layers its containers
use, since only the caller knows its containers.
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from container.images import load, snapshot
from container.images.children import Spawn, remove_trees
from container.images.durability import Durability
from container.images.image import Image
from container.images.pull import ImagePuller, remove_leftovers
from container.images.registries import DEFAULT_UPSTREAMS
from container.images.store import ImageStore
from container.progress import Report, ignore

logger = logging.getLogger(__name__)


class Images:
    """The images of one daemon.

    Args:
        directory: the store.
        blob_socket: where our own registry listens.
        spawn: starts child processes where layers are to be written.
        upstreams: registries that ours is configured to fetch from.
    """

    def __init__(
        self,
        directory: Path,
        blob_socket: Path,
        spawn: Spawn,
        upstreams: Collection[str] = DEFAULT_UPSTREAMS,
    ) -> None:
        self._blob_url = f"unix://{blob_socket.absolute()}"
        self._spawn = spawn
        self._store = ImageStore(directory)
        self._durability = Durability(directory)
        self._puller = ImagePuller(self._store, self._durability, self._blob_url, spawn, upstreams)

    async def recover(self, used_layers: Collection[str] = ()) -> None:
        """Remove what earlier processes left unfinished; call it once, before anything else.

        After a power loss these are also images that were pulled too shortly before it.
        """
        self._drop_torn()
        unused = self._store.unused_layers({*used_layers, *self._puller.wanted_layers})
        self._store.drop_layers(unused, {*used_layers, *self._puller.wanted_layers})
        if any(entry.startswith(".") for entry in os.listdir(self._store.layers)):
            await remove_leftovers(self._spawn, self._store.layers)

    async def close(self) -> None:
        """Wait until the disk has all that was pulled."""
        await self._durability.settle()

    async def pull(self, reference: str, platform: str | None = None, report: Report = ignore) -> Image:
        """Pull an image; see `ImagePuller.pull`."""
        return await self._puller.pull(reference, platform, report)

    async def load(self, path: Path, name: str, report: Report = ignore) -> Image:
        """Load an image archive under a name; see `load.load_archive`."""
        return await load.load_archive(self._puller, self._blob_url, path, name, report)

    def list(self) -> list[Image]:
        """Return all images."""
        return self._store.list()

    def inspect(self, name: str) -> Image:
        """Return the image with this name, id, or unique beginning of an id."""
        return self._store.inspect(name)

    def tag(self, name: str, new_name: str) -> Image:
        """Give an image one more name."""
        return self._store.tag(name, new_name)

    async def remove(self, name: str, used: Collection[str] = ()) -> None:
        """Remove a name, and with the last one the image and the layers that nobody else uses.

        Args:
            name: a name, or an id for all names of the image.
            used: diff ids that containers use.
        """
        moved = self._store.remove(name, {*used, *self._puller.wanted_layers})
        await remove_trees(self._spawn, [os.fspath(path) for path in moved])

    async def remove_trees(self, paths: Collection[Path]) -> None:
        """Remove directories of containers, whoever owns the files in them."""
        await remove_trees(self._spawn, [os.fspath(path.absolute()) for path in paths])

    def prepare(self, image: Image, container_dir: Path, rootless: bool) -> dict[str, Any]:
        """Make a container's directories and return the mount of its root file system."""
        return snapshot.mount_entry(snapshot.prepare(self._store, image, container_dir.absolute()), rootless)

    def _drop_torn(self) -> None:
        torn = self._durability.torn()
        for image in self._store.list():
            if torn.intersection(image.layers):
                logger.warning("image was not on disk before the machine went down image=%s", image.id)
                self._store.remove(image.id)
        self._store.drop_layers(torn)
        self._durability.clear(torn)
