import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import BlobError, DigestFormatError, ManifestError, SizeError
from blob.oci import media_types
from blob.oci.digest import digest_of
from blob.oci.manifest import (
    LARGEST_MANIFEST,
    Index,
    Manifest,
    choose_manifest,
    format_manifest,
    parse_manifest,
)
from blob.oci.platform import parse_platform

SHA = "sha256:" + "0" * 64
BLOB = {"mediaType": "application/octet-stream", "digest": SHA, "size": 1}


def image(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": BLOB, "layers": [BLOB], **changes}).encode()


def index(*entries: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries, **changes}).encode()


def test_the_raw_bytes_are_kept_and_have_the_digest() -> None:
    raw = image()
    document = parse_manifest(raw)
    assert document.raw is raw
    assert document.digest == digest_of(raw)


def test_sha512_is_computed_where_it_is_asked_for() -> None:
    assert parse_manifest(image(), algorithm="sha512").digest == digest_of(image(), "sha512")


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        (image(), "", media_types.OCI_MANIFEST),
        (index(), "", media_types.OCI_INDEX),
        (image(), media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST),
        (index(), media_types.DOCKER_LIST + "; charset=utf-8", media_types.DOCKER_LIST),
        (image(mediaType=media_types.DOCKER_MANIFEST), "application/json", media_types.DOCKER_MANIFEST),
    ],
)
def test_the_type_comes_from_the_text_then_the_header_then_the_shape(
    raw: bytes, content_type: str, expected: str
) -> None:
    assert parse_manifest(raw, content_type).media_type == expected


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"{}", ""),
        (b"\xff\xfe", ""),
        (b'{"schemaVersion":1,"fsLayers":[]}', ""),
        (image(manifests=[]), ""),
        (image(mediaType=media_types.OCI_INDEX), ""),
        (image(), media_types.OCI_INDEX),
        (image(mediaType=media_types.OCI_MANIFEST), media_types.DOCKER_MANIFEST),
        (image(layers=[{"digest": SHA}]), ""),
        (image(layers=[BLOB | {"size": -1}]), ""),
        (b"[" * 100_000, ""),
    ],
)
def test_what_is_broken_or_says_two_things_is_refused(raw: bytes, content_type: str) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(raw, content_type)


def test_a_malformed_digest_inside_is_refused() -> None:
    with pytest.raises(DigestFormatError):
        parse_manifest(image(layers=[BLOB | {"digest": "sha256:../../etc"}]))


def test_a_manifest_of_four_megabytes_is_fine_and_of_nine_is_not() -> None:
    assert parse_manifest(image(annotations={str(n): "x" * 10_000 for n in range(390)}))
    with pytest.raises(SizeError):
        parse_manifest(b" " * (LARGEST_MANIFEST + 1))


@given(st.binary(max_size=200))
def test_rubbish_never_fails_in_another_way(raw: bytes) -> None:
    with pytest.raises(BlobError):
        parse_manifest(raw)


def test_an_index_gives_the_image_for_a_platform() -> None:
    arm = BLOB | {"platform": {"os": "linux", "architecture": "arm64", "os.features": None}}
    amd = BLOB | {"platform": {"os": "linux", "architecture": "amd64"}, "size": 7}
    attestation = BLOB | {"platform": {"os": "unknown", "architecture": "unknown"}}
    content = parse_manifest(index(attestation, arm, amd)).content
    assert isinstance(content, Index)
    assert choose_manifest(content, parse_platform("linux/amd64")).size == 7
    with pytest.raises(ManifestError) as caught:
        choose_manifest(content, parse_platform("linux/s390x"))
    assert caught.value.hint == "there is: linux/amd64, linux/arm64"


def test_our_own_manifests_keep_empty_lists() -> None:
    assert json.loads(format_manifest(Index(2, media_type=media_types.OCI_INDEX)))["manifests"] == []
    content = parse_manifest(image(layers=[])).content
    assert isinstance(content, Manifest)
    assert json.loads(format_manifest(content))["layers"] == []
