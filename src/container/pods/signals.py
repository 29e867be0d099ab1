"""Signals by name or number. Pure."""

import signal

from container.errors import ConfigError

#: The kernel's numbers of the real-time signals, as containers see them.
_RTMIN, _RTMAX = 34, 64


def parse(text: str) -> int:
    """Return the number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.

    Raises:
        ConfigError: there is no such signal.
    """
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _RTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name.startswith(("RTMIN", "RTMAX")):
        return _real_time(name, text)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise _unknown(text) from None


def _real_time(name: str, text: str) -> int:
    base, offset = (_RTMIN if name.startswith("RTMIN") else _RTMAX), name[5:]
    try:
        number = base + (int(offset) if offset else 0)
    except ValueError:
        raise _unknown(text) from None
    if not _RTMIN <= number <= _RTMAX:
        raise _unknown(text)
    return number


def _unknown(text: str) -> ConfigError:
    return ConfigError(f"signal `{text}` is unknown", "use a name such as `SIGTERM` or a number from 1 to 64")
