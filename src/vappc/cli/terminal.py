"""Our own terminal while it belongs to a process in a container: raw mode, its size, and giving it back."""

import io
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of our terminal."""
    for fd in (1, 0, 2):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        if found.lines and found.columns:
            return found.lines, found.columns
    return 24, 80


def open_stdin() -> io.FileIO:
    """Return our stdin without a buffer.

    A thread that still waits on it when the program ends then holds no lock that others need.
    """
    return io.FileIO(0, closefd=False)


@contextmanager
def raw(enabled: bool) -> Iterator[None]:
    """Pass every key through, Ctrl-C too, until the block is left; nothing where stdin is no terminal."""
    if not enabled or not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def on_resize(act: Callable[[int, int], None]) -> Iterator[None]:
    """Call `act` with rows and columns whenever our terminal changes its size."""

    def changed(_: int, __: FrameType | None) -> None:
        act(*terminal_size())

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextmanager
def on_interrupt(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with 1, 2, 3… for each Ctrl-C instead of raising KeyboardInterrupt."""
    count = 0

    def interrupted(_: int, __: FrameType | None) -> None:
        nonlocal count
        count += 1
        act(count)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
