"""Manifests and indexes: parse once, keep the raw bytes, since only these have the digest.

Both dialects share one shape, so there is one type for each of the two kinds. Out of scope: the image
config (see `image`) and fetching what a manifest names.
"""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from blob.errors import ManifestError, SizeError
from blob.oci import media_types
from blob.oci.digest import Digest, digest_of, parse_digest
from blob.oci.platform import Platform, choose_platform

#: Registries must take 4 MiB (distribution-spec, "Pushing Manifests"); twice that is our bound.
LARGEST_MANIFEST = 8 << 20

_T = TypeVar("_T")


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What names content: its type, digest and size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    artifact_type: str = ""
    annotations: dict[str, str] | None = None
    urls: tuple[str, ...] | None = None
    data: str | None = None


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image (or any artifact): a config and layers."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A list of manifests, usually one per platform."""

    schema_version: int
    manifests: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it was sent: `raw` is what has `digest`, `content` what it says."""

    raw: bytes
    media_type: str
    digest: Digest
    content: Manifest | Index

    @property
    def descriptor(self) -> Descriptor:
        """What another document writes to name this one."""
        return Descriptor(self.media_type, str(self.digest), len(self.raw))


def parse_manifest(raw: bytes, content_type: str = "", algorithm: str = "sha256") -> Document:
    """Parse a manifest or index of either dialect.

    Args:
        raw: the bytes as they were sent.
        content_type: what the sender called them; it must not contradict the text itself.
        algorithm: of the digest to compute.

    Raises:
        SizeError: there are more than `LARGEST_MANIFEST` bytes.
        ManifestError: it is no manifest, or says two things about itself.
    """
    if len(raw) > LARGEST_MANIFEST:
        raise SizeError(f"a manifest has at most {LARGEST_MANIFEST} bytes, not {len(raw)}")
    probe = _decode(raw, _Probe)
    media_type = _media_type(probe, content_type.partition(";")[0].strip())
    content: Manifest | Index
    content = _decode(raw, Index) if media_type in media_types.INDEXES else _decode(raw, Manifest)
    for descriptor in _descriptors(content):
        _check_descriptor(descriptor)
    return Document(raw, media_type, digest_of(raw, algorithm), content)


def format_manifest(content: Manifest | Index) -> bytes:
    """Return the bytes of a manifest or index that we make ourselves."""
    # The list is required even when it is empty.
    key, entries = ("manifests", content.manifests) if isinstance(content, Index) else ("layers", content.layers)
    return msgspec.json.encode(msgspec.to_builtins(content) | {key: entries})


def choose_manifest(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry of `index` that fits `wanted` best.

    Raises:
        ManifestError: none fits; the hint lists what there is.
    """
    offers = [entry for entry in index.manifests if not _is_attestation(entry)]
    position = choose_platform([entry.platform for entry in offers], wanted)
    if position is None:
        names = sorted({str(entry.platform) for entry in offers if entry.platform})
        raise ManifestError(f"no image for platform `{wanted}`", f"there is: {', '.join(names) or 'nothing'}")
    return offers[position]


def _is_attestation(entry: Descriptor) -> bool:
    # BuildKit lists its attestations as platform `unknown/unknown`.
    return entry.platform is not None and entry.platform.architecture == "unknown"


def _decode(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {str(error).lower()}") from error


def _media_type(probe: _Probe, content_type: str) -> str:
    is_index, is_image = bool(bytes(probe.manifests)), bool(bytes(probe.config) or bytes(probe.layers))
    # CVE-2021-41190: a text that is both would mean different things to different readers.
    if probe.schema_version != 2 or is_index == is_image:
        raise ManifestError(
            "neither an image manifest nor an index of schema version 2",
            "push it again with a current client" if probe.schema_version == 1 else "",
        )
    known = media_types.INDEXES if is_index else media_types.MANIFESTS
    fallback = media_types.OCI_INDEX if is_index else media_types.OCI_MANIFEST
    claimed = probe.media_type or (content_type if content_type in known else fallback)
    wrong_header = content_type in media_types.INDEXES | media_types.MANIFESTS and content_type != claimed
    if claimed not in known or wrong_header:
        raise ManifestError(f"media type `{content_type or claimed}` contradicts the manifest itself")
    return claimed


def _descriptors(content: Manifest | Index) -> tuple[Descriptor, ...]:
    subject = (content.subject,) if content.subject else ()
    if isinstance(content, Index):
        return content.manifests + subject
    return (content.config, *content.layers, *subject)


def _check_descriptor(descriptor: Descriptor) -> None:
    parse_digest(descriptor.digest)
    if descriptor.size < 0:
        raise ManifestError(f"size {descriptor.size} of `{descriptor.digest}` is negative")
