import json

import pytest

from blob.errors import DigestFormatError, ManifestError
from blob.oci.image import ContainerConfig, ImageConfig, RootFs, format_image, parse_image

DIFF = "sha256:" + "1" * 64


def test_go_nulls_are_empty_lists() -> None:
    raw = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": None, "Entrypoint": None, "Cmd": ["/bin/sh"], "Volumes": None, "Labels": None},
            "rootfs": {"type": "layers", "diff_ids": [DIFF]},
            "history": [{"created_by": "x"}],
        }
    ).encode()
    image = parse_image(raw)
    assert image.config.env == image.config.entrypoint == ()
    assert image.config.cmd == ("/bin/sh",)
    assert image.config.volumes == {}
    assert image.rootfs.diff_ids == (DIFF,)
    assert str(image.platform) == "linux/amd64"


def test_an_image_survives_formatting() -> None:
    config = ContainerConfig("1000:1000", ("A=b",), ("/init",), ("x",), "/srv", "SIGINT", {"/data": {}}, {"80/tcp": {}})
    image = ImageConfig("arm64", "linux", config, RootFs(diff_ids=(DIFF,)), "v8")
    assert parse_image(format_image(image)) == image


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"config":{"Env":"A=b"}}', b"\xff", b'{"rootfs":{"diff_ids":[1]}}'])
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_image(raw)


def test_a_malformed_layer_id_is_refused() -> None:
    with pytest.raises(DigestFormatError):
        parse_image(b'{"rootfs":{"type":"layers","diff_ids":["sha256:../.."]}}')
