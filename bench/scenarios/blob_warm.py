"""Serve what is cached."""

import asyncio
from contextlib import ExitStack

from bench.load import Job
from bench.measure import ContestantError, Run, cpu_s, rows_of, take_turns
from bench.registries import OPENERS, Server, open_upstream, run_load
from bench.scenario import Context, Result, Scenario
from bench.upstream import MANIFEST, REPOSITORY, TAG, write_image

_GIB = 1 << 30
_BLOB_ROUNDS = 5
_MANIFEST_ROUNDS = 5
_CONNECTIONS = 16
_REQUESTS = 3000


def measure(context: Context) -> Result:
    """Let our registry and docker-registry serve one blob and one manifest in turns."""
    place = context.data / "warm"
    place.mkdir()
    image = write_image(place / "upstream", max(16 << 20, int(_GIB * context.scale)))
    result = Result()
    with ExitStack() as stack:
        upstream = stack.enter_context(open_upstream(place / "upstream", 0))
        servers = {}
        for name, opener in OPENERS.items():
            try:
                servers[name] = stack.enter_context(opener(place / name, upstream))
            except ContestantError as error:
                result.remarks.append(str(error))
        _measure_blob(context, servers, image.blob_path, image.size, result)
        _measure_manifest(context, servers, result)
    return result


def _measure_blob(context: Context, servers: dict[str, Server], path: str, size: int, result: Result) -> None:
    taken: dict[str, list[float]] = {name: [] for name in servers}

    def contestant(name: str, server: Server) -> Run:
        async def run() -> float:
            before = cpu_s(server.pid)
            found = run_load(Job(server.port, path))
            taken[name].append((cpu_s(server.pid) - before) * _GIB / size)
            return found["bytes"] / found["seconds"] / (1 << 20)

        return run

    # The first fetch fills the cache; it is the warm-up.
    contestants = {name: contestant(name, server) for name, server in servers.items()}
    speed, absent = asyncio.run(take_turns(contestants, context.rounds(_BLOB_ROUNDS), warm_up=2))
    cpu = {name: taken[name][-len(values) :] for name, values in speed.items()}
    result.rows += rows_of("blob-warm", "blob: server processor time", "s/GiB", cpu, "ours")
    result.rows += rows_of("blob-warm", "blob: one client", "MiB/s", speed, "ours")
    result.remarks += [f"{name}: {why}" for name, why in absent.items()]


def _measure_manifest(context: Context, servers: dict[str, Server], result: Result) -> None:
    path = f"/v2/{REPOSITORY}/manifests/{TAG}"
    count = max(500, round(_REQUESTS * context.scale))
    taken: dict[str, list[float]] = {name: [] for name in servers}

    def contestant(name: str, server: Server) -> Run:
        async def run() -> float:
            before = cpu_s(server.pid)
            found = run_load(Job(server.port, path, _CONNECTIONS, count, MANIFEST))
            taken[name].append((cpu_s(server.pid) - before) / found["requests"] * 1e3)
            return found["requests"] / found["seconds"]

        return run

    contestants = {name: contestant(name, server) for name, server in servers.items()}
    rate, absent = asyncio.run(take_turns(contestants, context.rounds(_MANIFEST_ROUNDS), warm_up=1))
    cpu = {name: taken[name][-len(values) :] for name, values in rate.items()}
    result.rows += rows_of("blob-warm", "manifest by tag", "requests/s", rate, "ours")
    result.rows += rows_of("blob-warm", "manifest by tag: server processor time", "ms/request", cpu, "ours")
    result.remarks += [f"{name}: {why}" for name, why in absent.items()]


SCENARIO = Scenario(
    "blob-warm",
    "A cached blob of 1 GiB fetched by one client, and a cached manifest asked for by tag over 16 connections: ours "
    "against docker-registry in proxy mode. The server has one processor, clients and upstream have the others; stores "
    "are in memory. For a tag docker-registry asks its upstream each time; ours believes one for five minutes.",
    measure,
)
