"""A log on a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.shim.logs import Pump

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root_only")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_delays_lines_and_loses_none(small_disk: Path, tmp_path: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(60 << 10))
    pump = Pump(str(tmp_path), str(small_disk / "log"), terminal=False)
    stdout, stderr = pump.make_fifos()
    os.write(stdout, b"".join(b"line %d\n" % number for number in range(400)))
    pump.take(pump.streams[0])
    assert pump.stuck
    filler.unlink()
    pump.retry()
    assert not pump.stuck
    for fd in (stdout, stderr):
        os.close(fd)
    pump.drain()
    pump.close()
    texts = [line.split(" ", 3)[3] for line in (small_disk / "log").read_text().splitlines()]
    assert texts == [f"line {number}" for number in range(400)]
