"""How things are shown: tables, JSON, sizes, ages, progress. rich is loaded for a terminal only."""

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

import msgspec

from vappc.protocol import OutputData, ProgressData, output_bytes

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: by rich on a terminal, else plain text that `awk` and `cut` like."""
    if sys.stdout.isatty() and _print_rich(headers, rows):
        return
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    for row in (headers, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("   ".join(cells).rstrip() + "\n")


def write_output(found: OutputData, *, timestamps: bool = False) -> None:
    """Write a chunk of a container's output to our stdout or stderr, at once and unchanged."""
    stream = sys.stdout.buffer if found.stream == "stdout" else sys.stderr.buffer
    if timestamps and found.time:
        stream.write(f"{found.time} ".encode())
    stream.write(output_bytes(found))
    stream.flush()


def size(count: int) -> str:
    """Return `count` bytes in three digits."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def age(seconds: float, now: float | None = None) -> str:
    """Return how long ago a moment was, in one unit."""
    passed = max(0, int((time.time() if now is None else now) - seconds))
    for length, name in _AGES:
        if passed >= length:
            count = passed // length
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{passed} second{'s' if passed != 1 else ''}"


class ProgressLine:
    """Shows progress on stderr: one line that changes on a terminal, elsewhere what takes long, once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._told = False
        self._shown = False
        self.operation = ""

    def __call__(self, found: ProgressData) -> None:
        """Show one step."""
        self.operation = found.operation
        amount = f" {size(found.bytes_done)}/{size(found.bytes_total)}" if found.bytes_total else ""
        text = f"{found.percentage:3d}% {found.message}{amount}"
        if self._live:
            self._stream.write(f"\r\x1b[K{text[: _width() - 1]}")
            self._stream.flush()
            self._shown = True
        elif found.stage == "image" and found.percentage < 100 and not self._told:
            self._stream.write(f"{found.message}\n")
            self._told = True

    def note(self, text: str) -> None:
        """Tell somebody at a terminal something in passing."""
        if self._live:
            self._stream.write(f"\r\x1b[Kvappc: {text}\n")
            self._stream.flush()

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def _width() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in headers:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
    return True
