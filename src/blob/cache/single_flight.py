"""One run of an operation for any number of callers that want the same at the same time.

Out of scope: remembering results, and streams (see `fills`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class SingleFlight(Generic[_T]):
    """Runs operations by key; a caller that leaves does not take the others' result away."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[_T]] = {}

    async def run(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return the result of the operation that runs under `key`, starting it if none does."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(start())
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, key: Hashable, task: asyncio.Task[_T]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            # Retrieved here, so that asyncio does not complain when every caller has left.
            task.exception()
