"""BENCHMARKS.md: the part of each scenario between its markers is written from bench/results.

Out of scope: the words outside of the markers; they are written by hand.
"""

import re
from collections.abc import Sequence

from bench.records import Record
from bench.scenario import Scenario
from bench.table import format_markdown


def replace_section(text: str, scenario: Scenario, records: Sequence[Record], remarks: Sequence[str]) -> str:
    """Return the document with the section of `scenario` written anew; one without markers goes to the end. PURE."""
    opening, closing = f"<!-- bench {scenario.name} -->", f"<!-- end {scenario.name} -->"
    section = f"{opening}\n{_section(scenario, records, remarks)}\n{closing}"
    pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section, text)
    return f"{text.rstrip()}\n\n{section}\n"


def _section(scenario: Scenario, records: Sequence[Record], remarks: Sequence[str]) -> str:
    machine = records[0]["machine"]
    parts = [
        f"## {scenario.name}",
        scenario.text,
        f"    scripts/bench {scenario.name}",
        format_markdown(records),
        f"![{scenario.name}](docs/benchmarks/{scenario.name}.svg)" if scenario.is_plotted else "",
        "\n".join(f"- {' '.join(remark.split())}" for remark in remarks),
        _origin(machine),
    ]
    return "\n\n".join(part for part in parts if part)


def _origin(machine: dict[str, str]) -> str:
    return (
        f"{machine['date']}, Linux {machine['kernel']}, {machine['processor']}, {machine['memory']}, "
        f"cgroups {machine['cgroups']}, load {machine['load']} before and {machine['load_after']} after, "
        f"commit {machine['commit']}. {_versions(machine)}{_scale(machine)}"
    )


def _scale(machine: dict[str, str]) -> str:
    return "" if machine["scale"] == "1" else f" **With {machine['scale']} of the runs and data: not to be quoted.**"


def _versions(machine: dict[str, str]) -> str:
    names = ("crun", "runc", "conmon", "docker-registry", "bsdtar", "tar")
    versions = [machine[name] if name in machine[name] else f"{name} {machine[name]}" for name in names]
    return f"Python {machine['python']}; {'; '.join(versions)}."
