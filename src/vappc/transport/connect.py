"""Open a blocking connection to a daemon. The asynchronous client wraps the same sockets."""

import socket

from vappc.errors import ConnectError
from vappc.transport.address import VMADDR_CID_HOST, Address, TcpAddress, UnixAddress

_START_HINT = "is the daemon running? start it with `vappc-linux-daemon --socket {address}`"


def open_connection(address: Address, timeout_s: float | None = None) -> socket.socket:
    """Connect to `address`.

    Raises:
        ConnectError: nobody answers there; the hint says how to start a daemon.
    """
    try:
        if isinstance(address, TcpAddress):
            return socket.create_connection((address.host, address.port), timeout_s)
        if isinstance(address, UnixAddress):
            return _connect(socket.socket(socket.AF_UNIX), address.path, timeout_s)
        cid = VMADDR_CID_HOST if address.cid is None else address.cid
        return _connect(socket.socket(socket.AF_VSOCK), (cid, address.port), timeout_s)
    except PermissionError as error:
        raise ConnectError(
            f"no permission to use `{address}`", "join the group that owns the socket (see `ls -l`)"
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConnectError(f"cannot connect to `{address}`: {reason}", _START_HINT.format(address=address)) from error


def _connect(sock: socket.socket, target: object, timeout_s: float | None) -> socket.socket:
    try:
        sock.settimeout(timeout_s)
        sock.connect(target)  # type: ignore[arg-type]  # the form depends on the family
    except BaseException:
        sock.close()
        raise
    return sock
