import asyncio

import pytest

from container.errors import ExistsError, NotFoundError
from container.pods.operations import CancelledOperationError, Operations
from container.progress import Progress


def work(result="done", gate=None, steps=()):
    async def run(report):
        for step in steps:
            report(step)
        if gate is not None:
            await gate.wait()
        return result

    return run


async def test_the_same_wish_joins_and_another_is_refused():
    operations, gate = Operations(), asyncio.Event()
    first = operations.join("run:a", "x", work(gate=gate))
    assert operations.join("run:a", "x", work("other")) is first
    with pytest.raises(ExistsError, match="under way") as caught:
        operations.join("run:a", "y", work(), "stop it")
    assert caught.value.hint == "stop it"
    gate.set()
    assert await first.result() == "done"
    assert operations.join("run:a", "y", work("again")) is not first


async def test_progress_is_numbered_and_never_goes_back():
    steps = [Progress(10, "image", "a"), Progress(5, "bundle", "b"), Progress(40, "start", "c")]
    operation = Operations().join("k", None, work(steps=steps))
    seen = [(number, step.percentage, step.message) async for number, step in operation.steps()]
    assert seen == [(1, 10, "a"), (2, 10, "b"), (3, 40, "c")]
    assert [number async for number, _ in operation.steps(after=2)] == [3]


async def test_many_words_on_one_percent_are_kept_as_the_last():
    steps = [Progress(1, "image", str(number)) for number in range(1000)]
    operation = Operations().join("k", None, work(steps=steps))
    await operation.result()
    assert [(number, step.message) async for number, step in operation.steps()] == [(1000, "999")]


async def test_a_follower_that_gives_up_does_not_end_the_work():
    gate = asyncio.Event()
    operation = Operations().join("k", None, work(gate=gate))
    follower = asyncio.create_task(operation.follow())
    await asyncio.sleep(0)
    follower.cancel()
    await asyncio.wait({follower})
    gate.set()
    assert await operation.result() == "done"


async def test_cancel_waits_for_the_cleaning_up():
    cleaned = []

    async def run(report):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    operations = Operations()
    operation = operations.join("k", None, run)
    follower = asyncio.create_task(operation.follow())
    await asyncio.sleep(0)
    await operations.find("k").cancel()
    assert cleaned
    with pytest.raises(CancelledOperationError):
        await follower


async def test_failures_reach_everybody_who_asks_later_too():
    async def run(report):
        raise NotFoundError("no such thing")

    operation = Operations().join("k", None, run)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            await operation.follow()


async def test_ended_operations_are_forgotten_at_last():
    operations = Operations()
    for number in range(300):
        await operations.join(f"k{number}", None, work()).result()
    operations.join("last", None, work())
    with pytest.raises(NotFoundError):
        operations.find("k0")
    assert operations.find("k299")
    await operations.close()
