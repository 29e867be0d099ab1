"""What the launcher opens for its init: the maps of a mount, and who needs help."""

import pytest

from container.errors import ConfigError
from container.runtime import sources
from container.runtime.options import parse


def test_maps_in_the_option_are_read():
    uids, gids = sources._parse_maps("uids=0-1000-1#1-2000-9;gids=0-5-1")
    assert [tuple(one.values()) for one in uids] == [(0, 1000, 1), (1, 2000, 9)]
    assert [tuple(one.values()) for one in gids] == [(0, 5, 1)]


@pytest.mark.parametrize("text", ["uids", "uids=1", "uids=1-2", "pids=0-0-1", "uids=a-b-c"])
def test_broken_maps_are_refused(text):
    with pytest.raises(ConfigError, match="is not valid"):
        sources._parse_maps(text)


def test_a_mount_takes_its_own_maps_before_the_containers():
    own = [{"containerID": 0, "hostID": 9, "size": 1}]
    containers = [{"containerID": 0, "hostID": 1, "size": 1}]
    mount = {"destination": "/a", "uidMappings": own, "gidMappings": own}
    assert sources._mappings(mount, parse(["idmap"]), containers, containers) == (own, own)
    assert sources._mappings({"destination": "/a"}, parse(["idmap"]), containers, containers) == (
        containers,
        containers,
    )
    with pytest.raises(ConfigError, match="says not how"):
        sources._mappings({"destination": "/a"}, parse(["idmap"]), [], [])


def test_a_directory_closed_to_others_is_seen(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a").chmod(0o700)
    assert sources._is_closed(str(inner))
    assert not sources._is_closed("/usr/bin")


def test_ids_of_the_container_become_ids_of_the_host():
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 5000, "size": 10}]
    assert [sources._host_id(number, maps) for number in (0, 1, 10)] == [1000, 5000, 5009]
    with pytest.raises(ConfigError, match="not mapped"):
        sources._host_id(11, maps)
