"""Plans: what would be done for a document, read without doing it."""

import pytest

from container.errors import ConfigError
from container.runtime import rootfs
from container.runtime.devices import MakeDevice
from container.runtime.operations import BindMount
from container.spec import example


def plan(mounts, userns=False, **linux):
    namespaces = [{"type": "mount"}]
    config = {"root": {"path": "rootfs"}, "mounts": mounts, "linux": {"namespaces": namespaces, **linux}}
    return rootfs.plan(config, "/b", rootfs.Host(userns=userns))


def words(operations):
    return [operation.describe() for operation in operations]


def test_the_plan_of_the_example_is_known_step_by_step():
    document = example.config(0, 0, rootless=False)
    document["process"]["cwd"] = "/work"
    document["linux"]["maskedPaths"] = ["/proc/kcore"]
    document["linux"]["readonlyPaths"] = ["/proc/sys"]
    assert words(rootfs.plan(document, "/b", rootfs.Host())) == [
        "set propagation of all mounts to 0x84000",
        "attach bind of `/b/rootfs` as root",
        "mount proc at `/proc`",
        "mount tmpfs at `/dev`",
        "mount devpts at `/dev/pts`",
        "mount tmpfs at `/dev/shm`",
        "mount mqueue at `/dev/mqueue`",
        "mount sysfs at `/sys`",
        "mount cgroups at `/sys/fs/cgroup`",
        "make device `/dev/null` c 1:3",
        "make device `/dev/zero` c 1:5",
        "make device `/dev/full` c 1:7",
        "make device `/dev/random` c 1:8",
        "make device `/dev/urandom` c 1:9",
        "make device `/dev/tty` c 5:0",
        "link `/dev/fd` to `/proc/self/fd`",
        "link `/dev/stdin` to `/proc/self/fd/0`",
        "link `/dev/stdout` to `/proc/self/fd/1`",
        "link `/dev/stderr` to `/proc/self/fd/2`",
        "link `/dev/ptmx` to `pts/ptmx`",
        "make `/proc/sys` read-only",
        "mask `/proc/kcore`",
        "make directory `/work`",
        "make the root read-only",
        "pivot into the root",
    ]


def test_in_a_user_namespace_devices_are_bound():
    devices = [step for step in plan([], userns=True) if isinstance(step, MakeDevice)]
    assert len(devices) == 6
    assert all(device.bind for device in devices)


def test_a_first_mount_at_the_root_is_the_root():
    mounts = [{"destination": "/", "type": "overlay", "source": "overlay", "options": ["lowerdir=/a:/b"]}]
    assert (
        words(plan(mounts))[1] == "attach overlay of `/b/rootfs` as root" or "attach overlay" in words(plan(mounts))[1]
    )
    assert not any("bind" in line and "as root" in line for line in words(plan(mounts)))


def test_trees_of_the_launcher_go_to_the_mount_they_were_opened_for():
    mounts = [
        {"destination": "/", "type": "overlay", "source": "overlay"},
        {"destination": "/a", "type": "bind", "source": "/x"},
        {"destination": "/b", "type": "bind", "source": "/y"},
    ]
    host = rootfs.Host()
    host.trees = {2: 77}
    config = {"root": {"path": "r"}, "mounts": mounts, "linux": {"namespaces": [{"type": "mount"}]}}
    binds = {s.destination: s.tree for s in rootfs.plan(config, "/", host) if isinstance(s, BindMount)}
    assert binds == {"/a": -1, "/b": 77}


def test_without_a_mount_namespace_there_is_a_chroot_and_nothing_else():
    config = {"root": {"path": "rootfs"}, "linux": {}}
    assert words(rootfs.plan(config, "/b", rootfs.Host())) == ["chroot into `/b/rootfs`"]


def test_a_shared_root_gets_a_private_parent_before_it_is_attached():
    lines = words(plan([], rootfsPropagation="shared"))
    assert lines[1:3] == ["make the mount of `/b/rootfs` private", "attach bind of `/b/rootfs` as root"]


@pytest.mark.parametrize(
    "destination", ["/proc/sys", "//proc/sys", "proc/sys", "/x/../proc/sys", "/proc//self/../../proc/1"]
)
def test_nothing_is_mounted_inside_proc_however_it_is_written(destination):
    with pytest.raises(ConfigError, match="inside /proc"):
        plan([{"destination": destination, "type": "bind", "source": "/etc"}])


def test_what_lxcfs_stands_in_for_may_be_mounted():
    assert "bind `/var/lib/lxcfs/uptime` at `/proc/uptime`" in words(
        plan([{"destination": "/proc/uptime", "type": "bind", "source": "/var/lib/lxcfs/uptime"}])
    )


@pytest.mark.parametrize(
    ("mounts", "linux", "message"),
    [
        ([{"destination": "/a"}], {}, "neither a type"),
        ([{"destination": "/a", "type": "bind"}], {}, "no source"),
        ([], {"rootfsPropagation": "loud"}, "`loud` is unknown"),
        ([], {"devices": [{"path": "/dev/x", "type": "z"}]}, "unknown type `z`"),
    ],
)
def test_impossible_documents_are_refused_before_anything_is_done(mounts, linux, message):
    with pytest.raises(ConfigError, match=message):
        plan(mounts, **linux)


def test_a_device_of_the_document_takes_the_place_of_a_default():
    devices = [{"path": "/dev//null/", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}]
    made = [step for step in plan([], devices=devices) if isinstance(step, MakeDevice) and step.path == "/dev/null"]
    assert [step.mode for step in made] == [0o600]


def test_a_bound_dev_is_left_alone():
    lines = words(plan([{"destination": "/dev", "type": "bind", "source": "/dev"}]))
    assert not any("device" in line for line in lines)
