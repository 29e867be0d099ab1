"""Texts of the command line to values. Pure; errors are argparse's."""

import argparse
import os
import re
from collections.abc import Mapping

from container.intent import INSTANCE_ID_PATTERN, MountSpec

_FACTORS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def memory(text: str) -> int:
    """Read `512m`, `2g`, `1048576`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"`{text}` is no size such as `512m` or `2g`")
    return int(float(match[1]) * _FACTORS[match[2]])


def volume(text: str) -> MountSpec:
    """Read `SRC:DST[:ro|rw]`; a relative source is one of the current directory."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise argparse.ArgumentTypeError(f"`{text}` is not `SRC:DST[:ro]` with an absolute DST")
    flags = parts[2].split(",") if len(parts) == 3 else []
    if unknown := set(flags) - {"ro", "rw"}:
        raise argparse.ArgumentTypeError(f"`{min(unknown)}` in `{text}` is neither `ro` nor `rw`")
    return MountSpec(os.path.abspath(parts[0]), parts[1], "ro" in flags)


def environment(entries: list[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Complete `-e` options: `KEY=VALUE` as it is, `KEY` with our own value, if we have one."""
    completed = (entry if "=" in entry else f"{entry}={environ[entry]}" for entry in entries if _known(entry, environ))
    return list(completed)


def label(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE` or `KEY`."""
    key, _, value = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"`{text}` is not `KEY=VALUE`")
    return key, value


def instance_id(text: str) -> str:
    """Check the name of a container."""
    if not re.match(INSTANCE_ID_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"`{text}` is no name: letters, digits, `_`, `.`, `-`, and at most 128 of them"
        )
    return text


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"`{text}` is no number above 0")
    return number


def moment(text: str, now: float) -> float:
    """Read unix seconds, or an age such as `90s`, `10m`, `2h`, `1d`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"`{text}` is neither unix seconds nor an age such as `10m`")
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(match[2])
    return now - float(match[1]) * factor if factor else float(match[1])


def _known(entry: str, environ: Mapping[str, str]) -> bool:
    return "=" in entry or entry in environ
