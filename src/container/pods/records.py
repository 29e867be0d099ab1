"""container.json: what was asked for and how it ended, one file per container. No decisions.

It is written so that it survives power loss: a container that ran is never forgotten, and an exit code
that was told to somebody is never lost, unless the container was to be removed at its end. The format
carries a version; unknown versions are left alone.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from container.errors import HostError
from container.images.store import replace_durably
from container.intent import ContainerRunSpec, ExitStatus
from container.linux.files import replace_file

logger = logging.getLogger(__name__)

VERSION = 1
FILE = "container.json"


class Record(Struct, frozen=True):
    """One container as it is kept.

    Attributes:
        layers: the diff ids that its root file system is made of.
        started: 0 until its process ran; a container without it is the rest of an interrupted start.
        exit: how it ended; None while it runs, and for a start that was interrupted.
    """

    id: str
    spec: ContainerRunSpec
    image_id: str
    image_digest: str
    layers: list[str]
    stop_signal: int
    created: float
    command: list[str]
    started: float = 0.0
    exit: ExitStatus | None = None
    version: int = VERSION


class Records:
    """All records below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, container_id: str) -> Path:
        """Return the container's own directory."""
        return self.root / container_id

    async def write(self, record: Record) -> None:
        """Keep `record`; what tells of a container that ran is on disk when this returns.

        A start under way and a container that is removed at its end need to survive a crash of the daemon,
        but not of the machine: after that they are nothing but leftovers to clear.
        """
        if record.started and not record.spec.remove:
            # fsync may take long on a busy disk, and the loop serves everybody.
            await asyncio.to_thread(self._write, record, replace_durably)
        else:
            self._write(record, lambda path, data: replace_file(str(path), data, 0o600))

    def read(self, container_id: str) -> Record | None:
        """Return the record, None if there is none that this version understands."""
        path = self.directory(container_id) / FILE
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("unreadable record path=%s error=%s", path, error)
            return None
        return record if record.version == VERSION else None

    def names(self) -> Iterator[str]:
        """Yield the names of all container directories."""
        if self.root.is_dir():
            for entry in sorted(os.scandir(self.root), key=lambda found: found.name):
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name

    def _write(self, record: Record, replace: Callable[[Path, bytes], None]) -> None:
        directory = self.directory(record.id)
        text = msgspec.json.format(msgspec.json.encode(record), indent=2)
        try:
            replace(directory / FILE, text)
        except OSError as error:
            raise HostError(
                f"cannot write `{directory / FILE}`: {(error.strerror or '').lower()}",
                "free space in the app directory, or choose another with `--app-dir`",
            ) from error
