"""What a person sees: headings, commands, their output, tables. Colour only where a terminal is.

Out of scope: deciding anything.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from demonstration.errors import DemoError

_BAR = "    | "
_WIDTH = 104
_COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def heading(text: str) -> None:
    """Begin a part."""
    print(f"\n{_paint('1', text)}\n{_paint('2', '=' * len(text))}", flush=True)


def step(number: int, title: str) -> None:
    """Begin a step."""
    print(f"\n{_paint('1', f'{number:2}  {title}')}", flush=True)


def command(*argv: str, background: bool = False) -> None:
    """Show a command as a user would type it, over several lines if it is long."""
    typed("\n".join(format_command([*map(shlex.quote, argv), *(["&"] if background else [])])))


def typed(text: str) -> None:
    """Show words of a shell."""
    print(f"    {_paint('36', '$ ' + text)}", flush=True)


def format_command(words: Sequence[str]) -> list[str]:
    """Return words as lines that a shell reads as one."""
    lines, line = [], words[0]
    for word in words[1:]:
        if len(line) + len(word) > _WIDTH:
            lines.append(f"{line} \\")
            line = f"{' ' * 8}{word}"
        else:
            line += f" {word}"
    return [*lines, line]


def output(text: str) -> None:
    """Show a line that a command wrote."""
    print(f"{_paint('2', _BAR)}{text}".rstrip(), flush=True)


def note(text: str) -> None:
    """Say something in our own words."""
    print(f"    {text}", flush=True)


def closing(text: str) -> None:
    """Say the last words."""
    print(f"\n    {_paint('1', text)}", flush=True)


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
