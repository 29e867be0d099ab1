"""Downloads through our server from an upstream on loopback: how often, how fast, and what of lies."""

import asyncio
import os
from collections.abc import Callable

import aiohttp
import pytest

from unit.blob.cache.test_blobs import file_size_limit
from unit.blob.conftest import Blob
from unit.blob.fakeregistry import FakeRegistry, sha256

LARGE = os.urandom(3 << 20)


def path_of(digest: str) -> str:
    return f"/v2/up.test/a/b/blobs/{digest}"


async def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


async def test_many_clients_cost_one_download(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    answers = await asyncio.gather(*(blob.get(path_of(digest)) for _ in range(20)))
    assert all(status == 200 and body == LARGE for status, _, body in answers)
    assert upstream.count("GET", digest) == 1
    assert upstream.count("HEAD", digest) == 0


async def test_the_second_time_nobody_is_asked(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"small")
    first = await blob.get(path_of(digest))
    await wait_until(lambda: not blob.leftovers())
    second = await blob.get(path_of(digest))
    assert first[2] == second[2] == b"small"
    assert (first[1].headers["X-Cache"], second[1].headers["X-Cache"]) == ("MISS", "HIT")
    assert upstream.count("GET", digest) == 1


async def test_bytes_are_passed_on_while_the_upstream_still_sends(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.stall_after = 1 << 20
    async with blob.http.get(blob.url + path_of(digest)) as response:
        assert await response.content.readexactly(500_000) == LARGE[:500_000]
        upstream.release.set()
        assert await response.content.read() == LARGE[500_000:]


async def test_who_comes_late_gets_the_whole_from_the_same_download(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.stall_after = 1 << 20
    async with blob.http.get(blob.url + path_of(digest)) as early:
        await early.content.readexactly(500_000)
        late = asyncio.create_task(blob.get(path_of(digest)))
        upstream.release.set()
        assert (await late)[2] == LARGE
        assert await early.content.read() == LARGE[500_000:]
    assert upstream.count("GET", digest) == 1


async def test_a_slow_client_holds_up_nobody(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE * 4)
    async with blob.http.get(blob.url + path_of(digest)) as slow:
        assert (await blob.get(path_of(digest)))[2] == LARGE * 4
        assert await slow.content.read() == LARGE * 4


async def test_the_download_goes_on_when_the_client_leaves(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.stall_after = 1 << 20
    response = await blob.http.get(blob.url + path_of(digest))
    await response.content.readexactly(1000)
    response.close()
    upstream.release.set()
    await wait_until(lambda: not blob.leftovers())
    _, answer, body = await blob.get(path_of(digest))
    assert (answer.headers["X-Cache"], body) == ("HIT", LARGE)
    assert upstream.count("GET", digest) == 1


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_large_lie_is_cut_off_and_not_kept(blob: Blob, upstream: FakeRegistry, with_length: bool) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.lies[digest] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    upstream.with_length = with_length
    with pytest.raises(aiohttp.ClientError):
        await blob.get(path_of(digest))
    await wait_until(lambda: not blob.leftovers())
    upstream.lies.clear()
    assert (await blob.get(path_of(digest)))[2] == LARGE


async def test_a_small_lie_is_a_clean_error(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"truth")
    upstream.lies[digest] = b"lie"
    status, _, body = await blob.get(path_of(digest))
    assert status == 502
    assert b"sends a wrong blob" in body
    assert b"up.test" in body


async def test_a_blob_without_a_length_arrives_whole(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.with_length = False
    assert (await blob.get(path_of(digest)))[2] == LARGE


@pytest.mark.parametrize("with_ranges", [True, False])
async def test_a_cut_download_continues_or_fails_but_never_lies(
    blob: Blob, upstream: FakeRegistry, with_ranges: bool
) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.cut_after, upstream.with_ranges = 1 << 20, with_ranges
    if with_ranges:
        assert (await blob.get(path_of(digest)))[2] == LARGE
        assert upstream.count("GET", digest) >= 3
    else:
        with pytest.raises(aiohttp.ClientError):
            await blob.get(path_of(digest))
    await wait_until(lambda: not blob.leftovers())


async def test_a_stalled_download_ends_in_time(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"0123456789")
    upstream.stall_after = 0
    upstream.with_ranges = False
    status, _, body = await blob.get(path_of(digest))
    assert status == 504
    assert b"does not answer in time" in body
    await wait_until(lambda: not blob.leftovers())


@pytest.mark.parametrize(("status", "expected"), [(401, 403), (403, 403), (404, 404), (429, 429), (500, 502)])
async def test_a_refusal_is_told_and_not_kept(blob: Blob, upstream: FakeRegistry, status: int, expected: int) -> None:
    digest = upstream.add_blob(b"bytes")
    upstream.status = status
    assert (await blob.get(path_of(digest)))[0] == expected
    upstream.status = 0
    assert (await blob.get(path_of(digest)))[2] == b"bytes"


async def test_a_failed_download_of_one_repository_is_tried_from_another(
    start_blob: Callable[..., object], upstream: FakeRegistry
) -> None:
    other = await FakeRegistry().start()
    digest = sha256(b"shared")
    other.add_blob(b"shared")
    blob: Blob = await start_blob({"up.test": upstream.url, "other.test": other.url})  # type: ignore[misc]
    paths = (path_of(digest), f"/v2/other.test/c/d/blobs/{digest}")
    (lacking, _, _), (having, _, body) = await asyncio.gather(*(blob.get(path) for path in paths))
    assert (lacking, having, body) == (404, 200, b"shared")
    await other.stop()


@pytest.mark.parametrize("limit", [0, 1 << 20])
async def test_with_a_full_disk_bytes_are_passed_through(blob: Blob, upstream: FakeRegistry, limit: int) -> None:
    digest = upstream.add_blob(LARGE)
    with file_size_limit(limit):
        status, _, body = await blob.get(path_of(digest))
        part = await blob.get(path_of(digest), headers={"Range": "bytes=2000000-2000009"})
    assert (status, body == LARGE) == (200, True)
    assert part[2] == LARGE[2_000_000:2_000_010]
    await wait_until(lambda: not blob.leftovers())


async def test_a_lie_is_cut_off_even_with_a_full_disk(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    upstream.lies[digest] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    with file_size_limit(1 << 20), pytest.raises(aiohttp.ClientError):
        await blob.get(path_of(digest))


async def test_a_range_of_a_blob_that_is_being_downloaded(blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(LARGE)
    status, answer, body = await blob.get(path_of(digest), headers={"Range": "bytes=1000000-1000099"})
    assert (status, body) == (206, LARGE[1_000_000:1_000_100])
    assert answer.headers["Content-Range"] == f"bytes 1000000-1000099/{len(LARGE)}"


async def test_no_descriptor_stays_open(blob: Blob, upstream: FakeRegistry) -> None:
    async def leave_early(digest: str) -> None:
        response = await blob.http.get(blob.url + path_of(digest))
        await response.content.readexactly(1000)
        response.close()

    warm = upstream.add_blob(LARGE)
    await blob.get(path_of(warm))
    await wait_until(lambda: not blob.leftovers())
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        digest = upstream.add_blob(LARGE + bytes([number]))
        await asyncio.gather(blob.get(path_of(digest)), leave_early(digest), leave_early(warm), blob.get(path_of(warm)))
    await wait_until(lambda: not blob.leftovers())
    # Connections that are kept for reuse count too: a few of them, not one per request.
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 10)
