import asyncio
import json
import os

import pytest

from container.errors import ConfigError, ExistsError, LaunchError, NotFoundError, StateError
from container.intent import ContainerRunSpec, ExecSpec, MountSpec
from container.paths import Paths
from container.pods.engine import LOST, Engine
from fakes.images import FakeImages, make_image
from fakes.shim import FakeShim


def spec(script="exec sleep 60", **fields):
    return ContainerRunSpec(image="demo", command=["/bin/sh", "-c", script], instance_id="a", **fields)


@pytest.fixture
async def shim():
    made = FakeShim()
    yield made
    await made.close()


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "app").mkdir()
    return Paths(tmp_path / "app", tmp_path / "run")


@pytest.fixture
def images(tmp_path):
    (tmp_path / "layer" / "etc").mkdir(parents=True)
    return FakeImages(tmp_path / "layer")


@pytest.fixture
async def engine(paths, images, shim):
    made = Engine(paths, images, shim, rootless=True)
    yield made
    await made.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is a directory
            await asyncio.sleep(0.01)


def left(paths):
    return sorted(os.listdir(paths.bundles)) if paths.bundles.exists() else []


async def test_what_is_asked_for_is_written_down(engine, paths):
    await engine.run(spec(labels={"k": "v"}))
    record = json.loads((paths.bundles / "a" / "container.json").read_bytes())
    assert (record["version"], record["id"], record["spec"]["labels"]) == (1, "a", {"k": "v"})
    assert record["started"] > 0
    await engine.stop("a", 0)
    record = json.loads((paths.bundles / "a" / "container.json").read_bytes())
    assert record["exit"]["code"] == (await engine.wait("a")).code == 143


async def test_repeating_a_run_joins_the_attempt(engine, images, shim):
    images.gate = asyncio.Event()
    attempts = [asyncio.create_task(engine.run(spec())) for _ in range(3)]
    await asyncio.sleep(0.01)
    images.gate.set()
    handles = await asyncio.gather(*attempts)
    assert len({handle.instance_id for handle in handles}) == 1
    assert shim.calls == ["run a"]
    assert await engine.run(spec()) == handles[0]


async def test_another_spec_under_a_running_id_is_refused(engine):
    await engine.run(spec())
    with pytest.raises(ExistsError, match="other settings") as caught:
        await engine.run(spec(env=["A=b"]))
    assert caught.value.hint


async def test_an_ended_container_is_replaced(engine):
    await engine.run(spec("exit 1"))
    assert (await engine.wait("a")).code == 1
    await engine.run(spec("exit 2"))
    assert (await engine.wait("a")).code == 2


async def test_a_failed_start_leaves_nothing(engine, paths, shim):
    with pytest.raises(LaunchError):
        await engine.run(ContainerRunSpec("demo", ["/no/such"], instance_id="a"))
    assert (left(paths), shim.containers) == ([], {})
    assert await engine.list() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"mounts": [MountSpec("/no/such/path", "/mnt")]},
        {"mounts": [MountSpec("relative", "/mnt")]},
        {"env": ["nonsense"]},
        {"user": "nobody-here"},
        {"capabilities_add": ["fly"]},
    ],
)
async def test_bad_wishes_leave_nothing(engine, paths, fields):
    with pytest.raises(ConfigError):
        await engine.run(spec(**fields))
    assert left(paths) == []


async def test_a_cancelled_start_leaves_nothing(engine, images, paths):
    images.gate = asyncio.Event()
    run = asyncio.create_task(engine.run(spec()))
    await asyncio.sleep(0.01)
    await engine.stop("a")
    with pytest.raises(Exception, match="cancelled"):
        await run
    assert left(paths) == []


async def test_pull_policies(engine, images):
    with pytest.raises(NotFoundError, match="may not be pulled"):
        await engine.run(spec(pull="never"))
    await engine.run(spec())
    await engine.stop("a", 0)
    await engine.run(spec(pull="never"))
    assert images.pulls == ["demo"]
    await engine.stop("a", 0)
    await engine.run(spec(pull="always"))
    assert images.pulls == ["demo", "demo"]


async def test_stop_signal_is_the_images_and_sigkill_comes_after_the_timeout(engine, images, shim):
    images.remote["demo"] = make_image(stop_signal="SIGUSR1")
    await engine.run(spec("trap '' USR1; echo ready; while :; do sleep 1; done"))
    async for _ in engine.logs("a", follow=True):
        break
    await engine.stop("a", 0.05)
    assert shim.calls == ["run a", "kill a 10", "kill a 9"]


async def test_a_paused_container_can_be_stopped(engine):
    await engine.run(spec())
    await engine.pause("a")
    await engine.stop("a", 1)
    assert (await engine.wait("a")).signal == 15


async def test_a_running_container_is_removed_by_force_only(engine, paths):
    await engine.run(spec())
    with pytest.raises(StateError, match="is running"):
        await engine.remove("a")
    await engine.remove("a", force=True)
    assert left(paths) == []
    with pytest.raises(NotFoundError):
        await engine.remove("a")


async def test_exec_needs_a_running_container(engine):
    await engine.run(spec("exit 0"))
    await engine.wait("a")
    with pytest.raises(StateError, match="does not run"):
        await engine.exec("a", ExecSpec(["/bin/true"]))


async def test_remove_at_the_end_waits_for_those_who_look(engine, paths):
    with engine.hold("a"):
        await engine.run(spec("echo bye", remove=True))
        assert [entry.text async for entry in engine.logs("a", follow=True)] == [b"bye\n"]
        assert (await engine.wait("a")).code == 0
        assert left(paths) == ["a"]
    await until(lambda: not left(paths))


async def test_an_interrupted_start_is_cleared_at_the_next_start(engine, paths, images):
    await engine.run(spec("exit 0"))
    await engine.wait("a")
    directory = paths.bundles / "torn"
    directory.mkdir()
    record = json.loads((paths.bundles / "a" / "container.json").read_bytes())
    (directory / "container.json").write_text(json.dumps({**record, "id": "torn", "started": 0.0}))
    (paths.bundles / "empty").mkdir()
    await engine.restore()
    assert left(paths) == ["a"]


async def test_a_container_lost_with_the_machine_has_an_exit_code(paths, images, shim, engine):
    await engine.run(spec())
    await engine.close()
    successor = Engine(paths, images, FakeShim(), rootless=True)
    await successor.restore()
    assert (await successor.wait("a")).code == LOST
    assert (await successor.list())[0].status == "stopped"
    await successor.close()


async def test_what_the_shim_has_and_nobody_wrote_down_is_cleared(paths, images, shim, engine):
    await engine.run(spec())
    await engine.close()
    other = Engine(Paths(paths.app.parent / "other", paths.run), images, shim, rootless=True)
    await other.restore()
    assert shim.containers == {}
    await other.close()


async def test_layers_in_use_are_those_of_all_containers(engine, images):
    assert engine.layers_in_use() == set()
    await engine.run(spec())
    assert engine.layers_in_use() == set(images.remote["demo"].layers)


async def test_a_made_up_id_is_given_back(engine):
    handle = await engine.run(ContainerRunSpec("demo", ["/bin/true"]))
    assert handle.instance_id.startswith("run-")
    assert (await engine.wait(handle.instance_id)).code == 0
