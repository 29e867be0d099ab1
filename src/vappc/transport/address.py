"""Addresses of a daemon as text: `/path`, `unix:/path`, `vsock:[CID:]PORT`, `tcp:HOST:PORT`."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vappc.errors import AddressError

#: include/uapi/linux/vm_sockets.h
VMADDR_CID_ANY = 0xFFFFFFFF
VMADDR_CID_LOCAL = 1
VMADDR_CID_HOST = 2

_FORMS = "write `/path`, `unix:/path`, `vsock:PORT`, `vsock:CID:PORT` or `tcp:HOST:PORT`"
_SERVICE_SOCKET = "/run/vapp/vappc.sock"
DEFAULT_SOCKET = "/tmp/vappc.sock"
#: sockaddr_un.sun_path, with its NUL: unix(7).
_SUN_PATH = 108


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A VM socket; without a context id, this machine when listening and the host when connecting."""

    port: int
    cid: int | None = None

    def __str__(self) -> str:
        return f"vsock:{self.port}" if self.cid is None else f"vsock:{self.cid}:{self.port}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port of a loopback address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = UnixAddress | VsockAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        AddressError: it has none of the known forms.
    """
    kind, colon, rest = text.partition(":")
    if text.startswith(("/", "./", "../")) or not colon:
        return _unix(text)
    if kind == "unix":
        return _unix(rest)
    if kind == "vsock":
        cid, colon, port = rest.rpartition(":")
        number = _number(cid, text, VMADDR_CID_ANY) if colon else None
        return VsockAddress(_number(port, text, VMADDR_CID_ANY), number)
    if kind == "tcp":
        host, colon, port = rest.rpartition(":")
        if colon and host:
            return TcpAddress(host.strip("[]"), _number(port, text, 0xFFFF))
    raise AddressError(f"`{text}` is no address", _FORMS)


def is_loopback(host: str) -> bool:
    """Whether `host` cannot be reached from other machines; names other than `localhost` are not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find(text: str | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """Return the address to talk to: `text`, VAPPC_SOCKET, the service's socket, or the default one."""
    if chosen := text or environ.get("VAPPC_SOCKET"):
        return parse_address(chosen)
    return UnixAddress(_SERVICE_SOCKET if _is_there(_SERVICE_SOCKET) else DEFAULT_SOCKET)


def _unix(path: str) -> UnixAddress:
    if not path or "\0" in path:
        raise AddressError(f"`{path}` is no path of a socket", _FORMS)
    if len(os.fsencode(path)) >= _SUN_PATH:
        raise AddressError(f"socket path `{path}` is longer than {_SUN_PATH - 1} bytes", "choose a shorter path")
    return UnixAddress(path)


def _number(digits: str, text: str, most: int) -> int:
    if not (digits.isascii() and digits.isdigit()) or int(digits) > most:
        raise AddressError(f"`{digits}` in `{text}` is no number up to {most}", _FORMS)
    return int(digits)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:
        return False  # somebody else's service, which does not talk to us
