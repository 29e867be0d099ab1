"""Pull images: resolve the name, unpack the layers that are not here, and enter the image into the store.

Layers are unpacked by child processes, as many at a time as there are processors, while their bytes arrive.
Several pulls share what they have in common: the same image is pulled once, the same layer unpacked once (the
unpackers see to that among themselves).
A pull that fails or is cancelled takes back what it had made.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from blob.oci.manifest import Descriptor
from blob.oci.platform import Platform, host_platform, parse_platform
from blob.oci.reference import Reference, parse_reference
from blob.upstream.client import client_at
from blob.upstream.transport import Endpoint, Transport
from container.errors import ContainerError
from container.images.boundary import blob_errors
from container.images.children import REMOVER, UNPACKER, Spawn, remove_trees, run_child
from container.images.durability import Durability
from container.images.image import Image
from container.images.manifests import Resolved, resolve
from container.images.meter import Meter
from container.images.registries import DEFAULT_UPSTREAMS, Registry, registry_for
from container.images.sharing import Shared
from container.images.store import ImageStore
from container.progress import Progress, Report, ignore

logger = logging.getLogger(__name__)

#: What the unpacker could not represent here: counted per layer, told once per pull.
_LEFT_OUT = ("unmapped_owners", "skipped_devices", "dropped_xattrs")


class ImagePuller:
    """Pulls into one store.

    Args:
        store: where to.
        durability: what is told about layers that the disk does not have yet.
        blob_url: our own registry, such as `unix:///run/vapp/blob.sock`.
        spawn: starts child processes where layers are to be written.
        upstreams: registries that ours is configured to fetch from.
        parallel: how many layers are unpacked at a time; 0 for as many as there are processors.
    """

    def __init__(
        self,
        store: ImageStore,
        durability: Durability,
        blob_url: str,
        spawn: Spawn,
        upstreams: Collection[str] = DEFAULT_UPSTREAMS,
        parallel: int = 0,
    ) -> None:
        self._store = store
        self._durability = durability
        self._blob_url = blob_url
        self._spawn = spawn
        self._upstreams = upstreams
        self._slots = asyncio.Semaphore(parallel or os.cpu_count() or 1)
        self._pulls: Shared[Image, Progress] = Shared()
        self._wanted: Counter[str] = Counter()

    @property
    def wanted_layers(self) -> set[str]:
        """Diff ids that running pulls count on."""
        return set(self._wanted)

    async def pull(self, name: str, platform: str | None = None, report: Report = ignore) -> Image:
        """Pull `name` and return the image; joins a running pull of the same.

        Args:
            name: as users write it: `alpine`, `quay.io/a/b:1`, `localhost/demo@sha256:...`.
            platform: `os/architecture[/variant]`; this machine's by default.
            report: told how far it is.

        Raises:
            ConfigError: the name or the platform is malformed.
            ImageError: the image cannot be had, or is broken.
            HostError: it cannot be written here.
        """
        with blob_errors():
            reference = parse_reference(name)
            wanted = parse_platform(platform) if platform else host_platform()
        registry = registry_for(reference, self._blob_url, self._upstreams)
        return await self.pull_from(registry, reference.selector, reference, wanted, report)

    async def pull_from(
        self, registry: Registry, selector: str, reference: Reference, platform: Platform, report: Report
    ) -> Image:
        """Pull what `registry` has under `selector`, and call it `reference`."""
        key = f"{reference} {platform} {registry.url} {registry.repository} {selector}"

        async def work(tell: Report) -> Image:
            return await self._pull(registry, selector, reference, platform, Meter(str(reference), tell))

        return await self._pulls.run(key, work, report)

    async def _pull(
        self, registry: Registry, selector: str, reference: Reference, platform: Platform, meter: Meter
    ) -> Image:
        meter.begin()
        with blob_errors():
            async with client_at(registry.url) as client:
                resolved = await resolve(client, registry.repository, selector, platform)
        diff_ids = set(resolved.config.rootfs.diff_ids)
        self._wanted.update(diff_ids)
        missing = {diff_id: entry for entry, diff_id in resolved.layers if not self._store.has_layer(diff_id)}
        try:
            await self._unpack_all(resolved, missing, registry, meter)
            image = self._enter(reference, resolved, missing)
        except BaseException:
            self._release(diff_ids)
            await self._take_back(missing)
            raise
        self._release(diff_ids)
        meter.end()
        return image

    def _enter(self, reference: Reference, resolved: Resolved, made: Collection[str]) -> Image:
        if made:
            self._durability.note(made)
        image = self._store.add(str(reference), resolved.id, resolved.manifest_digest, resolved.size, resolved.config)
        if made:
            self._durability.sync_soon(made)
        return image

    async def _unpack_all(
        self, resolved: Resolved, missing: dict[str, Descriptor], registry: Registry, meter: Meter
    ) -> None:
        meter.expect({diff_id: entry.size for diff_id, entry in missing.items()})
        left_out: Counter[str] = Counter()

        async def unpack(diff_id: str, entry: Descriptor) -> None:
            result = await self._unpack(diff_id, entry, registry, meter)
            left_out.update({key: result.get(key, 0) for key in _LEFT_OUT})
            meter.finish(diff_id)

        try:
            async with asyncio.TaskGroup() as group:
                # The largest first: it decides how long all take.
                for diff_id, entry in sorted(missing.items(), key=lambda item: -item[1].size):
                    group.create_task(unpack(diff_id, entry))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        if left_out.total():
            shown = " ".join(f"{key}={count}" for key, count in left_out.items() if count)
            logger.warning("left out while unpacking image=%s %s", resolved.id, shown)

    async def _unpack(self, diff_id: str, entry: Descriptor, registry: Registry, meter: Meter) -> dict[str, Any]:
        # Another pull may want the same layer from elsewhere: then one child waits for the other's lock.
        async with self._slots:
            url = f"{registry.base}/v2/{registry.repository}/blobs/{entry.digest}"
            job = {
                "digest": entry.digest,
                "size": entry.size,
                "diff_id": diff_id,
                "directory": os.fspath(self._store.layers.absolute()),
                "source": {"url": url, "socket": registry.socket, "headers": await _log_in(registry)},
            }
            return await run_child(self._spawn, UNPACKER, job, lambda done: meter.update(diff_id, done))

    def _release(self, diff_ids: Collection[str]) -> None:
        self._wanted.subtract(diff_ids)
        self._wanted = +self._wanted

    async def _take_back(self, made: Collection[str]) -> None:
        """Remove layers that this pull began with and nobody else wants, and what a killed unpacker left."""
        try:
            moved = self._store.drop_layers(made, self.wanted_layers)
            await remove_leftovers(self._spawn, self._store.layers)
            await remove_trees(self._spawn, [os.fspath(path) for path in moved])
        except ContainerError as error:
            # The pull's own error is the one to tell; the next start tries this again.
            logger.warning("cannot take back a failed pull error=%s", error)


async def remove_leftovers(spawn: Spawn, layers: Path) -> None:
    """Remove unfinished and half-removed layers that nobody is working on."""
    await run_child(spawn, (*REMOVER, "--leftovers", os.fspath(layers.absolute())), None, lambda _: None)


async def _log_in(registry: Registry) -> dict[str, str]:
    """Return the headers that a foreign registry wants to see with a request for a blob.

    Asked for each layer: tokens live for minutes, and the last layer may have to wait for longer.
    """
    if registry.socket:
        return {}
    insecure = registry.url.startswith("http://")
    with blob_errors():
        async with Transport(Endpoint(registry.url, registry.url, insecure=insecure)) as transport:
            scope = f"repository:{registry.repository}:pull"
            response = await transport.send("GET", transport.url_of(""), scope)
            response.release()
    value = response.request_info.headers.get("Authorization", "")
    return {"Authorization": value} if value else {}


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error that made the others stop."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
