"""Listen on an address and say who connected. What is said on the connection is the daemon's affair."""

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vappc.errors import DaemonError
from vappc.transport.address import (
    VMADDR_CID_ANY,
    VMADDR_CID_HOST,
    VMADDR_CID_LOCAL,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    is_loopback,
)

#: include/uapi/asm-generic/socket.h
SO_PEERGROUPS = 59
_UCRED = struct.Struct("iII")
#: The most that Python reads of an option; who is in more than 256 groups counts by the first alone.
_GROUPS_BYTES = 1024
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.

    Attributes:
        name: for logs.
        denied: why this peer may not speak; empty when it may.
        needs_token: the first request must be a Hello with the token.
    """

    name: str
    denied: str = ""
    needs_token: bool = False


OnConnection = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Peer], Awaitable[None]]


class Listener:
    """One listening address; `close` also removes the socket file if it is still ours."""

    def __init__(self, address: Address, server: asyncio.Server, identity: tuple[int, int] | None) -> None:
        self.address = address
        self._server = server
        self._identity = identity

    @property
    def port(self) -> int:
        """The port in fact bound, for port 0."""
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Begin to accept; who connected before has waited."""
        await self._server.start_serving()

    def close(self) -> None:
        """Stop listening; open connections stay as they are."""
        self._server.close()
        if isinstance(self.address, UnixAddress) and self._identity == _identity(self.address.path):
            os.unlink(self.address.path)


async def listen(address: Address, on_connection: OnConnection, *, allow_local_vsock: bool = False) -> Listener:
    """Take `address`, and call `on_connection` for everybody who connects once the listener is started.

    Raises:
        DaemonError: the address is taken, not loopback, or not to be had here.
    """
    try:
        sock = _bind(address)
    except OSError as error:
        raise _explained(address, error) from error

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = identify(address, writer.get_extra_info("socket"), allow_local_vsock=allow_local_vsock)
        await on_connection(reader, writer, peer)

    if isinstance(address, UnixAddress):
        identity = _identity(address.path)
        return Listener(address, await asyncio.start_unix_server(accepted, sock=sock, start_serving=False), identity)
    return Listener(address, await asyncio.start_server(accepted, sock=sock, start_serving=False), None)


def identify(address: Address, sock: socket.socket, *, allow_local_vsock: bool = False) -> Peer:
    """Ask the kernel who is connected to `sock`, and decide whether they may be."""
    if isinstance(address, UnixAddress):
        return _unix_peer(address, sock)
    if isinstance(address, TcpAddress):
        return Peer(f"tcp {sock.getpeername()[0]}", needs_token=True)
    cid = sock.getpeername()[0]
    allowed = cid == VMADDR_CID_HOST or (allow_local_vsock and cid == VMADDR_CID_LOCAL)
    return Peer(f"vsock cid {cid}", "" if allowed else f"only the host may connect, not context id {cid}")


def _unix_peer(address: UnixAddress, sock: socket.socket) -> Peer:
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    name = f"uid {uid} pid {pid}"
    if uid in (0, os.geteuid()):
        return Peer(name)
    try:
        owner = os.stat(address.path).st_gid
    except OSError:
        owner = -1
    if owner in {gid, *_groups(sock)}:
        return Peer(name)
    return Peer(name, f"user {uid} is neither the daemon's user nor in the group of the socket")


def _groups(sock: socket.socket) -> list[int]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return []
    return [number for (number,) in struct.iter_unpack("I", raw)]


def _bind(address: Address) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _bind_unix(address.path)
    if isinstance(address, VsockAddress):
        return _bound(socket.AF_VSOCK, (VMADDR_CID_ANY if address.cid is None else address.cid, address.port))
    if not is_loopback(address.host):
        raise DaemonError(
            f"`{address}` can be reached from other machines",
            "use a loopback address such as `tcp:127.0.0.1:0`",
        )
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    return _bound(found[0], found[4])


def _bind_unix(path: str) -> socket.socket:
    _clear_stale(path)
    # The mode must be right from the first moment on: chmod after bind leaves a gap.
    previous = os.umask(0o117)
    try:
        return _bound(socket.AF_UNIX, path)
    finally:
        os.umask(previous)


def _bound(family: int, target: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)  # type: ignore[arg-type]  # the form depends on the family
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _clear_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DaemonError(f"`{path}` exists and is no socket", "name another path with `--socket`")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
    raise DaemonError(f"another daemon listens on `{path}`", "stop it, or name another path with `--socket`")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _explained(address: Address, error: OSError) -> DaemonError:
    reason = (error.strerror or str(error)).lower()
    hints = {
        errno.EADDRINUSE: "another process listens there; stop it, or choose another address",
        errno.EAFNOSUPPORT: "load the kernel module `vsock`, or use a unix socket",
        errno.EACCES: "choose a path in a directory that you may write",
        errno.ENOENT: "make the directory of the socket first",
    }
    return DaemonError(f"cannot listen on `{address}`: {reason}", hints.get(error.errno or 0, ""))
