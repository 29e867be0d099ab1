"""The two caches and their upstream, as processes; servers and clients are pinned to different processors."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load import Job
from bench.measure import ContestantError
from bench.settings import REPOSITORY

_START_TIMEOUT_S = 20

_RIVAL_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {store}}}
http: {{addr: "127.0.0.1:{port}"}}
proxy: {{remoteurl: "http://127.0.0.1:{upstream}"}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    pid: int
    port: int


def processors() -> tuple[set[int], set[int]]:
    """Return one processor for the server and the others for everything else; the same where there is one only."""
    known = sorted(os.sched_getaffinity(0))
    return {known[-1]}, set(known[:-1]) or {known[-1]}


@contextmanager
def open_upstream(directory: Path, rate: int) -> Iterator[Server]:
    """Run `bench.upstream` beside the clients."""
    argv = [sys.executable, "-m", "bench.upstream", str(directory), str(rate)]
    with _open(argv, processors()[1], directory.parent / "upstream.log") as process:
        assert process.stdout is not None
        yield Server(process.pid, int(process.stdout.readline()))


@contextmanager
def open_ours(store: Path, upstream: Server) -> Iterator[Server]:
    """Run our registry in front of `upstream`."""
    program = str(Path(sys.executable).with_name("docker-proxy-server"))
    argv = [program, "serve", "--listen", "127.0.0.1:0", "--store", str(store), "--no-upstreams"]
    argv += ["--upstream", f"docker.io=http://127.0.0.1:{upstream.port}"]
    log = store.with_suffix(".log")
    with _open(argv, processors()[0], log) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ContestantError(f"docker-proxy-server: {log.read_text(errors='replace')[-300:]}")
        yield Server(process.pid, int(json.loads(line)["listen"][0].rpartition(":")[2]))


@contextmanager
def open_rival(store: Path, upstream: Server) -> Iterator[Server]:
    """Run Debian's docker-registry in proxy mode in front of `upstream`.

    Raises:
        ContestantError: it is not installed, or does not start.
    """
    if shutil.which("docker-registry") is None:
        raise ContestantError("`docker-registry` is not installed")
    port = _free_port()
    config, log = store.with_suffix(".yml"), store.with_suffix(".log")
    config.write_text(_RIVAL_CONFIG.format(store=store, port=port, upstream=upstream.port))
    with _open(["docker-registry", "serve", str(config)], processors()[0], log) as process:
        _wait_listening(process, port, log)
        yield Server(process.pid, port)


OPENERS = {"ours": open_ours, "docker-registry": open_rival}


def run_load(job: Job) -> dict[str, float]:
    """Run the clients of `job` on their processors.

    Raises:
        ContestantError: an answer was wrong.
    """
    argv = [sys.executable, "-m", "bench.load", json.dumps(asdict(job))]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, processors()[1])
        out, complaint = process.communicate(timeout=600)
    if process.returncode:
        raise ContestantError(complaint.strip()[-300:])
    return dict(json.loads(out))


def read_counts(upstream: Server) -> dict[str, int]:
    """Return what `upstream` has sent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{upstream.port}/count", timeout=10) as answer:
        return dict(json.load(answer))


@contextmanager
def _open(argv: list[str], where: set[int], log: Path) -> "Iterator[subprocess.Popen[str]]":
    with log.open("w") as complaints:
        process = subprocess.Popen(
            # Set before it starts: a server may count its processors at its first breath.
            ["taskset", "--cpu-list", ",".join(map(str, where)), *argv],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_listening(process: "subprocess.Popen[str]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ContestantError(f"docker-registry: {log.read_text(errors='replace')[-300:]}") from None
            time.sleep(0.02)
