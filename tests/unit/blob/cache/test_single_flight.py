import asyncio

import pytest

from blob.cache.single_flight import SingleFlight


async def test_callers_with_the_same_key_share_one_run() -> None:
    flights: SingleFlight[int] = SingleFlight()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    assert await asyncio.gather(*(flights.run("key", work) for _ in range(10))) == [1] * 10
    assert await flights.run("key", work) == 2


async def test_a_caller_that_leaves_does_not_end_the_run() -> None:
    flights: SingleFlight[str] = SingleFlight()
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    leaver = asyncio.create_task(flights.run("key", work))
    stayer = asyncio.create_task(flights.run("key", work))
    await asyncio.sleep(0)
    leaver.cancel()
    gate.set()
    assert await stayer == "done"
    assert leaver.cancelled()


async def test_a_failure_reaches_everybody_and_is_not_remembered() -> None:
    flights: SingleFlight[str] = SingleFlight()

    async def fail() -> str:
        raise ValueError("no")

    async def work() -> str:
        return "yes"

    results = await asyncio.gather(*(flights.run("key", fail) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    assert await flights.run("key", work) == "yes"


async def test_closing_cancels_what_runs() -> None:
    flights: SingleFlight[None] = SingleFlight()
    waiting = asyncio.create_task(flights.run("key", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
