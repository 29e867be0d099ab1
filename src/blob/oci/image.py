"""The image config: what to run by default, and which layers make the root file system.

Go writes absent lists as `null`; here they are empty, so that readers need not ask. Out of scope: turning it
into a process, which is the runtime's business.
"""

from typing import Any

import msgspec

from blob.errors import ManifestError
from blob.oci.digest import parse_digest
from blob.oci.platform import Platform


class ContainerConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """Defaults of a container made from the image."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    volumes: dict[str, dict[str, Any]] = {}
    exposed_ports: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}


class RootFs(msgspec.Struct, frozen=True):
    """The uncompressed digests of the layers, bottom first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The config blob of an image."""

    architecture: str = ""
    os: str = ""
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFs = RootFs()
    variant: str = ""
    created: str = ""
    author: str = ""

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(self.architecture, self.os, self.variant)


def parse_image(raw: bytes) -> ImageConfig:
    """Parse a config blob.

    Raises:
        ManifestError: it is no image config.
        DigestFormatError: a layer's id is malformed.
    """
    try:
        image = msgspec.convert(_without_nulls(msgspec.json.decode(raw)), ImageConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not an image config: {str(error).lower()}") from error
    for diff_id in image.rootfs.diff_ids:
        parse_digest(diff_id)
    return image


def format_image(image: ImageConfig) -> bytes:
    """Return the bytes of a config blob; the same image always gives the same bytes."""
    fields = msgspec.to_builtins(image)
    # rootfs.type is required (image-spec config.md) although it has one value only.
    fields["rootfs"] = {"type": image.rootfs.type, "diff_ids": list(image.rootfs.diff_ids)}
    return msgspec.json.encode(fields, order="sorted")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
