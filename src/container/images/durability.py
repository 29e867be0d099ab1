"""Know which layers a power loss may have torn.

Waiting for the disk after each layer would double the time of a pull, so layers are written without. But an
image must not be believed after a reboot whose files never reached the disk. Therefore the layers are noted
durably, with the id of this boot, before an image that uses them is entered; then the file system is synced in
the background and the note is taken back. A note from another boot names layers that may be torn.
"""

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

import msgspec

from container.errors import HostError
from container.images.store import replace_durably

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Note(msgspec.Struct):
    boot_id: str = ""
    layers: list[str] = []
    version: int = 1


class Durability:
    """The note of one store, and the syncs under way.

    Args:
        directory: of the store.
        boot_id: of this boot.
    """

    def __init__(self, directory: Path, boot_id: str = "") -> None:
        self._path = directory / "unsynced.json"
        self._layers = directory / "layers"
        self._boot_id = boot_id or _BOOT_ID.read_text("ascii").strip()
        self._syncs: set[asyncio.Task[None]] = set()

    def torn(self) -> set[str]:
        """Return the diff ids of layers that were not synced before the machine went down."""
        note = self._read()
        return set(note.layers) if note.boot_id != self._boot_id else set()

    def note(self, diff_ids: Collection[str]) -> None:
        """Note that layers are written but not synced; what an earlier boot noted must be dealt with by now."""
        known = self._read()
        layers = set(known.layers) if known.boot_id == self._boot_id else set()
        self._write(layers.union(diff_ids))

    def clear(self, diff_ids: Collection[str]) -> None:
        """Take back a note."""
        layers = set(self._read().layers) - set(diff_ids)
        if layers:
            self._write(layers)
        else:
            self._path.unlink(missing_ok=True)

    def sync_soon(self, diff_ids: Collection[str]) -> None:
        """Sync the file system in the background, then take back the note."""
        task = asyncio.get_running_loop().create_task(self._sync(diff_ids))
        self._syncs.add(task)
        task.add_done_callback(self._syncs.discard)

    async def settle(self) -> None:
        """Wait for all syncs."""
        await asyncio.gather(*self._syncs)

    async def _sync(self, diff_ids: Collection[str]) -> None:
        # A process: syncfs(2) takes as long as the disk does and nothing can interrupt it.
        try:
            process = await asyncio.create_subprocess_exec("sync", "-f", self._layers)
            status = await process.wait()
            if status == 0:
                self.clear(diff_ids)
        except (OSError, HostError) as error:
            logger.warning("cannot sync the image store error=%s", error)

    def _read(self) -> _Note:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Note)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return _Note(self._boot_id)

    def _write(self, layers: Collection[str]) -> None:
        try:
            replace_durably(self._path, msgspec.json.encode(_Note(self._boot_id, sorted(layers))))
        except OSError as error:
            text = (error.strerror or "").lower()
            raise HostError(f"cannot write `{self._path}`: {text}", "free space, or make it writable") from error
