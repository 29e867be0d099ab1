"""Running an outside program to its end from a process that has no room for `subprocess`.

Out of scope: programs that read input or whose output matters; only their last words are kept.
"""

import os
import time

from container.errors import DeadlineError

#: Where setuid helpers live when PATH does not say: an ordinary user's PATH may lack the sbin ones.
_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")

_SIGKILL = 9

#: SIGPIPE and SIGXFSZ. An ignored signal stays ignored in the program, and pasta takes that for an error.
_IGNORED_BY_PYTHON = (13, 25)

_LOOK_EVERY_S = 0.0005
_MOST_WORDS = 4096


def find_program(name: str) -> "str | None":
    """Return the path of the program `name`; None if there is none."""
    for directory in (*os.environ.get("PATH", "").split(":"), *_DIRECTORIES):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def run_program(path: str, arguments: "list[str]", timeout_s: float) -> "tuple[int, list[str]]":
    """Run `path` until it exits; returns its exit code (128 and up: a signal) and its lines on stderr.

    A program that goes into the background counts as ended when its first process does.

    Raises:
        DeadlineError: it still ran after `timeout_s`; it was killed.
    """
    words = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, words, 2),
        ]
        environment = {"PATH": ":".join(_DIRECTORIES), "LC_ALL": "C"}
        pid = os.posix_spawn(path, [path, *arguments], environment, file_actions=actions, setsigdef=_IGNORED_BY_PYTHON)
        status = _wait(pid, path, timeout_s)
        return _exit_code(status), _lines(os.pread(words, _MOST_WORDS, 0))
    finally:
        os.close(words)


def _wait(pid: int, path: str, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, _SIGKILL)
            os.waitpid(pid, 0)
            raise DeadlineError(f"`{path}` did not end within {timeout_s:g} s", "look at the load of this machine")
        time.sleep(_LOOK_EVERY_S)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _lines(words: bytes) -> "list[str]":
    return [line.strip() for line in words.decode(errors="replace").splitlines() if line.strip()]
