"""Read what a container wrote: the CRI log format, from a file that may grow, rotate or be cut.

A line is `<RFC 3339 time> <stdout|stderr> <P|F> <text>`: F ends with a newline that the container wrote, P
does not. The shim writes it; this module only reads.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from asyncinotify import Inotify, Mask

from container.intent import Stream

_READ_BYTES = 1 << 16
_CHANGES = Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO
#: inotify is how we hear of changes; this bounds what a lost event could cost.
_RECHECK_S = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk of output."""

    time: str
    stream: Stream
    text: bytes


def parse_line(line: bytes) -> Entry | None:
    """Return the entry of one line without its newline; None if it is no log line."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    text = parts[3] if parts[2] == b"P" else parts[3] + b"\n"
    return Entry(parts[0].decode("ascii", "replace"), "stdout" if parts[1] == b"stdout" else "stderr", text)


def seconds(time: str) -> float:
    """Return the unix seconds of an RFC 3339 time, 0 if it is none."""
    main, dot, rest = time.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    try:
        whole = datetime.fromisoformat(f"{main}{rest[digits:]}" if dot else main).timestamp()
    except ValueError:
        return 0.0
    return whole + (float(f"0.{rest[:digits]}") if digits else 0.0)


class LogFile:
    """A log by path, read forward; it notices when another file has taken the path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> Iterator[Entry]:
        """Yield what was added since the last call, in the old file first after a rotation."""
        while True:
            if self._fd < 0 and not self._open():
                return
            yield from self._read_file()
            if not self._is_replaced():
                return
            self.close()
            self._rest = b""

    def skip_to_tail(self, lines: int) -> None:
        """Go to where the last `lines` full lines begin."""
        if self._fd >= 0 or self._open():
            os.lseek(self._fd, _tail_offset(self._fd, lines), os.SEEK_SET)

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _read_file(self) -> Iterator[Entry]:
        if not os.fstat(self._fd).st_size:
            # Emptied in place by a rotation. A shim that took over cuts off a little of what it writes
            # again, byte for byte: then our place in the file stays right.
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._rest = b""
        while data := os.read(self._fd, _READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                entry = parse_line(line)
                if entry is not None:
                    yield entry

    def _is_replaced(self) -> bool:
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)


async def read(
    path: Path, *, ended: asyncio.Event | None = None, since: float | None = None, tail: int | None = None
) -> AsyncIterator[Entry]:
    """Yield the entries of the log at `path`; with `ended` go on until that is set and all is read."""
    log = LogFile(path)
    try:
        if tail is not None:
            log.skip_to_tail(tail)
        with _Changes(path.parent) if ended is not None else _Nothing() as changes:
            while True:
                # Asked before reading: what was written up to the end is then surely read.
                last = ended is None or ended.is_set()
                for entry in log.read():
                    if since is None or seconds(entry.time) >= since:
                        yield entry
                if last or ended is None:
                    return
                await changes.wait(ended)
    finally:
        log.close()


class _Nothing:
    """No watching at all, for a log that is read once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def wait(self, ended: asyncio.Event) -> None:
        await ended.wait()


class _Changes(_Nothing):
    """Watches a directory: the file itself may be replaced."""

    def __init__(self, directory: Path) -> None:
        self._inotify = Inotify()
        self._inotify.add_watch(directory, _CHANGES)

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    async def wait(self, ended: asyncio.Event) -> None:
        changed = asyncio.ensure_future(self._inotify.get())
        finished = asyncio.ensure_future(ended.wait())
        waiting = {changed, finished}
        try:
            await asyncio.wait(waiting, timeout=_RECHECK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def _tail_offset(fd: int, lines: int) -> int:
    """Return where the last `lines` lines begin; a P line is part of the line that it continues."""
    end = os.fstat(fd).st_size
    if lines == 0:
        return end
    position, buffer = end, b""
    while position > 0:
        step = min(_READ_BYTES, position)
        position -= step
        buffer = os.pread(fd, step, position) + buffer
        starts = _line_starts(buffer, complete=position == 0)
        if len(starts) >= lines:
            return position + starts[-lines]
    return 0


def _line_starts(buffer: bytes, *, complete: bool) -> list[int]:
    """Return the offsets in `buffer` at which a line of the container begins, on either stream."""
    starts: list[int] = []
    begins: dict[bytes, bool] = {}
    offset = 0
    for number, line in enumerate(buffer.split(b"\n")[:-1]):
        parts = line.split(b" ", 3)
        stream, tag = (parts[1], parts[2]) if len(parts) == 4 else (b"", b"F")
        # The first line of a piece from the middle may be cut anywhere.
        if begins.get(stream, complete or number > 0):
            starts.append(offset)
        begins[stream] = tag != b"P"
        offset += len(line) + 1
    return starts
