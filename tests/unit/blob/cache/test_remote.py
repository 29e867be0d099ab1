"""Tags and manifests of an upstream through our server: when it is asked, and what when it fails."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unit.blob.conftest import Blob
from unit.blob.fakeregistry import OCI_INDEX, FakeRegistry, make_image, sha256

TAG = "/v2/up.test/a/b/manifests/1"
Start = Callable[..., object]


async def start(start_blob: Start, upstream: FakeRegistry, tag_ttl_s: float = 0) -> Blob:
    return await start_blob(  # type: ignore[misc]
        {"up.test": upstream.url}, tag_ttl_s=tag_ttl_s, answer_timeout_s=1
    )


async def test_within_its_time_a_tag_is_served_without_asking(blob: Blob, upstream: FakeRegistry) -> None:
    raw = make_image(b"x")
    digest = upstream.add_manifest("a/b", "1", raw)
    for _ in range(5):
        status, answer, body = await blob.get(TAG)
        assert (status, body) == (200, raw)
        assert answer.headers["Docker-Content-Digest"] == digest
    assert upstream.requests == [("GET", "/v2/a/b/manifests/1")]


async def test_many_clients_cost_one_request(blob: Blob, upstream: FakeRegistry) -> None:
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    await asyncio.gather(*(blob.get(TAG) for _ in range(20)))
    assert len(upstream.requests) == 1


async def test_head_says_what_get_sends(blob: Blob, upstream: FakeRegistry) -> None:
    raw = make_image(b"x")
    upstream.add_manifest("a/b", "1", raw)
    _, head, body = await blob.send("HEAD", TAG)
    _, get, _ = await blob.get(TAG)
    assert body == b""
    assert head.headers["Content-Length"] == str(len(raw))
    for name in ("Content-Type", "Docker-Content-Digest", "Content-Length", "ETag"):
        assert head.headers[name] == get.headers[name]


async def test_after_its_time_a_tag_is_revalidated_by_head(start_blob: Start, upstream: FakeRegistry) -> None:
    blob = await start(start_blob, upstream)
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    for _ in range(3):
        await blob.get(TAG)
    assert [method for method, _ in upstream.requests] == ["GET", "HEAD", "HEAD"]


async def test_a_moved_tag_is_noticed(start_blob: Start, upstream: FakeRegistry) -> None:
    blob = await start(start_blob, upstream)
    upstream.add_manifest("a/b", "1", make_image(b"old"))
    await blob.get(TAG)
    upstream.add_manifest("a/b", "1", make_image(b"new"))
    assert (await blob.get(TAG))[2] == make_image(b"new")


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_stale_tag_is_served_with_a_warning_when_the_upstream_cannot(
    start_blob: Start, upstream: FakeRegistry, status: int
) -> None:
    blob = await start(start_blob, upstream)
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    await blob.get(TAG)
    upstream.status = status
    found, answer, body = await blob.get(TAG)
    assert (found, body) == (200, make_image(b"x"))
    assert answer.headers["Warning"].startswith('299 - "stale: registry')


async def test_a_stale_tag_is_served_when_the_upstream_is_gone(start_blob: Start, upstream: FakeRegistry) -> None:
    blob = await start(start_blob, upstream)
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    await blob.get(TAG)
    await upstream.stop()
    status, answer, _ = await blob.get(TAG)
    assert status == 200
    assert "cannot connect" in answer.headers["Warning"]


@pytest.mark.parametrize(("status", "expected"), [(401, 403), (403, 403), (404, 404)])
async def test_a_refusal_is_never_covered_by_a_stale_tag(
    start_blob: Start, upstream: FakeRegistry, status: int, expected: int
) -> None:
    blob = await start(start_blob, upstream)
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    await blob.get(TAG)
    upstream.status = status
    assert (await blob.get(TAG))[0] == expected


async def test_the_cache_outlives_the_process_and_starts_without_the_upstream(
    start_blob: Start, upstream: FakeRegistry, tmp_path: Path
) -> None:
    from blob.config import Cache, Config, Server, Upstream
    from blob.server.serve import run_server

    raw, layer = make_image(b"layer"), upstream.add_blob(b"layer")
    upstream.add_manifest("a/b", "1", raw)
    config = Config(
        Server(("127.0.0.1:0",)), Cache(str(tmp_path / "s")), {"up.test": Upstream(upstream.url, insecure=True)}
    )
    blob = await start(start_blob, upstream)
    for _ in range(2):
        async with run_server(config) as ready:
            blob.url = f"http://{ready.listen[0]}"
            assert (await blob.get(TAG))[2] == raw
            assert (await blob.get(f"/v2/up.test/a/b/blobs/{layer}"))[2] == b"layer"
        await upstream.stop()


async def test_an_unreachable_upstream_is_named_with_the_reason(start_blob: Start, upstream: FakeRegistry) -> None:
    blob = await start(start_blob, upstream)
    await upstream.stop()
    status, _, body = await blob.get(TAG)
    error = json.loads(body)["errors"][0]
    assert (status, error["code"]) == (502, "UNAVAILABLE")
    assert error["message"] == "cannot connect to registry `up.test`: connection refused"


async def test_a_retry_time_is_passed_on(blob: Blob, upstream: FakeRegistry) -> None:
    upstream.status, upstream.headers = 429, {"Retry-After": "7"}
    status, answer, body = await blob.get(TAG)
    assert (status, answer.headers["Retry-After"]) == (429, "7")
    assert json.loads(body)["errors"][0]["code"] == "TOOMANYREQUESTS"


async def test_a_manifest_by_digest_is_asked_for_once_and_verified(blob: Blob, upstream: FakeRegistry) -> None:
    raw = make_image(b"x")
    path = f"/v2/up.test/a/b/manifests/{upstream.add_manifest('a/b', '1', raw)}"
    assert (await blob.get(path))[2] == (await blob.get(path))[2] == raw
    assert len(upstream.requests) == 1
    wanted = sha256(make_image(b"right"))
    upstream.manifests["a/b", wanted] = (make_image(b"wrong"), "")
    assert (await blob.get(f"/v2/up.test/a/b/manifests/{wanted}"))[0] == 502


async def test_a_challenge_of_the_upstream_is_answered(blob: Blob, upstream: FakeRegistry) -> None:
    upstream.auth = "bearer"
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    assert (await blob.get(TAG))[0] == 200
    assert upstream.count("GET", "/token") == 1


async def test_referrers_fall_back_to_the_tag_and_to_nothing(blob: Blob, upstream: FakeRegistry) -> None:
    subject = sha256(b"image")
    path = f"/v2/up.test/a/b/referrers/{subject}"
    status, answer, body = await blob.get(path)
    assert (status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert json.loads(body)["manifests"] == []
    entry = {"mediaType": "x", "digest": subject, "size": 1, "artifactType": "sig"}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    upstream.add_manifest("a/b", subject.replace(":", "-"), index, OCI_INDEX)
    assert json.loads((await blob.get(path))[2])["manifests"][0]["artifactType"] == "sig"


async def test_referrers_of_a_failing_upstream_are_an_error(blob: Blob, upstream: FakeRegistry) -> None:
    upstream.status = 503
    assert (await blob.get(f"/v2/up.test/a/b/referrers/{sha256(b'x')}"))[0] == 502
