"""What machine this is and what runs on it: the part of a result without which numbers mean nothing."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

_VERSIONS = {
    "crun": ("crun", "--version"),
    "runc": ("runc", "--version"),
    "conmon": ("conmon", "--version"),
    "docker-registry": ("docker-registry", "--version"),
    "bsdtar": ("bsdtar", "--version"),
    "tar": ("tar", "--version"),
}


def describe() -> dict[str, str]:
    """Return date, kernel, processor, memory, cgroup layout, load and the versions of all contestants."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "processor": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "cgroups": _cgroups(),
        "load": load(),
        "python": platform.python_version(),
        "commit": _first_line(("git", "describe", "--always", "--dirty")),
    } | {name: _first_line(argv) for name, argv in _VERSIONS.items()}


def load() -> str:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cgroups() -> str:
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    if "cgroup" not in kinds:
        return "v2" if "cgroup2" in kinds else "none"
    return "hybrid" if "cgroup2" in kinds else "v1"


def _first_line(argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout or done.stderr).partition("\n")[0].strip() or "unknown"
