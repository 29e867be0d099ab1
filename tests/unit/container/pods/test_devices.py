from pathlib import Path

from container.pods.devices import host_devices


def test_all_devices_of_the_host_but_those_a_container_has_itself():
    found = {device["path"]: device for device in host_devices(rootless=False)}
    assert not {"/dev/null", "/dev/tty", "/dev/ptmx"} & set(found)
    assert all(Path(path).is_char_device() or Path(path).is_block_device() for path in found)
    assert all(device["type"] in ("c", "b") for device in found.values())


def test_rootless_the_useful_few_that_exist():
    found = [device["path"] for device in host_devices(rootless=True)]
    assert set(found) <= {"/dev/net/tun", "/dev/fuse", "/dev/kvm", "/dev/vhost-net", "/dev/vhost-vsock"}
    assert ("/dev/net/tun" in found) == Path("/dev/net/tun").exists()


def test_links_and_files_are_no_devices(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/sda")
    assert host_devices(rootless=False, dev=tmp_path) == []
