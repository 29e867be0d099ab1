"""Many clients ask for one blob that nobody has fetched yet."""

import asyncio
import shutil
import statistics
from pathlib import Path

from bench.load import Job
from bench.measure import ContestantError, Row, Run, rows_of, take_turns
from bench.registries import OPENERS, Server, open_upstream, read_counts, run_load
from bench.scenario import Context, Result, Scenario
from bench.upstream import Image, write_image

_SIZE = 256 << 20
_CLIENTS = 20
_ROUNDS = 3
_RATE = 100 << 20


def measure(context: Context) -> Result:
    """Count what the upstream is asked for."""
    place = context.data / "cold"
    place.mkdir()
    image = write_image(place / "upstream", max(16 << 20, int(_SIZE * context.scale)))
    with open_upstream(place / "upstream", _RATE) as upstream:
        counts: dict[str, list[dict[str, int]]] = {name: [] for name in OPENERS}
        contestants = {name: _contestant(name, place, upstream, image, counts[name]) for name in OPENERS}
        seconds, absent = asyncio.run(take_turns(contestants, context.rounds(_ROUNDS), warm_up=1))
    rows = rows_of("blob-cold", f"{_CLIENTS} clients: until the last has it", "s", seconds, "ours")
    present = [name for name in OPENERS if name in seconds]
    for metric, key in (("upstream: requests for it", "blob GET"), ("upstream: bytes sent, in blobs", "blob bytes")):
        values = {name: _medians(counts[name], key, image.size if "bytes" in key else 1) for name in present}
        rows += _row(metric, values, len(seconds.get("ours", [])))
    return Result(rows, [f"{name}: {why}" for name, why in absent.items()])


def _contestant(name: str, place: Path, upstream: Server, image: Image, counts: list[dict[str, int]]) -> Run:
    async def run() -> float:
        store = place / name
        before = read_counts(upstream)
        try:
            with OPENERS[name](store, upstream) as server:
                found = run_load(Job(server.port, image.blob_path, _CLIENTS))
        finally:
            shutil.rmtree(store, ignore_errors=True)
        if found["bytes"] != _CLIENTS * image.size:
            raise ContestantError(f"{found['bytes']:.0f} bytes came")
        after = read_counts(upstream)
        counts.append({key: after[key] - before.get(key, 0) for key in after})
        return found["seconds"]

    return run


def _medians(counts: list[dict[str, int]], key: str, unit: int) -> float:
    return round(statistics.median(count.get(key, 0) / unit for count in counts), 2)


def _row(metric: str, values: dict[str, float], rounds: int) -> list[Row]:
    if "ours" not in values:
        return []
    theirs = values.get("docker-registry")
    if not theirs:
        return [Row("blob-cold", metric, "number", values["ours"], n=rounds)]
    ratio = round(values["ours"] / theirs, 4)
    return [Row("blob-cold", metric, "number", values["ours"], theirs, "docker-registry", ratio, rounds)]


SCENARIO = Scenario(
    "blob-cold",
    "Twenty clients ask at the same moment for one blob of 256 MiB that is not cached, from an upstream that sends "
    "100 MiB/s to each connection. Every run begins with an empty store and a new server.",
    measure,
)
