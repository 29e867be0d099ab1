import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from blob.config import Cache, Config, Server, Upstream
from blob.server.serve import run_server
from unit.blob.fakeregistry import FakeRegistry


@pytest.fixture
async def upstream() -> AsyncIterator[FakeRegistry]:
    registry = await FakeRegistry().start()
    yield registry
    await registry.stop()


@dataclass
class Blob:
    """Our server, and a plain HTTP client at it."""

    url: str
    http: aiohttp.ClientSession
    store: Path

    async def get(self, path: str, **options: object) -> tuple[int, "aiohttp.ClientResponse", bytes]:
        return await self.send("GET", path, **options)

    async def send(self, method: str, path: str, **options: object) -> tuple[int, "aiohttp.ClientResponse", bytes]:
        async with self.http.request(method, self.url + path, **options) as response:  # type: ignore[arg-type]
            return response.status, response, await response.read()

    def leftovers(self) -> list[str]:
        return os.listdir(self.store / "tmp")


@pytest.fixture
async def start_blob(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    async with AsyncExitStack() as stack:

        async def start(
            upstreams: dict[str, str] | None = None,
            *,
            store: Path | None = None,
            tag_ttl_s: float = 300,
            names: tuple[str, ...] = (),
            **upstream_options: object,
        ) -> Blob:
            directory = store or tmp_path / "store"
            config = Config(
                Server(("127.0.0.1:0",), names=names),
                Cache(str(directory), tag_ttl_s),
                {
                    name: Upstream(url, insecure=True, **upstream_options)  # type: ignore[arg-type]
                    for name, url in (upstreams or {}).items()
                },
            )
            ready = await stack.enter_async_context(run_server(config))
            http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            return Blob(f"http://{ready.listen[0]}", http, directory)

        yield start


@pytest.fixture
async def blob(start_blob: Callable[..., object], upstream: FakeRegistry) -> Blob:
    """Our server with one upstream, `up.test`, that is allowed to be slow for a moment only."""
    return await start_blob({"up.test": upstream.url}, stall_timeout_s=0.5, answer_timeout_s=2)  # type: ignore[misc]
