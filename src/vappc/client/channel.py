"""One connection of the asyncio client, shared by many requests. Knows streams, not commands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from vappc.client.core import READ_BYTES, Core, check, raise_failure
from vappc.errors import ConnectError, VappcError
from vappc.protocol import Answer, Command, HelloData, commands
from vappc.transport.address import Address
from vappc.transport.connect import open_connection

#: Answers that wait for their reader; beyond that the daemon waits too. What streams has its own channel.
_QUEUED = 256


class Channel:
    """A stream pair whose answers go to the queue of their request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._core = Core()
        self._reader = reader
        self._writer = writer
        self._queues: dict[int, asyncio.Queue[Answer | VappcError]] = {}
        self._broken: VappcError | None = None
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: Address, timeout_s: float | None, token: str | None) -> "Channel":
        """Connect, and present the token if there is one."""
        # Connecting to a local socket is immediate or fails; the loop's own connect knows no VM sockets.
        sock = open_connection(address, timeout_s)
        sock.setblocking(False)
        connection = cls(*await asyncio.open_connection(sock=sock))
        if token is not None:
            try:
                check(await connection.call(commands.Hello(token=token)), "OkHello", HelloData)
            except BaseException:
                await connection.close()
                raise
        return connection

    @property
    def is_usable(self) -> bool:
        """Whether the connection has not broken."""
        return self._broken is None

    async def close(self) -> None:
        """Disconnect."""
        self._task.cancel()
        self._writer.close()
        await asyncio.gather(self._task, self._writer.wait_closed(), return_exceptions=True)

    async def send(self, command: Command, *, expect: bool = True) -> int:
        """Send a command and return the id of the request; its answers are dropped unless `expect`."""
        if self._broken is not None:
            raise self._broken
        request_id, line = self._core.request(command)
        if expect:
            self._queues[request_id] = asyncio.Queue(_QUEUED)
        self._writer.write(line)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectError(f"the connection broke: {error}", "is the daemon alive?") from error
        return request_id

    async def answers(self, request_id: int) -> AsyncIterator[Answer]:
        """Yield the answers of a request up to the final one."""
        queue = self._queues[request_id]
        try:
            while True:
                answer = await queue.get()
                if isinstance(answer, VappcError):
                    raise answer
                raise_failure(answer)
                yield answer
                if answer.is_final:
                    return
        finally:
            self._queues.pop(request_id, None)

    async def call(self, command: Command) -> Answer:
        """Send a command and return its final answer."""
        async with aclosing(self.answers(await self.send(command))) as answers:  # type: ignore[type-var]  # a generator
            async for answer in answers:
                if answer.is_final:
                    return answer
        raise ConnectError("the daemon ended without an answer", "look at its log")

    async def _read(self) -> None:
        error: VappcError = ConnectError("the daemon closed the connection", "look at its log")
        try:
            while data := await self._reader.read(READ_BYTES):
                for answer in self._core.feed(data):
                    await self._route(answer)
        except OSError as broken:
            error = ConnectError(f"the connection broke: {broken}", "is the daemon alive?")
        except VappcError as broken:
            error = broken
        self._broken = error
        for queue in list(self._queues.values()):
            await queue.put(error)

    async def _route(self, answer: Answer) -> None:
        if isinstance(answer.id, int):
            if queue := self._queues.get(answer.id):
                await queue.put(answer)
        else:
            # An error about the connection itself carries no id: everybody is concerned.
            for queue in list(self._queues.values()):
                await queue.put(answer)
