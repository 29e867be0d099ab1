"""Resolve an image name to what must be fetched: its config and its layers, for one platform.

All that comes back was checked against digests by `blob.upstream`; the config is checked here. Out of scope:
layers, which the unpacker fetches.
"""

from dataclasses import dataclass

from blob.oci import media_types
from blob.oci.digest import parse_digest, verify_bytes
from blob.oci.image import ImageConfig, parse_image
from blob.oci.manifest import Descriptor, Document, Index, Manifest, choose_manifest
from blob.oci.platform import Platform, choose_platform
from blob.upstream.client import RegistryClient
from container.errors import DigestError, ImageError

_LARGEST_CONFIG = 8 << 20
#: An index may name an index; deeper ones are nobody's honest work.
_DEEPEST = 2


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image before its layers are here.

    Attributes:
        id: digest of the config.
        manifest_digest: of what the name stands for.
        layers: descriptor and diff id of each, the bottom first.
    """

    id: str
    manifest_digest: str
    config: ImageConfig
    layers: tuple[tuple[Descriptor, str], ...]

    @property
    def size(self) -> int:
        """Bytes of the compressed layers."""
        return sum(descriptor.size for descriptor, _ in self.layers)


async def resolve(client: RegistryClient, repository: str, selector: str, platform: Platform) -> Resolved:
    """Return what `repository` has under a tag or digest for `platform`.

    Raises:
        BlobError: the registry does not have it, or cannot be reached.
        ImageError: it is not an image that we can run.
    """
    top = await client.get_manifest(repository, selector)
    document = top
    for _ in range(_DEEPEST):
        if isinstance(document.content, Index):
            chosen = choose_manifest(document.content, platform)
            document = await client.get_manifest(repository, chosen.digest)
    manifest = _check_manifest(document, selector)
    config = parse_image(await _read_config(client, repository, manifest.config))
    _check_config(config, manifest, platform, selector)
    layers = tuple(zip(manifest.layers, config.rootfs.diff_ids, strict=True))
    return Resolved(manifest.config.digest, str(top.digest), config, layers)


def _check_manifest(document: Document, selector: str) -> Manifest:
    manifest = document.content
    if isinstance(manifest, Index):
        raise ImageError(f"`{selector}` is an index of indexes of indexes")
    if manifest.config.media_type not in media_types.CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        raise ImageError(f"`{selector}` is not a container image but `{kind}`")
    encrypted = [layer for layer in manifest.layers if layer.media_type.endswith("+encrypted")]
    if encrypted:
        raise ImageError(f"layer `{encrypted[0].digest}` is encrypted", "decrypt the image before pushing it")
    return manifest


def _check_config(config: ImageConfig, manifest: Manifest, platform: Platform, selector: str) -> None:
    if len(manifest.layers) != len(config.rootfs.diff_ids):
        raise ImageError(
            f"`{selector}` has {len(manifest.layers)} layers, but its config names {len(config.rootfs.diff_ids)}",
            "build it again",
        )
    if config.architecture and choose_platform([config.platform], platform) is None:
        raise ImageError(
            f"`{selector}` is for platform `{config.platform}`, not `{platform}`",
            f"pass `--platform {config.platform}` to take it all the same",
        )


async def _read_config(client: RegistryClient, repository: str, descriptor: Descriptor) -> bytes:
    if descriptor.size > _LARGEST_CONFIG:
        raise ImageError(f"image config of {descriptor.size} bytes is larger than {_LARGEST_CONFIG}")
    digest = parse_digest(descriptor.digest)
    raw = b""
    async with client.open_blob(repository, digest) as stream:
        async for chunk in stream:
            raw += chunk
            if len(raw) > descriptor.size:
                raise DigestError(f"image config `{digest}` has more than {descriptor.size} bytes")
    verify_bytes(raw, digest)
    return raw
