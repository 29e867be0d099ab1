"""Rows as text for a terminal and as Markdown. Pure."""

from collections.abc import Sequence

from bench.records import Record

_HEAD = ("metric", "unit", "ours", "rival", "is", "ours / rival", "n")
_NUMBERS = (2, 3, 5, 6)


def format_text(records: Sequence[Record]) -> str:
    """Return a table in columns."""
    rows = [("scenario", *_HEAD), *((record["scenario"], *_cells(record)) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = [column + 1 for column in _NUMBERS]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_markdown(records: Sequence[Record]) -> str:
    """Return a Markdown table; the spread is that of the middle 80 % of the runs."""
    rule = ["---:" if column in _NUMBERS else "---" for column in range(len(_HEAD))]
    lines = [_line(_HEAD), _line(rule)]
    for record in records:
        cells = list(_cells(record))
        cells[2] += _spread(record["ours_spread"])
        cells[3] += _spread(record["rival_spread"])
        lines.append(_line(cells))
    return "\n".join(lines)


def format_number(value: float | None) -> str:
    """Return `value` with three digits that mean something."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cells(record: Record) -> tuple[str, ...]:
    ratio = "" if record["ratio"] is None else f"{record['ratio']:.2f}"
    return (
        record["metric"],
        record["unit"],
        format_number(record["ours"]),
        format_number(record["rival"]),
        record["rival_name"],
        ratio,
        str(record["n"]),
    )


def _spread(values: Sequence[float] | None) -> str:
    return f" ({format_number(values[0])} to {format_number(values[1])})" if values else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
