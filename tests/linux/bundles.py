"""Bundles with a static busybox for tests of the runtime, and the command `vapp-oci` on them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from container.runtime import __main__ as command
from container.spec import example

IS_ROOT = os.geteuid() == 0
BUSYBOX = shutil.which("busybox")
PROGRAMS = (
    "sh",
    "cat",
    "echo",
    "env",
    "grep",
    "id",
    "kill",
    "ls",
    "mount",
    "mkdir",
    "ps",
    "sleep",
    "stat",
    "touch",
    "true",
)

#: As the runtime is started at its fastest.
COMMAND = [sys.executable, "-IS", command.__file__]


class Bundle:
    """A bundle, a state directory, and containers that are gone at the end.

    As an ordinary user its container has a user namespace with that user's one id.
    """

    def __init__(self, path: Path, uid: int | None = None) -> None:
        if BUSYBOX is None:
            pytest.skip("`busybox` is not installed")
        self.path = path
        self.rootfs = path / "rootfs"
        self.root = path / "state"
        self.make_rootfs(self.rootfs)
        uid = os.getuid() if uid is None else uid
        self.config: dict[str, Any] = dict(example.config(uid, os.getgid() if uid == os.getuid() else uid, uid != 0))
        self.process["terminal"] = False
        self.process["args"] = ["sleep", "60"]

    @property
    def process(self) -> dict[str, Any]:
        """The process of the document."""
        return self.config["process"]

    @property
    def linux(self) -> dict[str, Any]:
        """The part for Linux of the document."""
        return self.config["linux"]

    @staticmethod
    def make_rootfs(rootfs: Path) -> None:
        """Make a root file system with busybox in it."""
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(str(BUSYBOX), rootfs / "bin" / "busybox")
        for name in PROGRAMS:
            (rootfs / "bin" / name).symlink_to("busybox")

    def sh(self, script: str) -> None:
        """Make the process a shell with `script`."""
        self.process["args"] = ["sh", "-c", script]

    def write(self, container_id: str = "c1") -> None:
        """Write config.json; the cgroup is named for this bundle, for other state directories know `c1` too."""
        self.linux["cgroupsPath"] = f"{self.path.parent.name}-{os.getpid()}-{container_id}"
        (self.path / "config.json").write_text(json.dumps(self.config))

    def cli(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `vapp-oci` with `words`."""
        options = {"capture_output": True, "text": True, "timeout": 30, "cwd": self.path} | options
        done = subprocess.run([*COMMAND, "--root", str(self.root), *words], check=False, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"`{' '.join(words)}` failed with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def run(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Write the document and run the container `c1` to its end."""
        self.write()
        return self.cli("run", *words, "c1", check=check, **options)

    def output(self, script: str) -> str:
        """Return what a shell with `script` prints in a new container; its status does not matter, ours does."""
        self.sh(f"{script}\nexit 0")
        return self.run().stdout.strip()

    def create(self, container_id: str = "c1", *words: str) -> None:
        """Create a container; its output goes nowhere, for it outlives the command."""
        self.write(container_id)
        null = subprocess.DEVNULL
        self.cli("create", *words, container_id, capture_output=False, stdin=null, stdout=null)

    def start(self, container_id: str = "c1", *words: str) -> None:
        """Create and start a container."""
        self.create(container_id, *words)
        self.cli("start", container_id)

    def state(self, container_id: str = "c1") -> dict[str, Any]:
        """Return the state document."""
        found: dict[str, Any] = json.loads(self.cli("state", container_id).stdout)
        return found

    def exec(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in `c1`."""
        return self.cli("exec", *words, check=check, **options)

    def remove_all(self) -> None:
        """Delete every container of the state directory."""
        if self.root.is_dir():
            for entry in self.root.iterdir():
                if not entry.name.startswith("."):
                    self.cli("delete", "--force", entry.name)
