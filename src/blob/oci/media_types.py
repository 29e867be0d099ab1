"""Media types of manifests, configs and layers, in both dialects (OCI and Docker schema 2).

Out of scope: Docker schema 1, which no maintained registry serves any more.
"""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

#: What we ask every upstream for, whoever asks us: a tag then never means two digests.
ACCEPT_MANIFESTS = f"{OCI_INDEX}, {DOCKER_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}"


def is_foreign(media_type: str) -> bool:
    """Tell whether a layer may live elsewhere, so that a registry need not have it."""
    return ".nondistributable." in media_type or ".foreign." in media_type


def compression_of(media_type: str) -> str:
    """Return `gzip`, `zstd` or, for a plain tar, the empty string."""
    for suffix, name in ((".gzip", "gzip"), ("+gzip", "gzip"), ("+zstd", "zstd")):
        if media_type.endswith(suffix):
            return name
    return ""
