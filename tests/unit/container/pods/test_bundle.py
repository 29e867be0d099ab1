from pathlib import Path

import pytest

from blob.oci.image import ContainerConfig
from container.errors import ConfigError, HostError
from container.intent import ContainerRunSpec, MountSpec
from container.pods.bundle import Plan, config
from container.pods.users import User

ROOTFS = {"destination": "/", "type": "overlay", "source": "overlay", "options": ["lowerdir=/l"]}


def make(rootless=False, image=None, devices=(), seccomp=None, user=None, **fields):
    spec = ContainerRunSpec(image="demo", **fields)
    defaults = image or ContainerConfig(cmd=("/bin/sh",))
    return config(
        Plan("0123456789abcdef", spec, defaults, Path("/c"), ROOTFS, user or User(), rootless, "n", devices, seccomp)
    )


def mounts(made):
    return {found["destination"]: found for found in made["mounts"]}


def test_a_plain_container_is_exactly_this():
    made = make(rootless=True)
    assert made["ociVersion"] == "1.2.0"
    assert made["hostname"] == "0123456789ab"
    assert made["root"] == {"path": "rootfs", "readonly": False}
    assert made["annotations"] == {"org.4lock.image": "demo"}
    process = made["process"]
    assert process.pop("capabilities").keys() == {"bounding", "effective", "permitted"}
    assert process == {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh"],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=0123456789ab",
            "HOME=/",
        ],
        "cwd": "/",
        "noNewPrivileges": True,
    }
    assert list(mounts(made)) == [
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/hostname",
    ]
    assert made["mounts"][0] is ROOTFS
    linux = made["linux"]
    assert [found["type"] for found in linux["namespaces"]] == ["pid", "ipc", "uts", "mount", "cgroup"]
    assert linux["cgroupsPath"] == "n/0123456789abcdef"
    assert linux["resources"] == {}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert "devices" not in linux
    assert "seccomp" not in linux


def test_rootless_sysfs_is_a_recursively_read_only_copy_unless_the_network_is_our_own():
    bound = mounts(make(rootless=True))["/sys"]
    assert (bound["source"], bound["options"]) == ("/sys", ["rbind", "nosuid", "noexec", "nodev", "rro"])
    for made in (make(rootless=True, network="none"), make(rootless=False)):
        assert mounts(made)["/sys"]["type"] == "sysfs"


def test_network_none_is_a_new_namespace():
    kinds = [found["type"] for found in make(network="none")["linux"]["namespaces"]]
    assert "network" in kinds


def test_host_network_needs_root():
    assert make(network="host")
    with pytest.raises(HostError, match="needs root"):
        make(rootless=True, network="host")


def test_devices_are_denied_then_allowed_as_root_and_not_mentioned_without():
    rules = make()["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"} in rules
    assert "devices" not in make(rootless=True)["linux"]["resources"]


def test_limits_are_translated():
    made = make(rootless=True, memory_bytes=64 << 20, cpus=1.5, pids_limit=9)["linux"]["resources"]
    assert made == {
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "cpu": {"quota": 150000, "period": 100000},
        "pids": {"limit": 9},
    }


def test_privileged_hides_nothing_and_may_everything():
    device = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}
    made = make(privileged=True, devices=[device], seccomp=None)
    assert not {"maskedPaths", "readonlyPaths", "seccomp"} & set(made["linux"])
    assert made["linux"]["devices"] == [device]
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert made["process"]["noNewPrivileges"] is False
    assert "CAP_SYS_ADMIN" in made["process"]["capabilities"]["bounding"]
    assert "ro" not in mounts(made)["/sys/fs/cgroup"]["options"]


def test_seccomp_goes_in_as_given():
    assert make(seccomp={"defaultAction": "x"})["linux"]["seccomp"] == {"defaultAction": "x"}


def test_user_mounts_come_last_and_read_only_is_recursive():
    made = make(mounts=[MountSpec("/srv", "/data", read_only=True), MountSpec("/tmp", "/etc/hosts")])
    assert made["mounts"][-2]["options"] == ["rbind", "rprivate", "rro"]
    assert made["mounts"][-1] == {
        "destination": "/etc/hosts",
        "type": "none",
        "source": "/tmp",
        "options": ["rbind", "rprivate", "rw"],
    }


@pytest.mark.parametrize(
    "mount", [MountSpec("srv", "/a"), MountSpec("/srv", "a"), MountSpec("/srv", "/"), MountSpec("/srv", "//")]
)
def test_mounts_that_cannot_be_are_refused(mount):
    with pytest.raises(ConfigError):
        make(mounts=[mount])


def test_a_terminal_has_a_size_and_a_type():
    process = make(terminal=True)["process"]
    assert process["consoleSize"] == {"height": 24, "width": 80}
    assert "TERM=xterm" in process["env"]


def test_plans_do_not_share_what_they_return():
    first, second = make(), make()
    first["mounts"][1]["options"].append("x")
    assert "x" not in second["mounts"][1]["options"]


def test_the_user_is_the_plans():
    made = make(user=User(1000, 100, (5, 6), "/home/web"))
    assert made["process"]["user"] == {"uid": 1000, "gid": 100, "additionalGids": [5, 6]}
    assert "HOME=/home/web" in made["process"]["env"]
