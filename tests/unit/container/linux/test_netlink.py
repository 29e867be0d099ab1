"""rtnetlink messages as bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.linux import netlink


def test_link_message_has_the_bytes_of_the_header_files():
    message = netlink.set_link(7, up=True)
    assert netlink.format_message(message, 3, netlink.NLM_F_ACK).hex() == (
        "2000000010000500030000000000000000000000070000000100000001000000"
    )


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_round_trip(pairs):
    data = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert netlink.parse_attributes(data) == dict(pairs)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_an_accident(data):
    netlink.parse_attributes(data)
    list(netlink.parse_messages(data))


def test_messages_of_one_datagram_are_told_apart():
    messages = [netlink.delete_link(1), netlink.delete_link(2)]
    data = b"".join(netlink.format_message(one, number, 0) for number, one in enumerate(messages))
    found = [(kind, sequence, body) for kind, _, sequence, body in netlink.parse_messages(data)]
    assert found == [(17, 0, messages[0].body), (17, 1, messages[1].body)]


def test_link_is_read_back():
    body = netlink.new_bridge("br0").body
    link = netlink.parse_link(body)
    assert (link.name, link.kind, link.is_up) == ("br0", "bridge", False)


def test_address_is_read_back():
    address = netlink.parse_address(netlink.new_address(3, "10.1.2.3", 24).body)
    assert address is not None
    assert (address.address, address.prefix, address.index) == ("10.1.2.3", 24, 3)


def test_veth_nests_its_peer():
    body = netlink.new_veth("a", "b", 9, 1400).body
    info = netlink.parse_attributes(netlink.parse_attributes(body[16:])[netlink.IFLA_LINKINFO])
    peer = netlink.parse_attributes(info[netlink.IFLA_INFO_DATA])[netlink.VETH_INFO_PEER]
    found = netlink.parse_attributes(peer[16:])
    assert found[netlink.IFLA_IFNAME] == b"b\0"
    assert struct.unpack("=i", found[netlink.IFLA_NET_NS_FD]) == (9,)


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b"])
def test_impossible_names_are_refused(name):
    with pytest.raises(ValueError, match="not a name for an interface"):
        netlink.new_bridge(name)


def test_impossible_addresses_are_refused():
    with pytest.raises(ValueError, match="not an IP address"):
        netlink.new_address(1, "10.0.0.256", 24)
    with pytest.raises(ValueError, match="prefix length `33`"):
        netlink.new_address(1, "10.0.0.1", 33)


def test_error_says_which_message():
    assert str(netlink.NetlinkError(17, "make bridge `b`")) == "make bridge `b`: file exists"
