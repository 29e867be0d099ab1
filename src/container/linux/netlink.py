"""rtnetlink by hand: the eight messages that interfaces, addresses and routes need (rtnetlink(7)).

Building and parsing are PURE; `Netlink` is the socket. Messages are sent in batches: one send for all,
one acknowledgement each. Out of scope: firewall rules, and what the interfaces are for
(container.network).
"""

import errno
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

# include/uapi/linux/netlink.h
NETLINK_ROUTE = 0
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR = 0x2
NLMSG_DONE = 0x3
NLA_F_NESTED = 1 << 15

# include/uapi/linux/rtnetlink.h
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1

# include/uapi/linux/if_link.h
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_FD = 28
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2

# include/uapi/linux/veth.h
VETH_INFO_PEER = 1

# include/uapi/linux/if_addr.h
IFA_ADDRESS = 1
IFA_LOCAL = 2

# include/uapi/linux/if.h
IFF_UP = 1 << 0
IFNAMSIZ = 16

_RECEIVE_BYTES = 1 << 16
_LARGEST_MTU = 65535


class NetlinkError(OSError):
    """The kernel refused a message; `call` says in words which."""

    def __init__(self, number: int, call: str) -> None:
        super().__init__(number, os.strerror(number))
        self.call = call

    def __str__(self) -> str:
        return f"{self.call}: {(self.strerror or '').lower()}"


class Message:
    """One request: its type, flags beyond NLM_F_REQUEST|NLM_F_ACK, body, and words for errors."""

    __slots__ = ("body", "flags", "kind", "words")

    def __init__(self, kind: int, flags: int, body: bytes, words: str) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.words = words


class Link:
    """An interface: struct ifinfomsg with the attributes that we read."""

    __slots__ = ("flags", "index", "kind", "master", "name")

    def __init__(self, index: int, flags: int, name: str, master: int, kind: str) -> None:
        self.index = index
        self.flags = flags
        self.name = name
        self.master = master
        self.kind = kind

    @property
    def is_up(self) -> bool:
        """Whether it is set up (IFF_UP)."""
        return bool(self.flags & IFF_UP)


class Address:
    """An address of an interface: struct ifaddrmsg with the attributes that we read."""

    __slots__ = ("address", "family", "index", "prefix")

    def __init__(self, index: int, family: int, address: str, prefix: int) -> None:
        self.index = index
        self.family = family
        self.address = address
        self.prefix = prefix


def attribute(kind: int, value: bytes) -> bytes:
    """struct nlattr { __u16 nla_len; __u16 nla_type; }; then the value, padded to four bytes."""
    length = 4 + len(value)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} of {len(value)} bytes is too long")
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def parse_attributes(data: bytes) -> "dict[int, bytes]":
    """Return the attributes in `data` by type, the flags of the type removed; a torn one ends the list."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[length + -length % 4 :]
    return found


def link_body(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """struct ifinfomsg { unsigned char ifi_family, __ifi_pad; unsigned short ifi_type; int ifi_index;

    unsigned ifi_flags, ifi_change; };  (include/uapi/linux/rtnetlink.h)
    """
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, flags, change)


def name_attribute(name: str) -> bytes:
    """IFLA_IFNAME with the closing NUL."""
    raw = name.encode()
    if not 0 < len(raw) < IFNAMSIZ or "/" in name or any(char.isspace() for char in name):
        raise ValueError(f"`{name}` is not a name for an interface: 1 to {IFNAMSIZ - 1} bytes, no space or slash")
    return attribute(IFLA_IFNAME, raw + b"\0")


def new_bridge(name: str) -> Message:
    """Make a bridge: RTM_NEWLINK, IFLA_LINKINFO { IFLA_INFO_KIND "bridge" }."""
    return _new_link(name, "bridge")


def new_dummy(name: str) -> Message:
    """Make a dummy interface: RTM_NEWLINK, IFLA_LINKINFO { IFLA_INFO_KIND "dummy" }."""
    return _new_link(name, "dummy")


def new_veth(name: str, peer: str, peer_netns: "int | None" = None, mtu: "int | None" = None) -> Message:
    """Make a pair of interfaces, the peer in the network namespace of the descriptor `peer_netns`.

    RTM_NEWLINK, IFLA_LINKINFO { IFLA_INFO_KIND "veth", IFLA_INFO_DATA { VETH_INFO_PEER { struct ifinfomsg,
    attributes of the peer } } }.
    """
    extra = b"" if mtu is None else attribute(IFLA_MTU, struct.pack("=I", mtu))
    inside = link_body() + name_attribute(peer) + extra
    if peer_netns is not None:
        inside += attribute(IFLA_NET_NS_FD, struct.pack("=i", peer_netns))
    return _new_link(name, "veth", attribute(VETH_INFO_PEER | NLA_F_NESTED, inside), extra)


def _new_link(name: str, kind: str, data: bytes = b"", extra: bytes = b"") -> Message:
    info = attribute(IFLA_INFO_KIND, kind.encode())
    if data:
        info += attribute(IFLA_INFO_DATA | NLA_F_NESTED, data)
    body = link_body() + name_attribute(name) + extra + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"make {kind} `{name}`")


def set_link(
    index: int,
    *,
    up: "bool | None" = None,
    name: "str | None" = None,
    master: "int | None" = None,
    netns: "int | None" = None,
    mtu: "int | None" = None,
    address: "bytes | None" = None,
) -> Message:
    """Change an interface: RTM_NEWLINK without NLM_F_CREATE.

    Args:
        index: the interface.
        up: whether it is up.
        name: its new name; it must be down.
        master: the bridge that it joins, 0 to leave.
        netns: descriptor of the network namespace that it moves to.
        mtu: largest packet.
        address: hardware address.
    """
    if mtu is not None and not 0 < mtu <= _LARGEST_MTU:
        raise ValueError(f"mtu `{mtu}` is out of range")
    body = link_body(index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    body += b"" if name is None else name_attribute(name)
    body += b"" if master is None else attribute(IFLA_MASTER, struct.pack("=I", master))
    body += b"" if netns is None else attribute(IFLA_NET_NS_FD, struct.pack("=i", netns))
    body += b"" if mtu is None else attribute(IFLA_MTU, struct.pack("=I", mtu))
    body += b"" if address is None else attribute(IFLA_ADDRESS, address)
    return Message(RTM_NEWLINK, 0, body, f"change interface {index}")


def delete_link(index: int) -> Message:
    """Remove an interface, a veth with its peer: RTM_DELLINK."""
    return Message(RTM_DELLINK, 0, link_body(index), f"remove interface {index}")


def new_address(index: int, address: str, prefix: int) -> Message:
    """Add an address: RTM_NEWADDR.

    struct ifaddrmsg { __u8 ifa_family, ifa_prefixlen, ifa_flags, ifa_scope; __u32 ifa_index; };
    """
    family, raw = _pack_address(address)
    if not 0 <= prefix <= len(raw) * 8:
        raise ValueError(f"prefix length `{prefix}` does not fit `{address}`")
    body = struct.pack("=BBBBI", family, prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, f"add address `{address}/{prefix}`")


def new_route(
    destination: "tuple[str, int] | None", *, gateway: "str | None" = None, index: "int | None" = None
) -> Message:
    """Add a route to `destination` (address, prefix length; None is the default route): RTM_NEWROUTE.

    struct rtmsg { unsigned char rtm_family, rtm_dst_len, rtm_src_len, rtm_tos, rtm_table, rtm_protocol,
    rtm_scope, rtm_type; unsigned rtm_flags; };
    """
    family: int = socket.AF_INET
    body, words = b"", "default"
    length = 0
    if destination is not None:
        (family, raw), length = _pack_address(destination[0]), destination[1]
        body, words = attribute(RTA_DST, raw), f"{destination[0]}/{length}"
    if gateway is not None:
        family, raw = _pack_address(gateway)
        body += attribute(RTA_GATEWAY, raw)
    if index is not None:
        body += attribute(RTA_OIF, struct.pack("=I", index))
    scope = RT_SCOPE_LINK if gateway is None else RT_SCOPE_UNIVERSE
    head = struct.pack("=8BI", family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, head + body, f"add route to `{words}`")


def _pack_address(address: str) -> "tuple[int, bytes]":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError as error:
        raise ValueError(f"`{address}` is not an IP address") from error


def format_message(message: Message, sequence: int, flags: int) -> bytes:
    """struct nlmsghdr { __u32 nlmsg_len; __u16 nlmsg_type, nlmsg_flags; __u32 nlmsg_seq, nlmsg_pid; };"""
    length = 16 + len(message.body)
    head = struct.pack("=IHHII", length, message.kind, flags | message.flags | NLM_F_REQUEST, sequence, 0)
    return head + message.body + bytes(-length % 4)


def parse_messages(data: bytes) -> "Iterator[tuple[int, int, int, bytes]]":
    """Yield (type, flags, sequence, body) of each whole message in one datagram."""
    while len(data) >= 16:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
        if not 16 <= length <= len(data):
            return
        yield kind, flags, sequence, data[16:length]
        data = data[length + -length % 4 :]


def parse_link(body: bytes) -> Link:
    """Return the interface of an RTM_NEWLINK."""
    _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", body)
    found = parse_attributes(body[16:])
    master = int.from_bytes(found.get(IFLA_MASTER, b""), "little")
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    name = found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return Link(index, flags, name, master, info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode())


def parse_address(body: bytes) -> "Address | None":
    """Return the address of an RTM_NEWADDR; None for families other than IPv4 and IPv6."""
    family, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
    found = parse_attributes(body[8:])
    # On a point-to-point interface IFA_ADDRESS is the other end; IFA_LOCAL, if there, is ours.
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if family not in (socket.AF_INET, socket.AF_INET6) or raw is None:
        return None
    return Address(index, family, socket.inet_ntop(family, raw), prefix)


class Netlink:
    """A netlink socket of the network namespace in which it was opened; a `with` object."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._sequence = 0

    def request(self, *messages: Message) -> None:
        """Send all messages at once and wait until the kernel has done each, in order.

        Raises:
            NetlinkError: of the first that was refused; the kernel has still tried those after it.
        """
        first = self._sequence + 1
        packed = [format_message(one, first + number, NLM_F_ACK) for number, one in enumerate(messages)]
        self._sequence += len(messages)
        self._socket.send(b"".join(packed))
        refused: NetlinkError | None = None
        left = set(range(first, first + len(messages)))
        for kind, _, sequence, body in self._receive(left):
            if kind == NLMSG_ERROR and sequence in left:
                left.remove(sequence)
                (number,) = struct.unpack_from("=i", body)
                if number and refused is None:
                    refused = NetlinkError(-number, messages[sequence - first].words)
        if refused is not None:
            raise refused

    def links(self) -> "list[Link]":
        """Return all interfaces: RTM_GETLINK with NLM_F_DUMP."""
        return [parse_link(body) for body in self._dump(RTM_GETLINK, link_body(), "list interfaces")]

    def addresses(self) -> "list[Address]":
        """Return all addresses: RTM_GETADDR with NLM_F_DUMP."""
        bodies = self._dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0), "list addresses")
        return [address for address in map(parse_address, bodies) if address is not None]

    def index(self, name: str) -> int:
        """Return the index of the interface `name`.

        Raises:
            NetlinkError: ENODEV.
        """
        for link in self.links():
            if link.name == name:
                return link.index
        raise NetlinkError(errno.ENODEV, f"find interface `{name}`")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _dump(self, kind: int, body: bytes, words: str) -> "list[bytes]":
        for _ in range(8):
            found, torn = self._dump_once(kind, body, words)
            if not torn:
                return found
        raise NetlinkError(errno.EINTR, words)

    def _dump_once(self, kind: int, body: bytes, words: str) -> "tuple[list[bytes], bool]":
        """Return the answers, and whether the list changed while it was read (NLM_F_DUMP_INTR)."""
        self._sequence += 1
        wanted = self._sequence
        self._socket.send(format_message(Message(kind, 0, body, words), wanted, NLM_F_DUMP))
        found, torn, left = [], False, {wanted}
        for answer, flags, sequence, data in self._receive(left):
            if sequence != wanted:
                continue
            torn = torn or bool(flags & NLM_F_DUMP_INTR)
            if answer in (NLMSG_DONE, NLMSG_ERROR):
                left.clear()
                (number,) = struct.unpack_from("=i", data)
                if number < 0:
                    raise NetlinkError(-number, words)
            else:
                found.append(data)
        return found, torn

    def _receive(self, left: "set[int]") -> "Iterable[tuple[int, int, int, bytes]]":
        """Yield messages until the consumer has emptied `left`."""
        while left:
            yield from parse_messages(self._socket.recv(_RECEIVE_BYTES))

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
