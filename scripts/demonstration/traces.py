"""What there is on the machine before and after, and which of it is ours.

Ours are all descendants of this process, which orphans cannot leave because it is their subreaper
(PR_SET_CHILD_SUBREAPER(2const)), all processes of the guest's ids, and every mount, cgroup, interface
and file in whose name a word of the tour occurs. So whatever else the machine does meanwhile does not
disturb the result. Out of scope: taking anything away.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("processes", "mounts", "cgroups", "interfaces", "files")

#: Where programs leave things that do not belong there; looked through two levels deep.
_PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/var/lib/vapp", "/home", "/etc/netns")
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Names of everything, by kind."""

    found: dict[str, frozenset[str]]

    def count(self, kind: str) -> int:
        """Return how many there are."""
        return len(self.found[kind])


def take() -> Snapshot:
    """Look at the machine."""
    return Snapshot(
        {
            "processes": frozenset(name for name in os.listdir("/proc") if name.isdigit()),
            "mounts": frozenset(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()),
            "cgroups": frozenset(_directories("/sys/fs/cgroup")),
            "interfaces": frozenset(os.listdir("/sys/class/net")),
            "files": frozenset(_files()),
        }
    )


def left_over(before: Snapshot, after: Snapshot, words: Sequence[str], uid: int | None) -> dict[str, list[str]]:
    """Return what is new and ours, by kind, but for processes; `uid` is the guest's, None without one."""
    new = {kind: after.found[kind] - before.found[kind] for kind in KINDS if kind != "processes"}
    return {kind: sorted(name for name in names if _is_ours(kind, name, words, uid)) for kind, names in new.items()}


def is_empty_parent(cgroup: str) -> bool:
    """Tell whether a cgroup is the one that all containers are below, with none in it."""
    return os.path.basename(cgroup) == "vapp" and not any(entry.is_dir() for entry in os.scandir(cgroup))


def wait_gone(uid: int | None) -> None:
    """Give processes that were told to end the time to do so."""
    deadline = time.monotonic() + _SETTLE_S
    while ours(uid) and time.monotonic() < deadline:
        time.sleep(0.02)


def ours(uid: int | None) -> set[int]:
    """Return the processes that descend from us or run as the guest; reaps those that have ended."""
    _reap()
    parents = dict(_parents())
    found: set[int] = set()
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found | {pid for pid in parents if uid is not None and _owner(pid) == uid}


def describe(pids: Iterable[int]) -> list[str]:
    """Return pid and command line of each."""
    return [f"{pid} {_command(pid)}" for pid in sorted(pids)]


def _is_ours(kind: str, name: str, words: Sequence[str], uid: int | None) -> bool:
    if any(word in name for word in words):
        return True
    if kind == "cgroups":
        return is_empty_parent(name)
    if kind == "files":
        return name == "/run/vapp" or (uid is not None and _owner_of_file(name) == uid)
    return False


def _directories(top: str) -> list[str]:
    return [place for place, _, _ in os.walk(top)]


def _files() -> list[str]:
    found = []
    for top in (*_PLACES, os.environ.get("TMPDIR", "")):
        for path in _entries(top):
            found.append(path)
            found += _entries(path)
    return found


def _entries(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path)]
    except OSError:
        return []  # no directory, not ours to read, or gone meanwhile


def _parents() -> list[tuple[int, int]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # ended meanwhile
            found.append((int(name), int(text.rpartition(")")[2].split()[1])))
    return found


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def _owner(pid: int) -> int | None:
    return _owner_of_file(f"/proc/{pid}")


def _owner_of_file(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended just now)"
