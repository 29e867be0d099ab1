"""Waiting for a program in the foreground: signals go to it, a terminal is passed through."""

import _signal  # type: ignore[import-not-found] # typeshed has no stub of it
import fcntl
import os
import select
import struct
import termios

from container.linux._libc import SyscallError
from container.linux.files import write_all
from container.linux.process import exit_code, pidfd_send_signal
from container.runtime import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Signals that are the runtime's own business.
_KEPT = frozenset(getattr(_signal, f"SIG{name}") for name in ("CHLD", "PIPE", "KILL", "STOP", "WINCH", "URG"))


def wait(pid: int, pidfd: int, waker: int, master: int = -1) -> int:
    """Wait for the child `pid`, serving its terminal if it has one; returns its exit code.

    Args:
        pid, pidfd: the program.
        waker: from `forward_signals`.
        master: its terminal, -1 if it has none or somebody else serves it.
    """
    saved = _raw_terminal() if master >= 0 else None
    try:
        if master >= 0:
            _resize(master)
        _serve(pidfd, master, waker)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
    return exit_code(os.waitpid(pid, 0)[1])


def _serve(pidfd: int, master: int, waker: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(waker, select.POLLIN)
    if master >= 0:
        poll.register(master, select.POLLIN)
        poll.register(0, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if waker in ready and master >= 0:
            os.read(waker, 512)
            _resize(master)
        if master in ready and not _copy(master, 1):
            poll.unregister(master)
        if 0 in ready and not _copy(0, master):
            poll.unregister(0)
        if pidfd in ready and master not in ready:
            return


def _copy(source: int, target: int) -> bool:
    """Copy what is there; False at the end. A terminal whose last slave closed answers EIO."""
    try:
        data = os.read(source, 65536)
    except OSError:
        return False
    write_all(target, data)
    return bool(data)


def forward_signals(pidfd: int) -> int:
    """Send signals that come to us on to the program; call it before that runs, or the first one ends us instead.

    Returns a descriptor that is readable after each signal.
    """
    waker, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def forward(number: int, _frame: object) -> None:
        try:
            pidfd_send_signal(pidfd, number)
        except SyscallError:
            return  # it ended in this moment

    for number in _signal.valid_signals():
        if number not in _KEPT:
            try:
                _signal.signal(number, forward)
            except (OSError, ValueError):
                continue
    _signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGWINCH, lambda *_: None)
    return waker


def _raw_terminal() -> "list[Any] | None":
    if not os.isatty(0):
        return None
    saved = termios.tcgetattr(0)
    mode = termios.tcgetattr(0)
    mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, mode)
    return saved


def _resize(master: int) -> None:
    try:
        raw = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return  # standard input is no terminal: the size stays what config.json said
    rows, columns, _, _ = struct.unpack("HHHH", raw)
    console.set_size(master, rows, columns)
