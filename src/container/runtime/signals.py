"""Signals by number and by name, and what CPython did to them undone.

`_signal` is the C module behind `signal`, whose enums would cost a start as much as all its system calls.
Every caller of ours has one thread.
"""

import _signal  # type: ignore[import-not-found] # typeshed has no stub of it

from container.errors import ConfigError

SIGKILL = 9
SIGTERM = 15

#: The two that nobody may handle, and the two that the C library keeps for itself (nptl(7)).
_UNTOUCHABLE = frozenset((9, 19, 32, 33))


def parse(word: str) -> int:
    """Return the number of a signal given as `9`, `KILL` or `SIGKILL`."""
    if word.isascii() and word.isdecimal() and 0 < int(word) < _signal.NSIG:
        return int(word)
    name = word.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    number = getattr(_signal, name, None)
    if not isinstance(number, int) or name.startswith("SIG_") or name == "SIGMAX":
        raise ConfigError(f"unknown signal `{word}`", "a number, or a name such as TERM")
    return number


def reset() -> None:
    """Give every signal its default and unblock all: CPython ignores SIGPIPE and SIGXFSZ, which survives exec."""
    for number in range(1, _signal.NSIG):
        if number in _UNTOUCHABLE or _signal.getsignal(number) == _signal.SIG_DFL:
            continue
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
