"""Tell whoever started us that we are ready: systemd (sd_notify(3)) and scripts (a descriptor)."""

import os
import socket
from collections.abc import Mapping


def notify_systemd(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `state` (such as `READY=1`) to the service manager; False if there is none."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return False
    return True


def notify_descriptor(fd: int) -> None:
    """Write a newline to `fd` and close it."""
    try:
        os.write(fd, b"\n")
    finally:
        os.close(fd)
