"""One client's connection: requests in, answers out, many at a time. What they mean is the service's.

Requests with an id run side by side; those without are answered one after the other, because only the
order tells which answer is whose. A client that goes away ends what streamed to it; operations go on.
"""

import asyncio
import hmac
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import UNSET

from container.errors import ContainerError
from vappc.errors import AccessError, LineTooLongError, ProtocolError, VappcError
from vappc.protocol import (
    Answer,
    BadRequest,
    Command,
    Failure,
    LineDecoder,
    Request,
    decode_request,
    encode_answer,
    failure,
)
from vappc.protocol.commands import Hello, Input, Resize
from vappc.transport.listen import Peer

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
#: Requests of one connection under way at once.
_MOST_REQUESTS = 256
#: How long a peer that needs a token may keep silent.
_HELLO_S = 10.0
#: How long after refusing a connection what still comes is thrown away.
_DISCARD_S = 5.0
_HANGUP_CHECK_S = 0.25


class Session(Protocol):
    """A process that input of this connection may go to."""

    async def write(self, data: bytes) -> None: ...  # noqa: D102
    async def close_input(self) -> None: ...  # noqa: D102
    async def resize(self, rows: int, cols: int) -> None: ...  # noqa: D102


class Reply:
    """Where a handler puts interim answers, and the processes that the connection may talk to."""

    def __init__(
        self, request: Request, send: Callable[[Answer], Awaitable[None]], sessions: dict[str, Session]
    ) -> None:
        self._id = request.id
        self._send = send
        self.sessions = sessions

    @property
    def wants_progress(self) -> bool:
        """Clients of the first release read one answer per request, and send no id."""
        return self._id is not None

    async def send(self, kind: str, data: object = UNSET) -> None:
        """Send one answer of the request."""
        await self._send(Answer(kind, data, self._id))


Handle = Callable[[Command, Reply], Awaitable[tuple[str, object]]]


class Connection:
    """Serves one client until it goes away."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer,
        handle: Handle,
        token: str | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._handle = handle
        self._token = token
        self._welcome = not peer.needs_token
        self._decoder = LineDecoder()
        self._tasks: dict[asyncio.Task[None], int | str | None] = {}
        self._ordered = asyncio.Lock()
        self._sessions: dict[str, Session] = {}

    async def run(self) -> None:
        """Serve the client; returns when it has gone or was refused."""
        try:
            if self._peer.denied:
                raise AccessError(self._peer.denied, "ask who runs the daemon")
            await self._serve()
        except (AccessError, LineTooLongError) as error:
            logger.warning("refused peer=%s error=%s", self._peer.name, error)
            await self._refuse(error)
        except ConnectionError:
            pass
        finally:
            await self._cancel_all()
            self._writer.close()

    async def _serve(self) -> None:
        while data := await self._read():
            for line in self._decoder.feed(data):
                await self._take(line)
        await self._wait_for_hangup()

    async def _read(self) -> bytes:
        if self._welcome:
            return await self._reader.read(_READ_BYTES)
        try:
            return await asyncio.wait_for(self._reader.read(_READ_BYTES), _HELLO_S)
        except TimeoutError:
            raise AccessError("no token came in time", "send a Hello with the token first") from None

    async def _take(self, line: bytes) -> None:
        try:
            request = decode_request(line)
            if not self._welcome:
                self._check_token(request.command)
            self._check_room(request)
        except AccessError:
            raise
        except ProtocolError as error:
            request_id = error.id if isinstance(error, BadRequest) else None
            await self._send(Answer("Err", failure(error), request_id))
            return
        if isinstance(request.command, Input | Resize):
            # In order, and no faster than the process takes it.
            await self._answer(request)
            return
        task = asyncio.create_task(self._answer_in_turn(request))
        self._tasks[task] = request.id
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def _answer_in_turn(self, request: Request) -> None:
        if request.id is not None:
            await self._answer(request)
            return
        async with self._ordered:
            await self._answer(request)

    async def _answer(self, request: Request) -> None:
        name = type(request.command).__name__
        logger.debug("request command=%s id=%s peer=%s", name, request.id, self._peer.name)
        try:
            kind, data = await self._handle(request.command, Reply(request, self._send, self._sessions))
        except ConnectionError:
            return
        except (ContainerError, VappcError) as error:
            logger.info("failed command=%s code=%s error=%s", name, error.code, error)
            kind, data = "Err", failure(error)
        except OSError as error:
            logger.warning("failed command=%s error=%s", name, error)
            kind, data = "Err", Failure(str(error).lower(), "io", "Io", retryable=True, hint="look at the daemon's log")
        except Exception:
            # The boundary: a mistake of ours in one request must not end the daemon for everybody.
            logger.exception("internal error command=%s", name)
            kind, data = "Err", Failure("internal error", hint="look at the daemon's log and report it")
        try:
            await self._send(Answer(kind, data, request.id))
        except ConnectionError:
            return

    async def _send(self, answer: Answer) -> None:
        self._writer.write(encode_answer(answer))
        await self._writer.drain()

    def _check_token(self, command: Command) -> None:
        given = command.token if isinstance(command, Hello) else None
        if self._token is None or given is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            raise AccessError("the token is missing or wrong", "pass the content of the daemon's token file")
        self._welcome = True

    def _check_room(self, request: Request) -> None:
        if request.id is not None and request.id in self._tasks.values():
            raise BadRequest(f"id `{request.id}` is in use", "number the requests of a connection", request.id)
        if len(self._tasks) >= _MOST_REQUESTS:
            raise BadRequest("too many requests at once", "wait for answers first", request.id)

    async def _refuse(self, error: VappcError) -> None:
        # Closing with unread bytes would reset the connection, and the answer might never be read.
        try:
            await self._send(Answer("Err", failure(error)))
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(_DISCARD_S):
                while await self._reader.read(_READ_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass

    async def _wait_for_hangup(self) -> None:
        """After end of file: let requests finish for a client that only stopped sending."""
        while self._tasks and not self._is_gone():
            await asyncio.wait(set(self._tasks), timeout=_HANGUP_CHECK_S)

    def _is_gone(self) -> bool:
        sock = self._writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX or self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        return bool(poll.poll(0))

    async def _cancel_all(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
