"""Shared by the tests on the real kernel: an ordinary user, and a check that nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from container.cgroups import hierarchy

IS_ROOT = os.geteuid() == 0

#: How long something that is on its way out may take; other runs on this machine come and go too.
_GRACE_S = 3.0


class User:
    """An ordinary user with subordinate ids."""

    def __init__(self, name: str, uid: int, gid: int, home: Path) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home
        self.runtime_dir = home / "runtime"
        self._others: set[int] = set()
        self.environment = {
            "HOME": str(home),
            "USER": name,
            "LOGNAME": name,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
        }

    def run(self, argv: list[str], timeout_s: float = 20, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `argv` as this user; output is text."""
        identity = {"user": self.uid, "group": self.gid, "extra_groups": []} if IS_ROOT else {}
        return subprocess.run(
            argv,
            env=self.environment | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **identity,  # type: ignore[call-overload]
        )

    def python(self, code: str, *arguments: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        """Run Python `code` as this user with our packages at hand."""
        return self.run([sys.executable, "-I", "-c", code, *arguments], timeout_s)

    def make_dir(self, name: str) -> Path:
        """Return a new directory of this user's."""
        path = self.home / name
        path.mkdir()
        if IS_ROOT:
            os.chown(path, self.uid, self.gid)
        return path

    def overlook_others(self) -> None:
        """Take what runs under this id now for somebody else's."""
        self._others = set(self.processes())

    def processes(self) -> list[int]:
        """Return what runs under this user's id and began here."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and entry.stat().st_uid == self.uid and not _is_zombie(entry):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return [pid for pid in found if pid not in self._others]

    def kill_all(self) -> None:
        """Kill everything that runs under this user's id; only for a user made for the tests."""
        while pids := self.processes():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(scope="session")
def user() -> Iterator[User]:
    """An ordinary user with subordinate ids, home and runtime directory; as non-root the one who runs this."""
    home = Path(tempfile.mkdtemp(prefix="vapp-user-"))
    home.chmod(0o755)
    try:
        if not IS_ROOT:
            one = User(os.environ.get("USER", ""), os.geteuid(), os.getegid(), home)
            one.overlook_others()
            yield _prepare(one)
            return
        one = _add_user(home)
        try:
            yield _prepare(one)
        finally:
            one.kill_all()
            subprocess.run(["userdel", one.name], check=True, capture_output=True)
    finally:
        shutil.rmtree(home)


def _add_user(home: Path) -> User:
    for tool in ("useradd", "userdel", "usermod"):
        if shutil.which(tool) is None:
            pytest.skip(f"`{tool}` is not installed")
    name = f"vapptest{os.getpid()}"
    subprocess.run(["useradd", "--home-dir", str(home), "--no-create-home", name], check=True)
    fields = _passwd(name)
    one = User(name, int(fields[2]), int(fields[3]), home)
    if f"{name}:" not in Path("/etc/subuid").read_text():
        span = "300000-365535"
        subprocess.run(["usermod", "--add-subuids", span, "--add-subgids", span, name], check=True)
    return one


def _passwd(name: str) -> list[str]:
    lines = Path("/etc/passwd").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}:")).split(":")


def _prepare(one: User) -> User:
    one.runtime_dir.mkdir(mode=0o700)
    if IS_ROOT:
        os.chown(one.home, one.uid, one.gid)
        os.chown(one.runtime_dir, one.uid, one.gid)
    probe = one.python("import container.errors")
    if probe.returncode != 0:
        pytest.skip(f"an ordinary user cannot run `{sys.executable}` with our packages: {probe.stderr[-200:]}")
    return one


@pytest.fixture
def tun() -> Iterator[None]:
    """/dev/net/tun, open to everybody for one test."""
    device = Path("/dev/net/tun")
    if not device.exists():
        pytest.skip("/dev/net/tun is missing")
    mode = device.stat().st_mode & 0o777
    if mode & 0o006 != 0o006:
        if not IS_ROOT:
            pytest.skip("/dev/net/tun is not open to this user")
        device.chmod(0o666)
    try:
        yield
    finally:
        if device.stat().st_mode & 0o777 != mode:
            device.chmod(mode)


@pytest.fixture
def root_only() -> None:
    """Skip unless the tests run as root."""
    if not IS_ROOT:
        pytest.skip("needs root")


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], str]:
    """Run a function in a forked child that may ruin itself; returns the `repr` of its result."""
    return run_in_child


def run_in_child(action: Callable[[], object]) -> str:
    """Fork, run `action`, return the `repr` of what it returned or raised."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = repr(action())
            except BaseException as error:
                answer = repr(error)
            os.write(target, answer.encode())
        finally:
            os._exit(0)
    os.close(target)
    with open(source, "rb") as file:
        answer = file.read().decode()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a mount, a cgroup, a child or a descriptor behind."""
    if "user" in request.fixturenames:
        request.getfixturevalue("user")  # made before the look, removed after the last one
    hierarchy.forget()
    before = _inventory()
    yield
    hierarchy.forget()
    deadline = time.monotonic() + _GRACE_S
    while (left := _difference(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"left behind: {left}"


def _inventory() -> dict[str, set[str]]:
    return {"mounts": _mounts(), "cgroups": _cgroups(), "children": _children(), "fds": _descriptors()}


def _difference(before: dict[str, set[str]]) -> dict[str, set[str]]:
    now = _inventory()
    return {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}


def _mounts() -> set[str]:
    """Return the mounts in places that tests make; other programs of this machine mount elsewhere."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {point for point in points if "/pytest-" in point or "vapp" in point}


def _cgroups() -> set[str]:
    """Return the empty cgroups below those called `vapp`; that one itself is kept for the next container."""
    found = set()
    for mount in hierarchy.parse_mountinfo(Path("/proc/self/mountinfo").read_text()):
        found |= {str(path) for path in Path(mount.mountpoint, "vapp").glob("*/") if _is_empty(path)}
    return found


def _is_empty(cgroup: Path) -> bool:
    """Tell a cgroup that somebody left from one that somebody else on this machine is using."""
    try:
        return not any(path.read_text() for path in cgroup.rglob("cgroup.procs"))
    except OSError:
        return False


def _children() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _descriptors() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {os.readlink(entry)}")
        except FileNotFoundError:
            continue  # the one that lists
    return found
