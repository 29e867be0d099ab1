"""Moving interfaces of the host into a container: `linux.netDevices` (config-linux.md, "Network Devices").

The kernel drops addresses when an interface changes its namespace, so the global ones are added again.
Interfaces come back by themselves: the kernel returns physical ones when the container's namespace ends.
"""

import os

from container.errors import LaunchError
from container.linux import namespaces
from container.linux.netlink import Address, Netlink, NetlinkError, new_address, set_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import NetDevice

#: Addresses that an interface gets by itself.
_LOCAL = ("fe80:", "127.", "::1")


def move(devices: "dict[str, NetDevice]", pid: int) -> None:
    """Move `devices`, host name -> what it is called inside, into the network namespace of `pid` and set them up.

    Raises:
        LaunchError: an interface is missing, or its new name is taken.
    """
    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for name, device in devices.items():
            try:
                _move_one(name, device.get("name") or name, target)
            except (NetlinkError, ValueError) as error:
                raise LaunchError(
                    f"cannot move interface `{name}` into the container: {error}",
                    "`linux.netDevices` names interfaces that the host has, and names that are free inside",
                    getattr(error, "errno", 0) or 0,
                ) from error
    finally:
        os.close(target)


def _move_one(name: str, inside: str, target: int) -> None:
    with Netlink() as here:
        index = here.index(name)
        addresses = [one for one in here.addresses() if one.index == index and not one.address.startswith(_LOCAL)]
        here.request(set_link(index, up=False))
        here.request(set_link(index, netns=target, name=inside))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(target, namespaces.CLONE_NEWNET)
        try:
            _settle(inside, addresses)
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    finally:
        os.close(home)


def _settle(name: str, addresses: "list[Address]") -> None:
    with Netlink() as there:
        index = there.index(name)
        messages = [new_address(index, one.address, one.prefix) for one in addresses]
        there.request(*messages, set_link(index, up=True))
