"""An upstream registry that counts: `python -m bench.upstream DIRECTORY RATE`, serving what `Image.write` put there.

Blobs are sent at RATE bytes a second (0: as fast as it goes), so that clients of a cold cache meet a download
that is under way, as they would on a real network. `GET /count` tells what was sent.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORY = "bench/image"
TAG = "latest"
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Image:
    """An image with one layer of random bytes."""

    layer: str
    size: int

    @property
    def blob_path(self) -> str:
        """The layer's path at any registry."""
        return f"/v2/{REPOSITORY}/blobs/{self.layer}"


def write_image(directory: Path, size: int) -> Image:
    """Write blobs, named by digest, and `manifest.json` into `directory`; `size` is rounded down to MiB."""
    directory.mkdir()
    size -= size % _CHUNK
    dice, total = random.Random(3), hashlib.sha256()
    with (directory / "new").open("wb") as file:
        for _ in range(size // _CHUNK):
            chunk = dice.randbytes(_CHUNK)
            file.write(chunk)
            total.update(chunk)
    layer = f"sha256:{total.hexdigest()}"
    (directory / "new").rename(directory / layer)
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}' % layer.encode()
    (directory / _digest(config)).write_bytes(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", _digest(config), len(config)),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer, size)],
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return Image(layer, size)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, str | int]:
    return {"mediaType": kind, "digest": digest, "size": size}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Upstream:
    """The server."""

    def __init__(self, directory: Path, rate: int) -> None:
        self._directory = directory
        self._rate = rate
        self._counts: Counter[str] = Counter()

    def app(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_get("/v2/", self._hello)
        app.router.add_get("/count", self._count)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        return app

    async def _hello(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def _count(self, _request: web.Request) -> web.Response:
        return web.json_response(self._counts)

    async def _manifest(self, request: web.Request) -> web.Response:
        self._counts[f"manifest {request.method}"] += 1
        raw = (self._directory / "manifest.json").read_bytes()
        return web.Response(body=raw, content_type=MANIFEST, headers={"Docker-Content-Digest": _digest(raw)})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        path = self._directory / request.match_info["digest"]
        if not path.is_file():
            return web.Response(status=404)
        size = path.stat().st_size
        found = _RANGE.fullmatch(request.headers.get("Range", ""))
        first, last = (int(found[1]), int(found[2] or size - 1)) if found else (0, size - 1)
        response = web.StreamResponse(status=206 if found else 200)
        response.content_type = "application/octet-stream"
        response.content_length = last - first + 1
        response.headers["Docker-Content-Digest"] = path.name
        if found:
            response.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        await response.prepare(request)
        if request.method == "GET":
            self._counts["blob GET"] += 1
            await self._send(response, path, first, last + 1)
        return response

    async def _send(self, response: web.StreamResponse, path: Path, first: int, end: int) -> None:
        clock = asyncio.get_running_loop().time
        begun, sent = clock(), 0
        with path.open("rb") as file:
            file.seek(first)
            while data := file.read(min(_CHUNK, end - first - sent)):
                await response.write(data)
                sent += len(data)
                self._counts["blob bytes"] += len(data)
                if self._rate:
                    await asyncio.sleep(max(0.0, begun + sent / self._rate - clock()))
        await response.write_eof()


async def _serve(directory: Path, rate: int) -> None:
    runner = web.AppRunner(Upstream(directory, rate).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
