"""The real service on a real socket, over the fake shim and the fake image store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from container.paths import Paths
from container.pods.engine import Engine
from fakes.images import FakeImages
from fakes.shim import FakeShim
from vappc.daemon.connection import Connection
from vappc.daemon.service import Service
from vappc.protocol import PROTOCOL_VERSION, HelloData
from vappc.transport.address import Address, UnixAddress
from vappc.transport.listen import Listener, listen


@dataclass
class FakeDaemon:
    address: str
    engine: Engine
    shim: FakeShim
    images: FakeImages
    listener: Listener
    ended: asyncio.Event


@asynccontextmanager
async def fake_daemon(
    directory: Path, address: Address | None = None, token: str | None = None, shim: FakeShim | None = None
) -> AsyncIterator[FakeDaemon]:
    paths = Paths(directory / "app", directory / "run")
    for path in (paths.app, paths.run, directory / "layer"):
        path.mkdir(exist_ok=True)
    images = FakeImages(directory / "layer")
    given, shim = shim, shim or FakeShim()
    engine = Engine(paths, images, shim, rootless=True)
    await engine.restore()
    ended = asyncio.Event()
    node = HelloData("vappc", "0.1.0", PROTOCOL_VERSION, [], rootless=True, findings=["no cgroup"])
    service = Service(engine, images, node=node, end=ended.set)
    connections = []

    async def connected(reader, writer, peer):
        connections.append(writer)
        await Connection(reader, writer, peer, service.handle, token).run()
        connections.remove(writer)

    where = address or UnixAddress(str(directory / "vappc.sock"))
    listener = await listen(where, connected)
    await listener.start()
    try:
        yield FakeDaemon(str(where), engine, shim, images, listener, ended)
    finally:
        listener.close()
        for writer in connections:
            writer.close()
        await engine.close()
        if given is None:
            await shim.close()
