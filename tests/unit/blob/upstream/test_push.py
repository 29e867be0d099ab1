"""Our client pushes to our server: both ends real, over loopback and a Unix socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from blob.errors import ArchiveError, UpstreamError
from blob.oci.digest import digest_of
from blob.upstream.archive import open_archive
from blob.upstream.client import client_at
from blob.upstream.push import push_archive
from unit.blob.conftest import Blob
from unit.blob.fakeregistry import make_image
from unit.blob.upstream.archives import simple_layout, tar_bytes, write_files
from unit.blob.upstream.test_archive import index_of, layout_files

LARGE = bytes(range(256)) * 20_000


@pytest.mark.parametrize("chunk_size", [0, 1_000_000, len(LARGE), 2 * len(LARGE)])
async def test_a_blob_arrives_in_one_piece_or_in_many(blob: Blob, chunk_size: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(LARGE), 300_000):
            yield LARGE[start : start + 300_000]

    digest = digest_of(LARGE)
    async with client_at(blob.url) as client:
        assert await client.push_blob("a/b", digest, len(LARGE), pieces, chunk_size)
        assert not await client.push_blob("a/b", digest, len(LARGE), pieces, chunk_size)
        assert await client.head_blob("a/b", digest) == len(LARGE)


async def test_a_pushed_archive_can_be_pulled(blob: Blob, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    with open_archive(write_files(simple_layout(), tmp_path / "l")) as archive:
        async with client_at(blob.url) as client:
            document = await push_archive(client, archive, "a/b", "1", lambda *step: done.append(step))
            assert (await client.get_manifest("a/b", "1")).raw == document.raw == archive.top.raw
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1] == len(b"{}layer")


async def test_an_index_is_pushed_with_everything_below_it(blob: Blob, tmp_path: Path) -> None:
    image = make_image(b"layer")
    files = layout_files(("x", index_of(image), [image, b"layer"]))
    with open_archive(write_files(files, tmp_path / "l")) as archive:
        async with client_at(blob.url) as client:
            await push_archive(client, archive, "a/b", "1")
            assert (await client.get_manifest("a/b", "1")).raw == index_of(image)
            assert (await client.get_manifest("a/b", str(digest_of(image)))).raw == image


async def test_a_manifest_of_four_megabytes_is_pushed_and_pulled(blob: Blob) -> None:
    raw = make_image(annotations={str(n): "x" * 10_000 for n in range(390)})
    async with client_at(blob.url) as client:

        async def config() -> AsyncIterator[bytes]:
            yield b"{}"

        await client.push_blob("a/b", digest_of(b"{}"), 2, config)
        await client.put_manifest("a/b", "big", raw, "application/vnd.oci.image.manifest.v1+json")
        assert (await client.get_manifest("a/b", "big")).raw == raw


async def test_an_archive_whose_layer_is_wrong_is_refused_and_leaves_nothing(blob: Blob, tmp_path: Path) -> None:
    files = simple_layout()
    wrong = {name: b"LAYER" if data == b"layer" else data for name, data in files.items()}
    with open_archive(write_files(wrong, tmp_path / "l")) as archive:
        async with client_at(blob.url) as client:
            with pytest.raises(UpstreamError, match="have digest"):
                await push_archive(client, archive, "a/b", "1")
    assert (await blob.get("/v2/a/b/manifests/1"))[0] == 404
    assert blob.leftovers() == []


async def test_an_archive_that_is_cut_while_it_is_read_is_one_error(blob: Blob, tmp_path: Path) -> None:
    path = tmp_path / "r.tar"
    path.write_bytes(tar_bytes({"bin/sh": LARGE}))
    with open_archive(path) as archive:
        path.write_bytes(b"")
        async with client_at(blob.url) as client, asyncio.timeout(10):
            with pytest.raises((ArchiveError, UpstreamError)):
                await push_archive(client, archive, "a/b", "1")


async def test_our_cache_in_front_of_our_registry(
    blob: Blob, start_blob: Callable[..., object], tmp_path: Path
) -> None:
    with open_archive(write_files(simple_layout(layer=LARGE), tmp_path / "l")) as archive:
        async with client_at(blob.url) as client:
            await push_archive(client, archive, "a/b", "1")
        front: Blob = await start_blob({"back.test": blob.url}, store=tmp_path / "front")  # type: ignore[misc]
        assert (await front.get("/v2/back.test/a/b/manifests/1"))[2] == archive.top.raw
        for digest in archive.blob_digests():
            assert (await front.get(f"/v2/back.test/a/b/blobs/{digest}"))[2] == b"".join(archive.chunks(digest))
        assert (await front.get("/v2/back.test/a/b/tags/list"))[2] == b'{"name":"back.test/a/b","tags":["1"]}'
