"""An unprivileged user for the length of a tour, and a copy of the program that he can read.

The checkout may lie below a private directory and its interpreter below a private home, so the locked
environment is installed anew, from uv's cache, where everybody can read. Needs root.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demonstration.errors import DemoError

_CHECKOUT = Path(__file__).parents[2]
_SUBID_FILES = ("/etc/subuid", "/etc/subgid")


@dataclass(frozen=True, slots=True)
class Guest:
    """The user."""

    name: str
    uid: int
    gid: int


@contextmanager
def temporary_user(home: Path) -> Iterator[Guest]:
    """Make a user with subordinate ids whose home is `home`, made too; take him away at the end.

    Raises:
        DemoError: there is no `useradd`, or it refuses.
    """
    name = f"vapp-demo-{secrets.token_hex(2)}"
    _administer("useradd", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", name)
    try:
        entry = pwd.getpwnam(name)
        _give_subids(name)
        home.mkdir(mode=0o700)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        yield Guest(name, entry.pw_uid, entry.pw_gid)
    finally:
        _administer("userdel", "--force", name)


def has_traces(name: str) -> bool:
    """Tell whether the system's files still know the user."""
    files = ("/etc/passwd", "/etc/group", *_SUBID_FILES)
    return any(line.startswith(f"{name}:") for file in files for line in _read_lines(file))


def install_program(directory: Path, user: Guest) -> Path:
    """Install the locked environment and this demo below `directory`; returns its interpreter.

    Raises:
        DemoError: it cannot be installed, or the user cannot run it.
    """
    python = _readable_python(directory / "python")
    environment = directory / "venv"
    _uv("venv", "--quiet", "--python", str(python), str(environment))
    target = environment / "bin" / "python"
    install = ("pip", "install", "--quiet", "--python", str(target), "--constraint", "requirements.lock", ".[all]")
    try:
        # All of it is in the cache since scripts/setup, but uv may have to ask how versions relate.
        _uv(*install, "--offline")
    except DemoError:
        _uv(*install)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_CHECKOUT / "scripts", directory / "scripts", ignore=skip)
    _open_to_all(directory)
    if not _works(target, user):
        raise DemoError(
            f"`{sys.executable}` is out of reach of other users, and a copy of it does not work",
            "`apt-get install python3`, then `rm -r .venv`",
        )
    return target


def _readable_python(copy: Path) -> Path:
    """Return an interpreter that others can run: that of our environment, the system's, or a copy."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = (base, *(Path(directory, "python3") for directory in ("/usr/bin", "/usr/local/bin")))
    usable = (path for path in found if _is_open(path) and _works(path))
    return next(usable, None) or _copy_python(base, copy)


def _is_open(program: Path) -> bool:
    real = program.resolve()
    return real.exists() and all(place.stat().st_mode & 0o001 for place in (real, *real.parents))


def _works(program: Path, user: Guest | None = None) -> bool:
    check = "import ctypes, ssl, sys; sys.exit(sys.version_info < (3, 11))"
    return _call([str(program), "-c", check], cwd=Path("/"), user=user).returncode == 0


def _copy_python(base: Path, copy: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__", "test", "site-packages", "*.a")
    shutil.copytree(sys.base_prefix, copy, symlinks=True, ignore=skip)
    return copy / base.relative_to(Path(sys.base_prefix).resolve())


def _open_to_all(directory: Path) -> None:
    """Let everybody read, whatever the umask of root is."""
    for place, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode
                os.chmod(path, mode & 0o7777 | 0o444 | (0o111 if mode & 0o100 else 0))
    directory.chmod(0o755)


def _uv(*arguments: str) -> None:
    own = _CHECKOUT / ".tools" / "bin" / "uv"
    program = shutil.which("uv") or str(own)
    environment = {**os.environ, "UV_LINK_MODE": "copy", "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    if os.path.exists("/etc/ssl/certs/ca-certificates.crt"):
        environment["UV_SYSTEM_CERTS"] = "1"  # as scripts/setup does
    done = _call([program, *arguments], cwd=_CHECKOUT, env=environment)
    if done.returncode != 0:
        raise DemoError(f"cannot install the program for the user: {done.stderr.strip()}", "run `scripts/setup` first")


def _give_subids(name: str) -> None:
    """Make sure that the user has subordinate ids; useradd gives them where login.defs says so."""
    for file, option in zip(_SUBID_FILES, ("--add-subuids", "--add-subgids"), strict=True):
        lines = _read_lines(file)
        if any(line.startswith(f"{name}:") for line in lines):
            continue
        ranges = [line.split(":") for line in lines if line.count(":") == 2]
        first = max([100_000, *(int(start) + int(count) for _, start, count in ranges)])
        _administer("usermod", option, f"{first}-{first + 65535}", name)


def _administer(*argv: str) -> None:
    program = shutil.which(argv[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise DemoError(f"`{argv[0]}` is not installed", "`apt-get install passwd`")
    done = _call([program, *argv[1:]])
    if done.returncode != 0:
        raise DemoError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _call(
    argv: list[str], cwd: Path | None = None, env: dict[str, str] | None = None, user: Guest | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command out of reach of Ctrl-C: half a user would be left behind."""
    return subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        process_group=0,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
