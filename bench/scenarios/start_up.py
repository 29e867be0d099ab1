"""How long programs take to say anything at all."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import ContestantError, Row, Run, rows_of, take_turns, timed_program, wait_until
from bench.scenario import Context, Result, Scenario
from container.paths import open_paths
from container.shim.client import Shim

_ROUNDS = 60
_DAEMON_ROUNDS = 8
_PROGRAMS = Path(sys.executable).parent


def measure(context: Context) -> Result:
    """Time `--version` of the runtimes, and our daemon until it answers."""
    result = Result()
    runtimes = {"vapp-oci": str(_PROGRAMS / "vapp-oci"), "crun": "crun", "runc": "runc"}
    contestants: dict[str, Run] = {
        name: timed_program([program, "--version"], directory=str(context.scratch))
        for name, program in runtimes.items()
        if shutil.which(program)
    }
    samples, _ = asyncio.run(take_turns(contestants, context.rounds(_ROUNDS)))
    result.rows += rows_of("start-up", "--version: vapp-oci", "ms", samples, "vapp-oci", 1e3)
    result.rows += _client_rows(context)
    try:
        daemon, _ = asyncio.run(take_turns({"ours": _daemon(context)}, context.rounds(_DAEMON_ROUNDS), warm_up=1))
        result.rows += rows_of("start-up", "daemon: start until a Ping is answered", "ms", daemon, "ours", 1e3)
    except ContestantError as error:
        result.remarks.append(str(error))
    return result


def _client_rows(context: Context) -> list[Row]:
    """Time what a caller pays for our packages: interpreter and import."""
    rows = []
    for module in ("vappc.client", "container.runtime.cli"):
        run = timed_program([sys.executable, "-c", f"import {module}"], directory=str(context.scratch))
        bare = timed_program([sys.executable, "-c", "pass"], directory=str(context.scratch))
        samples, _ = asyncio.run(take_turns({"ours": run, "python -c pass": bare}, context.rounds(_ROUNDS)))
        rows += rows_of("start-up", f"import {module}", "ms", samples, "ours", 1e3)
    return rows


def _daemon(context: Context) -> Run:
    app, control = context.scratch / "app", context.scratch / "d.sock"
    argv = [str(_PROGRAMS / "vappc-linux-daemon"), "--app-dir", str(app), "--socket", str(control)]
    argv += ["--registry-listen", "127.0.0.1:0", "--log-level", "error"]

    async def run() -> float:
        complaints = context.scratch / "daemon.log"
        begun = time.perf_counter()
        process = _start(argv, complaints)
        try:
            await wait_until(lambda: process.poll() is not None or _ping(str(control)), "an answer of the daemon")
            taken = time.perf_counter() - begun
            if process.poll() is not None:
                raise ContestantError(f"daemon: {complaints.read_text(errors='replace')[-300:]}")
            return taken
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
            await _end_shim(app)

    return run


def _start(argv: list[str], complaints: Path) -> "subprocess.Popen[bytes]":
    with complaints.open("wb") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _ping(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect(path)
            sock.sendall(b'{"cmd":"Ping"}\n')
            return "type" in json.loads(sock.makefile("rb").readline() or b"{}")
        except (OSError, ValueError):
            return False


async def _end_shim(app: Path) -> None:
    """The shim outlives its daemon; here nobody wants that."""
    paths = open_paths(app)
    if os.path.exists(paths.shim_socket):
        shim = await Shim.start(paths)
        await shim.shutdown(force=True)
    for directory in (paths.app, paths.run):
        shutil.rmtree(directory, ignore_errors=True)


SCENARIO = Scenario(
    "start-up",
    "`--version` of the three runtimes, which is what their interpreter, loader and imports cost; the import of our "
    "client library and of the runtime against an interpreter that does nothing; and the daemon with its registry and "
    "its shim from nothing until the first `Ping` is answered.",
    measure,
)
