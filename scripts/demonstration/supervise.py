"""Around the tours: a directory, perhaps a user, one process per tour, and the proof that nothing is left.

Ctrl-C, SIGTERM and SIGHUP end the tour, which takes its things away; what it could not is taken away here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from container.linux.prctl import set_subreaper
from demonstration import guest, show, traces
from demonstration.errors import DemoError
from demonstration.tour import INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Visit:
    """One tour: for whom, and how it went.

    Attributes:
        uid: the guest's, None if it is for who calls.
        status: exit status of the tour's process.
        words: names of what the tour made.
        times: seconds of each step, if it came to the end.
        left: what is left of it, by kind.
    """

    name: str
    uid: int | None = None
    status: int = 0
    words: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)


class _Signals:
    """Passes what would end us on to the tour; `seen` is the first that came."""

    def __init__(self) -> None:
        self.seen = 0
        self.child = 0
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.seen = self.seen or number
        self.pass_on()

    def pass_on(self) -> None:
        """Tell the tour; it is in a process group of its own, so that a terminal tells only us."""
        if self.seen and self.child:
            os.kill(self.child, signal.SIGTERM)


def main() -> int:
    """Give the tours and return the exit status."""
    signals = _Signals()
    set_subreaper()
    visits: list[Visit] = []
    before = traces.take()
    for give in [_as_caller, _as_guest] if os.geteuid() == 0 else [_as_caller]:
        visits.append(give(signals))
        if signals.seen or visits[-1].status:
            break
    _remove_empty_parents(before)
    after = traces.take()
    clean = _show_traces(before, after, visits)
    if signals.seen:
        show.closing("interrupted" + ("; nothing is left" if clean else ""))
        return INTERRUPTED if clean else 1
    if any(visit.status for visit in visits) or not clean:
        return 1
    _show_times(visits)
    return 0


def _as_caller(signals: _Signals) -> Visit:
    visit = Visit("root" if os.geteuid() == 0 else "you")
    show.heading(f"4lock-core as {'root' if os.geteuid() == 0 else 'an ordinary user, without root'}")
    with ExitStack() as stack:
        stage = _stage(stack)
        home = stage / "home"
        home.mkdir(mode=0o700)
        _give(visit, signals, [sys.executable, str(_script())], home)
    return visit


def _as_guest(signals: _Signals) -> Visit:
    visit = Visit("user")
    with ExitStack() as stack:
        stage = _stage(stack)
        stage.chmod(0o755)
        user = stack.enter_context(guest.temporary_user(stage / "home"))
        visit.name, visit.uid = user.name, user.uid
        show.heading(f"4lock-core as {user.name} (uid {user.uid}), an ordinary user made for this, without root")
        program = guest.install_program(stage / "program", user)
        show.note("the locked environment is installed where this user can read it")
        if not signals.seen:
            script = stage / "program" / "scripts" / "demo.py"
            _give(visit, signals, [str(program), str(script)], stage / "home", user)
    if guest.has_traces(visit.name):
        visit.left["files"] = [*visit.left.get("files", []), f"user {visit.name} in /etc"]
    return visit


def _script() -> Path:
    return Path(__file__).parents[1] / "demo.py"


def _stage(stack: ExitStack) -> Path:
    stage = Path(tempfile.mkdtemp(prefix="vapp-demo-"))
    stack.callback(_remove, stage)
    return stage


def _remove(directory: Path) -> None:
    for place, folders, _ in os.walk(directory):
        for name in folders:
            path = Path(place, name)
            if not path.is_symlink() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                path.chmod(0o700)  # overlay makes its work directories with mode 000
    shutil.rmtree(directory)


def _give(visit: Visit, signals: _Signals, argv: list[str], home: Path, user: guest.Guest | None = None) -> None:
    """Run one tour and wait for it and for what it started."""
    source, target = os.pipe()
    process = subprocess.Popen(
        [*argv, "--tour", str(home), "--report", str(target)],
        cwd="/",
        env=_environment(home, user),
        stdin=subprocess.DEVNULL,
        pass_fds=(target,),
        process_group=0,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )
    os.close(target)
    signals.child = process.pid
    signals.pass_on()
    with os.fdopen(source, encoding="utf-8") as report:
        _read_report(visit, report)
    visit.status = _wait(process.pid)
    process.returncode = visit.status
    signals.child = 0
    _end_rest(visit)


def _read_report(visit: Visit, lines: Iterable[str]) -> None:
    for line in lines:
        found = json.loads(line)
        visit.words = found.get("words", visit.words)
        visit.times = found.get("times", visit.times)


def _environment(home: Path, user: guest.Guest | None) -> dict[str, str]:
    """Let everything that a program may write for its user land in the tour's directory."""
    scratch, runtime = home / "tmp", home / "xdg"
    for directory in (scratch, runtime):
        directory.mkdir(mode=0o700)
        if user is not None:
            os.chown(directory, user.uid, user.gid)
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("VAPP", "XDG_", "SUDO_"))}
    name = {"USER": user.name, "LOGNAME": user.name} if user else {}
    return {
        **keep,
        **name,
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "XDG_RUNTIME_DIR": str(runtime),
        "COLUMNS": "110",
    }


def _wait(pid: int) -> int:
    """Reap whatever ends, as init would, until `pid` does; returns its status."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _end_rest(visit: Visit) -> None:
    """Note which processes the tour left, and end them."""
    traces.wait_gone(visit.uid)
    left = traces.ours(visit.uid)
    visit.left["processes"] = traces.describe(left)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    traces.wait_gone(visit.uid)


def _remove_empty_parents(before: traces.Snapshot) -> None:
    """Remove the cgroups that the platform keeps for further containers, if they were not there before."""
    for path in traces.take().found["cgroups"] - before.found["cgroups"]:
        try:
            if traces.is_empty_parent(path):
                os.rmdir(path)
        except OSError:
            continue  # gone, or somebody else's by now


def _show_traces(before: traces.Snapshot, after: traces.Snapshot, visits: Sequence[Visit]) -> bool:
    """Print what is left, and tell whether that is nothing."""
    left: dict[str, list[str]] = {kind: [] for kind in traces.KINDS}
    for visit in visits:
        for found in (visit.left, traces.left_over(before, after, visit.words, visit.uid)):
            for kind, names in found.items():
                left[kind] += names
    rows = [(kind, str(before.count(kind)), str(after.count(kind)), str(len(left[kind]))) for kind in traces.KINDS]
    show.table(("on this machine", "before", "after", "left by us"), rows)
    names = [f"{kind}: {name}" for kind in traces.KINDS for name in left[kind]]
    if names:
        show.failure(DemoError("the demo left something behind\n  " + "\n  ".join(names)))
    return not names


def _show_times(visits: Sequence[Visit]) -> None:
    rows = [(step, *(f"{visit.times[step]:.2f}" for visit in visits)) for step in visits[0].times]
    total = ("together", *(f"{sum(visit.times.values()):.2f}" for visit in visits))
    show.table(("seconds", *(f"as {visit.name}" for visit in visits)), [*rows, total])
    show.closing("all went well, and nothing is left")
