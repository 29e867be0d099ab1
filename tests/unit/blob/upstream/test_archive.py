import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import ArchiveError, BlobError
from blob.oci.digest import digest_of, parse_digest, verify_bytes
from blob.oci.image import parse_image
from blob.oci.manifest import Manifest
from blob.oci.platform import host_platform
from blob.upstream.archive import Archive, open_archive
from unit.blob.fakeregistry import OCI_MANIFEST, make_image, sha256
from unit.blob.upstream.archives import layout_files, simple_layout, tar_bytes, write_files

ROOTFS: dict[str, bytes | str] = {"./bin/busybox": b"ELF" * 999, "./bin/sh": "/bin/busybox"}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def check(archive: Archive) -> None:
    """Every blob that the archive promises is there and right."""
    for digest in archive.blob_digests():
        data = b"".join(archive.chunks(digest))
        verify_bytes(data, digest)
        assert len(data) == archive.size_of(digest)


def test_an_oci_layout_is_read_as_directory_and_as_tar(tmp_path: Path) -> None:
    directory = write_files(simple_layout(), tmp_path / "layout")
    packed = write(tmp_path / "a.tar", tar_bytes(simple_layout()))
    squeezed = write(tmp_path / "a.tar.gz", gzip.compress(tar_bytes(simple_layout())))
    for path in (directory, packed, squeezed):
        with open_archive(path) as archive:
            assert archive.top.raw == make_image(b"layer")
            assert archive.config == b"{}"
            check(archive)


def test_a_docker_archive_gets_a_manifest(tmp_path: Path) -> None:
    layer, config = tar_bytes({"etc/x": b"1"}), b'{"architecture":"amd64","os":"linux"}'
    entry = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    files: dict[str, bytes | str] = {
        "c.json": config,
        "one/layer.tar": layer,
        "two/layer.tar": "../one/layer.tar",
        "manifest.json": json.dumps([entry]).encode(),
    }
    with open_archive(write(tmp_path / "d.tar", tar_bytes(files))) as archive:
        assert archive.config == config
        assert isinstance(archive.top.content, Manifest)
        assert [entry.digest for entry in archive.top.content.layers] == [sha256(layer)] * 2
        check(archive)


@pytest.mark.parametrize("squeeze", [lambda data: data, gzip.compress])
def test_a_root_file_system_becomes_an_image_for_this_machine(tmp_path: Path, squeeze: object) -> None:
    plain = tar_bytes(ROOTFS)
    data = squeeze(plain)  # type: ignore[operator]
    with open_archive(write(tmp_path / "r", data)) as archive:
        image = parse_image(archive.config)
        assert isinstance(archive.top.content, Manifest)
        (layer,) = archive.top.content.layers
        assert layer.digest == sha256(data)
        assert image.rootfs.diff_ids == (sha256(plain),)
        assert image.config.cmd == ("/bin/sh",)
        assert image.platform == host_platform()
        check(archive)


def test_a_zstd_root_file_system_is_understood(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd", reason="backports.zstd is not installed")
    plain = tar_bytes(ROOTFS)
    with open_archive(write(tmp_path / "r", zstd.compress(plain))) as archive:
        assert parse_image(archive.config).rootfs.diff_ids == (sha256(plain),)
        assert b"tar+zstd" in archive.top.raw


@pytest.mark.parametrize(
    ("files", "shell"),
    [
        ({"bin": "usr/bin", "usr/bin/sh": "dash", "usr/bin/dash": b"x"}, True),
        ({"bin/sh": "/etc/alternatives/sh", "etc/alternatives/sh": "/bin/x", "bin/x": b"x"}, True),
        ({"hello": b"x"}, False),
    ],
)
def test_the_command_is_a_shell_only_where_there_is_one(
    tmp_path: Path, files: dict[str, bytes | str], shell: bool
) -> None:
    with open_archive(write(tmp_path / "r.tar", tar_bytes(files))) as archive:
        assert bool(parse_image(archive.config).config.cmd) is shell


def test_the_same_root_file_system_is_the_same_image(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", tar_bytes(ROOTFS))
    with open_archive(path) as one, open_archive(path) as two:
        assert one.top.digest == two.top.digest


def test_one_of_several_images_is_chosen_by_name(tmp_path: Path) -> None:
    images = [(name, make_image(name.encode()), [name.encode()]) for name in ("one", "two")]
    path = write(tmp_path / "a.tar", tar_bytes(layout_files(*images)))
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    assert caught.value.hint == "there is: one, two"
    with open_archive(path, "two") as archive:
        assert archive.top.raw == make_image(b"two")
    with pytest.raises(ArchiveError, match="no image `three`"):
        open_archive(path, "three")


def index_of(*manifests: bytes) -> bytes:
    host = host_platform()
    platform = {"os": "linux", "architecture": host.architecture}
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": sha256(raw), "size": len(raw), "platform": platform} for raw in manifests
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def test_an_index_comes_with_its_images_first(tmp_path: Path) -> None:
    image = make_image(b"layer")
    files = layout_files(("x", index_of(image), [image, b"layer"]))
    with open_archive(write_files(files, tmp_path / "l")) as archive:
        assert [document.raw for document in archive.documents] == [image, index_of(image)]
        assert archive.config == b"{}"
        check(archive)


def test_an_index_whose_other_images_are_missing_gives_the_one_for_this_machine(tmp_path: Path) -> None:
    image = make_image(b"layer")
    files = layout_files(("x", index_of(image, make_image(b"elsewhere")), [image, b"layer"]))
    with open_archive(write_files(files, tmp_path / "l")) as archive:
        assert archive.top.raw == image


def without(files: dict[str, bytes | str], data: bytes) -> dict[str, bytes | str]:
    return {name: content for name, content in files.items() if content != data}


def swapped(files: dict[str, bytes | str], old: bytes, new: bytes) -> dict[str, bytes | str]:
    return {name: new if content == old else content for name, content in files.items()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a tar"),
        (b"not a tar at all", "not a tar"),
        (b"\x1f\x8bbroken", "cannot read"),
        (gzip.compress(tar_bytes(ROOTFS))[:-20], "cannot read"),
        (b"BZh91AY", "compressed with bzip2"),
        (tar_bytes(ROOTFS)[:1500], "ends early|not a tar|unexpected"),
        (tar_bytes({}), "is empty"),
        (tar_bytes({"manifest.json": b"{"}), "`manifest.json` is broken"),
        (tar_bytes({"manifest.json": b'[{"Config":"x"}]'}), "does not have `x`"),
        (tar_bytes({"manifest.json": b"[]"}), "no image"),
        (tar_bytes({"oci-layout": b"", "index.json": b"{}"}), "neither an image"),
        (tar_bytes(without(simple_layout(), make_image(b"layer"))), "does not have manifest"),
        (tar_bytes(swapped(simple_layout(), make_image(b"layer"), make_image(b"evil!"))), "have digest"),
        (tar_bytes(swapped(simple_layout(), b"layer", b"longer layer")), "12 bytes in the archive, not 5"),
    ],
)
def test_a_broken_archive_is_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        open_archive(write(tmp_path / "broken", data))


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar_bytes(without(simple_layout(), b"layer")))
    with open_archive(path) as archive, pytest.raises(ArchiveError, match=sha256(b"layer")):
        archive.blob_digests()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"/nothing`: no such file"):
        open_archive(tmp_path / "nothing")


def test_names_inside_reach_nothing_outside(tmp_path: Path) -> None:
    write(tmp_path / "secret", b"secret")
    entry = {"Config": "../secret", "Layers": []}
    with pytest.raises(ArchiveError, match="does not have"):
        open_archive(write(tmp_path / "d.tar", tar_bytes({"manifest.json": json.dumps([entry]).encode()})))


@given(data=st.binary(max_size=2000))
def test_rubbish_never_fails_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / "rubbish", data)
    with pytest.raises(BlobError):
        open_archive(path).close()


def test_bytes_of_a_blob_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    with open_archive(write_files(simple_layout(), tmp_path / "l")) as archive:
        assert parse_digest(sha256(b"layer")) in archive.blob_digests()
        with pytest.raises(ArchiveError):
            archive.chunks(digest_of(b"something else"))
