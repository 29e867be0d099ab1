"""Patterns of interface names, on the interfaces of this host."""

from container.network.links import _matches, has_interface, interface_ip, interface_names


def test_loopback_has_its_address():
    assert interface_ip("lo") == "127.0.0.1"
    assert interface_ip("l*") == "127.0.0.1"
    assert has_interface("lo")
    assert "lo" in interface_names()


def test_unknown_interface_has_none():
    assert interface_ip("none0") is None
    assert not has_interface("none0")


def test_star_matches_beginnings():
    assert _matches("tap0", "tap*")
    assert not _matches("eth0", "tap*")
    assert not _matches("eth01", "eth0")
    assert not _matches("lo", "*")
