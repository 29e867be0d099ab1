"""`vappc shutdown` leaves nothing: no process, no run directory, no cgroup."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.intent import ContainerRunSpec
from e2e.daemons import IMAGE, Running, free_port, make_archive
from vappc.client import Client, ServerError

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs `busybox` (package busybox-static)")


@pytest.fixture
def daemon() -> Iterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="vapp-end-"))
    (directory / "xdg").mkdir()
    archive = make_archive(directory)
    running = Running(directory, os.getuid(), free_port())
    running.start()
    try:
        with Client(running.address) as client:
            client.load_image(str(archive), IMAGE)
            client.run_container(
                ContainerRunSpec(image=IMAGE, command=["sleep", "60"], instance_id="one", stop_timeout_s=0.2)
            )
        yield running
    finally:
        running.clean()


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
