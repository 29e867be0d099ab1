"""`scripts/demo`: give the tour as who calls, as root also as a made-up user; then prove that nothing is left.

Out of scope: the tour itself (demonstration.tour), which runs in a process of its own.
"""

import argparse
import os
import sys
from pathlib import Path

from demonstration import show, supervise, tour
from demonstration.errors import DemoError

from container.errors import ContainerError


def main(argv: list[str]) -> int:
    """Give the demonstration, or (as our own child) one tour of it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tour", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        if options.tour is not None:
            return tour.main(options.tour, options.report)
        return supervise.main()
    except DemoError as error:
        show.failure(error)
    except ContainerError as error:
        show.failure(DemoError(error.message, error.hint))
    except BrokenPipeError:
        # Whoever read our output has had enough; the second flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
