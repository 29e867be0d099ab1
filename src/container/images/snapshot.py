"""The root file system of a container: the layers of its image below, its own changes on top.

What is planned here the runtime mounts, in the container's own mount namespace. Out of scope: mounting, and
removing a container's changes, which belong to ids that this process may not have.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from container.errors import HostError, ImageError
from container.images.image import Image
from container.images.store import ImageStore


@dataclass(frozen=True, slots=True)
class RootFS:
    """The directories of an overlay.

    Attributes:
        lowerdirs: the topmost layer first.
        upper: what the container writes.
        work: overlayfs's own.
    """

    lowerdirs: list[str]
    upper: str
    work: str


def prepare(store: ImageStore, image: Image, container_dir: Path) -> RootFS:
    """Make the container's directories and return its overlay.

    They are made by the daemon's user, who is root in the node's user namespace.

    Raises:
        ImageError: a layer is gone from the store.
        HostError: the disk refused.
    """
    missing = [layer for layer in image.layers if not store.has_layer(layer)]
    if missing:
        raise ImageError(f"layer `{missing[0]}` of image `{image.id}` is gone", "pull the image again")
    lower = [store.layer_path(layer) for layer in reversed(image.layers)]
    upper, work = container_dir / "upper", container_dir / "work"
    try:
        if not lower:
            # overlayfs wants something below, also for an image from scratch.
            lower = [container_dir / "lower"]
            lower[0].mkdir(mode=0o755, parents=True, exist_ok=True)
        upper.mkdir(mode=0o755, parents=True, exist_ok=True)
        work.mkdir(mode=0o700, exist_ok=True)
        # The upper directory is the container's `/`: it shows the mode that the image gave to it.
        upper.chmod(stat.S_IMODE(lower[0].stat().st_mode))
    except OSError as error:
        text = (error.strerror or "").lower()
        raise HostError(f"cannot prepare `{container_dir}`: {text}", "free space, or make it writable") from error
    return RootFS([os.fspath(path) for path in dict.fromkeys(lower)], os.fspath(upper), os.fspath(work))


def mount_entry(rootfs: RootFS, rootless: bool) -> dict[str, Any]:
    """Return the runtime-spec mount that puts `rootfs` at `/`. PURE.

    Args:
        rootfs: the directories.
        rootless: the mount is made in a user namespace, where overlayfs keeps its notes in `user.*` attributes.
    """
    options = [
        "lowerdir=" + ":".join(map(escape, rootfs.lowerdirs)),
        "upperdir=" + escape(rootfs.upper),
        "workdir=" + escape(rootfs.work),
    ]
    if rootless:
        options.append("userxattr")
    return {"destination": "/", "type": "overlay", "source": "overlay", "options": options}


def escape(path: str) -> str:
    r"""Return `path` as overlayfs reads it back: `\`, `:` and `,` each behind a `\`. PURE."""
    for special in ("\\", ":", ","):
        path = path.replace(special, "\\" + special)
    return path
