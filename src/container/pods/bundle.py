"""Image and wish to a runtime-spec configuration. Pure: the same input gives the same dict.

Out of scope: making directories, mounting, starting; the engine does these with what comes from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob.oci.image import ContainerConfig
from container.errors import ConfigError, HostError
from container.intent import ContainerRunSpec, MountSpec
from container.pods.defaults import (
    CGROUP,
    DEVICE_RULES,
    MASKED_PATHS,
    MOUNTS,
    READ_ONLY_PATHS,
    SYSFS,
    SYSFS_BIND,
)
from container.pods.process import process
from container.pods.users import ROOT, User

OCI_VERSION = "1.2.0"
#: Files that are made for each container and lie beside its config.json.
ETC_FILES = ("resolv.conf", "hosts", "hostname")
_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a container's configuration.

    Attributes:
        directory: the container's own, where the files of /etc lie.
        rootfs: the first mount, destination `/`, as the image store prepared it.
        node: names the daemon among others of this host, for its cgroups.
        rootless: whether a user namespace is around us, which forbids some things.
        devices: runtime-spec devices for a privileged container.
        seccomp: runtime-spec seccomp object for an unprivileged one; None for no filter.
    """

    id: str
    spec: ContainerRunSpec
    image: ContainerConfig
    directory: Path
    rootfs: dict[str, Any]
    user: User = ROOT
    rootless: bool = False
    node: str = "node"
    devices: Sequence[dict[str, Any]] = ()
    seccomp: dict[str, Any] | None = None
    terminal_size: tuple[int, int] = (24, 80)

    @property
    def hostname(self) -> str:
        """The name that the container sees itself under."""
        return hostname(self.id, self.spec)


def hostname(container_id: str, spec: ContainerRunSpec) -> str:
    """Return what was asked for, or a short form of the id."""
    return spec.hostname or container_id[:12]


def config(plan: Plan) -> dict[str, Any]:
    """Return the content of config.json.

    Raises:
        ConfigError: the request contradicts itself.
        HostError: it cannot be had without root.
    """
    if plan.spec.network == "host" and plan.rootless:
        raise HostError("network `host` needs root", "use network `node`, which reaches the host's network")
    return {
        "ociVersion": OCI_VERSION,
        "hostname": plan.hostname,
        "root": {"path": "rootfs", "readonly": plan.spec.read_only},
        "process": process(plan.spec, plan.image, plan.user, plan.hostname, plan.terminal_size),
        "mounts": _mounts(plan),
        "linux": _linux(plan),
        "annotations": {"org.4lock.image": plan.spec.image, **plan.spec.labels},
    }


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    # Rootless, the network namespace of the node is owned by an outer user namespace's process.
    own_network = plan.spec.network == "none"
    sysfs = SYSFS_BIND if plan.rootless and not own_network else SYSFS
    etc = [_bind(str(plan.directory / name), f"/etc/{name}", read_only=False) for name in ETC_FILES]
    system = [{**found, "options": list(found["options"])} for found in (*MOUNTS, sysfs, CGROUP)]
    if plan.spec.privileged:
        system = [_writable(found) for found in system]
    wanted = [_user_mount(found) for found in plan.spec.mounts or []]
    # The user's mounts come last: they may cover anything of ours.
    return [plan.rootfs, *system, *etc, *wanted]


def _user_mount(mount: MountSpec) -> dict[str, Any]:
    for path in (mount.host_path, mount.container_path):
        if not path.startswith("/") or "\0" in path:
            raise ConfigError(f"mount path `{path}` is not absolute", "begin it with `/`")
    if mount.container_path.strip("/") in ("", "."):
        raise ConfigError("a mount cannot replace `/` of the container", "name a directory below it")
    return _bind(mount.host_path, mount.container_path, read_only=mount.read_only)


def _bind(source: str, destination: str, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "rro" if read_only else "rw"]
    return {"destination": destination, "type": "none", "source": source, "options": options}


def _writable(mount: dict[str, Any]) -> dict[str, Any]:
    return {**mount, "options": [word for word in mount["options"] if word not in ("ro", "rro")]}


def _linux(plan: Plan) -> dict[str, Any]:
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", *(["network"] if plan.spec.network == "none" else [])]
    made: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "cgroupsPath": f"{plan.node}/{plan.id}",
        "resources": _resources(plan),
    }
    if plan.spec.privileged:
        made["devices"] = list(plan.devices)
        return made
    made["maskedPaths"] = list(MASKED_PATHS)
    made["readonlyPaths"] = list(READ_ONLY_PATHS)
    if plan.seccomp is not None:
        made["seccomp"] = plan.seccomp
    return made


def _resources(plan: Plan) -> dict[str, Any]:
    spec = plan.spec
    made: dict[str, Any] = {}
    if spec.memory_bytes is not None:
        made["memory"] = {"limit": spec.memory_bytes, "swap": spec.memory_bytes}
    if spec.cpus is not None:
        made["cpu"] = {"quota": max(1000, round(spec.cpus * _PERIOD_US)), "period": _PERIOD_US}
    if spec.pids_limit is not None:
        made["pids"] = {"limit": spec.pids_limit}
    if not plan.rootless:
        everything = [{"allow": True, "access": "rwm"}]
        made["devices"] = everything if spec.privileged else [dict(rule) for rule in DEVICE_RULES]
    return made
