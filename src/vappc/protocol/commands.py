"""What a client may ask: one struct per command, named as on the wire. Types only."""

from typing import Annotated

from msgspec import Meta, Struct, field

from container.intent import ContainerRunSpec, ExecSpec, InstanceId

Seconds = Annotated[float, Meta(ge=0)]
Size = Annotated[int, Meta(ge=0, le=0xFFFF)]


class Ping(Struct, frozen=True):
    """Is anybody there? Answer: OkUnit."""


class Shutdown(Struct, frozen=True):
    """End the daemon, the shim and the node namespaces. Answer: OkUnit, then the connection closes.

    Refused while containers run, unless `force`: then they are stopped first.
    """

    force: bool = False


class Hello(Struct, frozen=True):
    """Exchange versions and features; over TCP the first request, with the token. Answer: OkHello."""

    token: str | None = None
    client: str = ""


class RunContainer(Struct, frozen=True):
    """Pull what is missing and start a container. Answers: Progress…, then OkHandle.

    With `attach` the request lives as long as the container: Progress…, Started, Output…, then
    OkExit. A repetition with the same instance id joins the running attempt.
    """

    spec: ContainerRunSpec
    attach: bool = False
    rows: Size = 24
    cols: Size = 80


class Stop(Struct, frozen=True):
    """Ask a container to end, then kill it. Answer: OkUnit once it has ended."""

    instance_id: InstanceId
    timeout_s: Seconds | None = None


class Kill(Struct, frozen=True):
    """Send a signal, by name or number. Answer: OkUnit."""

    instance_id: InstanceId
    signal: str = "SIGKILL"
    everyone: bool = False


class Remove(Struct, frozen=True):
    """Delete a container; with `force` a running one too. Answer: OkUnit."""

    instance_id: InstanceId
    force: bool = False


class Pause(Struct, frozen=True):
    """Freeze every process of a container. Answer: OkUnit."""

    instance_id: InstanceId


class Resume(Struct, frozen=True):
    """Thaw a paused container. Answer: OkUnit."""

    instance_id: InstanceId


class Wait(Struct, frozen=True):
    """Wait for the end of a container. Answer: OkExit."""

    instance_id: InstanceId


class GetState(Struct, frozen=True):
    """Answer: OkState."""

    instance_id: InstanceId


class GetEndpoint(Struct, frozen=True):
    """Answer: OkEndpoint."""

    instance_id: InstanceId


class GetInterfaceIp(Struct, frozen=True):
    """The first IPv4 address of a network interface; `zt*` matches by prefix. Answer: OkInterfaceIp."""

    interface: str


class ListContainers(Struct, frozen=True):
    """Answer: OkContainers."""


class InspectContainer(Struct, frozen=True):
    """Answer: OkContainer."""

    instance_id: InstanceId


class Logs(Struct, frozen=True):
    """What a container wrote. Answers: Output…, then OkUnit.

    Attributes:
        follow: go on until the container ends.
        since: unix seconds; nothing older.
        tail: only the last lines.
        timestamps: fill in the time of each chunk.
    """

    instance_id: InstanceId
    follow: bool = False
    since: Seconds | None = None
    tail: Annotated[int, Meta(ge=0)] | None = None
    timestamps: bool = False


class Exec(Struct, frozen=True):
    """Run a process in a container. Answers: Started, Output…, then OkExit."""

    instance_id: InstanceId
    spec: ExecSpec


class Input(Struct, frozen=True):
    """Bytes (base64) for the stdin of a Started process of this connection. Answer: OkUnit."""

    exec_id: str
    data: bytes = b""
    eof: bool = False


class Resize(Struct, frozen=True):
    """Tell a Started process the size of its terminal. Answer: OkUnit."""

    exec_id: str
    rows: Size
    cols: Size


class PullImage(Struct, frozen=True):
    """Fetch an image. Answers: Progress…, then OkImage."""

    reference: str
    platform: str | None = None


class LoadImage(Struct, frozen=True):
    """Read an archive or a root file system from a path of the daemon. Answers: Progress…, OkImage."""

    path: str
    name: str | None = None


class ListImages(Struct, frozen=True):
    """Answer: OkImages."""


class InspectImage(Struct, frozen=True):
    """Answer: OkImage."""

    name: str


class RemoveImage(Struct, frozen=True):
    """Forget a name, and the image with its last name. Answer: OkUnit."""

    name: str


class Watch(Struct, frozen=True):
    """Follow an operation again: its Progress with a larger sequence number, then its final answer."""

    operation: str
    after: Annotated[int, Meta(ge=0)] = 0


class Cancel(Struct, frozen=True):
    """End an operation; what it made is removed. Answer: OkUnit when that is done."""

    operation: str


Command = (
    Ping
    | Shutdown
    | Hello
    | RunContainer
    | Stop
    | Kill
    | Remove
    | Pause
    | Resume
    | Wait
    | GetState
    | GetEndpoint
    | GetInterfaceIp
    | ListContainers
    | InspectContainer
    | Logs
    | Exec
    | Input
    | Resize
    | PullImage
    | LoadImage
    | ListImages
    | InspectImage
    | RemoveImage
    | Watch
    | Cancel
)

COMMANDS: dict[str, type[Command]] = {kind.__name__: kind for kind in Command.__args__}


class Request(Struct, frozen=True):
    """A decoded request: the command and the id that its answers echo."""

    command: Command
    id: int | str | None = field(default=None)
