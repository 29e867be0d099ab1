"""`vappc doctor`: what this machine can do, and exactly how to get what it cannot."""

import argparse
import sys
from pathlib import Path

from container.paths import default_app_dir
from vappc.cli import exits
from vappc.cli.output import print_json


def configure(_: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the verb's options."""
    parser.add_argument("--app-dir", type=Path, metavar="DIR", help="of the daemon (default: ~/.vapp)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Do it; the status says whether something essential is missing."""
    # It imports what the daemon is made of; completion and help need none of that.
    from container.doctor import findings

    found = findings(options.app_dir or default_app_dir())
    if options.json:
        fields = ("name", "ok", "severity", "detail", "fix")
        print_json([{field: getattr(finding, field) for field in fields} for finding in found])
    else:
        for finding in found:
            mark = "ok" if finding.ok else finding.severity
            sys.stdout.write(f"{mark:8} {finding.name}: {finding.detail}\n")
            if not finding.ok and finding.fix:
                sys.stdout.write(f"{'':8} fix: {finding.fix}\n")
    return exits.FAILED if any(not finding.ok and finding.severity == "error" for finding in found) else 0
