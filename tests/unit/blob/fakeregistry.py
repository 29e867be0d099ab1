"""A small registry on loopback that does as it is told: lies, stalls, cuts, refuses. Real sockets, no mocks."""

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_image(*layers: bytes, config: bytes = b"{}", **extra: object) -> bytes:
    """Return a manifest that names these blobs."""
    tar = "application/vnd.oci.image.layer.v1.tar"
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [{"mediaType": tar, "digest": sha256(layer), "size": len(layer)} for layer in layers],
            **extra,
        }
    ).encode()


@dataclass
class FakeRegistry:
    """What it holds, how it misbehaves, and what it was asked.

    Attributes:
        lies: bytes sent instead of the blob with this digest.
        cut_after: the connection ends after so many bytes of a blob.
        stall_after: nothing more comes after so many bytes of a blob, until `release`.
        with_ranges: whether `Range` is understood.
        with_length: whether blobs have a `Content-Length`.
        status: answer everything with this status instead.
        auth: `bearer` or `basic`.
        redirect: where blobs are, instead of here.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    lies: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    with_ranges: bool = True
    with_length: bool = True
    status: int = 0
    auth: str = ""
    credentials: tuple[str, str] = ("user", "secret")
    redirect: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    server: TestServer | None = None

    def add_blob(self, data: bytes) -> str:
        digest = sha256(data)
        self.blobs[digest] = data
        return digest

    def add_manifest(self, repository: str, tag: str, raw: bytes, media_type: str = OCI_MANIFEST) -> str:
        digest = sha256(raw)
        self.manifests[repository, tag] = self.manifests[repository, digest] = (raw, media_type)
        return digest

    def count(self, method: str, part: str) -> int:
        """Return how many requests were made for paths with `part`."""
        return sum(1 for m, path in self.requests if m == method and part in path)

    @property
    def url(self) -> str:
        assert self.server is not None
        return str(self.server.make_url("")).rstrip("/")

    async def start(self) -> "FakeRegistry":
        app = web.Application()
        app.router.add_route("*", "/token", self._token)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.server = TestServer(app)
        await self.server.start_server()
        return self

    async def stop(self) -> None:
        self.release.set()
        if self.server:
            await self.server.close()

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        self.authorizations.append(request.headers.get("Authorization", ""))
        scope = request.query["scope"]
        return web.json_response({"token": base64.b64encode(scope.encode()).decode(), "expires_in": 300})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        self.authorizations.append(request.headers.get("Authorization", ""))
        if self.status:
            return web.Response(status=self.status, headers=self.headers)
        refusal = self._refuse(request)
        if refusal:
            return refusal
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", request.path)
        if request.path == "/v2/":
            return web.Response(text="{}")
        if match is None:
            return web.Response(status=404)
        if match[2] == "manifests":
            return self._manifest(match[1], match[3])
        return await self._blob(request, match[3])

    def _refuse(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.auth == "basic":
            pair = base64.b64encode(":".join(self.credentials).encode()).decode()
            if given != f"Basic {pair}":
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})
        if self.auth == "bearer" and not given.startswith("Bearer "):
            repository = request.path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
            challenge = f'Bearer realm="{self.url}/token",service="fake",scope="repository:{repository}:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return None

    def _manifest(self, repository: str, reference: str) -> web.Response:
        found = self.manifests.get((repository, reference))
        if found is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not here"}]}, status=404)
        raw, media_type = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": sha256(raw)} | self.headers
        return web.Response(body=raw, headers=headers)

    async def _blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        if self.redirect:
            return web.Response(status=307, headers={"Location": f"{self.redirect}/{digest}"})
        data = self.lies.get(digest, self.blobs.get(digest))
        if data is None:
            return web.Response(status=404)
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        headers = {"Content-Type": "application/octet-stream"}
        if match and self.with_ranges:
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        if self.with_length or request.method == "HEAD":
            response.content_length = len(data) - start
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(request, response, data[start:])
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        if self.cut_after is not None and len(data) > self.cut_after:
            await response.write(data[: self.cut_after])
            assert request.transport is not None
            request.transport.close()
            return
        if self.stall_after is not None:
            await response.write(data[: self.stall_after])
            await self.release.wait()
            data = data[self.stall_after :]
        await response.write(data)
        await response.write_eof()
