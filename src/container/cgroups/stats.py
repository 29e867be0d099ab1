"""What a cgroup used, read from its control files; the same keys for both versions.

Out of scope: sampling over time and rates.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.tree import Directory

#: USER_HZ, which cpuacct.stat counts in; the same on every architecture that we know (times(2)).
_TICKS_PER_S = 100


def read_v2(directory: "Directory") -> "dict[str, Any]":
    """Return `memory`, `cpu`, `pids` and `pressure` of one version 2 cgroup."""
    found: dict[str, Any] = {}
    usage = _number(directory, "memory.current")
    if usage is not None:
        found["memory"] = {
            "usage": usage,
            "limit": _number(directory, "memory.max"),
            "swap": _number(directory, "memory.swap.current"),
            "max_usage": _number(directory, "memory.peak"),
            "stat": parse_flat(_text(directory, "memory.stat")),
            "events": parse_flat(_text(directory, "memory.events")),
        }
    cpu = parse_flat(_text(directory, "cpu.stat"))
    if cpu:
        found["cpu"] = cpu
    current = _number(directory, "pids.current")
    if current is not None:
        found["pids"] = {"current": current, "limit": _number(directory, "pids.max")}
    io = _text(directory, "io.stat")
    if io:
        found["io"] = parse_nested(io)
    pressure = _pressure(directory)
    if pressure:
        found["pressure"] = pressure
    return found


def read_v1(controller: str, directory: "Directory", found: "dict[str, Any]") -> None:
    """Add what `controller` knows to `found`, under the keys of version 2."""
    if controller == "memory":
        found["memory"] = {
            "usage": _number(directory, "memory.usage_in_bytes"),
            "limit": _number(directory, "memory.limit_in_bytes"),
            "swap": None,
            "max_usage": _number(directory, "memory.max_usage_in_bytes"),
            "stat": parse_flat(_text(directory, "memory.stat")),
            "events": {"oom_kill": read_oom_v1(directory)},
        }
    elif controller == "cpuacct":
        found["cpu"] = _cpuacct(directory) | found.get("cpu", {})
    elif controller == "cpu":
        throttled = parse_flat(_text(directory, "cpu.stat"))
        found["cpu"] = found.get("cpu", {}) | throttled
    elif controller == "pids":
        found["pids"] = {
            "current": _number(directory, "pids.current"),
            "limit": _number(directory, "pids.max"),
        }
    elif controller == "unified":
        # Even without controllers this tree counts CPU time and stalls of its own.
        found["cpu"] = parse_flat(_text(directory, "cpu.stat")) | found.get("cpu", {})
        found["pressure"] = _pressure(directory)


def read_oom_v1(directory: "Directory") -> int:
    """Return `oom_kill` of memory.oom_control (since Linux 4.13)."""
    return parse_flat(_text(directory, "memory.oom_control")).get("oom_kill", 0)


def parse_flat(text: str) -> "dict[str, int]":
    """Parse lines of `key value`. PURE."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def parse_nested(text: str) -> "dict[str, dict[str, float]]":
    """Parse lines of `name key=value key=value`, as in io.stat and *.pressure. PURE."""
    found = {}
    for line in text.splitlines():
        name, *pairs = line.split()
        found[name] = {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return found


def _cpuacct(directory: "Directory") -> "dict[str, int]":
    ticks = parse_flat(_text(directory, "cpuacct.stat"))
    micro = 1_000_000 // _TICKS_PER_S
    return {
        "usage_usec": (_number(directory, "cpuacct.usage") or 0) // 1000,
        "user_usec": ticks.get("user", 0) * micro,
        "system_usec": ticks.get("system", 0) * micro,
    }


def _pressure(directory: "Directory") -> "dict[str, dict[str, dict[str, float]]]":
    texts = {name: _text(directory, f"{name}.pressure") for name in ("cpu", "memory", "io")}
    return {name: parse_nested(text) for name, text in texts.items() if text}


def _text(directory: "Directory", file: str) -> str:
    try:
        return directory.read(file)
    except OSError:
        return ""  # the controller is not there, or (pressure) switched off at boot


def _number(directory: "Directory", file: str) -> "int | None":
    text = _text(directory, file).strip()
    return int(text) if text.isdigit() else None
