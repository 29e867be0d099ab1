"""What the daemon answers: the type names and the type of the data behind each. Types only."""

from msgspec import UNSET, Struct, UnsetType, field

from container.intent import (
    ContainerDetail,
    ContainerInfo,
    Endpoint,
    ExitStatus,
    ImageDetail,
    ImageInfo,
    InstanceHandle,
    InstanceState,
    Stream,
)

RequestId = int | str | None


class Interface(Struct, frozen=True):
    """The address of a network interface; `ip` is null when there is none."""

    interface: str
    ip: str | None


class Failure(Struct, frozen=True):
    """An error: `code` is for programs, `message` and `hint` are for people."""

    message: str
    code: str = "internal"
    category: str = "Internal"
    retryable: bool = False
    hint: str = ""


class ProgressData(Struct, frozen=True):
    """How far an operation is; `seq` counts up from 1 within the operation."""

    operation: str
    seq: int
    percentage: int
    stage: str
    message: str
    bytes_done: int = 0
    bytes_total: int = 0


class OutputData(Struct, frozen=True, omit_defaults=True):
    """A piece of output: `text`, or `data` (base64) where it is not UTF-8."""

    stream: Stream = "stdout"
    text: str | None = None
    data: bytes | None = None
    time: str | None = None


class StartedData(Struct, frozen=True):
    """A process runs; `exec_id` is for Input and Resize, `instance_id` is the container's."""

    exec_id: str
    instance_id: str


class HelloData(Struct, frozen=True):
    """Who answers."""

    server: str
    version: str
    protocol: int
    features: list[str] = field(default_factory=list)
    rootless: bool = False
    findings: list[str] = field(default_factory=list)
    app_dir: str = ""
    run_dir: str = ""


#: Wire name -> type of `data`; None where there is no data.
ANSWERS: dict[str, object] = {
    "OkUnit": None,
    "OkHandle": InstanceHandle,
    "OkState": InstanceState,
    "OkEndpoint": Endpoint,
    "OkInterfaceIp": Interface,
    "OkHello": HelloData,
    "OkContainers": list[ContainerInfo],
    "OkContainer": ContainerDetail,
    "OkImages": list[ImageInfo],
    "OkImage": ImageDetail,
    "OkExit": ExitStatus,
    "Err": Failure,
    "Progress": ProgressData,
    "Output": OutputData,
    "Started": StartedData,
}

#: Answers that others follow; every request ends with exactly one of the rest.
INTERIM = frozenset({"Progress", "Output", "Started"})


class Answer(Struct, frozen=True, omit_defaults=True):
    """One answer line; `data` has the type that ANSWERS names for `type`."""

    type: str
    data: object | UnsetType = UNSET
    id: RequestId = None

    @property
    def is_final(self) -> bool:
        """Whether the request is over with this answer."""
        return self.type not in INTERIM


def output(stream: Stream, chunk: bytes, time: str | None = None) -> OutputData:
    """Return the wire form of `chunk`."""
    try:
        return OutputData(stream=stream, text=chunk.decode(), time=time)
    except UnicodeDecodeError:
        return OutputData(stream=stream, data=chunk, time=time)


def output_bytes(data: OutputData) -> bytes:
    """Return the bytes of an Output answer."""
    return data.data if data.data is not None else (data.text or "").encode()
