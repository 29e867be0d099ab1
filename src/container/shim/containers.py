"""The shim's containers: one object each, from the request that makes it to the one that deletes it.

A container begins as a `launch.Launch` whose channel is in the event loop; when its program runs there
remain a pidfd, the log pump, and what is on disk. What must survive this process is written before it
is acted on: state.json before the program may start, exit.json before the exit is reaped or told.
"""

import json
import os
import signal
import time

from container.errors import ContainerError, ExistsError, LaunchError, StateError
from container.linux._libc import SyscallError
from container.linux.files import read_file, replace_file
from container.linux.process import (
    exit_code,
    is_alive,
    open_verified,
    pidfd_exit_status,
    pidfd_send_signal,
    process_state,
    zombie_status,
)
from container.runtime import launch as launching
from container.runtime import lifecycle
from container.runtime.state import State, remove_directory
from container.runtime.state import load as load_state
from container.shim.logs import Pump
from container.spec import config as specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from container.spec.types import Config

#: Exit code of a container whose end nobody of ours could see; told with `"known": false`.
UNKNOWN_EXIT = 255


#: How long a stopped process may take to stand still; one in a system call finishes that first.
STOP_TIMEOUT_S = 1.0


class Exit:
    """How a program ended; `finished` in seconds since the epoch."""

    __slots__ = ("code", "finished", "known", "oom", "signal")

    def __init__(self, status: "int | None", finished: float, oom: bool = False) -> None:
        self.known = status is not None
        self.code = UNKNOWN_EXIT if status is None else exit_code(status)
        self.signal = 0 if status is None else status & 0x7F
        self.finished = finished
        self.oom = oom

    def document(self) -> "dict[str, object]":
        """Return it as it goes to disk and over the wire."""
        return {
            "code": self.code,
            "signal": self.signal,
            "finished": self.finished,
            "oom": self.oom,
            "known": self.known,
        }


class Container:
    """One container of this shim.

    Attributes:
        launch: while it is being started.
        stdio: what was asked for: log, terminal, stdin.
        master: its terminal, -1 without.
        stdin: our writing end of its standard input, -1 without.
        exit: how it ended, as a document, or None.
        deadline: number of the timer that ends a start which takes too long.
        warnings: what the start had to leave out.
        waiting: called with None or an error when the start has succeeded or failed.
    """

    __slots__ = (
        "deadline",
        "exit",
        "id",
        "launch",
        "master",
        "pidfd",
        "pump",
        "runs",
        "state",
        "stdin",
        "stdio",
        "waiting",
        "warnings",
    )

    def __init__(self, state: State, stdio: "dict[str, object]") -> None:
        self.id = state.id
        self.state = state
        self.stdio = stdio
        self.launch: launching.Launch | None = None
        self.pump: Pump | None = None
        self.pidfd = self.master = self.stdin = -1
        self.exit: dict[str, object] | None = None
        self.runs = False
        self.warnings: list[str] = []
        self.deadline = 0
        self.waiting: Callable[[ContainerError | None], None] | None = None

    def document(self) -> "dict[str, object]":
        """Return id, status, pid, bundle, created, exit, as the daemon reads it."""
        status = "stopped" if self.exit is not None else "creating"
        if self.exit is None and self.state.pid:
            status = lifecycle.status_of(self.state)
        return {
            "id": self.id,
            "status": status,
            "pid": self.state.pid,
            "bundle": self.state.bundle,
            "created": self.state.created,
            "exit": self.exit,
        }

    def descriptors(self) -> "dict[str, int]":
        """Return what the daemon should hold copies of, by name."""
        found = {"pidfd": self.pidfd, "master": self.master, "stdin": self.stdin}
        if self.pump is not None and not self.pump.terminal:
            found |= {stream.name.decode(): stream.source for stream in self.pump.streams}
        return {name: fd for name, fd in found.items() if fd >= 0}

    def save_exit(self, outcome: Exit) -> None:
        """Write how it ended."""
        self.exit = outcome.document()
        replace_file(f"{self.state.directory}/exit.json", json.dumps(self.exit).encode(), 0o600)

    def close(self) -> None:
        """Close every descriptor."""
        if self.launch is not None:
            self.launch.close()
            self.launch = None
        if self.pump is not None:
            self.pump.close()
            self.pump = None
        for fd in (self.pidfd, self.master, self.stdin):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.master = self.stdin = -1


def prepare(root: str, container_id: str, bundle: str, stdio: "dict[str, object]", gate: bool) -> Container:
    """Plan a container and make its files; nothing runs yet.

    Raises:
        ContainerError: the bundle or the host does not allow it; nothing is left behind.
    """
    config = specs.load(bundle)
    options = launching.Options()
    options.gate = gate
    terminal = bool((config.get("process") or {"terminal": False}).get("terminal"))
    started = launching.prepare(root, container_id, bundle, config, options)
    container = Container(started.state, {**stdio, "terminal": terminal})
    container.launch = started
    try:
        _open_stdio(container, started, _uid(config))
        replace_file(f"{started.state.directory}/stdio.json", json.dumps(container.stdio).encode(), 0o600)
    except BaseException as error:
        started.abort()
        container.close()
        if isinstance(error, OSError):
            raise LaunchError(f"cannot open the log of `{container_id}`: {error}", errno=error.errno or 0) from error
        raise
    return container


def _uid(config: "Config") -> int:
    process = config.get("process")
    return (process.get("user") or {}).get("uid", 0) if process is not None else 0


def _open_stdio(container: Container, started: launching.Launch, uid: int) -> None:
    log = container.stdio.get("log")
    pump = Pump(started.state.directory, str(log or "/dev/null"), bool(container.stdio["terminal"]))
    container.pump = pump
    if pump.terminal:
        return
    stdout, stderr = pump.make_fifos()
    stdin = _open_stdin(container)
    for fd in (stdout, stderr):
        # So that programs which drop privileges can open /dev/stdout again.
        try:
            os.fchown(fd, uid, -1)
        except OSError:
            continue  # the id is not mapped here: only that re-opening does not work
    started.init.stdio = (stdin, stdout, stderr)


def _open_stdin(container: Container) -> int:
    if not container.stdio.get("stdin"):
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    path = f"{container.state.directory}/stdin.fifo"
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    container.stdin = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.set_blocking(reader, True)
    return reader


def close_inherited(container: Container) -> None:
    """Close the container's ends of its stdio after the clone."""
    started = container.launch
    if started is not None and started.init.stdio is not None:
        for fd in started.init.stdio:
            os.close(fd)
        started.init.stdio = None


def adopt(root: str, container_id: str) -> "Container | None":
    """Take over a container of a predecessor; None if its creation never came to an end, then it is undone."""
    try:
        state = load_state(root, container_id)
        stdio = json.loads(read_file(f"{state.directory}/stdio.json"))
    except (ContainerError, OSError, ValueError):
        _undo(root, container_id)
        return None
    container = Container(state, stdio)
    container.pidfd = open_or_none(state)
    container.exit = _read_exit(state)
    if container.exit is None and not _can_go_on(container):
        container.close()
        _undo(root, container_id)
        return None
    if container.exit is not None:
        return container
    container.pump = Pump(state.directory, str(stdio.get("log") or "/dev/null"), bool(stdio.get("terminal")))
    if not container.pump.terminal:
        container.pump.open_fifos()
    if os.path.exists(f"{state.directory}/stdin.fifo"):
        container.stdin = os.open(f"{state.directory}/stdin.fifo", os.O_RDWR | os.O_CLOEXEC)
    return container


def _can_go_on(container: Container) -> bool:
    """Tell whether an adopted container runs, ran, or can still be started through its gate.

    An init that waits for our predecessor's word can not; the one who asked will ask again. It may have got that
    word in this moment, so it is stopped while we look: a program must not run twice.
    """
    state = container.state
    if state.was_started():
        return True
    if container.pidfd < 0:
        return False
    if os.path.exists(f"{state.directory}/start.sock"):
        return True
    stop(container)
    if not state.was_started():
        return False
    pidfd_send_signal(container.pidfd, signal.SIGCONT)
    return True


def stop(container: Container) -> None:
    """Send SIGSTOP and wait until the init stands still or is gone."""
    try:
        pidfd_send_signal(container.pidfd, signal.SIGSTOP)
    except SyscallError:
        return  # it is gone
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline and process_state(container.state.pid) not in ("T", "Z", ""):
        time.sleep(0.0005)


def open_or_none(state: State) -> int:
    """Return a pidfd of the container's init, -1 if it is gone."""
    found = open_verified(state.pid, state.started_ticks) if state.pid else None
    return -1 if found is None else found


def learn_exit(container: Container) -> "Exit | None":
    """Return how a container ended that is not our child; None if it is not known yet."""
    if container.pidfd < 0:
        return Exit(None, now())
    # In this order: who is no zombie any more has been reaped by now, and then the pidfd knows.
    status = zombie_status(container.state.pid, container.state.started_ticks)
    if status is None:
        status = pidfd_exit_status(container.pidfd)
    if status is None and is_alive(container.state.pid, container.state.started_ticks):
        return None
    return Exit(status, now())


def refuse_alive(container: Container) -> None:
    """Raise StateError if deleting `container` takes `force`."""
    if container.exit is None:
        status = lifecycle.status_of(container.state)
        if status not in ("stopped", "created"):
            raise StateError(f"cannot delete container `{container.id}` that is not stopped: {status}", "use `--force`")


def refuse_taken(containers: "dict[str, Container]", container_id: str) -> None:
    """Raise ExistsError if `container_id` is in use here."""
    if container_id in containers:
        raise ExistsError(f"container `{container_id}` exists", f"remove it first: `vappc rm {container_id}`")


def now() -> float:
    """Return the time of day in seconds."""

    return time.time()


def _read_exit(state: State) -> "dict[str, object] | None":
    try:
        document = json.loads(read_file(f"{state.directory}/exit.json"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _undo(root: str, container_id: str) -> None:
    try:
        lifecycle.delete(root, container_id, force=True)
    except (ContainerError, OSError):
        remove_directory(f"{root}/{container_id}")
