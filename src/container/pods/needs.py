"""What the engine needs of the shim and of the image store, as protocols. Types only.

`container.shim.client.Shim` and `container.images.service.Images` are the real ones; the tests' fakes
are others.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from container.images.children import Process
from container.images.image import Image
from container.progress import Report
from container.shim.client import Stdio


class Exit(Protocol):
    """How a process ended: 0 to 255 (128 + signal), the signal, unix seconds, whether memory ran out."""

    @property
    def code(self) -> int: ...  # noqa: D102
    @property
    def signal(self) -> int: ...  # noqa: D102
    @property
    def finished(self) -> float: ...  # noqa: D102
    @property
    def oom(self) -> bool: ...  # noqa: D102


class State(Protocol):
    """A container as the shim sees it; `status` is creating, created, running, paused or stopped."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def exit(self) -> Exit | None: ...  # noqa: D102


class ExecHandle(Protocol):
    """A process beside a container's own, with our ends of its stdio."""

    def steal(self, name: str) -> int:
        """Return descriptor `stdin`, `stdout`, `stderr` or `master`, -1 if there is none; ours to close."""

    async def wait(self) -> Exit:
        """Wait for its end."""

    def close(self) -> None:
        """Close what nobody stole."""


class Runtime(Protocol):
    """The shim's client."""

    async def run(self, container_id: str, bundle: Path, stdio: Stdio) -> State: ...  # noqa: D102
    async def exec(  # noqa: D102
        self,
        container_id: str,
        exec_id: str,
        process: Mapping[str, Any],
        *,
        terminal: bool = False,
        rows: int = 24,
        cols: int = 80,
    ) -> ExecHandle: ...
    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None: ...  # noqa: D102
    async def delete(self, container_id: str, *, force: bool = False) -> None: ...  # noqa: D102
    async def pause(self, container_id: str) -> None: ...  # noqa: D102
    async def resume(self, container_id: str) -> None: ...  # noqa: D102
    async def resize(self, container_id: str, rows: int, cols: int) -> None: ...  # noqa: D102
    def open_stdin(self, container_id: str) -> int: ...  # noqa: D102
    async def close_stdin(self, container_id: str) -> None: ...  # noqa: D102
    async def states(self) -> Sequence[State]: ...  # noqa: D102
    async def wait(self, container_id: str) -> Exit: ...  # noqa: D102
    async def spawn(self, argv: Sequence[str]) -> Process: ...  # noqa: D102


class ImageStore(Protocol):
    """The image store."""

    async def pull(self, reference: str, platform: str | None = None, report: Report = ...) -> Image: ...  # noqa: D102
    async def load(self, path: Path, name: str, report: Report = ...) -> Image: ...  # noqa: D102
    def list(self) -> list[Image]: ...  # noqa: D102
    def inspect(self, name: str) -> Image: ...  # noqa: D102
    async def remove(self, name: str, used: Collection[str] = ()) -> None: ...  # noqa: D102
    def prepare(self, image: Image, container_dir: Path, rootless: bool) -> dict[str, Any]: ...  # noqa: D102
