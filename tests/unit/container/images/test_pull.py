import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from container.errors import ConfigError, DigestError, ImageError, NotFoundError, RegistryError
from container.images.children import spawn_local
from container.images.durability import Durability
from container.images.pull import ImagePuller
from container.images.service import Images
from container.images.store import ImageStore
from container.progress import Progress
from unit.container.images.archives import COMPRESS, digest, directory, file, make_tar
from unit.container.images.registry import CONFIG, INDEX, MANIFEST, Registry

TAR1 = make_tar(directory("d"), file("d/a", os.urandom(300_000)))
TAR2 = make_tar(file("b", b"2"), file("d/.wh.a"))


@pytest.fixture
async def images(tmp_path: Path, blob_socket: Path) -> AsyncIterator[Images]:
    images = Images(tmp_path / "images", blob_socket, spawn_local)
    yield images
    await images.close()


def add_image(registry: Registry, repository: str = "demo", tag: str = "1", **config) -> str:
    packed = [COMPRESS["gzip"](TAR1), COMPRESS["zstd"](TAR2)]
    return registry.add_image(repository, tag, [TAR1, TAR2], packed, **config)


def layers_in(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "images/layers"))


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is on disk, or in another thread
        await asyncio.sleep(0.005)


async def test_pulled_image_is_in_the_store_with_its_layers(local, images, tmp_path):
    image_id = add_image(local, config={"Cmd": ["run"]})
    steps: list[Progress] = []
    image = await images.pull("localhost/demo:1", report=steps.append)
    assert image.id == image_id
    assert image.names == ("localhost/demo:1",)
    assert image.manifest_digest == digest(local.manifests["demo", "1"][1])
    assert image.config.config.cmd == ("run",)
    assert layers_in(tmp_path) == sorted(layer.removeprefix("sha256:") for layer in image.layers)
    assert images.list() == [image] == [images.inspect("localhost/demo:1")]
    percentages = [step.percentage for step in steps]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert steps[-1].bytes_done == steps[-1].bytes_total == image.size


async def test_short_names_go_through_our_registry_with_the_registry_s_name(local, images):
    add_image(local, "docker.io/library/alpine", "latest")
    image = await images.pull("alpine")
    assert image.names == ("docker.io/library/alpine:latest",)
    assert all("/docker.io/library/alpine/" in path for _, path in local.requests)


async def test_other_registries_are_asked_directly(registry, images):
    add_image(registry)
    host = registry.url.removeprefix("http://")
    image = await images.pull(f"{host}/demo:1")
    assert image.names == (f"{host}/demo:1",)


async def test_token_of_a_foreign_registry_reaches_the_unpackers(registry, images):
    add_image(registry)
    registry.token = "t0ken"
    await images.pull(f"{registry.url.removeprefix('http://')}/demo:1")
    assert len(registry.blob_requests()) == 3


async def test_layers_that_are_here_are_not_fetched_again(local, images):
    add_image(local)
    await images.pull("localhost/demo:1")
    before = len(local.blob_requests())
    await images.pull("localhost/demo:1")
    assert len(local.blob_requests()) == before + 1


async def test_pull_by_digest_is_kept_under_the_digest(local, images):
    add_image(local)
    top = digest(local.manifests["demo", "1"][1])
    image = await images.pull(f"localhost/demo@{top}")
    assert image.names == (f"localhost/demo@{top}",)


async def test_platform_is_chosen_from_an_index(local, images):
    entries = []
    for architecture in ("amd64", "arm64"):
        image_id = add_image(local, tag=architecture, architecture=architecture)
        raw = local.manifests["demo", architecture][1]
        platform = {"os": "linux", "architecture": architecture}
        entries.append({"mediaType": MANIFEST, "digest": digest(raw), "size": len(raw), "platform": platform})
    top = local.add_manifest("demo", "multi", {"manifests": entries}, INDEX)
    image = await images.pull("localhost/demo:multi", "linux/arm64/v8")
    assert (image.id, image.architecture, image.manifest_digest) == (image_id, "arm64", top)
    with pytest.raises(ImageError, match="no image for platform `linux/s390x`"):
        await images.pull("localhost/demo:multi", "linux/s390x")


async def test_image_for_another_machine_is_refused_unless_asked_for(local, images):
    add_image(local, architecture="s390x")
    with pytest.raises(ImageError, match="is for platform `linux/s390x`"):
        await images.pull("localhost/demo:1")
    assert (await images.pull("localhost/demo:1", "linux/s390x")).architecture == "s390x"


async def test_two_pulls_of_the_same_are_one(local, images):
    add_image(local)
    steps: list[Progress] = []
    first, second = await asyncio.gather(
        images.pull("localhost/demo:1"), images.pull("localhost/demo:1", report=steps.append)
    )
    assert first == second
    assert len(local.blob_requests()) == 3
    assert steps[-1].percentage == 100


async def test_images_that_share_a_layer_unpack_it_once(local, images, tmp_path):
    local.add_image("one", "1", [TAR1], [COMPRESS["gzip"](TAR1)], author="x")
    local.add_image("two", "1", [TAR1], [COMPRESS["gzip"](TAR1)], author="y")
    await asyncio.gather(images.pull("localhost/one:1"), images.pull("localhost/two:1"))
    assert local.blob_requests().count(digest(COMPRESS["gzip"](TAR1))) == 1
    await images.remove("localhost/one:1")
    assert len(layers_in(tmp_path)) == 1
    await images.remove("localhost/two:1")
    assert layers_in(tmp_path) == []


async def test_cancelled_pull_leaves_nothing(local, images, tmp_path):
    add_image(local)
    local.cut = 1000
    task = asyncio.create_task(images.pull("localhost/demo:1"))
    await until(lambda: any(name.startswith(".") for name in layers_in(tmp_path)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert layers_in(tmp_path) == []
    assert images.list() == []


async def test_one_of_two_who_wait_may_go(local, images):
    add_image(local)
    local.hold = threading.Event()
    steps: list[Progress] = []
    stays = asyncio.create_task(images.pull("localhost/demo:1", report=steps.append))
    goes = asyncio.create_task(images.pull("localhost/demo:1"))
    await until(lambda: len(local.blob_requests()) >= 1)
    goes.cancel()
    local.hold.set()
    assert (await stays).names == ("localhost/demo:1",)
    with pytest.raises(asyncio.CancelledError):
        await goes


async def test_failed_pull_takes_back_the_layers_that_went_well(local, images, tmp_path):
    add_image(local)
    bad = digest(COMPRESS["gzip"](TAR1))
    local.blobs[bad] = local.blobs[bad][:-9] + b"corrupted"
    with pytest.raises(DigestError, match=f"layer `{bad}`"):
        await images.pull("localhost/demo:1")
    assert layers_in(tmp_path) == []
    assert images.list() == []


async def test_failed_pull_leaves_layers_of_other_images(local, images, tmp_path):
    local.add_image("good", "1", [TAR2], [COMPRESS["zstd"](TAR2)])
    await images.pull("localhost/good:1")
    add_image(local)
    del local.blobs[digest(COMPRESS["gzip"](TAR1))]
    with pytest.raises(ImageError):
        await images.pull("localhost/demo:1")
    assert layers_in(tmp_path) == [digest(TAR2).removeprefix("sha256:")]


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "x@sha256:12"])
async def test_malformed_name_is_the_caller_s_fault(images, name):
    with pytest.raises(ConfigError):
        await images.pull(name)


async def test_unknown_image_is_not_found(images):
    with pytest.raises(NotFoundError):
        await images.pull("localhost/nothing:1")


async def test_registry_that_is_down_may_come_back(tmp_path):
    images = Images(tmp_path / "images", tmp_path / "no.sock", spawn_local)
    with pytest.raises(RegistryError, match="cannot connect") as caught:
        await images.pull("alpine")
    assert caught.value.retryable


async def test_wrong_config_digest_is_a_digest_error(local, images):
    image_id = add_image(local)
    raw = local.blobs[image_id]
    local.blobs[image_id] = raw.replace(b"linux", b"linuy")
    with pytest.raises(DigestError):
        await images.pull("localhost/demo:1")


async def test_artifacts_are_not_images(local, images):
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": local.add_blob(b"{}"), "size": 2}
    local.add_manifest("chart", "1", {"config": config, "layers": []})
    with pytest.raises(ImageError, match=r"not a container image but `application/vnd\.cncf\.helm"):
        await images.pull("localhost/chart:1")


async def test_layers_and_diff_ids_must_agree(local, images):
    add_image(local)
    raw = b'{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    config = {"mediaType": CONFIG, "digest": local.add_blob(raw), "size": len(raw)}
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": local.add_blob(TAR1), "size": len(TAR1)}
    local.add_manifest("demo", "odd", {"config": config, "layers": [layer]})
    with pytest.raises(ImageError, match="has 1 layers, but its config names 0"):
        await images.pull("localhost/demo:odd")


async def test_dead_child_is_an_error_not_a_hang(local, tmp_path, blob_socket):
    add_image(local)

    async def spawn_dying(argv):
        return await spawn_local(["false"] if "unpacker" in argv[-1] else argv)

    images = Images(tmp_path / "images", blob_socket, spawn_dying)
    with pytest.raises(Exception, match="ended with status 1 and without a result"):
        await images.pull("localhost/demo:1")


async def test_no_more_children_at_a_time_than_asked_for(local, tmp_path):
    tars = [make_tar(file(f"f{n}", b"x")) for n in range(4)]
    local.add_image("many", "1", tars, tars)
    running, most = 0, 0

    async def spawn_counting(argv):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        process = await spawn_local(argv)
        wait = process.wait

        async def wait_and_count():
            nonlocal running
            status = await wait()
            running -= 1
            return status

        class Counted:
            stdin, stdout, kill = process.stdin, process.stdout, process.kill
            wait = staticmethod(wait_and_count)

        return Counted()

    store = ImageStore(tmp_path / "images")
    durability = Durability(store.directory)
    puller = ImagePuller(store, durability, local.url, spawn_counting, parallel=2)
    await puller.pull("localhost/many:1")
    await durability.settle()
    assert most == 2


async def test_recovery_removes_what_nothing_uses(local, images, tmp_path):
    add_image(local)
    image = await images.pull("localhost/demo:1")
    layers = tmp_path / "images/layers"
    (layers / ("0" * 64)).mkdir()
    (layers / ("1" * 64) / "deep").mkdir(parents=True)
    (layers / f".{'2' * 64}.partial").mkdir()
    await images.recover(used_layers={"sha256:" + "1" * 64})
    expected = [layer.removeprefix("sha256:") for layer in image.layers] + ["1" * 64]
    assert layers_in(tmp_path) == sorted(expected)


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
async def test_root_file_system_tar_is_loaded_as_an_image(local, images, tmp_path, how):
    (tmp_path / "root.tar").write_bytes(COMPRESS[how](TAR1))
    steps: list[Progress] = []
    image = await images.load(tmp_path / "root.tar", "localhost/demo:1", steps.append)
    assert image.names == ("localhost/demo:1",)
    assert image.layers == (digest(TAR1),)
    assert ("demo", "1") in local.manifests
    percentages = [step.percentage for step in steps]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100


async def test_loading_under_a_foreign_name_does_not_touch_that_registry(local, images, tmp_path):
    (tmp_path / "root.tar").write_bytes(TAR1)
    image = await images.load(tmp_path / "root.tar", "alpine")
    assert image.names == ("docker.io/library/alpine:latest",)
    assert not any("docker.io" in repository for repository, _ in local.manifests)


async def test_broken_archive_is_refused(local, images, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"not an archive at all" * 100)
    with pytest.raises(ImageError):
        await images.load(tmp_path / "bad.tar", "localhost/bad:1")
    assert images.list() == []


async def test_container_sees_topmost_layer_first(local, images, tmp_path):
    add_image(local)
    image = await images.pull("localhost/demo:1")
    entry = images.prepare(image, tmp_path / "c", rootless=True)
    lower = entry["options"][0].removeprefix("lowerdir=").split(":")
    assert [Path(path).name for path in lower] == [layer.removeprefix("sha256:") for layer in image.layers[::-1]]
    assert (Path(lower[0]) / "d/a").is_char_device()
    await images.remove_trees([tmp_path / "c"])
    assert not (tmp_path / "c").exists()
