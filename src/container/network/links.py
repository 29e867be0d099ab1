"""Interfaces of the network namespace this process is in: loopback, bridges, pairs, addresses.

Out of scope: the messages themselves (container.linux.netlink), the uplink of a node (pasta).
"""

import fcntl
import socket
import struct

from container.linux.netlink import IFF_UP, Netlink, NetlinkError

# include/uapi/linux/sockios.h
SIOCSIFFLAGS = 0x8914


def loopback_up() -> None:
    """Set `lo` up, which also gives it its addresses: one ioctl (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        # struct ifreq { char ifr_name[16]; short ifr_flags; ... }, 40 bytes
        fcntl.ioctl(any_socket.fileno(), SIOCSIFFLAGS, struct.pack("=16sh22x", b"lo", IFF_UP))


def interface_ip(pattern: str) -> "str | None":
    """Return the first IPv4 address of the first interface that `pattern` names, None if there is none.

    Args:
        pattern: a name, or the beginning of one followed by `*`; `*` alone passes over loopback.
    """
    with Netlink() as netlink:
        links, addresses = netlink.links(), netlink.addresses()
    for link in sorted(links, key=lambda one: one.index):
        if not _matches(link.name, pattern):
            continue
        for address in addresses:
            if address.index == link.index and address.family == socket.AF_INET:
                return address.address
    return None


def interface_names() -> "list[str]":
    """Return the names of all interfaces, in the order in which they were made."""
    with Netlink() as netlink:
        return [link.name for link in sorted(netlink.links(), key=lambda one: one.index)]


def has_interface(name: str) -> bool:
    """Tell whether there is an interface `name`, up."""
    with Netlink() as netlink:
        try:
            return any(link.name == name and link.is_up for link in netlink.links())
        except NetlinkError:
            return False


def _matches(name: str, pattern: str) -> bool:
    if pattern == "*":
        return name != "lo"
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return name == pattern
