"""A registry on the loopback or a Unix socket, real enough to pull from and push to, that can misbehave."""

import json
import os
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from unit.container.images.archives import digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass
class Registry:
    """What it has, and how it misbehaves.

    Attributes:
        cut: close the connection after so many bytes of each blob.
        failures: answer so many requests for blobs with 503 first.
        hold: blobs wait for this event.
        token: demand this bearer token.
    """

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0
    failures: int = 0
    ignore_range: bool = False
    hold: threading.Event | None = None
    token: str = ""
    redirect: str = ""

    def add_blob(self, data: bytes) -> str:
        self.blobs[digest(data)] = data
        return digest(data)

    def add_manifest(self, repository: str, tag: str, content: dict, media_type: str = MANIFEST) -> str:
        raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, **content}).encode()
        for reference in (tag, digest(raw)):
            self.manifests[repository, reference] = (media_type, raw)
        return digest(raw)

    def add_image(self, repository: str, tag: str, tars: list[bytes], packed: list[bytes], **config) -> str:
        """Add an image of layers and return the digest of its config."""
        raw = json.dumps(
            {
                "architecture": config.pop("architecture", {"x86_64": "amd64"}.get(os.uname().machine, "arm64")),
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
                **config,
            }
        ).encode()
        named = [{"mediaType": LAYER, "digest": self.add_blob(p), "size": len(p)} for p in packed]
        descriptor = {"mediaType": CONFIG, "digest": self.add_blob(raw), "size": len(raw)}
        self.add_manifest(repository, tag, {"config": descriptor, "layers": named})
        return digest(raw)

    def blob_requests(self) -> list[str]:
        return [path.rpartition("/")[2] for method, path in self.requests if "/blobs/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def address_string(self) -> str:
        return "client"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.registry.requests.append((self.command, self.path))
        if self.registry.token and self.headers.get("Authorization") != f"Bearer {self.registry.token}":
            return self._challenge()
        if match := re.fullmatch(r"/v2/(?:localhost/)?(.+)/manifests/(.+)", self.path):
            found = self.registry.manifests.get((match[1], match[2]))
            return self._answer(200, found[1], {"Content-Type": found[0]}) if found else self._missing()
        if match := re.fullmatch(r"/v2/(?:localhost/)?(.+)/blobs/(.+)", self.path):
            return self._send_blob(match[2])
        return self._missing()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._read()
        self._answer(202, b"", {"Location": self.path + "1"})

    def do_PUT(self) -> None:
        body = self._read()
        if match := re.fullmatch(r"/v2/(?:localhost/)?(.+)/manifests/(.+)", self.path):
            for reference in (match[2], digest(body)):
                self.registry.manifests[match[1], reference] = (self.headers["Content-Type"], body)
        else:
            self.registry.add_blob(body)
        self._answer(201, b"", {"Docker-Content-Digest": digest(body)})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send_blob(self, name: str) -> None:
        registry = self.registry
        if registry.hold:
            registry.hold.wait(20)
        if registry.failures:
            registry.failures -= 1
            return self._answer(503, b'{"errors":[{"message":"come back later"}]}')
        if registry.redirect:
            return self._answer(307, b"", {"Location": f"{registry.redirect}{self.path}"})
        if name not in registry.blobs:
            return self._missing()
        data, status, headers = registry.blobs[name], 200, {}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and not registry.ignore_range:
            status = 206
            headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            data = data[int(start[1]) :]
        return self._answer(status, data, headers)

    def _challenge(self) -> None:
        if self.path.startswith("/token"):
            return self._answer(200, json.dumps({"token": self.registry.token}).encode())
        realm = f'Bearer realm="{self.registry.url}/token",service="test"'
        return self._answer(401, b"", {"WWW-Authenticate": realm})

    def _missing(self) -> None:
        self._answer(404, b'{"errors":[{"code":"UNKNOWN","message":"not here"}]}')

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.registry.cut if "/blobs/" in self.path else 0
        try:
            self.wfile.write(body[:cut] if cut else body)
        except ConnectionError:
            cut = 1
        if cut:
            self.close_connection = True


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("client", 0)

    def handle_error(self, request, client_address) -> None:
        """Clients of these tests hang up on purpose."""


class _TcpServer(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Clients of these tests hang up on purpose."""


@contextmanager
def serve(socket: Path | None = None) -> Iterator[Registry]:
    registry = Registry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = _UnixServer(str(socket), handler) if socket else _TcpServer(("127.0.0.1", 0), handler)
    registry.url = f"unix://{socket}" if socket else f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        if registry.hold:
            registry.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
