"""Samples and what is made of them: medians, ratios pair by pair, rows. No I/O but clocks and /proc.

Machines drift: other work comes and goes within seconds. So contestants take turns, and a ratio is the median
of the ratios within each turn, not the ratio of two medians taken at different times. The order within a turn
is shuffled (with a fixed seed): the kernel takes namespaces apart in the background, and in a fixed order
everybody would pay for the same predecessor every time.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

#: Turns that are run and thrown away: caches fill, lazy imports happen.
WARM_UP = 3

Run = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results; `rival` and `ratio` are None where there is nobody to compare with.

    Attributes:
        ours_spread, rival_spread: tenth and ninetieth percentile.
        n: how many samples each side has.
    """

    scenario: str
    metric: str
    unit: str
    ours: float
    rival: float | None = None
    rival_name: str = ""
    ratio: float | None = None
    n: int = 1
    ours_spread: tuple[float, float] | None = None
    rival_spread: tuple[float, float] | None = None


async def take_turns(
    contestants: Mapping[str, Run], rounds: int, *, warm_up: int = WARM_UP
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run all `rounds` times, one after the other; return the samples, and why contestants dropped out.

    A contestant that fails in the warm-up, because this host or this version cannot do it, is left out.
    """
    absent: dict[str, str] = {}
    for _ in range(max(warm_up, 1)):
        for name, run in contestants.items():
            if name not in absent:
                try:
                    await run()
                except (ContestantError, OSError) as error:
                    absent[name] = str(error)
    samples: dict[str, list[float]] = {name: [] for name in contestants if name not in absent}
    order, dice = list(samples), random.Random(rounds)
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            samples[name].append(await contestants[name]())
    return samples, absent


class ContestantError(Exception):
    """A contestant cannot do what is measured; the text is its own."""


def rows_of(
    scenario: str, metric: str, unit: str, samples: Mapping[str, Sequence[float]], ours: str, scale: float = 1.0
) -> list[Row]:
    """Return a row for `ours` against each rival, or one without a rival; names in parentheses are ours too."""
    if ours not in samples:
        return []
    mine = [value * scale for value in samples[ours]]
    rivals = [name for name in samples if not is_ours(name)]
    if not rivals:
        return [Row(scenario, metric, unit, _round(mine), n=len(mine), ours_spread=spread(mine))]
    return [_against(scenario, metric, unit, mine, name, [value * scale for value in samples[name]]) for name in rivals]


def is_ours(name: str) -> bool:
    """Tell our contestants from rivals."""
    return name in ("shim", "vapp-oci", "ours")


def _against(scenario: str, metric: str, unit: str, mine: list[float], name: str, theirs: list[float]) -> Row:
    return Row(
        scenario,
        metric,
        unit,
        _round(mine),
        _round(theirs),
        name,
        pair_ratio(mine, theirs),
        len(mine),
        spread(mine),
        spread(theirs),
    )


def pair_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the median of the ratios turn by turn; None if a rival's number is zero."""
    pairs = [a / b for a, b in zip(mine, theirs, strict=True) if b]
    return round(statistics.median(pairs), 4) if pairs else None


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the tenth and ninetieth percentile; None for fewer than five values."""
    if len(values) < 5:
        return None
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return round(cuts[0], 4), round(cuts[-1], 4)


def _round(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def timed_program(argv: list[str], *, stdout: str = "/dev/null", directory: str = "/tmp") -> Run:
    """Return a contestant that runs `argv` from posix_spawn to the end; what it says goes into the error."""
    complaints = os.path.join(directory, "complaints")

    async def run() -> float:
        return run_program(argv, stdout, complaints)

    return run


def run_program(argv: list[str], stdout: str, complaints: str) -> float:
    """Run a program and return the seconds it took.

    posix_spawn costs the caller less than subprocess does, so that little of what is measured is ours.

    Raises:
        ContestantError: it failed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, stdout, flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, complaints, flags, 0o600),
    ]
    begun = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter() - begun
    if status:
        with open(complaints, encoding="utf-8", errors="replace") as file:
            raise ContestantError(file.read().strip()[-300:] or f"`{argv[0]}` failed")
    return taken


def pss_kib(pid: int) -> int:
    """Return the memory of a process, shared pages counted in proportion (proc_pid_smaps_rollup(5))."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process and its threads so far."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_until(check: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    """Look until `check` is true.

    Raises:
        ContestantError: it does not become true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise ContestantError(f"{what} did not come in {timeout_s:g} s")
        await asyncio.sleep(0.005)
