"""From config.json to the list of operations that build the container's file system. Pure.

Order, and why: propagation first, so that nothing leaks to the host; the root; the mounts as the
document lists them; device nodes and the links of runtime-linux.md on top of the mounted /dev;
createContainer hooks; masks and read-only paths when the tree is complete; the working directory, while
the root can still be written; the pivot.
"""

import os

from container.errors import ConfigError
from container.linux.mount import MS_PRIVATE, MS_REC, MS_SLAVE
from container.runtime import devices
from container.runtime import operations as op
from container.runtime.options import PROPAGATION, Options, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from container.spec.types import Config, Device, Linux, Mount, Root

#: config-linux.md, "Default Devices"; /dev/console and /dev/ptmx are made by other means.
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

#: runtime-linux.md, "Dev symbolic links".
DEFAULT_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)

#: What may be mounted below /proc: files that lxcfs and the like stand in for (as runc allows).
PROC_EXCEPTIONS = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)


class Host:
    """What the plan depends on besides the document.

    Attributes:
        userns: the container's root is not the host's: no mknod, no device of its own.
        cgroups: controller -> directory of the container's cgroup; `""` is the unified one.
        cgroupns: the container has a cgroup namespace of its own.
        trees: index of a mount in the document -> detached mount, opened by the launcher.
        nodes: path of a device -> detached mount of its node, made by the launcher.
        hooks: runs the createContainer hooks, None if there are none.
    """

    __slots__ = ("cgroupns", "cgroups", "hooks", "nodes", "trees", "userns")

    def __init__(self, userns: bool = False, cgroups: "dict[str, str] | None" = None, cgroupns: bool = False) -> None:
        self.userns = userns
        self.cgroups = cgroups or {}
        self.cgroupns = cgroupns
        self.trees: dict[int, int] = {}
        self.nodes: dict[str, int] = {}
        self.hooks: Callable[[], None] | None = None


def plan(config: "Config", bundle: str, host: Host) -> "list[op.Operation]":
    """Return the operations for `config`, whose relative paths are below `bundle`.

    Raises:
        ConfigError: a mount or device that may not be.
    """
    linux: Linux = config.get("linux") or {}
    root: Root = config.get("root") or {"path": "rootfs"}
    path = os.path.join(bundle, root["path"])
    if "mount" not in {namespace["type"] for namespace in linux.get("namespaces") or ()}:
        return [op.Chroot(path)]
    mounts, skipped = list(config.get("mounts") or ()), 0
    word = linux.get("rootfsPropagation")
    steps: list[op.Operation] = [op.SetPropagation(_host_propagation(word))]
    if word in ("shared", "rshared"):
        steps.append(op.IsolateParent(path))
    if mounts and _absolute(mounts[0]["destination"]) == "/":
        first = mounts[0]
        steps.append(op.AttachRoot(path, first.get("type") or "bind", parse(list(first.get("options") or ()))))
        mounts, skipped = mounts[1:], 1
    else:
        steps.append(op.AttachRoot(path))
    for index, mount in enumerate(mounts, skipped):
        steps.append(_plan_mount(mount, bundle, host, host.trees.get(index, -1)))
    steps += _plan_devices(linux.get("devices") or [], mounts, host)
    if host.hooks:
        steps.append(op.Call("run createContainer hooks", host.hooks))
    steps += [op.ReadOnly(path) for path in linux.get("readonlyPaths") or ()]
    steps += [op.Mask(path) for path in linux.get("maskedPaths") or ()]
    process = config.get("process")
    if process is not None and _absolute(process["cwd"]) != "/":
        steps.append(devices.MakeDirectory(_absolute(process["cwd"])))
    if root.get("readonly"):
        steps.append(op.ReadOnlyRoot())
    steps.append(op.Pivot(_root_propagation(word)))
    return steps


def _host_propagation(word: "str | None") -> int:
    # Shared roots must go on receiving and sending; every other kind at least stops sending.
    if word in ("shared", "rshared"):
        return PROPAGATION["rshared"]
    if word in ("private", "rprivate"):
        return MS_PRIVATE | MS_REC
    return MS_SLAVE | MS_REC


def _root_propagation(word: "str | None") -> int:
    if not word:
        return 0
    if word not in PROPAGATION:
        raise ConfigError(f"`linux.rootfsPropagation` `{word}` is unknown", f"one of {', '.join(PROPAGATION)}")
    return PROPAGATION[word]


def _plan_mount(mount: "Mount", bundle: str, host: Host, tree: int) -> "op.Operation":
    # Relative destinations are deprecated by config.md and mean "below /".
    destination = _absolute(mount["destination"])
    options = parse(list(mount.get("options") or ()))
    kind = mount.get("type") or ""
    _check_destination(destination, kind, options)
    if kind == "bind" or options.bind:
        options.bind = True
        source = mount.get("source")
        if not source:
            raise ConfigError(f"bind mount at `{destination}` has no source")
        return op.BindMount(os.path.join(bundle, source), destination, options, tree=tree)
    if kind in ("cgroup", "cgroup2"):
        return _plan_cgroup(destination, options, host)
    if mount.get("source") and not any(key == "source" for key, _ in options.data) and kind not in _SOURCELESS:
        options.data.insert(0, ("source", mount["source"]))
    return op.MountFileSystem(destination, kind, options, _fallback(kind, destination))


def _absolute(path: str) -> str:
    # normpath keeps two leading slashes (POSIX allows them a meaning of their own), so they go first.
    return os.path.normpath("/" + path.lstrip("/"))


#: File systems whose `source` is a label without meaning; given to them, some refuse it.
_SOURCELESS = frozenset(("proc", "sysfs", "tmpfs", "mqueue", "devpts", "overlay", "ramfs"))


def _fallback(kind: str, destination: str) -> "op.Operation | None":
    """Return what stands in where a user namespace may not make a `kind` of its own."""
    if kind == "sysfs":
        return op.BindMount("/sys", destination, parse(["rbind", "rro", "rnosuid", "rnoexec", "rnodev"]))
    if kind == "mqueue":
        return op.BindMount("/dev/mqueue", destination, parse(["rbind", "nosuid", "noexec", "nodev"]), optional=True)
    return None


def _check_destination(destination: str, kind: str, options: Options) -> None:
    below_proc = destination.startswith("/proc/")
    if below_proc and destination not in PROC_EXCEPTIONS:
        raise ConfigError(
            f"mount at `{destination}` is inside /proc",
            f"only these may be: {', '.join(sorted(PROC_EXCEPTIONS))}",
        )
    if not kind and not options.bind:
        raise ConfigError(f"mount at `{destination}` has neither a type nor the option `bind`")


def _plan_cgroup(destination: str, options: Options, host: Host) -> "op.Operation":
    return CgroupMount(destination, options, host.cgroups, host.cgroupns)


class CgroupMount(op.Operation):
    """Show the container its own cgroups at `destination`, in the shape of the host's hierarchies."""

    __slots__ = ("cgroups", "destination", "options", "private")

    def __init__(self, destination: str, options: Options, cgroups: "dict[str, str]", private: bool) -> None:
        self.destination = destination
        self.options = options
        self.cgroups = cgroups
        self.private = private

    def describe(self) -> str:
        return f"mount cgroups at `{self.destination}`"

    def execute(self, context: op.Context) -> None:
        legacy = {name: path for name, path in self.cgroups.items() if name not in ("", "unified")}
        if not legacy:
            self._unified().execute(context)
            return
        top = parse(["nosuid", "noexec", "nodev", "mode=755"])
        op.MountFileSystem(self.destination, "tmpfs", top).execute(context)
        for name, path in self.cgroups.items():
            bind = parse(["bind", "nosuid", "noexec", "nodev", "relatime"])
            bind.attr_set |= self.options.attr_set
            op.BindMount(path, f"{self.destination}/{name or 'unified'}", bind).execute(context)

    def _unified(self) -> "op.Operation":
        path = self.cgroups.get("") or self.cgroups.get("unified") or "/sys/fs/cgroup"
        options = parse(["rbind", "nosuid", "noexec", "nodev", "relatime"])
        options.attr_set |= self.options.attr_set
        bind = op.BindMount(path, self.destination, options)
        return op.MountFileSystem(self.destination, "cgroup2", self.options, bind) if self.private else bind


def _is_bind(mount: "Mount") -> bool:
    return mount.get("type") == "bind" or parse(list(mount.get("options") or ())).bind


def _plan_devices(wanted: "list[Device]", mounts: "list[Mount]", host: Host) -> "list[op.Operation]":
    if any(_absolute(mount["destination"]) == "/dev" and _is_bind(mount) for mount in mounts):
        return []  # /dev is the host's own: nothing is missing there, and nothing may be made there
    named = {_absolute(device["path"]) for device in wanted}
    steps: list[op.Operation] = [
        devices.MakeDevice(path, "c", major, minor, bind=host.userns)
        for path, major, minor in DEFAULT_DEVICES
        if path not in named
    ]
    for device in wanted:
        if device["type"] not in ("c", "b", "u", "p"):
            raise ConfigError(f"device `{device['path']}` has unknown type `{device['type']}`", "one of c, b, u, p")
        steps.append(
            devices.MakeDevice(
                _absolute(device["path"]),
                device["type"],
                device.get("major", 0),
                device.get("minor", 0),
                device.get("fileMode", 0o666) & 0o7777,
                device.get("uid", 0),
                device.get("gid", 0),
                bind=host.userns and device["type"] != "p",
                node=host.nodes.get(device["path"], -1),
            )
        )
    return steps + [devices.MakeLink(path, target) for path, target in DEFAULT_LINKS]
