"""rtnetlink in network namespaces of our own, compared with /sys and `ip`."""

import json
import os
import shutil
import subprocess

import pytest

from container.linux import namespaces, netlink
from container.linux.netlink import Netlink, NetlinkError
from container.network.links import interface_ip, interface_names, loopback_up

pytestmark = pytest.mark.usefixtures("root_only")


@pytest.fixture
def in_netns(in_child):
    """Run an action in a new network namespace."""

    def run(action):
        def inside():
            namespaces.unshare(namespaces.CLONE_NEWNET)
            return action()

        return in_child(inside)

    return run


def ip(*arguments: str):
    return json.loads(subprocess.run(["ip", "-json", *arguments], capture_output=True, check=True).stdout or "[]")


needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="`ip` is not installed")


def test_loopback_comes_up_with_its_address(in_netns):
    def action():
        before = interface_ip("lo")
        loopback_up()
        return before, interface_ip("lo")

    assert in_netns(action) == repr((None, "127.0.0.1"))


@needs_ip
def test_bridge_with_a_pair_is_what_ip_sees(in_netns):
    def action():
        with Netlink() as net:
            net.request(netlink.new_bridge("br0"), netlink.new_veth("out0", "in0", mtu=1400))
            bridge, outer = net.index("br0"), net.index("out0")
            net.request(
                netlink.new_address(bridge, "10.9.0.1", 24),
                netlink.new_address(bridge, "fd09::1", 64),
                netlink.set_link(bridge, up=True),
                netlink.set_link(outer, up=True, master=bridge),
                netlink.new_route(("10.8.0.0", 16), gateway="10.9.0.2"),
                netlink.new_route(None, gateway="10.9.0.254"),
            )
        links = {link["ifname"]: link for link in ip("-details", "address")}
        routes = {route["dst"]: route.get("gateway") for route in ip("route")}
        return (
            links["br0"]["linkinfo"]["info_kind"],
            sorted(one["local"] for one in links["br0"]["addr_info"] if one["scope"] == "global"),
            (links["out0"]["master"], links["out0"]["mtu"]),
            (routes["default"], routes["10.8.0.0/16"]),
            interface_ip("br*"),
        )

    expected = ("bridge", ["10.9.0.1", "fd09::1"], ("br0", 1400), ("10.9.0.254", "10.9.0.2"), "10.9.0.1")
    assert in_netns(action) == repr(expected)


def test_peer_is_made_in_another_namespace(in_netns):
    def action():
        other = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.unshare(namespaces.CLONE_NEWNET)
        with Netlink() as net:
            net.request(netlink.new_veth("host0", "eth0", other))
        here = interface_names()
        namespaces.setns(other)
        return here, interface_names()

    assert in_netns(action) == repr((["lo", "host0"], ["lo", "eth0"]))


def test_interface_is_moved_and_renamed(in_netns):
    def action():
        other = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.unshare(namespaces.CLONE_NEWNET)
        with Netlink() as net:
            net.request(netlink.new_veth("a", "b"))
            index = net.index("b")
            net.request(netlink.set_link(index, name="eth0", address=b"\x02\0\0\0\0\x01"))
            net.request(netlink.set_link(index, netns=other))
        here = interface_names()
        namespaces.setns(other)
        with open("/proc/self/net/dev") as file:
            return here, "eth0:" in file.read()

    assert in_netns(action) == repr((["lo", "a"], True))


def test_removed_pair_is_gone_on_both_ends(in_netns):
    def action():
        with Netlink() as net:
            net.request(netlink.new_veth("a", "b"))
            net.request(netlink.delete_link(net.index("a")))
        return interface_names()

    assert in_netns(action) == repr(["lo"])


def test_first_refused_message_is_named_and_the_others_are_done(in_netns):
    def action():
        with Netlink() as net:
            try:
                bridges = [netlink.new_bridge(name) for name in ("br0", "br0", "br1")]
                net.request(*bridges[:2], netlink.delete_link(77), bridges[2])
            except NetlinkError as error:
                return str(error), error.errno, interface_names()

    assert in_netns(action) == repr(("make bridge `br0`: file exists", 17, ["lo", "br0", "br1"]))


def test_many_interfaces_are_all_listed(in_netns):
    """More than fits into one datagram of the kernel's."""

    def action():
        with Netlink() as net:
            net.request(*(netlink.new_bridge(f"br{number}") for number in range(60)))
            return len(net.links())

    assert in_netns(action) == "61"
