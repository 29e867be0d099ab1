"""`vappc shutdown` leaves nothing: no process, no run directory, no cgroup."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.intent import ContainerRunSpec
from e2e.daemons import IMAGE, Running, started
from vappc.client import Client, ServerError

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs `busybox` (package busybox-static)")


@pytest.fixture
def daemon() -> Iterator[Running]:
    with started("vapp-end-") as running:
        with Client(running.address) as client:
            client.run_container(
                ContainerRunSpec(image=IMAGE, command=["sleep", "60"], instance_id="one", stop_timeout_s=0.2)
            )
        yield running


def test_shutdown_leaves_nothing(daemon: Running) -> None:
    shim = int((daemon.paths.run / "shim.pid").read_text())
    with Client(daemon.address) as client:
        with pytest.raises(ServerError, match="1 containers run"):
            client.shutdown()
        client.shutdown(force=True)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    assert not Path(f"/proc/{shim}/exe").exists()
    assert not daemon.paths.run.exists()
    assert not [path for path in Path("/sys/fs/cgroup").glob("*/vapp/*") if path.name == daemon.paths.run.name]


def test_next_daemon_finds_the_ended_container(daemon: Running) -> None:
    with Client(daemon.address) as client:
        client.shutdown(force=True)
    assert daemon.process is not None
    daemon.process.wait(20)
    daemon.start()
    with Client(daemon.address) as client:
        (one,) = client.list_containers()
        assert (one.id, one.status, one.exit.code if one.exit else None) == ("one", "stopped", 137)
