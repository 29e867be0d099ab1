"""What a scenario is: a name, a paragraph, and a function that measures and returns rows.

Scenarios register by being listed in `bench.scenarios`. Out of scope: how rows are shown.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Row

#: Where data sets live: memory, so that no disk is measured.
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(slots=True)
class Result:
    """What a scenario found: rows for table and plot, and remarks such as rivals that could not take part."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Context:
    """How a scenario is to be run.

    Attributes:
        scratch: a directory for bundles and states, in memory where programs may run from there.
        data: a directory in memory for archives and stores.
        scale: 1 for numbers to publish, less to see that everything works.
    """

    scratch: Path
    data: Path
    scale: float = 1.0

    def rounds(self, full: int) -> int:
        """Return how often to run what is run `full` times at scale 1."""
        return max(2, round(full * self.scale))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One benchmark.

    Attributes:
        text: what it does, for BENCHMARKS.md.
        is_plotted: whether a bar chart says more than the table.
    """

    name: str
    text: str
    measure: Callable[[Context], Result]
    is_plotted: bool = True


@contextmanager
def open_context(scale: float) -> Iterator[Context]:
    """Make the directories of a run and remove them afterwards."""
    memory = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    # Programs are run from the scratch directory, which some machines forbid in shared memory.
    runs_programs = not os.statvfs(memory).f_flag & os.ST_NOEXEC
    scratch = Path(tempfile.mkdtemp(prefix="vapp-bench-", dir=memory if runs_programs else None))
    data = Path(tempfile.mkdtemp(prefix="vapp-bench-", dir=memory))
    scratch.chmod(0o755)  # the unprivileged user reads bundles below it
    try:
        yield Context(scratch, data, scale)
    finally:
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
