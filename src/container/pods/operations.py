"""Long work that outlives the connection that asked for it: joined, watched again, cancelled.

An operation has a key that its caller can predict (`run:web-1`, `pull:alpine`), so that somebody whose
connection broke before the first answer can still find it. Its progress is numbered and kept.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar, cast

from container.errors import ContainerError, ExistsError, NotFoundError
from container.progress import Progress, Report, ignore

#: How many ended operations can still be watched.
_KEPT = 256

T = TypeVar("T")


class CancelledOperationError(ContainerError):
    """Somebody cancelled the operation."""

    code = "cancelled"


class Operation(Generic[T]):
    """One piece of running or ended work, and how far it came."""

    def __init__(self, key: str, subject: object, work: Callable[[Report], Awaitable[T]]) -> None:
        self.key = key
        self.subject = subject
        self._steps: list[tuple[int, Progress]] = []
        self._sequence = 0
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(work), name=key)
        self._task.add_done_callback(self._ended)

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return not self._task.done()

    @property
    def percentage(self) -> int:
        """How far it is."""
        return self._steps[-1][1].percentage if self._steps else 0

    async def steps(self, after: int = 0) -> AsyncIterator[tuple[int, Progress]]:
        """Yield the numbered progress beyond `after`, old and new, until the work ends."""
        while True:
            changed = self._changed
            for number, step in [found for found in self._steps if found[0] > after]:
                after = number
                yield number, step
            if self._task.done() and after >= self._sequence:
                return
            if self._sequence <= after:
                await changed.wait()

    async def result(self) -> T:
        """Wait for the end; giving up the waiting does not end the work.

        Raises:
            CancelledOperationError: somebody cancelled it.
        """
        await asyncio.wait({self._task})
        if self._task.cancelled():
            raise CancelledOperationError(f"`{self.key}` was cancelled", "start it again if you still want it")
        return self._task.result()

    async def follow(self, report: Report = ignore) -> T:
        """Pass on all progress, then return the result."""
        async for _, step in self.steps():
            report(step)
        return await self.result()

    async def cancel(self) -> None:
        """End the work and wait until it has cleaned up."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self, work: Callable[[Report], Awaitable[T]]) -> T:
        return await work(self._report)

    def _report(self, progress: Progress) -> None:
        last = self._steps[-1][1] if self._steps else Progress(0, "", "")
        if progress.percentage < last.percentage:
            progress = replace(progress, percentage=last.percentage)
        self._sequence += 1
        if self._steps and (last.percentage, last.stage) == (progress.percentage, progress.stage):
            # Only the newest word on one percent of one stage is worth keeping.
            self._steps.pop()
        self._steps.append((self._sequence, progress))
        self._wake()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as seen: nobody may be waiting any more
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Operations:
    """The operations of one engine, by key; the newest of a key counts."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation[object]] = {}

    def join(self, key: str, subject: object, work: Callable[[Report], Awaitable[T]], hint: str = "") -> Operation[T]:
        """Return the running operation of `key`, or start one.

        Raises:
            ExistsError: one runs that was asked for something else.
        """
        running = self._operations.get(key)
        if running is not None and running.is_running:
            if running.subject != subject:
                raise ExistsError(f"`{key}` is under way with other settings", hint)
            return cast("Operation[T]", running)
        self._operations.pop(key, None)
        operation = Operation(key, subject, work)
        self._operations[key] = cast("Operation[object]", operation)
        self._forget()
        return operation

    def find(self, key: str) -> Operation[object]:
        """Return an operation that runs or ended not long ago.

        Raises:
            NotFoundError: there is none.
        """
        try:
            return self._operations[key]
        except KeyError:
            raise NotFoundError(
                f"no operation `{key}`", "repeat the request: it joins, or starts again what was interrupted"
            ) from None

    def running(self, key: str) -> Operation[object] | None:
        """Return the operation of `key` if it is under way."""
        found = self._operations.get(key)
        return found if found is not None and found.is_running else None

    async def close(self) -> None:
        """Cancel everything that runs."""
        for operation in list(self._operations.values()):
            if operation.is_running:
                await operation.cancel()

    def _forget(self) -> None:
        ended = [key for key, found in self._operations.items() if not found.is_running]
        for key in ended[: max(0, len(ended) - _KEPT)]:
            del self._operations[key]
