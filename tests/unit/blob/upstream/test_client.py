import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from blob.errors import (
    BlobUnknownError,
    ConfigError,
    DeniedError,
    ManifestUnknownError,
    RateLimitedError,
    UpstreamDigestError,
    UpstreamError,
    UpstreamTimeoutError,
)
from blob.oci.digest import parse_digest
from blob.upstream.client import RegistryClient, client_at
from blob.upstream.transport import Endpoint, Timeouts
from unit.blob.fakeregistry import OCI_INDEX, FakeRegistry, make_image, sha256


@pytest.fixture
async def client(upstream: FakeRegistry) -> AsyncIterator[RegistryClient]:
    timeouts = Timeouts(answer_s=2, stall_s=0.3)
    endpoint = Endpoint("fake", upstream.url, credentials=("user", "secret"), timeouts=timeouts)
    async with RegistryClient(endpoint) as opened:
        yield opened


async def read(client: RegistryClient, digest: str, start: int = 0) -> tuple[int, bytes]:
    async with client.open_blob("a/b", parse_digest(digest), start) as stream:
        return stream.start, b"".join([piece async for piece in stream])


async def test_a_manifest_is_fetched_by_tag_and_by_digest(client: RegistryClient, upstream: FakeRegistry) -> None:
    raw = make_image(b"layer")
    digest = upstream.add_manifest("a/b", "1", raw)
    assert (await client.get_manifest("a/b", "1")).raw == raw
    assert str((await client.get_manifest("a/b", digest)).digest) == digest
    head = await client.head_manifest("a/b", "1")
    assert (str(head.digest), head.size) == (digest, len(raw))


async def test_a_wrong_manifest_never_leaves_the_client(client: RegistryClient, upstream: FakeRegistry) -> None:
    wanted = sha256(make_image(b"right"))
    upstream.manifests["a/b", wanted] = (make_image(b"wrong"), "")
    with pytest.raises(UpstreamDigestError, match="fake"):
        await client.get_manifest("a/b", wanted)


async def test_a_manifest_that_contradicts_its_header_is_refused(
    client: RegistryClient, upstream: FakeRegistry
) -> None:
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    upstream.headers["Docker-Content-Digest"] = sha256(b"other")
    with pytest.raises(UpstreamDigestError):
        await client.get_manifest("a/b", "1")


async def test_a_manifest_that_contradicts_its_type_is_refused(client: RegistryClient, upstream: FakeRegistry) -> None:
    upstream.add_manifest("a/b", "1", make_image(b"x"), OCI_INDEX)
    with pytest.raises(UpstreamError, match="broken manifest"):
        await client.get_manifest("a/b", "1")


async def test_blobs_stream_from_any_offset(client: RegistryClient, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"0123456789")
    assert await read(client, digest) == (0, b"0123456789")
    assert await read(client, digest, 4) == (4, b"456789")
    upstream.with_ranges = False
    assert await read(client, digest, 4) == (0, b"0123456789")
    assert await client.head_blob("a/b", parse_digest(digest)) == 10


async def test_a_cut_stream_is_an_error(client: RegistryClient, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"x" * 1000)
    upstream.cut_after = 10
    with pytest.raises(UpstreamError, match="connection to registry `fake` failed"):
        await read(client, digest)


async def test_a_stalled_stream_is_a_timeout(client: RegistryClient, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"x" * 1000)
    upstream.stall_after = 10
    with pytest.raises(UpstreamTimeoutError):
        await read(client, digest)


@pytest.mark.parametrize("kind", ["bearer", "basic"])
async def test_a_challenge_is_answered_and_remembered(
    client: RegistryClient, upstream: FakeRegistry, kind: str
) -> None:
    upstream.auth = kind
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    for _ in range(3):
        await client.get_manifest("a/b", "1")
    refusals = 1
    assert upstream.count("GET", "/manifests/") == 3 + refusals
    assert upstream.count("GET", "/token") == (1 if kind == "bearer" else 0)


async def test_without_a_login_the_answer_is_denied(upstream: FakeRegistry) -> None:
    upstream.auth = "basic"
    async with client_at(upstream.url) as anonymous:
        with pytest.raises(DeniedError) as caught:
            await anonymous.get_manifest("a/b", "1")
    assert "username and password" in caught.value.hint


async def test_wrong_credentials_are_not_tried_again_and_again(upstream: FakeRegistry) -> None:
    upstream.auth = "basic"
    async with RegistryClient(Endpoint("fake", upstream.url, credentials=("user", "wrong"))) as client:
        with pytest.raises(DeniedError):
            await client.get_manifest("a/b", "1")
    assert len(upstream.requests) == 2


async def test_a_redirect_to_another_host_carries_no_login(client: RegistryClient, upstream: FakeRegistry) -> None:
    cdn = await FakeRegistry().start()
    digest = upstream.add_blob(b"bytes")
    cdn.blobs = upstream.blobs
    upstream.auth, upstream.redirect = "basic", f"{cdn.url}/v2/cdn/blobs"
    assert await read(client, digest) == (0, b"bytes")
    assert cdn.authorizations == [""]
    assert upstream.authorizations[-1].startswith("Basic ")
    await cdn.stop()


async def test_endless_redirects_end(client: RegistryClient, upstream: FakeRegistry) -> None:
    upstream.redirect = f"{upstream.url}/v2/loop/blobs"
    with pytest.raises(UpstreamError, match="redirects more than"):
        await read(client, sha256(b""))


async def test_a_redirect_never_leaves_https(upstream: FakeRegistry) -> None:
    async with RegistryClient(Endpoint("fake", "https://registry.test")) as client:
        transport = client._transport
        with pytest.raises(UpstreamError, match="refused"):
            transport._redirected(transport.url_of("x"), "http://cdn.test/blob")


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, RateLimitedError), (500, UpstreamError), (503, UpstreamError), (403, DeniedError), (400, UpstreamError)],
)
async def test_a_refusal_says_what_to_do(
    client: RegistryClient, upstream: FakeRegistry, status: int, error: type[UpstreamError]
) -> None:
    upstream.status = status
    with pytest.raises(error) as caught:
        await client.get_manifest("a/b", "1")
    assert type(caught.value) is error
    assert "`fake`" in caught.value.message


async def test_what_is_not_there_is_not_an_upstream_error(client: RegistryClient) -> None:
    with pytest.raises(ManifestUnknownError, match="not here"):
        await client.get_manifest("a/b", "1")
    with pytest.raises(BlobUnknownError):
        await read(client, sha256(b"nothing"))


async def test_an_unreachable_registry_is_named_with_the_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client_at(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(UpstreamError, match=r"cannot connect to registry .*refused"):
                await client.ping()


async def test_a_registry_may_be_behind_a_unix_socket(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"tags": [request.path]})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "sock").start()
    async with client_at(f"unix://{tmp_path}/sock") as client:
        assert await client.list_tags("a/b") == (["/v2/a/b/tags/list"], False)
    await runner.cleanup()


@pytest.mark.parametrize("url", ["", "ftp://x", "unix://relative", "registry:5000", "http://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        client_at(url)
