"""Messages between daemon and shim: one JSON object a SOCK_SEQPACKET packet, descriptors beside it.

    request   {"id": 7, "op": "run", ...}
    answer    {"id": 7, "ok": {...}}  or  {"id": 7, "error": {"code", "message", "hint", "category"}}
    event     {"event": "born" | "exit", ...}

A long list is cut over several answers, all but the last with "more". Shared by both sides; the
client wraps it for asyncio.
"""

import _socket
import array
import json

#: Below the default limit of a socket's send buffer, with room for the kernel's overhead.
MAX_BYTES = 64 << 10
MAX_FDS = 16
_ANCILLARY = _socket.CMSG_SPACE(array.array("i").itemsize * MAX_FDS)


def encode(message: "dict[str, object]") -> bytes:
    """Return the packet of `message`."""
    return json.dumps(message, separators=(",", ":")).encode()


def send(sock: "_socket.socket", message: "dict[str, object]", fds: "list[int] | tuple[int, ...]" = ()) -> None:
    """Send `message` with copies of `fds`; OSError if the peer is gone."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([encode(message)], ancillary, _socket.MSG_NOSIGNAL)


def receive(sock: "_socket.socket") -> "tuple[dict[str, object], list[int]] | None":
    """Return (message, descriptors), close-on-exec, or None at the end; ValueError for what is no message."""
    try:
        data, ancillary, flags, _ = sock.recvmsg(MAX_BYTES * 4, _ANCILLARY, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The peer died with something of ours unread. What it had sent is still to be had behind this error.
        data, ancillary, flags, _ = sock.recvmsg(MAX_BYTES * 4, _ANCILLARY, _socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        return None
    if flags & _socket.MSG_TRUNC:
        raise ValueError("message is too long")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("message is not an object")
    return message, list(fds)
