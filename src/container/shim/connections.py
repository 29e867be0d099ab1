"""The shim's connections: messages in, answers and events out.

Any process of the same user that can open the socket may speak (SO_PEERCRED); nobody else.
"""

import _socket
import os
import struct

from container.errors import ConfigError, ContainerError, LaunchError
from container.shim import wire
from container.shim.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Operation = Callable[["Client", dict[str, Any], list[int]], dict[str, Any] | None]


class Client:
    """One connection; `follows` tells that it wants events."""

    __slots__ = ("follows", "sock")

    def __init__(self, sock: "_socket.socket") -> None:
        self.sock = sock
        self.follows = False


class Connections:
    """Everybody who is connected, and the operations they may ask for."""

    __slots__ = ("_clients", "_loop", "operations")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._clients: list[Client] = []
        self.operations: dict[str, Operation] = {}

    def listen(self, listener: "_socket.socket") -> None:
        """Accept on `listener`."""
        self._loop.add(listener.fileno(), lambda _events: self._accept(listener))

    def _accept(self, listener: "_socket.socket") -> None:
        fd, _address = listener._accept()  # type: ignore[attr-defined] # accept4(2); typeshed lacks it
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)  # who does not read must not hold up everybody's containers
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            sock.close()
            return
        client = Client(sock)
        self._clients.append(client)
        self._loop.add(fd, lambda events: self._on_client(client, events), READ)

    def _on_client(self, client: Client, events: int) -> None:
        try:
            received = wire.receive(client.sock) if events & READ else None
        except (OSError, ValueError):
            received = None
        if received is None:
            self._drop(client)
            return
        message, fds = received
        try:
            self._carry_out(client, message, fds)
        finally:
            for fd in fds:
                try:
                    os.close(fd)
                except OSError:
                    continue  # taken over by the operation

    def _carry_out(self, client: Client, message: "dict[str, Any]", fds: "list[int]") -> None:
        request = message.get("id", 0)
        try:
            operation = self.operations.get(str(message.get("op")))
            if operation is None:
                raise ConfigError(f"unknown operation `{message.get('op')}`")
            answer = operation(client, message, fds)
        except ContainerError as error:
            self.refuse(client, request, error)
            return
        except (OSError, KeyError, TypeError, ValueError) as error:
            self.refuse(
                client, request, LaunchError(f"`{message.get('op')}` failed: {str(error) or type(error).__name__}")
            )
            return
        if answer is not None:
            self.answer(client, request, answer)

    def answer(self, client: Client, request: int, ok: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        """Send the answer to `request`."""
        self.send(client, {"id": request, "ok": ok}, fds)

    def refuse(self, client: Client, request: int, error: ContainerError) -> None:
        """Send why `request` failed."""
        fault = {"code": error.code, "category": error.category, "message": error.message, "hint": error.hint,
                 "errno": getattr(error, "errno", 0)}  # fmt: skip
        self.send(client, {"id": request, "error": fault})

    def tell(self, event: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        """Send `event` to everybody who follows."""
        for client in list(self._clients):
            if client.follows:
                self.send(client, event, fds)

    def send(self, client: Client, message: "dict[str, Any]", fds: "tuple[int, ...]" = ()) -> None:
        """Send `message` to one client."""
        try:
            wire.send(client.sock, message, fds)
        except OSError:
            self._drop(client)  # it died, or never reads: it will ask again when it is back

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._loop.remove(client.sock.fileno())
            client.sock.close()
