"""The two servers of a tour: started, waited for, ended.

Ending the shim is here too: it outlives the daemon by design and no command of the user ends it yet.
"""

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from container.paths import Paths
from container.shim.client import Shim
from demonstration.errors import DemoError

_READY_S = 30.0
_STOP_S = 20.0


def program(name: str) -> str:
    """Return the path of one of our programs, in the environment that we run in; any other is the system's."""
    own = Path(sys.executable).parent / name
    return str(own) if own.exists() else name


class Server:
    """A process that runs in the background, with its log in a file of its own."""

    def __init__(self, argv: list[str], log: Path, **options: object) -> None:
        self.name = argv[0]
        self.log = log
        with open(log, "ab") as file:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [program(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stderr=file,
                **options,  # type: ignore[call-overload] # stdout and pass_fds only
            )

    def read_ready(self, fd: int) -> bytes:
        """Return the line by which it says that it is ready.

        Raises:
            DemoError: it ended instead, or said nothing.
        """
        line = b""
        while not line.endswith(b"\n"):
            found = os.read(fd, 4096) if select.select([fd], [], [], _READY_S)[0] else b""
            if not found:
                raise DemoError(f"`{self.name}` did not start: {self.last_words()}", "see what it wrote above")
            line += found
        return line

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace").strip()[-2000:] or "it wrote nothing"

    def stop(self) -> None:
        """Ask it to end and wait for it; kill it if it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_origin(argv: list[str], log: Path) -> tuple[Server, str]:
    """Start the registry and return it with its `host:port`."""
    server = Server(argv, log, stdout=subprocess.PIPE)
    try:
        assert server.process.stdout is not None
        ready = json.loads(server.read_ready(server.process.stdout.fileno()))
    except BaseException:
        server.stop()
        raise
    return server, str(ready["listen"][0])


def start_daemon(argv: list[str], log: Path) -> Server:
    """Start the daemon and return once it answers."""
    source, target = os.pipe()
    try:
        try:
            server = Server([*argv, "--ready-fd", str(target)], log, stdout=subprocess.DEVNULL, pass_fds=(target,))
        finally:
            os.close(target)
        try:
            server.read_ready(source)
        except BaseException:
            server.stop()
            raise
    finally:
        os.close(source)
    return server


def end_shim(paths: Paths) -> None:
    """End the shim of an app directory with the containers that it still has, and remove the run directory."""
    if paths.shim_socket.exists():
        asyncio.run(_shut_down(paths))
    shutil.rmtree(paths.run, ignore_errors=True)


async def _shut_down(paths: Paths) -> None:
    shim = await Shim.start(paths)
    await shim.shutdown(force=True)
