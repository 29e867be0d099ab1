"""A real daemon in a directory of its own, and an image for it."""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from container.paths import Paths
from container.shim.client import Shim
from vappc.client import Client

IMAGE = "localhost/e2e"
NOBODY = 65534
APPLETS = ("cat", "echo", "env", "false", "id", "ls", "printf", "sh", "sleep", "touch", "true")


@dataclass
class Running:
    """One daemon process and where its things are."""

    directory: Path
    uid: int
    port: int
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return str(self.directory / "vappc.sock")

    @property
    def paths(self) -> Paths:
        app = self.directory / "app"
        root = Path("/run/vapp") if self.uid == 0 else self.directory / "xdg" / "vapp"
        return Paths(app, root / hashlib.sha256(os.fsencode(app)).hexdigest()[:12])

    def start(self, *arguments: str) -> subprocess.Popen:
        ready, write = os.pipe()
        self.process = self.spawn(*arguments, "--ready-fd", str(write), pass_fds=(write,))
        os.close(write)
        with os.fdopen(ready, "rb") as file:
            assert file.read(1) == b"\n", self.log()
        return self.process

    def spawn(self, *arguments: str, **options) -> subprocess.Popen:
        listen = ("--registry-listen", f"127.0.0.1:{self.port}")
        argv = [sys.executable, "-m", "vappc.daemon.main", "-s", self.address, "--app-dir", str(self.paths.app)]
        env = {**os.environ, "XDG_RUNTIME_DIR": str(self.directory / "xdg"), "HOME": str(self.directory)}
        identity = {} if self.uid == os.getuid() else {"user": self.uid, "group": self.uid, "extra_groups": []}
        with open(self.directory / "log", "ab") as log:
            return subprocess.Popen(
                [*argv, *listen, *arguments], cwd="/", env=env, stdout=log, stderr=log, **identity, **options
            )

    def fails(self, *arguments: str) -> str:
        """Start a daemon that cannot start, and return what it says."""
        (self.directory / "log").touch()
        before = len(self.log())
        assert self.spawn(*arguments).wait(20) == 1
        return self.log()[before:]

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def clean(self) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.paths.shim_socket.exists():
            asyncio.run(_end_shim(self.paths, self.uid))
        shutil.rmtree(self.paths.run, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


async def _end_shim(paths: Paths, uid: int) -> None:
    # The shim speaks to its own user only.
    before = os.geteuid()
    try:
        if uid != before:
            os.seteuid(uid)
        shim = await Shim.start(paths)
        await shim.shutdown(force=True)
    finally:
        os.seteuid(before)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def make_archive(directory: Path) -> Path:
    root = directory / "root"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", directory / "root.tar", "."], check=True)
    return directory / "root.tar"


@contextmanager
def started(prefix: str) -> Iterator[Running]:
    """A daemon of ours with IMAGE loaded, and nothing of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    (directory / "xdg").mkdir()
    archive = make_archive(directory)
    running = Running(directory, os.getuid(), free_port())
    running.start()
    try:
        with Client(running.address) as client:
            client.load_image(str(archive), IMAGE)
        yield running
    finally:
        running.clean()
