"""What the store knows about an image."""

import msgspec

from blob.oci.image import ImageConfig


class Image(msgspec.Struct, frozen=True):
    """An image whose layers are all unpacked.

    Attributes:
        id: digest of its config; the same image under any name and from any registry.
        names: canonical references, such as `docker.io/library/alpine:3`.
        manifest_digest: of what the name stood for when it was pulled: the index, where there was one.
        created: when, as its builder wrote it; may be empty.
        size: bytes of its compressed layers.
        architecture: in Go's words, such as `amd64`.
        os: always `linux`.
        layers: diff ids, the bottom first.
        config: defaults for a container.
    """

    id: str
    names: tuple[str, ...]
    manifest_digest: str
    created: str
    size: int
    architecture: str
    os: str
    layers: tuple[str, ...]
    config: ImageConfig
