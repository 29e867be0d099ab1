"""What a process may use and when it runs: rlimits, OOM score, scheduling, NUMA policy, affinity.

The first two are set from outside, by the launcher; the others by the process itself, after the container's
root was entered, so nothing may be imported there. Out of scope: cgroups.
"""

import os

from container.errors import LaunchError
from container.linux import prctl
from container.linux.files import read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Process, Scheduler

_RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

# include/uapi/linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
#: sched(7): the kernel does not schedule in finer grains than 2^10 ns.
_LEAST_RUNTIME_NS = 1024
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IOPRIO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}


def set_rlimits(process: "Process", pid: int = 0) -> "list[str]":
    """Set the limits of `pid` (0: this process); returns a warning for each that had to be clamped.

    A limit above the hard one we run under needs CAP_SYS_RESOURCE, which no rootless user has:
    it is lowered to what may be, and said so.
    """
    import resource  # a shared object that only those who have limits pay for

    warnings = []
    for rlimit in process.get("rlimits") or ():
        number = _RLIMITS.get(rlimit["type"])
        if number is None:
            raise LaunchError(f"`process.rlimits`: unknown type `{rlimit['type']}`", f"one of {', '.join(_RLIMITS)}")
        soft, hard = (_infinite(rlimit[which]) for which in ("soft", "hard"))
        try:
            resource.prlimit(pid, number, (soft, hard))
        except PermissionError:
            _, ceiling = resource.prlimit(pid, number)
            lowered = min(_unsigned(soft), _unsigned(ceiling)), min(_unsigned(hard), _unsigned(ceiling))
            resource.prlimit(pid, number, (_infinite(lowered[0]), _infinite(lowered[1])))
            warnings.append(f"`{rlimit['type']}` is clamped to the hard limit {ceiling} of the caller")
    return warnings


def set_oom_score(pid: int, value: int) -> "str | None":
    """Write `value` to oom_score_adj of `pid` from outside; returns a warning where it may not be lowered."""
    path = f"/proc/{pid}/oom_score_adj"
    try:
        write_file(path, b"%d" % value)
    except PermissionError:
        current = read_file(path).decode().strip()
        return f"`process.oomScoreAdj` {value} is below {current} and needs CAP_SYS_RESOURCE; left at {current}"
    return None


def set_scheduling(process: "Process") -> None:
    """Apply scheduler and ioPriority of `process` to this process."""
    scheduler = process.get("scheduler")
    if scheduler:
        _set_scheduler(scheduler)
    priority: dict[str, object] = dict(process.get("ioPriority") or {})
    if priority:
        kind = _IOPRIO_CLASSES.get(str(priority.get("class")))
        level = priority.get("priority", 0)
        if kind is None or not isinstance(level, int):
            raise LaunchError(
                f"`process.ioPriority.class` `{priority.get('class')}` is unknown",
                f"one of {', '.join(_IOPRIO_CLASSES)}",
            )
        prctl.set_io_priority(kind << 13 | level)


def _set_scheduler(scheduler: "Scheduler") -> None:
    policy = scheduler["policy"]
    if policy not in _POLICIES:
        raise LaunchError(f"`process.scheduler.policy` `{policy}` is unknown", f"one of {', '.join(_POLICIES)}")
    if policy == "SCHED_DEADLINE":
        _check_deadline(scheduler)
    attributes = prctl.sched_attr()
    attributes.sched_policy = _POLICIES[policy]
    attributes.sched_flags = _flags(scheduler.get("flags"), _SCHED_FLAGS, "process.scheduler.flags")
    attributes.sched_nice = scheduler.get("nice", 0)
    attributes.sched_priority = scheduler.get("priority", 0)
    attributes.sched_runtime = scheduler.get("runtime", 0)
    attributes.sched_deadline = scheduler.get("deadline", 0)
    attributes.sched_period = scheduler.get("period", 0)
    prctl.set_scheduler(attributes)


def _check_deadline(scheduler: "Scheduler") -> None:
    """Say which of the three times is wrong; sched_setattr(2) answers EINVAL to all."""
    where = "sched_setattr: `SCHED_DEADLINE`"
    for name in ("runtime", "deadline"):
        if name not in scheduler:
            raise LaunchError(f"{where} requires `{name}`", f"set `process.scheduler.{name}` in nanoseconds")
    runtime, deadline, period = (scheduler.get(name, 0) for name in ("runtime", "deadline", "period"))
    assert isinstance(runtime, int)
    assert isinstance(deadline, int)
    assert isinstance(period, int)
    if runtime == 0:
        raise LaunchError(f"{where} runtime must be greater than 0")
    if not _LEAST_RUNTIME_NS <= runtime < 1 << 63:
        raise LaunchError(f"{where} runtime {runtime} must be between {_LEAST_RUNTIME_NS} and 2^63 ns")
    if runtime > deadline:
        raise LaunchError(f"{where} runtime {runtime} must be <= deadline {deadline}")
    if period and deadline > period:
        raise LaunchError(f"{where} deadline {deadline} must be <= period {period}")


def set_memory_policy(policy: "dict[str, object]") -> None:
    """Apply linux.memoryPolicy to this process."""
    mode = MEMORY_MODES.get(str(policy.get("mode")))
    if mode is None:
        raise LaunchError(f"`linux.memoryPolicy.mode` `{policy.get('mode')}` is unknown")
    flags = policy.get("flags")
    words = [str(flag) for flag in flags] if isinstance(flags, list) else []
    mode |= _flags(words, MEMORY_FLAGS, "linux.memoryPolicy.flags")
    prctl.set_memory_policy(mode, _parse_list(str(policy.get("nodes") or "")))


def set_affinity(cpus: str) -> None:
    """Run this process on `cpus`, a list such as `0-3,7`."""
    os.sched_setaffinity(0, _parse_list(cpus))


def _infinite(value: int) -> int:
    # RLIM_INFINITY is -1 to Python's resource module and 2**64 - 1 in config.json.
    return -1 if value >= 1 << 63 else value


def _unsigned(value: int) -> int:
    return value if value >= 0 else 1 << 64


def _flags(words: "list[str] | None", table: "dict[str, int]", where: str) -> int:
    bits = 0
    for word in words or ():
        if word not in table:
            raise LaunchError(f"`{where}`: `{word}` is unknown")
        bits |= table[word]
    return bits


def _parse_list(text: str) -> "list[int]":
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise LaunchError(f"`{text}` is not a list of numbers such as `0-3,7`")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
