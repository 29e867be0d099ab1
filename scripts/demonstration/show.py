"""What a person sees: headings, commands, their output, tables. Colour only where a terminal is.

Out of scope: deciding anything.
"""

import os
import sys
from collections.abc import Sequence

from demonstration.errors import DemoError

_BAR = "    | "
_COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def heading(text: str) -> None:
    """Begin a part."""
    print(f"\n{_paint('1', text)}\n{_paint('2', '=' * len(text))}", flush=True)


def step(number: int, title: str) -> None:
    """Begin a step."""
    print(f"\n{_paint('1', f'{number:2}  {title}')}", flush=True)


def command(text: str) -> None:
    """Show what a user would type."""
    print(f"    {_paint('36', '$ ' + text)}", flush=True)


def output(text: str) -> None:
    """Show a line that a command wrote."""
    print(f"{_paint('2', _BAR)}{text}".rstrip(), flush=True)


def note(text: str) -> None:
    """Say something in our own words."""
    print(f"    {text}", flush=True)


def failure(error: DemoError) -> None:
    """Show what went wrong."""
    sys.stdout.flush()
    print(f"\ndemo: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    print("\n" + "\n".join(format_table(headers, rows)), flush=True)


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for row in (headers, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(("    " + "   ".join(cells)).rstrip())
    return [_paint("1", lines[0]), *lines[1:]]


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOURED else text
