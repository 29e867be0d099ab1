"""The steps of a start, timed inside a process as small as the shim: `python -I -S -c BOOT BUNDLE ROOT ROUNDS`.

It calls the functions that the shim calls, in the same order, without the socket in front. Prints
`{"phases": {name: [seconds]}, "fork": [seconds], "rss_kib": N}`. Out of scope: running it (`scenarios.phases`).
"""

import gc
import json
import os
import select
import sys
import time

from container.linux import prctl
from container.runtime import lifecycle
from container.shim import containers, main  # noqa: F401 - `main` is here for its weight alone

#: What runs before this module can be imported, as in container.shim.client.
BOOT = "import sys; sys.path[:0] = sys.argv[1].split(':'); from bench.phases import run; sys.exit(run(sys.argv[2:]))"

NAMES = ("prepare", "clone", "build", "exec", "program", "delete")


def run(argv: "list[str]") -> int:
    """Start `argv[2]` containers from the bundle `argv[0]` with states below `argv[1]`."""
    bundle, root, rounds = argv[0], argv[1], int(argv[2])
    prctl.set_subreaper()
    gc.collect()
    gc.freeze()
    gc.disable()
    phases: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(rounds + 3):
        times = _start_one(root, f"p{number}", bundle)
        if number >= 3:
            for name, begun, ended in zip(NAMES, times[:-1], times[1:], strict=True):
                phases[name].append(ended - begun)
    forks = [_fork() for _ in range(rounds)]
    sys.stdout.write(json.dumps({"phases": phases, "fork": forks, "rss_kib": _rss_kib()}) + "\n")
    return 0


def _start_one(root: str, name: str, bundle: str) -> "list[float]":
    """Return the moments between the phases."""
    times = [time.perf_counter()]
    container = containers.prepare(root, name, bundle, {"log": "/dev/null"}, gate=False)
    started = container.launch
    assert started is not None
    times.append(time.perf_counter())
    started.clone()
    containers.close_inherited(container)
    times.append(time.perf_counter())
    while started.feed() != "ready":
        continue
    times.append(time.perf_counter())
    started.go()
    while started.feed() != "started":
        continue
    times.append(time.perf_counter())
    select.select([started.pidfd], [], [])
    times.append(time.perf_counter())
    _, status = os.waitpid(started.pid, 0)
    container.save_exit(containers.Exit(status, containers.now()))
    container.close()
    lifecycle.delete(root, name)
    times.append(time.perf_counter())
    if status:
        raise SystemExit(f"the program ended with status {status}")
    return times


def _fork() -> float:
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - begun


def _rss_kib() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
