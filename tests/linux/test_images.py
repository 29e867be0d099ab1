"""Layers on the real kernel: what overlayfs shows of them, as root and in user namespaces."""

import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from container.errors import HostError
from container.images import layers
from container.images.children import REMOVER, UNPACKER
from container.images.layers import Layer
from container.images.snapshot import RootFS, mount_entry
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
from unit.container.images.registry import serve

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

#: VFS_CAP_REVISION_2 with CAP_NET_RAW permitted (include/uapi/linux/capability.h).
_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "layers").mkdir()
    return tmp_path / "layers"


@contextmanager
def mounted(target: Path, *options: str) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@contextmanager
def overlay(tmp_path: Path, lower: list[Layer]) -> Iterator[Path]:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    rootfs = RootFS([layer.path for layer in lower], f"{tmp_path}/upper", f"{tmp_path}/work")
    options = ",".join(mount_entry(rootfs, rootless=False)["options"])
    with mounted(tmp_path / "merged", "-t", "overlay", "overlay", "-o", options) as merged:
        yield merged


def unpack(store: Path, *tars: bytes) -> list[Layer]:
    made = []
    for tar in tars:
        layer, packed = layer_of(tar, store)
        layers.unpack(layer, lambda packed=packed: pieces(packed))
        made.append(layer)
    return made


def listing(root: Path) -> dict[str, tuple]:
    """What `find` and `stat` could tell of a tree."""
    found = {}
    for above, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else b""
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            key = os.path.relpath(path, root)
            found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, time, content, target)
    return found


BASE = make_tar(
    directory("keep"),
    file("keep/a", b"a"),
    file("keep/b", b"b"),
    directory("opaque", mode=0o711),
    file("opaque/old", b"old"),
    directory("gone"),
    file("gone/deep/x", b"x"),
    directory("again"),
    file("again/old", b"old"),
    file("becomes-dir", b"file"),
    directory("becomes-file"),
    file("becomes-file/x", b"x"),
    symlink("link", "keep"),
)
CHANGE = make_tar(
    file("keep/.wh.a"),
    file("keep/c", b"c"),
    directory("opaque", mode=0o700),
    file("opaque/.wh..wh..opq"),
    file("opaque/new", b"new"),
    file(".wh.gone"),
    file(".wh.again"),
    file("again/new", b"new"),
    directory("becomes-dir"),
    file("becomes-dir/y", b"y"),
    file("becomes-file", b"now"),
    file(".wh.link"),
    directory("late"),
    file("late/n", b"n"),
    file("late/.wh..wh..opq"),
)
#: The same two layers as one archive that was never layered.
RESULT = make_tar(
    directory("keep"),
    file("keep/b", b"b"),
    file("keep/c", b"c"),
    directory("opaque", mode=0o700),
    file("opaque/new", b"new"),
    directory("again"),
    file("again/new", b"new"),
    directory("becomes-dir"),
    file("becomes-dir/y", b"y"),
    file("becomes-file", b"now"),
    directory("late"),
    file("late/n", b"n"),
)


def test_overlayfs_shows_what_the_layers_mean(store, tmp_path):
    base, change = unpack(store, BASE, CHANGE)
    (tmp_path / "expected").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "expected", "-xpf", "-"], input=RESULT, check=True)
    with overlay(tmp_path, [change, base]) as merged:
        assert listing(merged) == listing(tmp_path / "expected")


def test_owners_modes_devices_and_links_are_those_of_gnu_tar(store, tmp_path):
    tar = make_tar(
        directory("d", uid=1000, gid=2000, mode=0o3775),
        file("d/setuid", b"x", uid=33, gid=44, mode=0o6755),
        file("d/huge-owner", uid=3_000_000, gid=2_999_999),
        hard_link("d/hard", "d/setuid"),
        symlink("d/soft", "/nowhere"),
        member("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("d/disk", tarfile.BLKTYPE, devmajor=259, devminor=300, mode=0o660, gid=6),
        member("d/fifo", tarfile.FIFOTYPE, uid=5),
        file("d/" + "long" * 60, b"long"),
    )
    (layer,) = unpack(store, tar)
    (tmp_path / "expected").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "expected", "--numeric-owner", "-xpf", "-"], input=tar, check=True)
    assert listing(Path(layer.path)) == listing(tmp_path / "expected")
    assert os.stat(f"{layer.path}/d/hard").st_nlink == 2
    assert os.stat(f"{layer.path}/d").st_mtime == os.stat(tmp_path / "expected/d").st_mtime


def test_capabilities_and_user_attributes_reach_the_container(store, tmp_path):
    records = {"SCHILY.xattr.security.capability": _CAPABILITY.decode("latin1"), "SCHILY.xattr.user.k": "v"}
    buffer = make_tar((member("ping", mode=0o755, uid=7, pax_headers=records), b"#!"), directory("d"))
    (layer,) = unpack(store, buffer)
    with overlay(tmp_path, [layer]) as merged:
        assert os.getxattr(merged / "ping", "security.capability") == _CAPABILITY
        assert os.getxattr(merged / "ping", "user.k") == b"v"


def test_device_0_0_in_an_archive_deletes_nothing(store, tmp_path):
    evil = make_tar(member("a", tarfile.CHRTYPE, devmajor=0, devminor=0))
    base, top = unpack(store, make_tar(file("a", b"here")), evil)
    with overlay(tmp_path, [top, base]) as merged:
        assert (merged / "a").read_bytes() == b"here"


def test_full_disk_is_told_with_a_hint_and_leaves_nothing(tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "tmpfs", "-o", "size=1m") as small:
        layer, packed = layer_of(make_tar(file("a", os.urandom(500_000)), file("b", os.urandom(900_000))), small)
        with pytest.raises(HostError, match="no space left") as caught:
            layers.unpack(layer, lambda: pieces(packed))
        assert "free space" in caught.value.hint
        assert os.listdir(small) == []


def test_read_only_store_is_told(tmp_path):
    with mounted(tmp_path / "ro", "-t", "tmpfs", "tmpfs", "-o", "ro") as read_only:
        layer, packed = layer_of(make_tar(file("a")), read_only)
        with pytest.raises(HostError, match="read-only"):
            layers.unpack(layer, lambda: pieces(packed))


def test_mount_below_the_tree_stops_its_removal(tmp_path):
    (tmp_path / "tree").mkdir()
    with mounted(tmp_path / "tree/m", "-t", "tmpfs", "tmpfs"):
        (tmp_path / "tree/m/precious").touch()
        done = subprocess.run([*REMOVER, tmp_path / "tree"], capture_output=True, check=False)
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["code"] == "host"


# In user namespaces.

OWNED = make_tar(
    directory("d"),
    file("d/mine", b"1"),
    file("d/theirs", b"2", uid=1000, gid=1000, mode=0o4755),
    member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
)


#: Inside 0 is outside 0, inside 1 and up are what subordinate ids would be.
RANGE = "0 0 1\n1 100001 65535\n"
SINGLE = "0 0 1\n"


def run_in(mapping: str, argv: list[str], data: bytes = b"") -> bytes:
    """Run a program in a new user and mount namespace and return its output."""
    script = 'echo ready; read go; exec "$@"'
    pipe = subprocess.PIPE
    command = ["unshare", "--user", "--mount", "sh", "-c", script, "sh", *argv]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(mapping)
        output, errors = process.communicate(b"go\n" + data, timeout=30)
    assert errors == b""
    return output


def unpack_in(mapping: str, tar: bytes, store: Path) -> tuple[Layer, dict]:
    layer, packed = layer_of(tar, store)
    with serve() as registry:
        registry.add_blob(packed)
        source = {"url": f"{registry.url}/v2/r/blobs/{layer.digest}"}
        job = {name: getattr(layer, name) for name in ("digest", "size", "diff_id", "directory")}
        output = run_in(mapping, [*UNPACKER], json.dumps(job | {"source": source}).encode())
    return layer, json.loads(output.splitlines()[-1])["ok"]


def test_single_id_namespace_keeps_what_it_can_and_counts_the_rest(store):
    layer, result = unpack_in(SINGLE, OWNED, store)
    theirs = os.stat(f"{layer.path}/d/theirs")
    assert (result["unmapped_owners"], result["skipped_devices"]) == (1, 1)
    # A program that was to run as another user must not run as the owner of the namespace.
    assert (theirs.st_uid, stat.S_IMODE(theirs.st_mode)) == (0, 0o755)
    assert not os.path.exists(f"{layer.path}/null")


def test_owners_are_mapped_in_a_namespace_with_a_range(store):
    layer, result = unpack_in(RANGE, OWNED, store)
    theirs = os.stat(f"{layer.path}/d/theirs")
    assert result["unmapped_owners"] == 0
    assert (theirs.st_uid, theirs.st_gid) == (101000, 101000)
    assert stat.S_IMODE(theirs.st_mode) == 0o4755


def test_overlayfs_in_a_user_namespace_shows_what_the_layers_mean(store, tmp_path):
    base, _ = unpack_in(RANGE, BASE, store)
    change, _ = unpack_in(RANGE, CHANGE, store)
    for name in ("upper", "work", "merged", "expected", "copy"):
        (tmp_path / name).mkdir()
    rootfs = RootFS([change.path, base.path], f"{tmp_path}/upper", f"{tmp_path}/work")
    options = ",".join(mount_entry(rootfs, rootless=True)["options"])
    script = 'mount -t overlay overlay -o "$1" "$2" && tar -C "$2" -cf - . | tar -C "$3" -xpf -'
    merged, copy = str(tmp_path / "merged"), str(tmp_path / "copy")
    run_in(RANGE, ["sh", "-ec", script, "sh", options, merged, copy])
    subprocess.run(["tar", "-C", tmp_path / "expected", "-xpf", "-"], input=RESULT, check=True)
    assert listing(tmp_path / "copy") == listing(tmp_path / "expected")


def test_capabilities_work_in_the_namespace_that_wrote_them(store):
    records = {"SCHILY.xattr.security.capability": _CAPABILITY.decode("latin1")}
    tar = make_tar((member("ping", mode=0o755, pax_headers=records), b"#!"))
    layer, result = unpack_in(RANGE, tar, store)
    assert result["dropped_xattrs"] == 0
    script = "import os, sys; os.write(1, os.getxattr(sys.argv[1], 'security.capability'))"
    shown = run_in(RANGE, [sys.executable, "-c", script, f"{layer.path}/ping"])
    assert shown[4:12] == _CAPABILITY[4:12]


def test_trees_of_subordinate_ids_are_removed_inside_the_namespace(store):
    tar = make_tar(directory("./", uid=1000), directory("d", uid=1000, mode=0o500), file("d/f"))
    layer, _ = unpack_in(RANGE, tar, store)
    assert os.stat(layer.path).st_uid == 101000
    assert json.loads(run_in(RANGE, [*REMOVER, layer.path])) == {"ok": {}}
    assert os.listdir(store) == []


@pytest.mark.slow
def test_many_real_files_are_those_of_gnu_tar(store, tmp_path):
    sources = [p for p in ("usr/lib/python3", "usr/share/man") if Path("/", p).is_dir()]
    made = subprocess.run(["tar", "-C", "/", "-cf", "-", *sources], stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "expected").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "expected", "-xpf", "-"], input=made, check=True)
    layer, packed = layer_of(made, store, "zstd")
    layers.unpack(layer, lambda: pieces(packed))
    assert listing(Path(layer.path)) == listing(tmp_path / "expected")


def test_unpacker_imports_no_event_loop():
    code = "import sys, container.images.unpacker; print(sorted({'asyncio', 'aiohttp', 'msgspec'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
