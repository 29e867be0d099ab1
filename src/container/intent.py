"""What may be asked of the platform, and what it tells about its containers: types only.

A leaf that the client imports too, so nothing but msgspec may come in here. Names and defaults of
the first release's types are kept exactly; every field added since has a default, so that old
requests still decode. What the fields do is decided in `container.pods`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

#: Ids become directory and cgroup names: no separator, no leading dot. The look-ahead instead of `$`
#: because Python's `$` also matches before a final newline.
INSTANCE_ID_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}(?![\s\S])"

InstanceId = Annotated[str, Meta(pattern=INSTANCE_ID_PATTERN, description="id of one container")]
Positive = Annotated[int, Meta(gt=0)]
Status = Literal["creating", "created", "running", "paused", "stopped"]
PullPolicy = Literal["missing", "always", "never"]
NetworkMode = Literal["node", "none", "host"]
Stream = Literal["stdout", "stderr"]


class MountSpec(Struct, frozen=True):
    """A directory or file of the host, visible in the container."""

    host_path: str
    container_path: str
    read_only: bool = False


class ContainerRunSpec(Struct, frozen=True):
    """Run one container from one image.

    Attributes:
        command: replaces the image's entrypoint; `args` alone replaces its Cmd (the rules of Docker).
        env: `KEY=VALUE` entries, over those of the image.
        instance_id: the id; one is made up when missing.
        privileged: all capabilities, no masked paths, the host's devices.
        name: a second name for people; defaults to the id.
        user: `uid`, `uid:gid`, or names from the image's /etc/passwd and /etc/group.
        network: the node's network, none but loopback, or the host's.
        cpus: how many processors' worth of time.
        stop_timeout_s: seconds between the stop signal and SIGKILL.
        remove: delete the container when it ends.
        platform: `os/arch[/variant]`; the host's when missing.
    """

    image: str
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[str] | None = None
    mounts: list[MountSpec] | None = None
    instance_id: InstanceId | None = None
    privileged: bool = False
    name: InstanceId | None = None
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    network: NetworkMode = "node"
    terminal: bool = False
    stdin: bool = False
    memory_bytes: Positive | None = None
    cpus: Annotated[float, Meta(gt=0)] | None = None
    pids_limit: Positive | None = None
    read_only: bool = False
    capabilities_add: list[str] = field(default_factory=list)
    capabilities_drop: list[str] = field(default_factory=list)
    hostname: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    stop_timeout_s: Annotated[float, Meta(ge=0)] = 10.0
    remove: bool = False
    pull: PullPolicy = "missing"
    platform: str | None = None


class SocketEndpoint(Struct, frozen=True, tag_field="type", tag="Socket"):
    """Reached through a path of the host."""

    value: str


class TcpEndpoint(Struct, frozen=True, tag_field="type", tag="Tcp"):
    """Reached through `host:port`."""

    value: str


class VsockAddress(Struct, frozen=True):
    """Context id and port."""

    cid: int
    port: int


class VsockEndpoint(Struct, frozen=True, tag_field="type", tag="Vsock"):
    """Reached through a VM socket."""

    value: VsockAddress


Endpoint = SocketEndpoint | TcpEndpoint | VsockEndpoint


class InstanceHandle(Struct, frozen=True):
    """What a caller keeps of a container that it started."""

    instance_id: str
    endpoint: Endpoint


class Provisioning(Struct, frozen=True):
    """How far a start is, in percent."""

    progress: int


class Failed(Struct, frozen=True):
    """Why an instance does not run."""

    reason: str


class StateDetail(Struct, frozen=True, omit_defaults=True):
    """`{"Provisioning": {...}}` or `{"Failed": {...}}`; exactly one is set."""

    provisioning: Provisioning | None = field(default=None, name="Provisioning")
    failed: Failed | None = field(default=None, name="Failed")


InstanceState = Literal["Running", "Stopped"] | StateDetail


class ExitStatus(Struct, frozen=True):
    """How a process ended: 0 to 255 as a shell says it (128 + signal), when, and whether memory ran out."""

    code: int
    signal: int = 0
    finished: float = 0.0
    oom: bool = False


class ContainerInfo(Struct, frozen=True):
    """One container as `ps` and `inspect` show it; times are unix seconds."""

    id: str
    name: str
    image: str
    image_id: str
    status: Status
    created: float
    pid: int = 0
    started: float = 0.0
    exit: ExitStatus | None = None
    command: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


class ContainerDetail(Struct, frozen=True):
    """Everything about one container: the short form, what was asked for, and where it lives."""

    info: ContainerInfo
    spec: ContainerRunSpec
    image_digest: str
    directory: str
    log_path: str
    config: Any


class ExecSpec(Struct, frozen=True):
    """Run one more process in a running container; what is not given is as in the container's own process."""

    argv: Annotated[list[str], Meta(min_length=1)]
    env: list[str] = field(default_factory=list)
    workdir: str | None = None
    user: str | None = None
    terminal: bool = False
    stdin: bool = False
    privileged: bool = False
    rows: Annotated[int, Meta(ge=0, le=0xFFFF)] = 24
    cols: Annotated[int, Meta(ge=0, le=0xFFFF)] = 80


class ImageInfo(Struct, frozen=True):
    """One image of the store."""

    id: str
    names: list[str]
    digest: str
    created: str
    size_bytes: int


class ImageDetail(Struct, frozen=True):
    """One image with its layers and its configuration as the image carries it."""

    info: ImageInfo
    layers: list[str]
    config: Any
