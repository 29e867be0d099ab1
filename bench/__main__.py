"""`scripts/bench [SCENARIO…]`: run scenarios, print a table, write plots and rows."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench import machine, plot
from bench.document import replace_section
from bench.measure import ContestantError
from bench.records import Record, make_records, write_records
from bench.scenario import Context, Result, Scenario, open_context
from bench.scenarios import ALL
from bench.settings import REPOSITORY
from bench.table import format_text

_QUICK = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 if a scenario found nothing."""
    parser = _parser()
    options = parser.parse_args(argv)
    names = [scenario.name for scenario in ALL]
    unknown = [name for name in options.scenario if name not in names]
    if unknown:
        parser.error(f"unknown scenario `{unknown[0]}`, there are {', '.join(names)}")
    signal.signal(signal.SIGTERM, _stop)
    if options.list:
        for scenario in ALL:
            print(f"{scenario.name}\n    {scenario.text}\n")
        return 0
    wanted = [scenario for scenario in ALL if scenario.name in (options.scenario or names)]
    plots = REPOSITORY / "docs" / "benchmarks" if options.write else options.plots
    plots.mkdir(parents=True, exist_ok=True)
    collected: list[Record] = []
    failed = False
    with open_context(_QUICK if options.quick else 1.0) as context:
        for scenario in wanted:
            records = _run(scenario, context, plots, write=options.write)
            failed |= not records
            collected += records
            if options.json:
                write_records(options.json, collected)
    print(f"plots are in {plots}", file=sys.stderr)
    return 1 if failed else 0


def _stop(*_: object) -> NoReturn:
    """End as by an exception, so that users, mounts and servers are removed; once, whoever asks again must wait."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def _run(scenario: Scenario, context: Context, plots: Path, *, write: bool) -> list[Record]:
    print(f"bench: {scenario.name} …", file=sys.stderr, flush=True)
    facts = machine.describe()
    try:
        result = scenario.measure(context)
    except ContestantError as error:
        result = Result(remarks=[str(error)])
    facts |= {"load_after": machine.load(), "scale": f"{context.scale:g}"}
    records = make_records(result.rows, facts)
    if records:
        print(format_text(records))
        plot.draw(scenario.name, records, plots / f"{scenario.name}.svg")
        if write:
            _publish(scenario, records, result.remarks)
    for remark in result.remarks:
        print(f"remark: {remark}")
    print(flush=True)
    return records


def _publish(scenario: Scenario, records: list[Record], remarks: list[str]) -> None:
    write_records(REPOSITORY / "bench" / "results" / f"{scenario.name}.json", records)
    page = REPOSITORY / "BENCHMARKS.md"
    page.write_text(replace_section(page.read_text(), scenario, records, remarks))


def _parser() -> argparse.ArgumentParser:
    names = [scenario.name for scenario in ALL]
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Run benchmarks side by side with rivals from Debian; as root for all of them.",
        epilog=f"scenarios: {', '.join(names)}",
    )
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="which to run (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        default=REPOSITORY / "build" / "bench",
        help="write plots to DIR (build/bench)",
    )
    parser.add_argument("--write", action="store_true", help="write BENCHMARKS.md, docs/benchmarks and bench/results")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the runs and of the data: to see that it works"
    )
    parser.add_argument("--list", action="store_true", help="tell what there is, and run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
