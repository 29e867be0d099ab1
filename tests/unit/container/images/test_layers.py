import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container.errors import DigestError, ImageError, RegistryError
from container.images import layers
from container.images.layers import Layer
from unit.container.images.archives import (
    directory,
    file,
    hard_link,
    layer_of,
    make_tar,
    member,
    pieces,
    symlink,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A `layers` directory beside a file that no archive may reach."""
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "layers").mkdir()
    return tmp_path / "layers"


def unpack(tar: bytes, store: Path, how: str = "gzip") -> Path:
    layer, packed = layer_of(tar, store, how)
    layers.unpack(layer, lambda: pieces(packed))
    return Path(layer.path)


def names(root: Path) -> list[str]:
    found = [os.path.relpath(os.path.join(d, n), root) for d, ds, fs in os.walk(root) for n in ds + fs]
    return sorted(found)


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
def test_files_links_modes_and_times_are_as_in_the_archive(store, how):
    made = make_tar(
        directory("d", mode=0o2775, mtime=5),
        file("d/a", b"hello", mode=0o4755, mtime=7.25),
        hard_link("d/h", "d/a"),
        symlink("d/s", "/d/a"),
        member("d/f", tarfile.FIFOTYPE),
    )
    root = unpack(made, store, how)
    found = (root / "d/a").lstat()
    assert (root / "d/a").read_bytes() == b"hello"
    assert stat.S_IMODE(found.st_mode) == 0o4755
    assert found.st_mtime_ns == 7_250_000_000
    assert found.st_ino == (root / "d/h").lstat().st_ino
    assert os.readlink(root / "d/s") == "/d/a"
    assert (root / "d/f").is_fifo()
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2775
    assert (root / "d").stat().st_mtime == 5


@pytest.mark.parametrize(
    "name",
    ["../secret", "/../secret", "a/../../secret", "../../../../../../../../secret", "/secret", "./../secret"],
)
def test_climbing_names_stay_inside(store, name):
    root = unpack(make_tar(file(name, b"evil")), store)
    assert (store.parent / "secret").read_text() == "untouched"
    assert (root / "secret").read_bytes() == b"evil"


@pytest.mark.parametrize("target", ["../..", "/", "../../..", "{outside}"])
def test_a_symlink_as_parent_leads_nowhere_outside(store, target):
    target = target.format(outside=store.parent)
    root = unpack(make_tar(symlink("l", target), file("l/secret", b"evil"), directory("l/made")), store)
    assert (store.parent / "secret").read_text() == "untouched"
    assert not (store.parent / "made").exists()
    assert b"evil" in [p.read_bytes() for p in root.rglob("secret") if not p.is_symlink()]


def test_a_symlink_as_last_part_is_replaced_not_followed(store):
    outside = str(store.parent / "secret")
    root = unpack(make_tar(symlink("l", outside), file("l", b"evil")), store)
    assert (store.parent / "secret").read_text() == "untouched"
    assert (root / "l").read_bytes() == b"evil"


@pytest.mark.parametrize("target", ["../secret", "../../secret", "{outside}"])
def test_hard_links_out_of_the_root_are_refused(store, target):
    target = target.format(outside=store.parent / "secret")
    with pytest.raises(ImageError, match="not in this layer"):
        unpack(make_tar(hard_link("h", target)), store)
    assert (store.parent / "secret").stat().st_nlink == 1
    assert names(store) == []


def test_hard_link_to_a_symlink_does_not_follow_it(store):
    outside = str(store.parent / "secret")
    root = unpack(make_tar(symlink("l", outside), hard_link("h", "l"), file("h", b"evil")), store)
    assert (store.parent / "secret").read_text() == "untouched"
    assert (root / "h").read_bytes() == b"evil"


def test_attributes_of_a_directory_replaced_by_a_link_do_not_travel(store):
    before = store.parent.stat()
    made = make_tar(directory("d", mode=0o777, mtime=1), symlink("d", str(store.parent)))
    unpack(made, store)
    after = store.parent.stat()
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


def test_missing_parents_are_made_also_behind_a_link_to_a_lower_layer(store):
    root = unpack(make_tar(file("x/y/z", b"1"), symlink("lib", "usr/lib"), file("lib/m", b"2")), store)
    assert (root / "x/y/z").read_bytes() == b"1"
    assert (root / "usr/lib/m").read_bytes() == b"2"
    assert (root / "lib").is_symlink()


def test_loop_of_links_is_an_image_error(store):
    with pytest.raises(ImageError, match="too many levels"):
        unpack(make_tar(symlink("a", "b"), symlink("b", "a"), file("a/f", b"1")), store)


def test_file_as_parent_is_an_image_error(store):
    with pytest.raises(ImageError, match="not a directory"):
        unpack(make_tar(file("a", b"1"), file("a/b", b"2")), store)


def test_very_deep_names_are_unpacked_and_removed(store):
    deep = "/".join(["d"] * 1500)
    root = unpack(make_tar(file(deep + "/f", b"1"), file("d", b"now a file")), store)
    assert (root / "d").read_bytes() == b"now a file"


@pytest.mark.parametrize("first", [file("n", b"1"), directory("n"), symlink("n", "x"), member("n", tarfile.FIFOTYPE)])
@pytest.mark.parametrize(
    ("second", "check"),
    [
        (file("n", b"2"), Path.is_file),
        (directory("n"), Path.is_dir),
        (symlink("n", "y"), Path.is_symlink),
        (hard_link("n", "other"), Path.is_file),
        (member("n", tarfile.FIFOTYPE), Path.is_fifo),
    ],
)
def test_a_later_entry_replaces_an_earlier_one(store, first, second, check):
    root = unpack(make_tar(file("other", b"o"), first, second), store)
    assert check(root / "n")


def test_directory_again_keeps_what_is_in_it(store):
    root = unpack(make_tar(directory("d", mode=0o700), file("d/a"), directory("d", mode=0o711)), store)
    assert (root / "d/a").exists()
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o711


def test_whiteout_becomes_a_device_0_0(store):
    root = unpack(make_tar(directory("d"), file("d/.wh.gone"), file(".wh.top")), store)
    for path in (root / "d/gone", root / "top"):
        found = path.lstat()
        assert stat.S_ISCHR(found.st_mode)
        assert found.st_rdev == 0
    assert names(root) == ["d", "d/gone", "top"]


@pytest.mark.parametrize("order", [1, -1])
def test_whiteout_does_not_hide_what_its_own_layer_has(store, order):
    root = unpack(make_tar(*[file("a", b"new"), file(".wh.a")][::order]), store)
    assert (root / "a").read_bytes() == b"new"


def test_bookkeeping_of_aufs_and_empty_whiteouts_are_ignored(store):
    root = unpack(make_tar(file(".wh..wh.aufs"), file(".wh."), file(".wh..."), file(".wh..")), store)
    assert names(root) == []


def test_host_attributes_are_left_out_and_counted(store):
    records = {
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.kept": "yes",
    }
    layer, packed = layer_of(make_tar((member("a", pax_headers=records), b"1")), store)
    counts = layers.unpack(layer, lambda: pieces(packed))
    assert counts is not None
    assert counts.dropped_xattrs == 3
    assert os.listxattr(f"{layer.path}/a") == ["user.kept"]


def test_sparse_file_is_sparse_again(store, tmp_path):
    with (tmp_path / "holes").open("wb") as made:
        made.write(b"start")
        made.truncate(1 << 24)
    packed = subprocess.run(["tar", "-C", tmp_path, "-cSf", "-", "holes"], check=True, capture_output=True)
    root = unpack(packed.stdout, store, "plain")
    assert (root / "holes").read_bytes() == (tmp_path / "holes").read_bytes()
    assert (root / "holes").stat().st_blocks * 512 < 1 << 20


def test_result_does_not_depend_on_the_umask(store):
    before = os.umask(0o077)
    try:
        root = unpack(make_tar(directory("d"), file("d/a", b"1"), file("i/b", b"2")), store)
    finally:
        assert os.umask(before) == 0o077
    modes = [stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "d/a", "i", "i/b", ".")]
    assert modes == [0o755, 0o644, 0o755, 0o644, 0o755]


def test_layer_that_is_there_is_not_fetched_again(store):
    layer, packed = layer_of(make_tar(file("a", b"1")), store)
    assert layers.unpack(layer, lambda: pieces(packed)) is not None
    assert layers.unpack(layer, lambda: pytest.fail("fetched")) is None


def test_empty_layer_is_an_empty_directory(store):
    assert names(unpack(make_tar(), store)) == []
    assert names(unpack(b"", store, "plain")) == []


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_bytes_are_a_digest_error_and_leave_nothing(store, how, share):
    layer, packed = layer_of(make_tar(file("a", os.urandom(5000)), file("b", os.urandom(5000))), store, how)
    with pytest.raises(DigestError):
        layers.unpack(layer, lambda: pieces(packed[: int(len(packed) * share)]))
    assert names(store) == []


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_one_wrong_byte_is_a_digest_error_and_leaves_nothing(store, how, share):
    layer, packed = layer_of(make_tar(file("a", os.urandom(50000))), store, how)
    damaged = bytearray(packed)
    damaged[int(len(packed) * share)] ^= 1
    with pytest.raises(DigestError):
        layers.unpack(layer, lambda: pieces(bytes(damaged)))
    assert names(store) == []


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_broken_stream_with_the_right_digest_is_the_image_s_fault(store, how):
    _, packed = layer_of(make_tar(file("a", os.urandom(5000))), store, how)
    broken, _ = layer_of(packed[:-2000], store, "plain")
    with pytest.raises(ImageError, match=f"{how} stream ends too early") as caught:
        layers.unpack(broken, lambda: pieces(packed[:-2000]))
    assert not isinstance(caught.value, DigestError)
    assert names(store) == []


def test_broken_archive_is_named_with_its_offset(store):
    broken = make_tar(file("a", b"x" * 3000), file("b", b"y"))[:2000]
    layer, packed = layer_of(broken, store)
    with pytest.raises(ImageError, match=f"layer `{layer.digest}` is broken at byte 2000: .*middle of a file"):
        layers.unpack(layer, lambda: pieces(packed))
    assert names(store) == []


def test_wrong_diff_id_is_a_digest_error(store):
    layer, packed = layer_of(make_tar(file("a", b"1")), store)
    wrong = Layer(layer.digest, layer.size, "sha256:" + "0" * 64, str(store))
    with pytest.raises(DigestError, match="not `sha256:000"):
        layers.unpack(wrong, lambda: pieces(packed))
    assert names(store) == []


def test_more_bytes_than_announced_are_cut_off(store):
    layer, packed = layer_of(make_tar(file("a", b"1")), store)
    with pytest.raises(DigestError):
        layers.unpack(layer, lambda: pieces(packed + b"\0" * 10))
    assert names(store) == []


def test_bytes_behind_the_archive_count_for_the_digest(store):
    padded = make_tar(file("a", b"1")) + b"\0" * 100_000
    assert names(unpack(padded, store)) == ["a"]


def test_failing_source_is_told_as_it_is_and_leaves_nothing(store):
    layer, packed = layer_of(make_tar(file("a", os.urandom(1 << 20))), store)

    def fail():
        yield packed[:100_000]
        raise RegistryError("gone")

    with pytest.raises(RegistryError, match="gone"):
        layers.unpack(layer, fail)
    assert names(store) == []


def test_what_a_killed_run_left_is_replaced(store):
    layer, packed = layer_of(make_tar(file("a", b"1")), store)
    os.makedirs(f"{layer.partial}/old/tree")
    layers.unpack(layer, lambda: pieces(packed))
    assert names(Path(layer.path)) == ["a"]
    assert os.listdir(store) == [layer.name]


def test_leftovers_go_but_not_those_in_use(store):
    mine, packed = layer_of(make_tar(file("a", b"1")), store)
    os.makedirs(store / ".dead.partial/x")
    os.makedirs(store / ".old.removed/x")

    def fetch():
        layers.remove_leftovers(str(store))
        return pieces(packed)

    layers.unpack(mine, fetch)
    assert os.listdir(store) == [mine.name]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_no_archive_writes_outside(store, data):
    """Random short names over a few links: whatever the order, only the layer changes."""
    part = st.sampled_from(["a", "b", "..", ".", "", "l", ".wh.a", ".wh..wh..opq"])
    name = st.lists(part, min_size=1, max_size=5).map("/".join)
    target = st.one_of(name, st.just(str(store.parent)), st.just("/"), st.just("../../.."))
    kinds = st.sampled_from([file, directory, symlink, hard_link])
    members = []
    for kind in data.draw(st.lists(kinds, min_size=1, max_size=8)):
        text = data.draw(name) or "a"
        members.append(kind(text, data.draw(target)) if kind in (symlink, hard_link) else kind(text))
    layer, packed = layer_of(make_tar(*members), store, "plain")
    try:
        layers.unpack(layer, lambda: pieces(packed))
    except ImageError:
        pass
    assert sorted(os.listdir(store.parent)) == ["layers", "secret"]
    assert (store.parent / "secret").stat().st_nlink == 1
    assert all(len(entry) == 64 for entry in os.listdir(store))
