"""The blocking client. Plain sockets; imports no asyncio."""

import io
import os
from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar

from msgspec import Struct

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
from vappc.client.connection import Connection
from vappc.client.core import READ_BYTES, Core, check, check_endpoint, check_state, check_unit
from vappc.client.process import OnProgress, Process, no_progress
from vappc.errors import ConnectError
from vappc.protocol import (
    Answer,
    Command,
    HelloData,
    Interface,
    OutputData,
    ProgressData,
    commands,
    output_bytes,
)
from vappc.transport.address import find
from vappc.transport.connect import open_connection

T = TypeVar("T")


class ExecResult(Struct, frozen=True):
    """How an `exec` ended and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes


class Stream(Protocol):
    """Anything that reads and writes bytes: a socket file, a pipe, a VM socket."""

    def write(self, data: bytes, /) -> object:
        """Write `data`."""

    def flush(self) -> object:
        """Send what was written."""

    def read1(self, size: int, /) -> bytes:
        """Read up to `size` bytes, as soon as there are any."""


class Client:
    """Talk to a daemon, one call at a time; use one client per thread.

    Calls share one connection, made when first needed; what streams (logs, processes, pulls)
    has a connection of its own, and closing the iterator ends it.

    Args:
        address: as `vappc.transport.address` reads it; by default VAPPC_SOCKET, then the usual places.
        timeout_s: how long a plain call may take; streams, runs and waits have no limit.
        token: for TCP; by default VAPPC_TOKEN.
    """

    def __init__(self, address: str | None = None, *, timeout_s: float | None = 30.0, token: str | None = None) -> None:
        self.address = find(address)
        self._timeout_s = timeout_s
        self._token = token if token is not None else os.environ.get("VAPPC_TOKEN")
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shared connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ping(self) -> None:
        """Make sure that the daemon answers."""
        self._unit(commands.Ping())

    def hello(self) -> HelloData:
        """Return the daemon's version and features."""
        return self._get(commands.Hello(token=self._token), "OkHello", HelloData)

    def shutdown(self, *, force: bool = False) -> None:
        """End the daemon and all that serves it; with `force` containers are stopped first."""
        self._unit(commands.Shutdown(force))

    def run_container(self, spec: ContainerRunSpec, on_progress: OnProgress = no_progress) -> InstanceHandle:
        """Start a container and return once it runs."""
        return self._long(commands.RunContainer(spec), on_progress, "OkHandle", InstanceHandle)

    def run_attached(
        self,
        spec: ContainerRunSpec,
        on_progress: OnProgress = no_progress,
        rows: int = 24,
        cols: int = 80,
    ) -> Process:
        """Start a container and return its main process; closing that leaves it running."""
        command = commands.RunContainer(spec, attach=True, rows=rows, cols=cols)
        return Process(self._open(None), command, on_progress)

    def stop(self, instance_id: str, timeout_s: float | None = None) -> None:
        """Ask a container to end, kill it after `timeout_s`, and return when it has ended."""
        with self._closing() as connection:
            check_unit(connection.call(commands.Stop(instance_id, timeout_s)))

    def kill(self, instance_id: str, signal: str = "SIGKILL") -> None:
        """Send a signal to a container."""
        self._unit(commands.Kill(instance_id, signal))

    def remove(self, instance_id: str, *, force: bool = False) -> None:
        """Delete a container."""
        with self._closing() as connection:
            check_unit(connection.call(commands.Remove(instance_id, force)))

    def pause(self, instance_id: str) -> None:
        """Freeze a container."""
        self._unit(commands.Pause(instance_id))

    def resume(self, instance_id: str) -> None:
        """Thaw a container."""
        self._unit(commands.Resume(instance_id))

    def wait(self, instance_id: str) -> ExitStatus:
        """Wait for the end of a container."""
        with self._closing() as connection:
            return check(connection.call(commands.Wait(instance_id)), "OkExit", ExitStatus)

    def state(self, instance_id: str) -> InstanceState:
        """Return `"Running"`, `"Stopped"` or a detail."""
        return check_state(self._call(commands.GetState(instance_id)))

    def endpoint(self, instance_id: str) -> Endpoint:
        """Return where the instance is reached."""
        return check_endpoint(self._call(commands.GetEndpoint(instance_id)))

    def interface_ip(self, interface: str) -> str | None:
        """Return the first IPv4 address of a network interface, if there is one."""
        return self._get(commands.GetInterfaceIp(interface), "OkInterfaceIp", Interface).ip

    def list_containers(self) -> list[ContainerInfo]:
        """Return all containers."""
        return self._get(commands.ListContainers(), "OkContainers", list)

    def inspect(self, instance_id: str) -> ContainerDetail:
        """Return everything about one container."""
        return self._get(commands.InspectContainer(instance_id), "OkContainer", ContainerDetail)

    def logs(
        self,
        instance_id: str,
        *,
        follow: bool = False,
        since: float | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[OutputData]:
        """Yield what a container wrote; with `follow` until it ends."""
        command = commands.Logs(instance_id, follow, since, tail, timestamps)
        with self._closing() as connection:
            for answer in connection.answers(command):
                if isinstance(answer.data, OutputData):
                    yield answer.data

    def exec(self, instance_id: str, argv: Sequence[str], *, env: Sequence[str] = (), stdin: bytes = b"") -> ExecResult:
        """Run a command in a container and return its exit code and output."""
        spec = ExecSpec(argv=list(argv), env=list(env), stdin=bool(stdin))
        chunks: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        with self.open_exec(instance_id, spec) as process:
            if stdin:
                process.feed(io.BytesIO(stdin))
            for found in process:
                chunks[found.stream].append(output_bytes(found))
        code = process.exit.code if process.exit else 0
        return ExecResult(code, b"".join(chunks["stdout"]), b"".join(chunks["stderr"]))

    def open_exec(self, instance_id: str, spec: ExecSpec) -> Process:
        """Run a command in a container and return its process, to be fed and read."""
        return Process(self._open(None), commands.Exec(instance_id, spec))

    def pull_image(
        self, reference: str, platform: str | None = None, on_progress: OnProgress = no_progress
    ) -> ImageDetail:
        """Fetch an image."""
        return self._long(commands.PullImage(reference, platform), on_progress, "OkImage", ImageDetail)

    def load_image(self, path: str, name: str | None = None, on_progress: OnProgress = no_progress) -> ImageDetail:
        """Read an image from an archive that the daemon can open."""
        return self._long(commands.LoadImage(path, name), on_progress, "OkImage", ImageDetail)

    def images(self) -> list[ImageInfo]:
        """Return all images."""
        return self._get(commands.ListImages(), "OkImages", list)

    def inspect_image(self, name: str) -> ImageDetail:
        """Return everything about one image."""
        return self._get(commands.InspectImage(name), "OkImage", ImageDetail)

    def remove_image(self, name: str) -> None:
        """Remove an image by name or id."""
        with self._closing() as connection:
            check_unit(connection.call(commands.RemoveImage(name)))

    def watch(self, operation: str, after: int = 0) -> Iterator[Answer]:
        """Follow an operation again after a lost connection: Progress, then its final answer."""
        with self._closing() as connection:
            yield from connection.answers(commands.Watch(operation, after))

    def cancel(self, operation: str) -> None:
        """End an operation and wait until what it made is gone."""
        with self._closing() as connection:
            check_unit(connection.call(commands.Cancel(operation)))

    def _unit(self, command: Command) -> None:
        check_unit(self._call(command))

    def _get(self, command: Command, name: str, kind: type[T]) -> T:
        return check(self._call(command), name, kind)

    def _call(self, command: Command) -> Answer:
        if self._connection is None:
            self._connection = self._open(self._timeout_s)
        try:
            return self._connection.call(command)
        except ConnectError:
            self.close()
            raise

    def _long(self, command: Command, on_progress: OnProgress, name: str, kind: type[T]) -> T:
        with self._closing() as connection:
            for answer in connection.answers(command):
                if isinstance(answer.data, ProgressData):
                    on_progress(answer.data)
                elif answer.is_final:
                    return check(answer, name, kind)
        raise ConnectError("the daemon ended without an answer", "look at its log")

    def _open(self, timeout_s: float | None) -> Connection:
        sock = open_connection(self.address, self._timeout_s)
        sock.settimeout(timeout_s)
        return Connection(sock, self._token)

    def _closing(self) -> "_Closing":
        return _Closing(self._open(None))


class _Closing:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def ping_over_stream(stream: Stream) -> None:
    """Ping over any byte stream, for transports that this library does not open itself."""
    core = Core()
    _, line = core.request(commands.Ping())
    stream.write(line)
    stream.flush()
    while True:
        data = stream.read1(READ_BYTES)
        if not data:
            raise ConnectError("the stream ended without an answer", "is a daemon at its other end?")
        for answer in core.feed(data):
            check_unit(answer)
            return
