"""Load an image from a file: put it into our own registry, then pull it from there.

So an image from a file is like any other: checked, unpacked by the same code, and there for others to pull.
"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

from blob.oci.platform import host_platform
from blob.oci.reference import Reference, parse_reference
from blob.upstream.archive import open_archive
from blob.upstream.client import client_at
from blob.upstream.push import push_archive
from container.errors import ConfigError
from container.images.boundary import blob_errors
from container.images.image import Image
from container.images.pull import ImagePuller
from container.images.registries import LOCAL, Registry
from container.progress import Progress, Report, ignore

#: The share of the progress that reading and pushing take.
_PUSHED = 40


async def load_archive(puller: ImagePuller, blob_url: str, path: Path, name: str, report: Report = ignore) -> Image:
    """Load an OCI archive, a Docker archive or a tar of a root file system, and call it `name`.

    Raises:
        ConfigError: the name is malformed or has a digest.
        ImageError: the archive is broken.
        RegistryError: our own registry does not answer.
    """
    with blob_errors():
        reference = parse_reference(name)
    if reference.digest:
        raise ConfigError(f"cannot load an image as `{name}`: a digest is not chosen", "name it with a tag")
    repository = local_repository(reference)
    report(Progress(0, "image", f"reading {path.name}"))
    with blob_errors():
        archive = await asyncio.to_thread(open_archive, path)
        with archive:
            async with client_at(blob_url) as client:
                top = await push_archive(client, archive, repository, reference.selector, _pushing(report, path.name))
    registry = Registry(blob_url, repository)
    return await puller.pull_from(registry, str(top.digest), reference, host_platform(), _pulling(report))


def local_repository(reference: Reference) -> str:
    """Return the repository of our own registry that holds a loaded image. PURE.

    Another registry's name must not lead to that registry, nor hide what is in it.
    """
    if reference.registry == LOCAL:
        return reference.repository
    host = re.sub(r"[^a-z0-9]+", "-", reference.registry.lower()).strip("-")
    return f"loaded/{host}/{reference.repository}"


def _pushing(report: Report, name: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        share = _PUSHED * done // total if total else _PUSHED
        report(Progress(share, "image", f"reading {name}", done, total))

    return tell


def _pulling(report: Report) -> Report:
    def tell(step: Progress) -> None:
        share = _PUSHED + (100 - _PUSHED) * step.percentage // 100
        report(Progress(share, step.stage, step.message, step.bytes_done, step.bytes_total))

    return tell
