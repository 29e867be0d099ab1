"""Run the registry: listen, put the parts together, stop cleanly.

Out of scope: the command line, and signals' meaning (the caller says when to stop).
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from blob.cache.counters import Counters
from blob.cache.fills import Fills
from blob.cache.local import Local
from blob.cache.remote import Remote
from blob.cache.store import Store
from blob.cache.uploads import Uploads
from blob.config import Config
from blob.errors import ConfigError
from blob.server.admin import Admin
from blob.server.app import make_app
from blob.server.distribution import Distribution
from blob.upstream.client import client_of

logger = logging.getLogger(__name__)

#: How long answers that are being sent may take when we stop.
GRACE_S = 2.0
_BACKLOG = 1024
_BODY_BUFFER = 2**20


class Ready(msgspec.Struct, frozen=True):
    """Where we listen; what is printed when everything is up."""

    ready: bool
    listen: tuple[str, ...]
    unix: str


@asynccontextmanager
async def run_server(config: Config) -> AsyncIterator[Ready]:
    """Serve while the context is open.

    Raises:
        ConfigError: an address cannot be listened at.
        StoreError: the store cannot be used.
    """
    async with AsyncExitStack() as stack:
        sockets = [_listen_tcp(address, stack) for address in config.server.listen]
        unix = config.server.unix_socket
        if unix:
            sockets.append(_listen_unix(unix, stack))
        store = stack.enter_context(Store(Path(config.cache.directory).expanduser()))
        runner = web.AppRunner(
            await _make_app(config, store, stack),
            access_log=None,
            shutdown_timeout=GRACE_S,
            auto_decompress=False,
            read_bufsize=_BODY_BUFFER,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=_BACKLOG).start()
        listen = tuple(_format_address(sock) for sock in sockets if sock.family != socket.AF_UNIX)
        yield Ready(True, listen, unix)


async def _make_app(config: Config, store: Store, stack: AsyncExitStack) -> web.Application:
    fills, uploads, counters = Fills(store.blobs), Uploads(store.blobs), Counters()
    stack.callback(uploads.close)
    remotes = {
        name: Remote(client_of(name, upstream), store, fills, counters, config.cache.tag_ttl_s)
        for name, upstream in config.upstreams.items()
    }
    for remote in remotes.values():
        stack.push_async_callback(remote.close)
    distribution = Distribution(remotes, Local(store), uploads, config.server.names)
    app = make_app(distribution, Admin(store, fills, counters))

    async def close_fills(_app: web.Application) -> None:
        await fills.close()

    # Before aiohttp waits for answers that are being sent: those of a download would wait for it.
    app.on_shutdown.append(close_fills)
    return app


def _listen_tcp(address: str, stack: AsyncExitStack) -> socket.socket:
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at `{address}`: {_reason(error)}", "choose another with `--listen`"
        ) from error
    stack.callback(sock.close)
    if not (host.startswith("127.") or host in ("::1", "localhost")):
        logger.warning("anybody who reaches %s may read and write: there is no login", address)
    return sock


def _listen_unix(path: str, stack: AsyncExitStack) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    stack.callback(sock.close)
    umask = os.umask(0o177)
    try:
        if _is_dead(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen at `{path}`: {_reason(error)}", "choose another with `--unix`") from error
    finally:
        os.umask(umask)
    stack.callback(_unlink, path)
    return sock


def _reason(error: OSError) -> str:
    # Name resolution has negative numbers and texts of its own.
    number = error.errno or 0
    return (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()


def _is_dead(path: str) -> bool:
    """Tell whether a socket is there that nobody listens at any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def parse_address(text: str) -> tuple[str, int]:
    """Parse `host:port`, `[v6]:port` or `:port` (all addresses).

    Raises:
        ConfigError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535 or (":" in bare) != host.startswith("["):
        raise ConfigError(f"`{text}` is not an address to listen at", "write `127.0.0.1:5050`")
    return bare or "0.0.0.0", int(port)


def _format_address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def serve_until(config: Config, stop: asyncio.Event, announce: Callable[[Ready], None]) -> None:
    """Serve until `stop` is set; `announce` is called once everything is up."""
    async with run_server(config) as ready:
        announce(ready)
        await stop.wait()
