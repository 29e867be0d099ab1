"""What operators ask: health, numbers, metrics.

Out of scope: anything that changes something.
"""

import asyncio
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from blob.cache.counters import Counters
from blob.cache.fills import Fills
from blob.cache.store import Store
from blob.server.replies import reply_json


class Admin:
    """The handlers; `requests` counts answers by method and status."""

    def __init__(self, store: Store, fills: Fills, counters: Counters) -> None:
        self._store = store
        self.requests: dict[tuple[str, int], int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Numbers(counters, fills, self.requests))

    def count(self, method: str, status: int) -> None:
        """Count an answer."""
        self.requests[method, status] = self.requests.get((method, status), 0) + 1

    async def health(self, _request: web.Request) -> web.Response:
        """Say that we live."""
        return web.Response(text="ok")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Show all numbers in Prometheus's text format."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def stats(self, _request: web.Request) -> web.Response:
        """Show what the store holds."""
        total, size = await asyncio.to_thread(self._store.blobs.measure)
        return reply_json({"total_blobs": total, "total_size_bytes": size})


class _Numbers(Collector):
    def __init__(self, counters: Counters, fills: Fills, requests: dict[tuple[str, int], int]) -> None:
        self._counters = counters
        self._fills = fills
        self._requests = requests

    def collect(self) -> Iterable[Metric]:
        counters = self._counters
        cache = CounterMetricFamily("blob_cache_lookups", "What was asked of the cache", labels=("kind", "result"))
        for kind, result, value in (
            ("manifest", "hit", counters.manifest_hits),
            ("manifest", "miss", counters.manifest_misses),
            ("manifest", "stale", counters.manifest_stale),
            ("blob", "hit", counters.blob_hits),
            ("blob", "miss", counters.blob_misses),
        ):
            cache.add_metric((kind, result), value)
        yield cache
        answers = CounterMetricFamily("blob_http_answers", "Answers by method and status", labels=("method", "status"))
        for (method, status), value in self._requests.items():
            answers.add_metric((method, str(status)), value)
        yield answers
        yield GaugeMetricFamily("blob_fills", "Downloads that run", value=len(self._fills))
