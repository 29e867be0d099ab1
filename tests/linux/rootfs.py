"""Bundles for tests: a root file system of one static busybox, and a document to change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from container.spec import example

#: Applets that tests use.
APPLETS = (
    "sh",
    "cat",
    "echo",
    "env",
    "false",
    "hostname",
    "head",
    "id",
    "kill",
    "ls",
    "mount",
    "od",
    "ps",
    "sleep",
    "stat",
    "stty",
    "tr",
    "true",
    "tty",
)


def find_busybox() -> str:
    """Return the path of a static busybox, or skip."""
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("`busybox` is not installed (package busybox-static)")
    return path


def make_rootfs(directory: Path) -> Path:
    """Fill `directory` with a root file system."""
    binaries = directory / "bin"
    binaries.mkdir(parents=True)
    shutil.copy2(find_busybox(), binaries / "busybox")
    for applet in APPLETS:
        (binaries / applet).symlink_to("busybox")
    (directory / "etc").mkdir()
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (directory / "tmp").mkdir(mode=0o1777)
    return directory


def make_bundle(directory: Path, args: list[str], rootfs: Path | None = None, **process: Any) -> Path:
    """Write a bundle whose program is `args`; keywords change its process object."""
    directory.mkdir(parents=True, exist_ok=True)
    document: Any = example.config(0, 0, rootless=False)
    document["process"] |= {"terminal": False, "args": args, "rlimits": [], **process}
    document["root"]["path"] = str(rootfs or make_rootfs(directory / "rootfs"))
    document["linux"].pop("resources")
    (directory / "config.json").write_text(json.dumps(document))
    return directory
