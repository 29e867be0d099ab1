"""Bundles that every runtime takes: static busybox, the usual mounts, namespaces and masks.

`ociVersion` is 1.0.2 because Debian's crun and runc know no later one.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import ContestantError
from container.spec import example

_APPLETS = ("true", "sleep", "sh")


@dataclass(frozen=True, slots=True)
class Ids:
    """Who runs a container rootless: an id, and the first of 65535 subordinate ones."""

    uid: int
    gid: int
    subuid: int
    subgid: int


def make_rootfs(directory: Path) -> Path:
    """Make a root file system of busybox alone.

    Raises:
        ContestantError: there is no busybox.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ContestantError("`busybox` is not installed (package busybox-static)")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin" / "busybox")
    for name in _APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    return directory


def make_bundle(directory: Path, rootfs: Path, args: list[str], *, limits: bool, ids: Ids | None = None) -> Path:
    """Write a bundle; with `limits` it has the default device rule and a cgroup namespace, with `ids` a user one."""
    config: dict[str, Any] = dict(example.config(0, 0, False))
    config["ociVersion"] = "1.0.2"
    config["process"] |= {"terminal": False, "args": args}
    del config["process"]["rlimits"]
    config["root"] = {"path": str(rootfs), "readonly": True}
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    linux = config["linux"]
    if not limits:
        del linux["resources"]
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "cgroup"]
    if ids is not None:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = _mappings(ids.uid, ids.subuid)
        linux["gidMappings"] = _mappings(ids.gid, ids.subgid)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _mappings(own: int, subordinate: int) -> list[dict[str, int]]:
    return [
        {"containerID": 0, "hostID": own, "size": 1},
        {"containerID": 1, "hostID": subordinate, "size": 65535},
    ]
