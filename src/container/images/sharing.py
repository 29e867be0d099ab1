"""Run the same work once for everybody who wants it at the same time.

The first caller starts it, later ones join; it is cancelled when the last of them has gone, and whoever
cancels it waits until it has cleaned up after itself.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")
_Event = TypeVar("_Event")


@dataclass(slots=True)
class _Work(Generic[_Result, _Event]):
    task: asyncio.Task[_Result]
    listeners: list[Callable[[_Event], None]] = field(default_factory=list)
    last: _Event | None = None


class Shared(Generic[_Result, _Event]):
    """Work by key. Each caller's `listen` hears the events of the work, joiners first the latest."""

    def __init__(self) -> None:
        self._running: dict[str, _Work[_Result, _Event]] = {}

    async def run(
        self,
        key: str,
        start: Callable[[Callable[[_Event], None]], Coroutine[Any, Any, _Result]],
        listen: Callable[[_Event], None],
    ) -> _Result:
        """Return the result of the work under `key`, started by `start` unless it is running.

        `start` gets the function that tells all listeners about an event.
        """
        work = self._running.get(key) or self._begin(key, start)
        work.listeners.append(listen)
        if work.last is not None:
            listen(work.last)
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if work.listeners == [listen] and not work.task.done():
                # Nobody may join what is being torn down.
                self._forget(key, work)
                work.task.cancel()
                await asyncio.wait([work.task])
            raise
        finally:
            work.listeners.remove(listen)

    def _begin(
        self, key: str, start: Callable[[Callable[[_Event], None]], Coroutine[Any, Any, _Result]]
    ) -> _Work[_Result, _Event]:
        def tell(event: _Event) -> None:
            work.last = event
            for listener in tuple(work.listeners):
                listener(event)

        work: _Work[_Result, _Event] = _Work(asyncio.ensure_future(start(tell)))
        self._running[key] = work
        work.task.add_done_callback(lambda _: self._forget(key, work))
        return work

    def _forget(self, key: str, work: _Work[_Result, _Event]) -> None:
        if self._running.get(key) is work:
            del self._running[key]
