"""SIGKILL of the daemon and of the shim at random moments, while containers start, talk, and end."""

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from container.intent import ContainerRunSpec
from e2e.daemons import IMAGE, Running, started
from kernels import needs_exit_info
from vappc.client import AsyncClient, ConnectError, ProtocolError, ServerError
from vappc.protocol import output_bytes

pytestmark = [
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs `busybox` (package busybox-static)"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]

#: How many of our processes one run of the test kills; the soak of a release takes 200.
KILLS = int(os.environ.get("VAPP_TEST_KILLS", "24"))


@pytest.fixture
def daemon() -> Iterator[Running]:
    with started("vapp-kill-") as running:
        yield running


class Load:
    """Containers that say what can be checked, run until told to stop."""

    def __init__(self, daemon: Running, chance: random.Random) -> None:
        self.daemon = daemon
        self.chance = chance
        self.over = False
        self.checked = 0

    async def keep_running(self, worker: int) -> None:
        turn = 0
        while not self.over:
            turn += 1
            await self.run_one(f"w{worker}-{turn}")

    async def run_one(self, name: str) -> None:
        code, count = self.chance.randrange(1, 100), self.chance.randrange(1, 200)
        script = f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo line $i; done; exit {code}"
        spec = ContainerRunSpec(image=IMAGE, command=["sh", "-c", script], instance_id=name)
        await self.ask(lambda client: client.run_container(spec))
        outcome = await self.ask(lambda client: client.wait(name))
        text = await self.ask(lambda client: read_log(client, name))
        assert (outcome.code, text) == (code, "".join(f"line {i}\n" for i in range(1, count + 1)))
        await self.ask(lambda client: client.remove(name, force=True))
        self.checked += 1

    async def ask(self, request):
        """Ask until a daemon answers: what an agent does whose daemon was killed."""
        deadline = time.monotonic() + 60
        while True:
            try:
                async with AsyncClient(self.daemon.address) as client:
                    return await request(client)
            except (ConnectError, ProtocolError, OSError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no daemon for a minute: {self.daemon.log()[-2000:]}") from error
                await asyncio.sleep(0.02)
            except ServerError as error:
                if error.code == "not-found" and "remove" in request.__code__.co_names:
                    return None  # the daemon was killed behind the removal
                if not error.retryable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)


async def read_log(client: AsyncClient, name: str) -> str:
    return b"".join([output_bytes(chunk) async for chunk in client.logs(name)]).decode()


async def keep_killing(load: Load) -> None:
    """Kill one, then wait until the other has seen it and both are back: what one lost the other must hold."""
    for _ in range(KILLS):
        await asyncio.sleep(load.chance.uniform(0.0, 0.2))
        if load.chance.random() < 0.4:
            load.daemon.stop(signal.SIGKILL)
            await asyncio.to_thread(load.daemon.start)
        else:
            os.kill(shim_pid(load.daemon), signal.SIGKILL)
        await load.ask(lambda client: client.list_containers())
    load.over = True


def shim_pid(daemon: Running) -> int:
    return int((daemon.paths.run / "shim.pid").read_text())


@needs_exit_info
@pytest.mark.parametrize("seed", [7])
async def test_no_container_line_or_exit_code_is_lost(daemon: Running, seed: int) -> None:
    load = Load(daemon, random.Random(seed))
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_killing(load))
        for worker in range(3):
            group.create_task(load.keep_running(worker))
    assert load.checked >= KILLS // 4
    async with AsyncClient(daemon.address) as client:
        assert await client.list_containers() == []
