"""The client for asyncio: many calls at once over one connection, streams over their own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self, TypeVar

from container.intent import (
    ContainerDetail,
    ContainerInfo,
    ContainerRunSpec,
    Endpoint,
    ExecSpec,
    ExitStatus,
    ImageDetail,
    ImageInfo,
    InstanceHandle,
    InstanceState,
)
from vappc.client.blocking import ExecResult
from vappc.client.channel import Channel
from vappc.client.core import check, check_endpoint, check_state, check_unit
from vappc.client.process import INPUT_BYTES, OnProgress, no_progress
from vappc.errors import ConnectError
from vappc.protocol import (
    Answer,
    Command,
    HelloData,
    Interface,
    OutputData,
    ProgressData,
    StartedData,
    commands,
    output_bytes,
)
from vappc.transport.address import find

T = TypeVar("T")


class AsyncProcess:
    """An exec or an attached run; iterate for the output. It owns its connection."""

    def __init__(self, connection: Channel, request_id: int, on_progress: OnProgress) -> None:
        self._connection = connection
        self._answers = connection.answers(request_id)
        self._on_progress = on_progress
        #: Whoever feeds the process and whoever reads it may both wait for the next answer.
        self._turn = asyncio.Lock()
        self.started: StartedData | None = None
        self.exit: ExitStatus | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[OutputData]:
        while self.exit is None:
            async with self._turn:
                found = await self._next()
            if found is not None:
                yield found

    async def wait_started(self) -> StartedData:
        """Wait until the process runs."""
        while self.started is None:
            async with self._turn:
                if self.started is None:
                    await self._next()
        return self.started

    async def write(self, data: bytes) -> None:
        """Send bytes to the stdin of the process."""
        exec_id = (await self.wait_started()).exec_id
        for start in range(0, len(data), INPUT_BYTES):
            chunk = data[start : start + INPUT_BYTES]
            await self._connection.send(commands.Input(exec_id, chunk), expect=False)

    async def close_stdin(self) -> None:
        """End the stdin of the process."""
        exec_id = (await self.wait_started()).exec_id
        await self._connection.send(commands.Input(exec_id, eof=True), expect=False)

    async def feed(self, data: bytes) -> None:
        """Send `data` as all of the stdin of the process."""
        await self.write(data)
        await self.close_stdin()

    async def resize(self, rows: int, cols: int) -> None:
        """Tell the process the size of its terminal."""
        exec_id = (await self.wait_started()).exec_id
        await self._connection.send(commands.Resize(exec_id, rows, cols), expect=False)

    async def close(self) -> None:
        """Let go of the process."""
        await self._connection.close()

    async def _next(self) -> OutputData | None:
        answer = await anext(self._answers)
        if isinstance(answer.data, OutputData):
            return answer.data
        if isinstance(answer.data, ProgressData):
            self._on_progress(answer.data)
        elif isinstance(answer.data, StartedData):
            self.started = answer.data
        else:
            self.exit = check(answer, "OkExit", ExitStatus)
        return None


class AsyncClient:
    """Talk to a daemon from asyncio. The arguments are those of `Client`."""

    def __init__(self, address: str | None = None, *, timeout_s: float | None = 30.0, token: str | None = None) -> None:
        self.address = find(address)
        self._timeout_s = timeout_s
        self._token = token if token is not None else os.environ.get("VAPPC_TOKEN")
        self._connection: Channel | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the shared connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def ping(self) -> None:
        """Make sure that the daemon answers."""
        check_unit(await self._call(commands.Ping()))

    async def hello(self) -> HelloData:
        """Return the daemon's version and features."""
        return check(await self._call(commands.Hello(token=self._token)), "OkHello", HelloData)

    async def shutdown(self, *, force: bool = False) -> None:
        """End the daemon and all that serves it; with `force` containers are stopped first."""
        check_unit(await self._call(commands.Shutdown(force), limit=False))

    async def run_container(self, spec: ContainerRunSpec, on_progress: OnProgress = no_progress) -> InstanceHandle:
        """Start a container and return once it runs."""
        return await self._long(commands.RunContainer(spec), on_progress, "OkHandle", InstanceHandle)

    async def run_attached(
        self,
        spec: ContainerRunSpec,
        on_progress: OnProgress = no_progress,
        rows: int = 24,
        cols: int = 80,
    ) -> AsyncProcess:
        """Start a container and return its main process; closing that leaves it running."""
        command = commands.RunContainer(spec, attach=True, rows=rows, cols=cols)
        return await self._process(command, on_progress)

    async def stop(self, instance_id: str, timeout_s: float | None = None) -> None:
        """Ask a container to end, kill it after `timeout_s`, and return when it has ended."""
        check_unit(await self._call(commands.Stop(instance_id, timeout_s), limit=False))

    async def kill(self, instance_id: str, signal: str = "SIGKILL") -> None:
        """Send a signal to a container."""
        check_unit(await self._call(commands.Kill(instance_id, signal)))

    async def remove(self, instance_id: str, *, force: bool = False) -> None:
        """Delete a container."""
        check_unit(await self._call(commands.Remove(instance_id, force), limit=False))

    async def pause(self, instance_id: str) -> None:
        """Freeze a container."""
        check_unit(await self._call(commands.Pause(instance_id)))

    async def resume(self, instance_id: str) -> None:
        """Thaw a container."""
        check_unit(await self._call(commands.Resume(instance_id)))

    async def wait(self, instance_id: str) -> ExitStatus:
        """Wait for the end of a container."""
        return check(await self._call(commands.Wait(instance_id), limit=False), "OkExit", ExitStatus)

    async def state(self, instance_id: str) -> InstanceState:
        """Return `"Running"`, `"Stopped"` or a detail."""
        return check_state(await self._call(commands.GetState(instance_id)))

    async def endpoint(self, instance_id: str) -> Endpoint:
        """Return where the instance is reached."""
        return check_endpoint(await self._call(commands.GetEndpoint(instance_id)))

    async def interface_ip(self, interface: str) -> str | None:
        """Return the first IPv4 address of a network interface, if there is one."""
        return check(await self._call(commands.GetInterfaceIp(interface)), "OkInterfaceIp", Interface).ip

    async def list_containers(self) -> list[ContainerInfo]:
        """Return all containers."""
        return check(await self._call(commands.ListContainers()), "OkContainers", list)

    async def inspect(self, instance_id: str) -> ContainerDetail:
        """Return everything about one container."""
        return check(await self._call(commands.InspectContainer(instance_id)), "OkContainer", ContainerDetail)

    async def logs(
        self,
        instance_id: str,
        *,
        follow: bool = False,
        since: float | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> AsyncIterator[OutputData]:
        """Yield what a container wrote; with `follow` until it ends."""
        connection = await self._open()
        try:
            request_id = await connection.send(commands.Logs(instance_id, follow, since, tail, timestamps))
            async for answer in connection.answers(request_id):
                if isinstance(answer.data, OutputData):
                    yield answer.data
        finally:
            await connection.close()

    async def exec(
        self, instance_id: str, argv: Sequence[str], *, env: Sequence[str] = (), stdin: bytes = b""
    ) -> ExecResult:
        """Run a command in a container and return its exit code and output."""
        spec = ExecSpec(argv=list(argv), env=list(env), stdin=bool(stdin))
        chunks: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        async with await self.open_exec(instance_id, spec) as process:
            # Both at once: a command that writes as it reads would else wait for us for ever.
            feeding = asyncio.create_task(process.feed(stdin)) if stdin else None
            try:
                async for found in process:
                    chunks[found.stream].append(output_bytes(found))
            finally:
                if feeding is not None:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)
        code = process.exit.code if process.exit else 0
        return ExecResult(code, b"".join(chunks["stdout"]), b"".join(chunks["stderr"]))

    async def open_exec(self, instance_id: str, spec: ExecSpec) -> AsyncProcess:
        """Run a command in a container and return its process, to be fed and read."""
        return await self._process(commands.Exec(instance_id, spec), no_progress)

    async def pull_image(
        self, reference: str, platform: str | None = None, on_progress: OnProgress = no_progress
    ) -> ImageDetail:
        """Fetch an image."""
        return await self._long(commands.PullImage(reference, platform), on_progress, "OkImage", ImageDetail)

    async def load_image(
        self, path: str, name: str | None = None, on_progress: OnProgress = no_progress
    ) -> ImageDetail:
        """Read an image from an archive that the daemon can open."""
        return await self._long(commands.LoadImage(path, name), on_progress, "OkImage", ImageDetail)

    async def images(self) -> list[ImageInfo]:
        """Return all images."""
        return check(await self._call(commands.ListImages()), "OkImages", list)

    async def inspect_image(self, name: str) -> ImageDetail:
        """Return everything about one image."""
        return check(await self._call(commands.InspectImage(name)), "OkImage", ImageDetail)

    async def remove_image(self, name: str) -> None:
        """Remove an image by name or id."""
        check_unit(await self._call(commands.RemoveImage(name), limit=False))

    async def cancel(self, operation: str) -> None:
        """End an operation and wait until what it made is gone."""
        check_unit(await self._call(commands.Cancel(operation), limit=False))

    async def watch(self, operation: str, after: int = 0) -> AsyncIterator[Answer]:
        """Follow an operation again after a lost connection: Progress, then its final answer."""
        connection = await self._open()
        try:
            async for answer in connection.answers(await connection.send(commands.Watch(operation, after))):
                yield answer
        finally:
            await connection.close()

    async def _call(self, command: Command, *, limit: bool = True) -> Answer:
        async with self._opening:
            if self._connection is None or not self._connection.is_usable:
                await self.close()
                self._connection = await self._open()
            connection = self._connection
        try:
            return await asyncio.wait_for(connection.call(command), self._timeout_s if limit else None)
        except TimeoutError as error:
            raise ConnectError("the daemon did not answer in time", "raise the timeout or look at its log") from error

    async def _long(self, command: Command, on_progress: OnProgress, name: str, kind: type[T]) -> T:
        connection = await self._open()
        try:
            async for answer in connection.answers(await connection.send(command)):
                if isinstance(answer.data, ProgressData):
                    on_progress(answer.data)
                elif answer.is_final:
                    return check(answer, name, kind)
        finally:
            await connection.close()
        raise ConnectError("the daemon ended without an answer", "look at its log")

    async def _process(self, command: Command, on_progress: Callable[[ProgressData], None]) -> AsyncProcess:
        connection = await self._open()
        return AsyncProcess(connection, await connection.send(command), on_progress)

    async def _open(self) -> Channel:
        return await Channel.open(self.address, self._timeout_s, self._token)
