"""Results as JSON: a list of rows, one a line, each complete with machine, date and load.

Out of scope: comparing runs with one another; they happened at different times.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measure import Row

Record = dict[str, Any]


def make_records(rows: Iterable[Row], facts: Mapping[str, str]) -> list[Record]:
    """Return rows as plain data with what is known of the machine."""
    return [asdict(row) | {"machine": dict(facts)} for row in rows]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write `records` to `path`."""
    lines = ",\n".join(json.dumps(record) for record in records)
    path.write_text(f"[\n{lines}\n]\n")


def read_records(path: Path) -> list[Record]:
    """Return what `write_records` wrote."""
    return list(json.loads(path.read_text()))
