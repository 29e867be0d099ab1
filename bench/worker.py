"""The process in which contestants take turns: `python -m bench.worker JOB`, started by `bench.settings`.

It runs as the user and in the mount namespace that the setting wants, and prints one JSON document:
`{"samples": {metric: {contestant: [seconds]}}, "absent": {contestant: why}}`.
"""

import asyncio
import itertools
import json
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import ContestantError, Run, pss_kib, run_program, take_turns, wait_until
from container.errors import ContainerError
from container.paths import Paths, open_paths
from container.shim.client import Shim, Stdio

_NULL = Stdio(Path("/dev/null"))
_VAPP_OCI = str(Path(sys.executable).with_name("vapp-oci"))


@dataclass(frozen=True, slots=True)
class Job:
    """What the setting said; see `bench.settings.Setting.work`."""

    task: str
    limits: bool
    scratch: str
    bundle: str
    rival_bundle: str
    rounds: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that is run as a command."""

    name: str
    argv: tuple[str, ...]
    bundle: str
    complaints: str

    @property
    def live(self) -> str:
        """Name of its container that sleeps; cgroups of relative paths are shared by all runtimes of ours."""
        return f"live-{self.name}"

    def run(self, *words: str) -> float:
        """Run one verb and return the seconds it took."""
        return run_program([*self.argv, *words], "/dev/null", self.complaints)


def find_runtimes(job: Job) -> list[Runtime]:
    """Return vapp-oci, and crun and runc where they are installed."""
    managed = () if job.limits else ("--cgroup-manager=disabled",)
    programs = {"vapp-oci": (_VAPP_OCI, *managed), "crun": ("crun", *managed), "runc": ("runc",)}
    found = []
    for name, argv in programs.items():
        if shutil.which(argv[0]):
            root = ("--root", f"{job.scratch}/{name}")
            found.append(Runtime(name, (*argv, *root), job.rival_bundle, f"{job.scratch}/complaints"))
    return found


@asynccontextmanager
async def open_shim(job: Job) -> AsyncIterator[tuple[Shim, Paths]]:
    """Start a shim of its own and end it with all that it runs."""
    paths = open_paths(Path(job.scratch, "app"))
    starting = asyncio.ensure_future(Shim.start(paths, uplink=False))
    try:
        yield await asyncio.shield(starting), paths
    finally:
        # We are ending, be it because we were told to: a further signal must not cancel the cleaning up.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        await (await starting).shutdown(force=True)
        shutil.rmtree(paths.app)
        shutil.rmtree(paths.run, ignore_errors=True)


async def run_true(job: Job) -> dict[str, Any]:
    """Create, start, wait, delete."""
    numbers = itertools.count()

    def command(runtime: Runtime) -> Run:
        async def run() -> float:
            return runtime.run("run", "--bundle", runtime.bundle, f"t{next(numbers)}")

        return run

    async with open_shim(job) as (shim, _):

        async def through_shim() -> float:
            name = f"t{next(numbers)}"
            begun = time.perf_counter()
            await shim.run(name, Path(job.bundle), _NULL)
            outcome = await shim.wait(name)
            await shim.delete(name)
            taken = time.perf_counter() - begun
            if outcome.code:
                raise ContestantError(f"the program ended with {outcome.code}")
            return taken

        contestants = {"shim": _explained(through_shim)} | {one.name: command(one) for one in find_runtimes(job)}
        samples, absent = await take_turns(contestants, job.rounds)
    return {"samples": {"run": samples}, "absent": absent}


async def use_running(job: Job) -> dict[str, Any]:
    """Exec and state in a container that sleeps."""
    async with open_shim(job) as (shim, _):
        await shim.run("live", Path(job.bundle), _NULL)
        runtimes, absent = _start_all(find_runtimes(job))
        process = {**_process(job.bundle), "args": ["/bin/true"]}
        numbers = itertools.count()

        async def through_shim() -> float:
            begun = time.perf_counter()
            handle = await shim.exec("live", f"e{next(numbers)}", process)
            await handle.wait()
            handle.close()
            return time.perf_counter() - begun

        async def state() -> float:
            begun = time.perf_counter()
            await shim.state("live")
            return time.perf_counter() - begun

        try:
            executed, missing = await take_turns(
                {"shim": _explained(through_shim)} | _verbs(runtimes, "exec", "/bin/true"), job.rounds
            )
            stated, _ = await take_turns({"shim": _explained(state)} | _verbs(runtimes, "state"), job.rounds)
        finally:
            for runtime in runtimes:
                _delete(runtime, runtime.live)
    return {"samples": {"exec": executed, "state": stated}, "absent": absent | missing}


def _start_all(runtimes: list[Runtime]) -> tuple[list[Runtime], dict[str, str]]:
    started, absent = [], {}
    for runtime in runtimes:
        try:
            runtime.run("run", "--detach", "--bundle", runtime.bundle, runtime.live)
            started.append(runtime)
        except ContestantError as error:
            absent[runtime.name] = str(error)
            _delete(runtime, runtime.live)
    return started, absent


def _delete(runtime: Runtime, name: str) -> None:
    try:
        runtime.run("delete", "--force", name)
    except ContestantError:
        pass  # it never came to be


def _verbs(runtimes: list[Runtime], verb: str, *words: str) -> dict[str, Run]:
    def contestant(runtime: Runtime) -> Run:
        async def run() -> float:
            return runtime.run(verb, runtime.live, *words)

        return run

    return {runtime.name: contestant(runtime) for runtime in runtimes}


def _explained(run: Run) -> Run:
    """Let an error of ours count as one contestant's failure."""

    async def explained() -> float:
        try:
            return await run()
        except ContainerError as error:
            raise ContestantError(error.message) from error

    return explained


def _process(bundle: str) -> dict[str, Any]:
    return dict(json.loads(Path(bundle, "config.json").read_text())["process"])


async def weigh(job: Job) -> dict[str, Any]:
    """Return the memory of what watches `count` sleeping containers, in KiB: our shim, and one conmon each."""
    async with open_shim(job) as (shim, paths):
        pid = _peer(paths.shim_socket)
        idle = pss_kib(pid)
        for number in range(job.count):
            await shim.run(f"m{number}", Path(job.bundle), _NULL)
        weight = {"shim": [float(pss_kib(pid))], "idle": [float(idle)]}
    absent = {}
    try:
        weight["conmon"] = [float(await _weigh_conmon(job))]
    except (ContestantError, OSError) as error:
        absent["conmon"] = str(error)
    return {"samples": {"memory": weight}, "absent": absent}


def _peer(path: Path) -> int:
    """Return the pid of whoever listens at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(path))
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


async def _weigh_conmon(job: Job) -> int:
    runtime = next((one for one in find_runtimes(job) if one.name == "crun"), None)
    if runtime is None or not shutil.which("conmon"):
        raise ContestantError("`conmon` or `crun` is not installed")
    place = Path(job.scratch, "conmon")
    place.mkdir()
    names = [f"c{number}" for number in range(job.count)]
    try:
        for name in names:
            await _start_conmon(runtime, place, name)
        return sum(pss_kib(int((place / f"{name}.conmon").read_text())) for name in names)
    finally:
        for name in names:
            _delete(runtime, name)
        # conmon writes the exit file last: then it is about to end.
        await wait_until(lambda: len(list((place / "exits").iterdir())) == len(names), "the end of every conmon")
        shutil.rmtree(place)


async def _start_conmon(runtime: Runtime, place: Path, name: str) -> None:
    (place / "exits").mkdir(exist_ok=True)
    pid_file = place / f"{name}.pid"
    argv = ["conmon", "--api-version", "1", "--cid", name, "--cuuid", name, "--name", name]
    argv += ["--runtime", str(shutil.which("crun")), "--bundle", runtime.bundle]
    argv += [word for option in runtime.argv[1:] for word in ("--runtime-arg", option)]
    argv += ["--container-pidfile", str(pid_file), "--conmon-pidfile", str(place / f"{name}.conmon")]
    argv += ["--log-path", "k8s-file:/dev/null", "--exit-dir", str(place / "exits"), "--full-attach"]
    argv += ["--persist-dir", str(place), "--log-level", "error"]
    run_program(argv, "/dev/null", runtime.complaints)
    await wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()), "a container under conmon")
    runtime.run("start", name)


TASKS: dict[str, Callable[[Job], Coroutine[Any, Any, dict[str, Any]]]] = {
    "run_true": run_true,
    "use_running": use_running,
    "weigh": weigh,
}


def main() -> int:
    """Do the job of the command line and print the answer."""
    job = Job(**json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(asyncio.run(_work(job))) + "\n")
    return 0


async def _work(job: Job) -> dict[str, Any]:
    """Do the job; SIGTERM ends it with everything that it started."""
    task = asyncio.ensure_future(TASKS[job.task](job))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
