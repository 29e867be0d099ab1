"""Run the unpacker and the remover, wherever the caller starts its processes.

As root that is here; rootless it is the shim, inside the node's namespaces. What is needed of a process
is little: two pipes, an end, and a way to force it.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from container import errors
from container.errors import ContainerError

UNPACKER = (sys.executable, "-m", "container.images.unpacker")
REMOVER = (sys.executable, "-m", "container.images.remover")


class Process(Protocol):
    """A running child."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    async def wait(self) -> int:
        """Return its exit status."""

    def kill(self) -> None:
        """Send SIGKILL; a child that has ended is fine."""


Spawn = Callable[[Sequence[str]], Awaitable[Process]]


@dataclass(slots=True)
class LocalProcess:
    """A child of this very process."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    _process: asyncio.subprocess.Process

    async def wait(self) -> int:
        """Return its exit status."""
        return await self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL; a child that has ended is fine."""
        try:
            self._process.kill()
        except ProcessLookupError:
            pass


async def spawn_local(argv: Sequence[str]) -> Process:
    """Start `argv` as a child of this process, in its namespaces."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    return LocalProcess(process.stdin, process.stdout, process)


async def run_child(
    spawn: Spawn, argv: Sequence[str], job: dict[str, Any] | None, on_bytes: Callable[[int], None]
) -> dict[str, Any]:
    """Start a child, hand it `job`, and return its result; it is gone when this returns.

    Args:
        spawn: how to start it.
        argv: its command line.
        job: what it reads.
        on_bytes: told how many bytes it has fetched.

    Raises:
        ContainerError: of the class that the child had.
    """
    process = await spawn(argv)
    ended = False
    try:
        await _send(process.stdin, job)
        result = await _read_result(process.stdout, on_bytes)
        status = await process.wait()
        ended = True
    finally:
        process.stdin.close()
        if not ended:
            process.kill()
            await process.wait()
    if result is None:
        raise ContainerError(f"`{argv[-1]}` ended with status {status} and without a result")
    return result


async def remove_trees(spawn: Spawn, paths: Sequence[str]) -> None:
    """Remove `paths` with all that is below them, as whoever may."""
    if paths:
        await run_child(spawn, (*REMOVER, *paths), None, lambda _: None)


async def _send(stdin: asyncio.StreamWriter, job: dict[str, Any] | None) -> None:
    try:
        if job is not None:
            stdin.write(json.dumps(job).encode() + b"\n")
            await stdin.drain()
        stdin.close()
    except ConnectionError:
        # It died; its status says more.
        pass


async def _read_result(stdout: asyncio.StreamReader, on_bytes: Callable[[int], None]) -> dict[str, Any] | None:
    while line := await _read_line(stdout):
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ContainerError(f"a child wrote `{line[:80]!r}` instead of a result") from error
        if "bytes" in message:
            on_bytes(message["bytes"])
        elif "error" in message:
            raise _revive(message["error"])
        elif "ok" in message:
            return dict(message["ok"])
    return None


async def _read_line(stdout: asyncio.StreamReader) -> bytes:
    try:
        return await stdout.readline()
    except ValueError as error:
        raise ContainerError("a child wrote an endless line instead of a result") from error


def _revive(fields: dict[str, Any]) -> ContainerError:
    """Return the error that the child had."""
    known = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ContainerError)
    }
    error = known.get(fields["code"], ContainerError)(fields["message"], fields.get("hint", ""))
    error.retryable = bool(fields.get("retryable"))
    return error
