"""The shape that a container's cgroup has on every host, and the one where there are no cgroups.

`v1.Cgroup1` and `v2.Cgroup2` fill it in; `NoCgroup` is what a user without a delegated cgroup gets.
Out of scope: which of them a host needs (container.cgroups.hierarchy).
"""

import errno

from container.cgroups import tree
from container.cgroups.limits_v2 import io_weight
from container.errors import ConfigError, HostError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.fields import Write

_DEFAULT_DEADLINE_S = 5.0

#: Files that not every kernel has, and what takes their place: another name, or nothing.
_FALLBACKS = {
    "io.bfq.weight": "io.weight",
    "blkio.bfq.weight": "blkio.weight",
    "blkio.bfq.weight_device": "blkio.weight_device",
}


class Cgroup:
    """A container's place in the hierarchies of the host.

    Attributes:
        paths: hierarchy or controller -> absolute directory; for the state file, `Hierarchy.load` reads it.
        later: resources that `apply_after_start` will set.
    """

    __slots__ = ("later", "paths")

    def __init__(self, paths: "dict[str, str]") -> None:
        self.paths = paths
        self.later: dict[str, Any] | None = None

    def fd(self) -> "int | None":
        """Return a directory descriptor for CLONE_INTO_CGROUP; None where clone cannot place a child."""
        return None

    def add(self, pid: int, cloned: bool = True) -> None:
        """Move `pid` into every hierarchy that clone did not place it in; not `cloned`: into all."""

    def joins_late(self) -> bool:
        """Tell whether `add` moves a cloned child: a cgroup namespace must then wait for it."""
        return False

    def apply(self, resources: "dict[str, Any] | None") -> None:
        """Set limits; ConfigError for a value that is refused, HostError for a missing controller."""

    def apply_after_start(self) -> None:
        """Set the limits that a container's process would not survive until it runs its own program."""
        later, self.later = self.later, None
        if later:
            self.apply(later)

    def freeze(self, timeout_s: float = _DEFAULT_DEADLINE_S) -> None:
        """Stop all processes; returns when they stand still. DeadlineError if they do not."""

    def thaw(self) -> None:
        """Let the processes run again."""

    def pids(self) -> "list[int]":
        """Return all processes, those in cgroups below included."""
        return []

    def kill(self) -> None:
        """Send SIGKILL to all processes, also to those that are just being forked."""

    def remove(self, timeout_s: float = _DEFAULT_DEADLINE_S) -> None:
        """Remove the cgroup and those below; an absent one is fine. DeadlineError if processes are left."""

    def stats(self) -> "dict[str, Any]":
        """Return what is used: memory, cpu, pids, pressure, as far as the controllers are there."""
        return {}

    def oom_count(self) -> int:
        """Return how many processes the kernel killed for want of memory."""
        return 0

    def close(self) -> None:
        """Close descriptors; the cgroup itself stays."""


class NoCgroup(Cgroup):
    """No cgroup: nothing can be limited or paused, and a pid namespace is the only way to kill all."""

    __slots__ = ("_reason",)

    def __init__(self, reason: HostError) -> None:
        super().__init__({})
        self._reason = reason

    def freeze(self, timeout_s: float = _DEFAULT_DEADLINE_S) -> None:  # noqa: ARG002 - the shape
        """Refuse: there is nothing to freeze by."""
        raise HostError("cannot pause without a cgroup: " + self._reason.message, self._reason.hint)

    def thaw(self) -> None:
        """Refuse: nothing was frozen."""
        raise StateError("not paused: there is no cgroup to pause by", self._reason.hint)


def write_limit(directory: tree.Directory, write: "Write") -> None:
    """Write one planned value.

    Raises:
        ConfigError: the kernel refuses the value.
        HostError: there is no such file.
    """
    controller, file, value = write
    try:
        directory.write(file, value)
    except FileNotFoundError:
        _write_fallback(directory, write)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ERANGE,
            errno.EBUSY,
            errno.ENODEV,
            errno.EPERM,
            errno.EACCES,
        ):
            raise
        raise ConfigError(
            f"cannot set `{file}` to `{value}`: {(error.strerror or '').lower()}",
            f"check the limits of controller `{controller}` and of the cgroup above `{directory.path}`",
        ) from error


def _write_fallback(directory: tree.Directory, write: "Write") -> None:
    controller, file, value = write
    other = _FALLBACKS.get(file)
    if other is not None:
        if other == "io.weight":
            value = _io_weights(value)
        write_limit(directory, (controller, other, value))
    elif ".rsvd." not in file:  # reservations came with Linux 5.7; the plain limit follows anyway
        raise HostError(
            f"cannot set `{file}`: this kernel's controller `{controller}` has no such file",
            "leave the field out, or use a newer kernel",
        )


def _io_weights(value: str) -> str:
    head, _, weight = value.rpartition(" ")
    return f"{head or 'default'} {io_weight(int(weight))}"
