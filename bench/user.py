"""An unprivileged user with subordinate ids, made for one run and removed after it."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bundle import Ids
from bench.measure import ContestantError

_SPAN = 65536
_FIRST = 400000


@dataclass(frozen=True, slots=True)
class User:
    """Who runs the rootless contestants."""

    name: str
    ids: Ids
    home: Path

    def prefix(self) -> list[str]:
        """Return the words that run a command as this user, if we are not that already."""
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={self.ids.uid}", f"--regid={self.ids.gid}", "--clear-groups", "--"]

    def environment(self) -> dict[str, str]:
        """Return its environment."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.home / "run"),
        }


@contextmanager
def open_user(directory: Path) -> Iterator[User]:
    """Yield the user: ourselves, or as root one made for it.

    Raises:
        ContestantError: this host has no subordinate ids for us, or users cannot be made.
    """
    is_root = os.geteuid() == 0
    name = f"vappbench{os.getpid()}" if is_root else pwd.getpwuid(os.getuid()).pw_name
    home = directory / "home"
    if is_root:
        _add(name, home)
    try:
        (home / "run").mkdir(mode=0o700, parents=True)
        entry = pwd.getpwnam(name)
        for path in (home, home / "run"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        first = _subordinate("/etc/subuid", name), _subordinate("/etc/subgid", name)
        yield User(name, Ids(entry.pw_uid, entry.pw_gid, *first), home)
    finally:
        if is_root:
            _remove(name)
        shutil.rmtree(home, ignore_errors=True)


def _add(name: str, home: Path) -> None:
    span = f"{_FIRST}-{_FIRST + _SPAN - 1}"
    home.mkdir(mode=0o755)
    for argv in (
        ["useradd", "--home-dir", str(home), "--no-create-home", name],
        ["usermod", "--add-subuids", span, "--add-subgids", span, name],
    ):
        if shutil.which(argv[0]) is None:
            raise ContestantError(f"`{argv[0]}` is not installed")
        subprocess.run(argv, check=True, capture_output=True)


def _remove(name: str) -> None:
    uid = pwd.getpwnam(name).pw_uid
    deadline = time.monotonic() + 10
    while (pids := _processes(uid)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
    subprocess.run(["userdel", name], check=True, capture_output=True)


def _processes(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _subordinate(file: str, name: str) -> int:
    for line in Path(file).read_text().splitlines():
        owner, first, size = line.split(":")
        if owner == name and int(size) >= _SPAN - 1:
            return int(first)
    raise ContestantError(f"`{file}` has no range of {_SPAN} ids for `{name}`")
