"""The daemon's command line. No decisions beyond defaults."""

import argparse
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from container.paths import default_app_dir
from vappc.daemon.logs import LEVELS
from vappc.transport.address import DEFAULT_SOCKET

_EPILOG = """\
addresses of --socket (may be given several times):
  /run/vapp/vappc.sock   a Unix socket, for this user, root, and the socket's group
  vsock:49163            a VM socket; only the host of this VM may connect
  tcp:127.0.0.1:4916     loopback only, and only with the token (file `token` in the app directory)

examples:
  vappc-linux-daemon                                   as yourself, without root
  vappc-linux-daemon --app-dir /srv/vapp --log-level debug
  vappc-linux-daemon --upstream quay.io=https://mirror.example/quay

then, in another terminal:
  vappc ping
  vappc run docker.io/library/alpine -- echo hi

SIGTERM and SIGINT end the daemon; containers run on and the next daemon takes them up again.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    sockets: tuple[str, ...] = (DEFAULT_SOCKET,)
    app_dir: Path = field(default_factory=default_app_dir)
    blob: str = "auto"
    registry_listen: str = "127.0.0.1:5050"
    upstreams: tuple[str, ...] = ()
    log_level: str = "info"
    ready_fd: int | None = None
    allow_local_vsock: bool = False


def parse(argv: list[str] | None = None) -> Options:
    """Read the command line; exits with 2 on a wrong one, with 0 after --help and --version."""
    found = _parser().parse_args(argv)
    return Options(
        sockets=tuple(found.socket or [DEFAULT_SOCKET]),
        app_dir=found.app_dir or default_app_dir(),
        blob=found.blob,
        registry_listen=found.registry_listen,
        upstreams=tuple(found.upstream),
        log_level=found.log_level,
        ready_fd=found.ready_fd,
        allow_local_vsock=found.allow_local_vsock,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vappc-linux-daemon",
        description="Run containers for a user, without root; driven over a socket by `vappc` and others.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-s", "--socket", action="append", metavar="ADDRESS", help=f"listen here (default: {DEFAULT_SOCKET})")
    add("--app-dir", type=Path, metavar="DIR", help="where everything is kept (default: ~/.vapp)")
    add(
        "--blob",
        default="auto",
        metavar="WHICH",
        help="`auto` starts a registry of our own, `unix:PATH` uses the one that listens there (default: auto)",
    )
    add(
        "--registry-listen",
        default="127.0.0.1:5050",
        metavar="HOST:PORT",
        help="where our registry serves other programs (default: 127.0.0.1:5050)",
    )
    add(
        "--upstream",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="fetch images of registry NAME from URL; may be given several times",
    )
    add("--log-level", choices=LEVELS, default="info", help="how much to tell on stderr (default: info)")
    add("--ready-fd", type=int, metavar="FD", help="write a newline to this descriptor once ready")
    add("--allow-local-vsock", action="store_true", help="let this machine itself connect over vsock")
    add("--version", action="version", version=f"%(prog)s {metadata.version('4lock-core')}")
    return parser
