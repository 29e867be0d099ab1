"""IPv4 addresses of this machine's network interfaces: what GetInterfaceIp asks for."""

import errno
import fcntl
import socket
import struct

# include/uapi/linux/sockios.h
SIOCGIFADDR = 0x8915
_IFNAMSIZ = 16
#: An interface that has no address, or is gone meanwhile.
_ABSENT = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)


def interface_ip(wanted: str) -> tuple[str, str | None]:
    """Return the interface that `wanted` names and its first IPv4 address; `zt*` matches by prefix."""
    if not wanted.endswith("*"):
        return wanted, _address(wanted)
    for _, name in socket.if_nameindex():
        if name.startswith(wanted[:-1]) and (found := _address(name)) is not None:
            return name, found
    return wanted, None


def _address(name: str) -> str | None:
    raw = name.encode()
    if not raw or len(raw) >= _IFNAMSIZ or b"\0" in raw:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("40s", raw))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
    # struct ifreq: the name, then a sockaddr_in whose address is at its offset 4.
    return socket.inet_ntoa(found[20:24])
