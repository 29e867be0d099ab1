"""A registry as its client sees it: every operation of the distribution specification that we use.

Works against any registry, over TCP or a Unix socket. What comes back is verified: a manifest that does
not have the digest it was asked by never leaves this module. Blobs are streams; whoever consumes one
verifies it (`oci.digest.Verifier`). Out of scope: caching, retries.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from blob.config import Upstream
from blob.errors import (
    BlobError,
    BlobUnknownError,
    ConfigError,
    DigestError,
    ManifestError,
    ManifestUnknownError,
    NameUnknownError,
    UpstreamDigestError,
    UpstreamError,
)
from blob.oci import media_types
from blob.oci.digest import Digest, parse_digest, verify_bytes
from blob.oci.manifest import LARGEST_MANIFEST, Document, Index, parse_manifest
from blob.oci.reference import check_repository
from blob.upstream.transport import Body, Endpoint, Timeouts, Transport, read_capped

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_OCTETS = "application/octet-stream"

#: Opens a blob's bytes from the start, again if the registry makes us send them twice.
Opener = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """What a registry says about a manifest without sending it; the digest is a claim."""

    digest: Digest | None
    media_type: str
    size: int | None


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] | None = None


class BlobStream:
    """Bytes of a blob as they arrive.

    Attributes:
        start: the offset of the first byte, which may be less than was asked for.
        size: of the whole blob, where the registry says so.
    """

    def __init__(self, transport: Transport, response: aiohttp.ClientResponse, start: int) -> None:
        self._transport = transport
        self._response = response
        self.start, self.size = _read_extent(response, start)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def read(self) -> bytes:
        """Return what has arrived, at least a byte; nothing at the end."""
        with self._transport.mapped_errors():
            return await self._response.content.readany()


class RegistryClient:
    """One registry. An asynchronous context manager that owns its connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self._transport = Transport(endpoint)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def ping(self) -> None:
        """Ask the registry whether it is one.

        Raises:
            UpstreamError: it cannot be reached, or refuses.
        """
        async with self._send("GET", "", "", "its API", NameUnknownError):
            pass

    async def get_manifest(self, repository: str, reference: str) -> Document:
        """Fetch a manifest by tag or digest.

        Raises:
            ManifestUnknownError: there is none.
            UpstreamDigestError: its digest is not what was asked for, or what the registry claims.
            UpstreamError: the registry cannot be reached, refuses, or sends no manifest.
        """
        what = f"manifest `{repository}` `{reference}`"
        path, scope = f"{_name(repository)}/manifests/{reference}", _pull(repository)
        accept = {"Accept": media_types.ACCEPT_MANIFESTS}
        async with self._send("GET", path, scope, what, ManifestUnknownError, accept) as response:
            with self._transport.mapped_errors():
                raw = await read_capped(response, LARGEST_MANIFEST)
        return _check_manifest(raw, response, reference, self.name)

    async def head_manifest(self, repository: str, reference: str) -> Head:
        """Ask for a manifest's digest, type and size.

        Raises:
            ManifestUnknownError: there is none.
            UpstreamError: the registry cannot be reached, or refuses.
        """
        what = f"manifest `{repository}` `{reference}`"
        path, scope = f"{_name(repository)}/manifests/{reference}", _pull(repository)
        accept = {"Accept": media_types.ACCEPT_MANIFESTS}
        async with self._send("HEAD", path, scope, what, ManifestUnknownError, accept) as response:
            media_type = response.headers.get("Content-Type", "")
            return Head(_claimed_digest(response), media_type, response.content_length)

    async def head_blob(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob.

        Raises:
            BlobUnknownError: there is none.
            UpstreamError: the registry cannot be reached, refuses, or does not say.
        """
        path, scope = f"{_name(repository)}/blobs/{digest}", _pull(repository)
        async with self._send("HEAD", path, scope, f"blob `{digest}`", BlobUnknownError) as response:
            if response.content_length is not None:
                return response.content_length
        async with self.open_blob(repository, digest) as stream:
            if stream.size is None:
                raise UpstreamError(f"registry `{self.name}` does not say how large blob `{digest}` is")
            return stream.size

    @asynccontextmanager
    async def open_blob(self, repository: str, digest: Digest, start: int = 0) -> AsyncIterator[BlobStream]:
        """Open a blob from byte `start` on; look at `stream.start`, a registry may ignore the wish.

        Raises:
            BlobUnknownError: there is none.
            UpstreamError: the registry cannot be reached, refuses, or sends something else.
        """
        path, scope = f"{_name(repository)}/blobs/{digest}", _pull(repository)
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._send("GET", path, scope, f"blob `{digest}`", BlobUnknownError, headers) as response:
            try:
                yield BlobStream(self._transport, response, start)
            finally:
                # Unread bytes of a large blob are not worth waiting for.
                response.close()

    async def list_tags(self, repository: str, limit: int | None = None, last: str = "") -> tuple[list[str], bool]:
        """Return tags in the registry's order, and whether there are more.

        Raises:
            NameUnknownError: there is no such repository.
            UpstreamError: the registry cannot be reached, refuses, or answers nonsense.
        """
        query = ({"n": str(limit)} if limit is not None else {}) | ({"last": last} if last else {})
        path, what = f"{_name(repository)}/tags/list", f"repository `{repository}`"
        async with self._send("GET", path, _pull(repository), what, NameUnknownError, query=query) as response:
            with self._transport.mapped_errors():
                raw = await read_capped(response, LARGEST_MANIFEST)
            has_more = 'rel="next"' in response.headers.get("Link", "")
        try:
            return list(msgspec.json.decode(raw, type=_Tags).tags or ()), has_more
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"registry `{self.name}` answers nonsense for {what}") from error

    async def get_referrers(self, repository: str, digest: Digest) -> Document:
        """Return the index of what refers to `digest`.

        Raises:
            ManifestUnknownError: the registry does not know the referrers API (or the repository).
            UpstreamError: it cannot be reached, refuses, or answers nonsense.
        """
        path, what = f"{_name(repository)}/referrers/{digest}", f"referrers of `{digest}`"
        async with self._send("GET", path, _pull(repository), what, ManifestUnknownError) as response:
            with self._transport.mapped_errors():
                raw = await read_capped(response, LARGEST_MANIFEST)
        document = _parse(raw, media_types.OCI_INDEX, "sha256", self.name)
        if not isinstance(document.content, Index):
            raise UpstreamError(f"registry `{self.name}` answers nonsense for {what}")
        return document

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Tell whether the repository has the blob."""
        path = f"{_name(repository)}/blobs/{digest}"
        try:
            async with self._send("HEAD", path, _push(repository), f"blob `{digest}`", BlobUnknownError):
                return True
        except BlobUnknownError:
            return False

    async def push_blob(self, repository: str, digest: Digest, size: int, opener: Opener, chunk_size: int = 0) -> bool:
        """Send a blob unless the repository has it; return whether it was sent.

        Args:
            repository: where to.
            digest: what the registry verifies.
            size: how many bytes `opener` will yield.
            opener: opens the bytes.
            chunk_size: send in pieces of so many bytes; 0 sends all in one request.

        Raises:
            UpstreamError: the registry cannot be reached, or refuses.
        """
        if await self.has_blob(repository, digest):
            return False
        what, path = f"upload of `{digest}`", f"{_name(repository)}/blobs/uploads/"
        async with self._send("POST", path, _push(repository), what, NameUnknownError, body=b"") as response:
            location = self._location(response)
        if chunk_size:
            location = await self._send_chunks(repository, location, opener, chunk_size, what)
        url = location.update_query({"digest": str(digest)})
        headers = {"Content-Type": _OCTETS, "Content-Length": "0" if chunk_size else str(size)}
        body: Body = b"" if chunk_size or not size else opener
        async with self._send("PUT", url, _push(repository), what, NameUnknownError, headers, body=body):
            return True

    async def put_manifest(self, repository: str, reference: str, raw: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest.

        Raises:
            UpstreamError: the registry cannot be reached, or refuses.
        """
        path, what = f"{_name(repository)}/manifests/{reference}", f"manifest `{repository}` `{reference}`"
        headers = {"Content-Type": media_type}
        async with self._send("PUT", path, _push(repository), what, NameUnknownError, headers, body=raw):
            pass

    async def _send_chunks(self, repository: str, location: URL, opener: Opener, chunk_size: int, what: str) -> URL:
        start = 0
        async for chunk in _regroup(opener(), chunk_size):
            headers = {"Content-Type": _OCTETS, "Content-Range": f"{start}-{start + len(chunk) - 1}"}
            async with self._send(
                "PATCH", location, _push(repository), what, NameUnknownError, headers, body=chunk
            ) as response:
                location = self._location(response)
            start += len(chunk)
        return location

    def _location(self, response: aiohttp.ClientResponse) -> URL:
        text = response.headers.get("Location", "")
        if not text:
            raise UpstreamError(f"registry `{self.name}` does not say where to send the blob")
        with self._transport.mapped_errors():
            return response.url.join(URL(text, encoded=True))

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        target: str | URL,
        scope: str,
        what: str,
        missing: type[ManifestUnknownError | BlobUnknownError | NameUnknownError],
        headers: dict[str, str] | None = None,
        *,
        body: Body = None,
        query: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._transport.url_of(target) if isinstance(target, str) else target
        if query:
            url = url.update_query(query)
        response = await self._transport.send(method, url, scope, headers, body)
        async with response:
            await self._transport.raise_for_status(response, what, missing)
            yield response


def client_of(name: str, upstream: Upstream) -> RegistryClient:
    """Return a client for a configured upstream."""
    credentials = (upstream.username, upstream.password) if upstream.username else None
    timeouts = Timeouts(upstream.connect_timeout_s, upstream.answer_timeout_s, upstream.stall_timeout_s)
    return RegistryClient(
        Endpoint(
            name=name,
            url=upstream.url or f"https://{name}",
            credentials=credentials,
            ca_file=upstream.ca_file,
            insecure=upstream.insecure,
            token_hosts=upstream.token_hosts,
            timeouts=timeouts,
        )
    )


def client_at(url: str, timeouts: Timeouts | None = None) -> RegistryClient:
    """Return a client for `http://`, `https://` or `unix:///path/of/socket`.

    Raises:
        ConfigError: it is something else.
    """
    scheme, _, path = url.partition("://")
    timeouts = timeouts or Timeouts()
    if scheme == "unix" and path.startswith("/"):
        return RegistryClient(Endpoint(url, "http://localhost", unix_socket=path, timeouts=timeouts))
    if scheme not in ("http", "https"):
        raise ConfigError(
            f"`{url}` is not the URL of a registry",
            "write `http://host:port`, `https://host` or `unix:///path`",
        )
    return RegistryClient(Endpoint(url, url, insecure=scheme == "http", timeouts=timeouts))


def _name(repository: str) -> str:
    return check_repository(repository)


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"


def _claimed_digest(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return parse_digest(response.headers.get("Docker-Content-Digest", ""))
    except BlobError:
        return None


def _parse(raw: bytes, content_type: str, algorithm: str, name: str) -> Document:
    try:
        return parse_manifest(raw, content_type, algorithm)
    except (ManifestError, BlobError) as error:
        raise UpstreamError(f"registry `{name}` sends a broken manifest: {error.message}") from error


def _check_manifest(raw: bytes, response: aiohttp.ClientResponse, reference: str, name: str) -> Document:
    asked = parse_digest(reference) if ":" in reference else None
    try:
        for expected in (asked, _claimed_digest(response)):
            if expected:
                verify_bytes(raw, expected)
    except DigestError as error:
        raise UpstreamDigestError(f"registry `{name}` sends a wrong manifest: {error.message}") from error
    content_type = response.headers.get("Content-Type", "")
    return _parse(raw, content_type, asked.algorithm if asked else "sha256", name)


def _read_extent(response: aiohttp.ClientResponse, start: int) -> tuple[int, int | None]:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UpstreamError(f"`{response.url.origin()}` encodes a blob although asked not to")
    if response.status == 200:
        return 0, response.content_length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or match is None or int(match[1]) != start:
        raise UpstreamError(f"`{response.url.origin()}` answers with another range than asked for")
    return start, None if match[3] == "*" else int(match[3])


async def _regroup(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for piece in pieces:
        pending += piece
        while len(pending) >= size:
            yield bytes(pending[:size])
            del pending[:size]
    if pending:
        yield bytes(pending)
