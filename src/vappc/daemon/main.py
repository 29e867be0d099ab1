"""`vappc-linux-daemon`: start the parts in order, say when ready, and end them in reverse."""

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import sys
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path

from container.errors import ContainerError
from container.images.registries import DEFAULT_UPSTREAMS
from container.linux import prctl
from container.paths import Paths, open_paths
from container.pods.engine import Engine
from container.shim.client import Shim
from vappc.daemon import logs, notify
from vappc.daemon.connection import Connection
from vappc.daemon.images import PatientImages
from vappc.daemon.options import Options, parse
from vappc.daemon.registry import Registry, check_port
from vappc.daemon.service import FEATURES, Service
from vappc.errors import DaemonError, VappcError
from vappc.protocol import PROTOCOL_VERSION, HelloData
from vappc.transport.address import Address, TcpAddress, UnixAddress, parse_address
from vappc.transport.listen import Listener, Peer, listen

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run the daemon and return its exit status."""
    options = parse(argv)
    logs.configure(options.log_level)
    try:
        asyncio.run(Daemon(options).run())
    except (VappcError, ContainerError) as error:
        sys.stderr.write(f"vappc-linux-daemon: {error}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    return 0


class Daemon:
    """One run of the daemon."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._connections: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._is_over = False
        self._service: Service | None = None

    async def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            DaemonError: it cannot start; the text says what to change.
        """
        addresses = [parse_address(text) for text in self._options.sockets]
        paths = open_paths(self._options.app_dir)
        async with AsyncExitStack() as stack:
            stack.callback(os.close, _lock(paths))
            # So that what a dead shim leaves becomes ours to reap, after its successor has read the exit codes.
            prctl.set_subreaper()
            self._catch_signals()
            # The addresses come first: whoever cannot have them must not leave a shim behind.
            token = _token(paths) if any(isinstance(found, TcpAddress) for found in addresses) else None
            stack.push_async_callback(self._close_connections)
            listeners = [await self._listen(address, token, stack) for address in addresses]
            registry = await self._open_registry(paths, stack)
            shim = await Shim.start(paths)
            stack.push_async_callback(self._leave, shim)
            self._service = await self._open_service(paths, shim, registry, stack)
            for listener in listeners:
                await listener.start()
            self._tell_ready()
            await self._stop.wait()
            logger.info("shutting down" if self._is_over else "stopping; containers run on")
            notify.notify_systemd("STOPPING=1")

    async def _open_registry(self, paths: Paths, stack: AsyncExitStack) -> Registry | None:
        if self._options.blob != "auto":
            return None
        check_port(self._options.registry_listen)
        registry = Registry(paths.blob, self._options.registry_listen, paths.blob_socket, self._options.upstreams)
        registry.start()
        stack.push_async_callback(registry.close)
        return registry

    async def _open_service(
        self, paths: Paths, shim: Shim, registry: Registry | None, stack: AsyncExitStack
    ) -> Service:
        names = {upstream.partition("=")[0] for upstream in self._options.upstreams}
        socket = paths.blob_socket if registry is not None else _foreign_registry(self._options.blob)
        images = PatientImages(paths.images, socket, shim.spawn, DEFAULT_UPSTREAMS | names)
        if registry is not None:
            images.before_use = registry.wait_ready
        engine = Engine(paths, images, shim, rootless=shim.node.rootless)
        await engine.restore()
        await images.recover(engine.layers_in_use())
        stack.push_async_callback(engine.close)
        for finding in shim.node.findings:
            logger.warning("host: %s", finding)
        version = metadata.version("4lock-core")
        node = HelloData(
            "vappc",
            version,
            PROTOCOL_VERSION,
            FEATURES,
            shim.node.rootless,
            list(shim.node.findings),
            str(paths.app),
            str(paths.run),
        )
        return Service(engine, images, node=node, end=self._end)

    def _end(self) -> None:
        self._is_over = True
        self._stop.set()

    async def _leave(self, shim: Shim) -> None:
        if self._is_over:
            await shim.shutdown(force=True)
        else:
            await shim.close()

    async def _listen(self, address: Address, token: str | None, stack: AsyncExitStack) -> Listener:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
            task = asyncio.current_task()
            assert task is not None
            assert self._service is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            await Connection(reader, writer, peer, self._service.handle, token).run()

        listener = await listen(address, connected, allow_local_vsock=self._options.allow_local_vsock)
        stack.callback(listener.close)
        logger.info("listening address=%s", address)
        return listener

    async def _close_connections(self) -> None:
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(set(self._connections))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    def _tell_ready(self) -> None:
        logger.info("vappc daemon ready version=%s pid=%d", metadata.version("4lock-core"), os.getpid())
        notify.notify_systemd("READY=1")
        if self._options.ready_fd is not None:
            notify.notify_descriptor(self._options.ready_fd)


def _lock(paths: Paths) -> int:
    """Make sure that we are the only daemon of the app directory; closing the descriptor lets go."""
    fd = os.open(paths.app / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DaemonError(
            f"another daemon uses the app directory `{paths.app}`",
            "stop it, or name another directory with `--app-dir`",
        ) from error
    return fd


def _token(paths: Paths) -> str:
    """Return the secret that TCP clients must know, made when first needed."""
    path = paths.app / "token"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    token = secrets.token_urlsafe(32)
    with open(fd, "w") as file:
        file.write(f"{token}\n")
    return token


def _foreign_registry(text: str) -> Path:
    address = parse_address(text)
    if not isinstance(address, UnixAddress):
        raise DaemonError(f"`--blob {text}` is no Unix socket", "write `auto` or `unix:/path/of/blob.sock`")
    return Path(address.path)


if __name__ == "__main__":
    sys.exit(main())
