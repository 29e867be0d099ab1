"""The objects of the OCI runtime specification 1.3 (config.md, config-linux.md, runtime.md), named as there.

A document stays the plain dict that JSON made of it, so it goes back to JSON with every unknown field
in place; these classes give the type checker its keys. `container.spec.schema` reads the same
annotations at run time, so a field is declared once. Because the runtime must start in milliseconds,
`typing` is not imported at run time: `TypedDict` is then an empty base class and the annotations
stay strings of a small grammar (`str`, `list[X]`, `dict[str, X]`, `Required[X]`, a class below).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Required, TypedDict
else:

    class TypedDict:
        """Stands in for typing.TypedDict at run time."""

        def __init_subclass__(cls, total: bool = True) -> None:
            """Accept and ignore the keyword of the real one."""


class User(TypedDict, total=False):
    """config.md, process.user."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class ConsoleSize(TypedDict, total=False):
    """config.md, process.consoleSize; in characters."""

    height: Required[int]
    width: Required[int]


class Capabilities(TypedDict, total=False):
    """config.md, process.capabilities."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict, total=False):
    """config.md, process.rlimits."""

    type: Required[str]
    soft: Required[int]
    hard: Required[int]


class Scheduler(TypedDict, total=False):
    """config.md, process.scheduler."""

    policy: Required[str]
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


class IOPriority(TypedDict, total=False):
    """config.md, process.ioPriority."""

    # `class` is a keyword and cannot be declared here; container.runtime.process reads it by name.
    priority: int


class ExecCPUAffinity(TypedDict, total=False):
    """config.md, process.execCPUAffinity; lists such as `0-3,7`."""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """config.md, process."""

    terminal: bool
    consoleSize: ConsoleSize
    user: User
    cwd: Required[str]
    args: list[str]
    commandLine: str
    env: list[str]
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    selinuxLabel: str
    scheduler: Scheduler
    ioPriority: IOPriority
    execCPUAffinity: ExecCPUAffinity


class Root(TypedDict, total=False):
    """config.md, root."""

    path: Required[str]
    readonly: bool


class IDMapping(TypedDict, total=False):
    """config-linux.md, uidMappings and gidMappings."""

    containerID: Required[int]
    hostID: Required[int]
    size: Required[int]


class Mount(TypedDict, total=False):
    """config.md, mounts."""

    destination: Required[str]
    source: str
    type: str
    options: list[str]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]


class Hook(TypedDict, total=False):
    """config.md, hooks; timeout in seconds."""

    path: Required[str]
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """config.md, hooks."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Namespace(TypedDict, total=False):
    """config-linux.md, namespaces."""

    type: Required[str]
    path: str


class TimeOffset(TypedDict, total=False):
    """config-linux.md, timeOffsets."""

    secs: int
    nanosecs: int


class Device(TypedDict, total=False):
    """config-linux.md, devices."""

    type: Required[str]
    path: Required[str]
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceRule(TypedDict, total=False):
    """config-linux.md, resources.devices: what may be done with devices."""

    allow: Required[bool]
    type: str
    major: int
    minor: int
    access: str


class SeccompArg(TypedDict, total=False):
    """config-linux.md, seccomp.syscalls.args."""

    index: Required[int]
    value: Required[int]
    valueTwo: int
    op: Required[str]


class SeccompSyscall(TypedDict, total=False):
    """config-linux.md, seccomp.syscalls."""

    names: Required[list[str]]
    action: Required[str]
    errnoRet: int
    args: list[SeccompArg]


class Seccomp(TypedDict, total=False):
    """config-linux.md, seccomp."""

    defaultAction: Required[str]
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompSyscall]


class Personality(TypedDict, total=False):
    """config-linux.md, personality."""

    domain: Required[str]
    flags: list[str]


class MemoryPolicy(TypedDict, total=False):
    """config-linux.md, memoryPolicy."""

    mode: Required[str]
    nodes: str
    flags: list[str]


class NetDevice(TypedDict, total=False):
    """config-linux.md, netDevices."""

    name: str


class IntelRdt(TypedDict, total=False):
    """config-linux.md, intelRdt."""

    closID: str
    l3CacheSchema: str
    memBwSchema: str
    schemata: list[str]
    enableMonitoring: bool


class Linux(TypedDict, total=False):
    """config-linux.md. `resources` is read by container.cgroups.resources, which checks it itself."""

    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    timeOffsets: dict[str, TimeOffset]
    sysctl: dict[str, str]
    resources: dict[str, Any]
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    personality: Personality
    memoryPolicy: MemoryPolicy


class Config(TypedDict, total=False):
    """config.md, the whole document."""

    ociVersion: Required[str]
    root: Root
    mounts: list[Mount]
    process: Process
    hostname: str
    domainname: str
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """runtime.md, state; what hooks read on standard input."""

    ociVersion: Required[str]
    id: Required[str]
    status: Required[str]
    pid: int
    bundle: Required[str]
    annotations: dict[str, str]
