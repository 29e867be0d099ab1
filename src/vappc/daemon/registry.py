"""Look after the registry's process: start it, wait until it is ready, start it again when it dies."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from vappc.errors import DaemonError

logger = logging.getLogger(__name__)

#: Between two starts of a process that keeps dying; doubled each time up to the last.
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 30.0
#: A process that lived so long starts counting anew.
_STABLE_S = 60.0
_READY_S = 30.0
_STOP_S = 5.0


class Registry:
    """`python -m blob serve …` as a child of the daemon."""

    def __init__(self, store: Path, listen: str, unix: Path, upstreams: Sequence[str] = ()) -> None:
        self.unix = unix
        self._arguments = ["serve", "--store", str(store), "--listen", listen, "--unix", str(unix)]
        for upstream in upstreams:
            self._arguments += ["--upstream", upstream]
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.listening: list[str] = []

    def start(self) -> None:
        """Start it, and keep it started until `close`."""
        self._task = asyncio.create_task(self._supervise(), name="registry")

    async def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            DaemonError: it does not come up.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), _READY_S)
        except TimeoutError as error:
            raise DaemonError(
                "the registry does not start", "look at the daemon's log for lines that begin with `registry`"
            ) from error

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self._run_once()
            if loop.time() - began > _STABLE_S:
                pause = _FIRST_PAUSE_S
            logger.warning("registry ended, starting it again pause_s=%.1f", pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE_S)

    async def _run_once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vappc.daemon.child", str(os.getpid()), "blob", *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        self._process = process
        try:
            assert process.stdout is not None
            self._note_ready(await process.stdout.readline())
            while await process.stdout.readline():
                pass
            await process.wait()
        finally:
            self._ready.clear()
            await _end(process)

    def _note_ready(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return
        if isinstance(found, dict) and found.get("ready"):
            self.listening = [str(address) for address in found.get("listen", [])]
            logger.info("registry ready listen=%s", ",".join(self.listening))
            self._ready.set()


def check_port(listen: str) -> None:
    """Make sure that the registry could listen on `HOST:PORT`, for an error before anything is started.

    Raises:
        DaemonError: the port is taken, or the text is no address.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 0xFFFF:
        raise DaemonError(f"`{listen}` is no `HOST:PORT`", "write for example `--registry-listen 127.0.0.1:5050`")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise DaemonError(
            f"the registry cannot listen on `{listen}`: {(error.strerror or str(error)).lower()}",
            "choose another port with `--registry-listen`, or use the registry there with `--blob http://...`",
        ) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
