"""What linux.resources of a config.json means in control files: a list of writes for either version. PURE.

The writes come in the order in which the kernel accepts them. Out of scope: making cgroups and
writing (container.cgroups.v1, v2), device rules of version 2, which are a program (devices).
"""

from container.cgroups import limits_v1, limits_v2
from container.cgroups.fields import read_section
from container.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.fields import Write

#: Sections of linux.resources (config-linux.md); `devices` is known but not a limit.
_SECTIONS = ("memory", "cpu", "pids", "blockIO", "hugepageLimits", "network", "rdma", "unified")

#: What a process of ours may need in its cgroup before it has become the container's program, with room.
_STARTING_BYTES = 4 << 20


def plan_v1(resources: "dict[str, Any] | None") -> "list[Write]":
    """Return the writes for cgroup version 1, device rules included.

    Raises:
        ConfigError: a field has a value that cannot be right, or needs version 2.
    """
    return limits_v1.plan(resources or {})


def plan_v2(resources: "dict[str, Any] | None") -> "list[Write]":
    """Return the writes for cgroup version 2; device rules are not among them.

    Raises:
        ConfigError: a field has a value that cannot be right, or needs version 1.
    """
    return limits_v2.plan(resources or {})


def asks_for_limits(resources: "dict[str, Any] | None") -> bool:
    """Tell whether `resources` limit anything; device rules alone do not count."""
    if not resources:
        return False
    return any(_says_something(resources.get(name)) for name in _SECTIONS)


def check_before_update(resources: "dict[str, Any] | None") -> "int | None":
    """Return the memory limit that must not be below what is in use, None where nobody asked for that."""
    memory = read_section(resources or {}, "memory")
    limit = memory.get("limit")
    return limit if memory.get("checkBeforeUpdate") and isinstance(limit, int) and limit > 0 else None


def split_small_memory(resources: "dict[str, Any]") -> "tuple[dict[str, Any], dict[str, Any] | None]":
    """Return `resources` and, apart from them, a memory section that must wait until the program runs.

    Between clone and exec the child is a copy of an interpreter and dirties about 1 MiB of it; a limit
    near that kills it. The program itself may well live with less.
    """
    memory = read_section(resources, "memory")
    limit = memory.get("limit")
    if not isinstance(limit, int) or not 0 < limit < _STARTING_BYTES:
        return resources, None
    return {name: value for name, value in resources.items() if name != "memory"}, {"memory": memory}


def split_path(path: str) -> "list[str]":
    """Return the components of an OCI cgroupsPath.

    Raises:
        ConfigError: it is empty or would leave the hierarchy.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise ConfigError(
            f"linux.cgroupsPath: `{path}` does not name a cgroup",
            "use a path such as `/vapp/name` without `..`",
        )
    return parts


def _says_something(value: object) -> bool:
    if isinstance(value, dict):
        return any(_says_something(item) for item in value.values())
    return value is not None and value != [] and value is not False
