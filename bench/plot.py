"""One SVG per scenario: bars, ours beside the rivals, on the same scale within a unit.

Out of scope: anything that a reader must know; that is in the table.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records import Record
from bench.table import format_number

_OURS = "#2a6f97"
_RIVALS = ("#bc6c25", "#8d99ae", "#6a994e", "#9d4edd")
_BAR_INCHES = 0.27


def draw(name: str, records: Sequence[Record], path: Path) -> None:
    """Draw the rows of one scenario into the SVG `path`; one panel per unit."""
    import matplotlib as mpl  # only here: not everybody who measures wants to wait for it

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 8}
    from matplotlib import pyplot as plt

    units = list(dict.fromkeys(record["unit"] for record in records))
    panels = [bars([record for record in records if record["unit"] == unit]) for unit in units]
    heights = [len(panel) + 2 for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(8, max(2.0, sum(heights) * _BAR_INCHES)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    colours = _colours(records)
    for axis, panel, unit in zip(axes[:, 0], panels, units, strict=True):
        _draw_panel(axis, panel, unit, colours)
    machine = records[0]["machine"]
    figure.suptitle(f"{name}  ({machine['date']}, Linux {machine['kernel']}, load {machine['load'].split()[0]})")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # matplotlib ends some lines with a blank
    path.write_text(re.sub(r"[ \t]+\n", "\n", path.read_text()))


def bars(records: Sequence[Record]) -> list[tuple[str, str, float, tuple[float, float] | None]]:
    """Return label, who, value and spread of each bar; ours once per metric, then its rivals. PURE."""
    found: list[tuple[str, str, float, tuple[float, float] | None]] = []
    seen: set[tuple[str, str]] = set()
    for record in records:
        where, colon, who = record["metric"].rpartition(": ")
        ours = who if colon and who in ("shim", "vapp-oci") else "ours"
        label = where if ours != "ours" else record["metric"]
        for name, key in ((ours, "ours"), (record["rival_name"], "rival")):
            if record[key] is not None and (label, name) not in seen:
                seen.add((label, name))
                found.append((label, name, record[key], record[f"{key}_spread"]))
    # The rivals of the same place stand together with all of ours.
    order = list(dict.fromkeys(bar[0] for bar in found))
    return sorted(found, key=lambda bar: order.index(bar[0]))


def _colours(records: Sequence[Record]) -> dict[str, str]:
    names = list(dict.fromkeys(record["rival_name"] for record in records if record["rival_name"]))
    rivals = {name: _RIVALS[index % len(_RIVALS)] for index, name in enumerate(names)}
    return {"ours": _OURS, "shim": _OURS, "vapp-oci": "#61a5c2"} | rivals


def _draw_panel(axis: Any, panel: Sequence[Any], unit: str, colours: dict[str, str]) -> None:
    for row, (_, name, value, spread) in enumerate(panel):
        axis.barh(row, value, color=colours[name], height=0.8)
        if spread:
            axis.plot(spread, (row, row), color="black", linewidth=0.8)
        axis.annotate(
            format_number(value), (max(value, (spread or (0, 0))[1]), row), (3, -3), textcoords="offset points"
        )
    axis.set_yticks(range(len(panel)), [label if name == "ours" else f"{label}: {name}" for label, name, *_ in panel])
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.margins(x=0.12)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
