"""Where the time of a start goes."""

import json
import subprocess
import sys
from typing import Any

from bench.measure import Row, rows_of
from bench.phases import BOOT, NAMES
from bench.scenario import Context, Result, Scenario
from bench.settings import REPOSITORY, Setting, open_settings

_ROUNDS = 100


def measure(context: Context) -> Result:
    """Time every step in every setting that needs no node namespaces."""
    result = Result()
    with open_settings(context.scratch / "phases", ["/bin/true"]) as settings:
        for setting in settings:
            if setting.name == "rootless":
                continue  # its containers need the node namespaces, which the probe does without
            done = _probe(setting, context.rounds(_ROUNDS))
            if done.returncode:
                result.remarks.append(f"{setting.name}: {done.stderr.strip()[-300:]}")
                continue
            result.rows += _rows(setting.name, json.loads(done.stdout))
    if not result.rows and not result.remarks:
        result.remarks.append("phases need root")
    return result


def _probe(setting: Setting, rounds: int) -> "subprocess.CompletedProcess[str]":
    path = f"{REPOSITORY}:{REPOSITORY / 'src'}"
    root = setting.scratch / "states"
    root.mkdir(mode=0o700)
    argv = [sys.executable, "-I", "-S", "-c", BOOT, path, str(setting.bundle), str(root), str(rounds)]
    return subprocess.run(
        [*setting.prefix, *argv],
        env=setting.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _rows(name: str, found: dict[str, Any]) -> list[Row]:
    rows = []
    for phase in NAMES:
        rows += rows_of("phases", f"{name}: {phase}", "ms", {"ours": found["phases"][phase]}, "ours", 1e3)
    rows += rows_of("phases", f"{name}: fork and exit alone", "ms", {"ours": found["fork"]}, "ours", 1e3)
    rows.append(Row("phases", f"{name}: resident memory of the forking process", "KiB", float(found["rss_kib"])))
    return rows


SCENARIO = Scenario(
    "phases",
    "The steps of a start, timed in a process with the shim's modules that calls what the shim calls: `prepare` (read "
    "the bundle, claim the id, make the cgroup, plan), `clone`, `build` (namespaces, mounts and root in the new "
    "process, until it reports ready), `exec` (until the program runs), `program` (until it has ended), `delete` "
    "(record the exit, remove cgroup and files). Beside them, fork and exit of that process alone.",
    measure,
)
