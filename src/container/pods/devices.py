"""The devices of the host that a privileged container gets. Reads /dev; decides nothing else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What can be handed into a user namespace by bind mount and is of use there.
_ROOTLESS = ("net/tun", "fuse", "kvm", "vhost-net", "vhost-vsock")
#: A container has its own of these.
_OWN = frozenset({"console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"})


def host_devices(*, rootless: bool, dev: Path = Path("/dev")) -> list[dict[str, Any]]:
    """Return runtime-spec device objects of all devices below `dev`; rootless the useful few."""
    paths = (dev / name for name in _ROOTLESS) if rootless else _nodes(dev, _OWN)
    found = (_device(path, dev) for path in paths)
    return [device for device in found if device is not None]


def _nodes(directory: Path, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda found: found.name):
            if entry.name in skip or entry.is_symlink():
                continue
            if entry.is_dir():
                yield from _nodes(Path(entry.path))
            else:
                yield Path(entry.path)


def _device(path: Path, dev: Path) -> dict[str, Any] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return {
        "path": f"/dev/{path.relative_to(dev)}",
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": 0,
        "gid": 0,
    }
