"""The wire between a container's init and the process that launches it.

A SOCK_SEQPACKET pair: one message a packet, the first byte is its kind. `_socket` is the C module
behind `socket`, whose import alone would cost a start more than all its system calls; the same goes for `array`.

    init to parent    b"P" pid     the init was cloned by a stage; its pidfd comes along
                      b"C"         the master of the console comes along
                      b"S"         the seccomp listener comes along
                      b"R"         built: waits for the order to start
                      b"E" ...     failed: errno NUL message NUL hint
                      end of file  the user's program runs (the socket is close-on-exec)
    parent to init    b"n"         ids are mapped, the cgroup is joined, the hooks ran: go on; after b"R" of an init
                                   with a gate: it is on disk and need not die with its launcher
                      b"g"         start the user's program
                      end of file  the launcher died: leave
"""

import _socket
import os
import struct

from container.errors import ContainerError, LaunchError

STAGED, CONSOLE, LISTENER, READY, ERROR, PROCEED, GO = b"P", b"C", b"S", b"R", b"E", b"n", b"g"

_MAX = 1 << 16
_FDS = struct.calcsize("4i")


class Channel:
    """One end; owns its descriptor."""

    __slots__ = ("sock",)

    def __init__(self, sock: "_socket.socket") -> None:
        self.sock = sock

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        return self.sock.fileno()

    def send(self, kind: bytes, payload: bytes = b"", fds: "tuple[int, ...]" = ()) -> None:
        """Send one message; descriptors travel as copies. A peer that is gone is not an error here."""
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            self.sock.sendmsg([kind + payload], ancillary, _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> "tuple[bytes, bytes, list[int]]":
        """Return (kind, payload, descriptors) of the next message; (b"", b"", []) at the end."""
        try:
            data, ancillary, _flags, _address = self._read()
        except ConnectionResetError:
            # The peer died with a message of ours unread; its own last words are behind this error.
            data, ancillary, _flags, _address = self._read()
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                count = len(content) // 4
                fds += struct.unpack(f"{count}i", content[: count * 4])
        return data[:1], data[1:], fds

    def _read(self) -> "tuple[bytes, list[tuple[int, int, bytes]], int, object]":
        return self.sock.recvmsg(_MAX, _socket.CMSG_SPACE(_FDS), _socket.MSG_CMSG_CLOEXEC)

    def send_error(self, error: Exception) -> None:
        """Tell the other side why this one gives up."""
        hint = getattr(error, "hint", "") if isinstance(error, ContainerError) else ""
        number = getattr(error, "errno", 0) or 0
        text = str(error) or type(error).__name__
        self.send(ERROR, f"{number}\0{text}\0{hint}".encode(errors="replace")[: _MAX - 1])

    def close(self) -> None:
        """Close this end; may be called twice."""
        self.sock.close()


def pair() -> "tuple[Channel, Channel]":
    """Return two connected ends, both close-on-exec."""
    left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(left), Channel(right)


def listen(path: str) -> "_socket.socket":
    """Return a socket that listens at `path`."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    _through_directory(path, sock.bind)
    sock.listen(1)
    return sock


def connect(path: str) -> Channel:
    """Return a channel to who listens at `path`; OSError if nobody does."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        _through_directory(path, sock.connect)
    except BaseException:
        sock.close()
        raise
    return Channel(sock)


def accept(listener: "_socket.socket") -> Channel:
    """Return a channel to the next one who connects."""
    fd, _address = listener._accept()  # type: ignore[attr-defined] # accept4(2); typeshed lacks it
    os.set_inheritable(fd, False)
    return Channel(_socket.socket(fileno=fd))


def send_descriptor(path: str, fd: int, payload: bytes) -> None:
    """Send `fd` to the stream socket at `path` in one message, as conmon and containerd expect it."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        sock.sendmsg([payload], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))])
    finally:
        sock.close()


def parse_error(payload: bytes) -> LaunchError:
    """Return the error that an ERROR message tells of."""
    number, _, rest = payload.decode(errors="replace").partition("\0")
    text, _, hint = rest.partition("\0")
    return LaunchError(text, hint, int(number) if number.isdecimal() else 0)


def _through_directory(path: str, action: "object") -> None:
    # sockaddr_un holds 108 bytes; a state directory may be deeper than that.
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        action(f"/proc/self/fd/{directory}/{os.path.basename(path)}")  # type: ignore[operator] # bind or connect
    finally:
        os.close(directory)
