"""linux.resources in the files of cgroup version 2 (Documentation/admin-guide/cgroup-v2.rst). PURE."""

from container.cgroups.fields import (
    format_limit,
    read_device,
    read_list,
    read_number,
    read_section,
    read_text,
)
from container.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.fields import Write

_MEMORY = "linux.resources.memory"
_CPU = "linux.resources.cpu"
_BLOCK = "linux.resources.blockIO"

_ONLY_V1 = "leave it out, or use a host with cgroup version 1"

#: config-linux.md: the range of cpu.shares.
_LEAST_SHARES = 2
_MOST_SHARES = 262144

#: field of blockIO -> key in io.max
_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


def plan(resources: "dict[str, Any]") -> "list[Write]":
    """Return the writes in order; `unified` comes last because it overrides the rest."""
    return [
        *_memory(read_section(resources, "memory")),
        *_cpu(read_section(resources, "cpu")),
        *_cpuset(read_section(resources, "cpu")),
        *_pids(read_section(resources, "pids")),
        *_block(read_section(resources, "blockIO")),
        *_hugepages(resources),
        *_network(read_section(resources, "network")),
        *plan_rdma(read_section(resources, "rdma")),
        *_unified(read_section(resources, "unified")),
    ]


def weight_of_shares(shares: int) -> int:
    """Turn cpu.shares (2 to 262144, default 1024) into cpu.weight (1 to 10000, default 100).

    The curve is the one that the large runtimes agreed on: it maps both ends and both defaults to
    each other, which no straight line does: 10 ^ ((l² + 125 l) / 612 - 7 / 34) with l = log2(shares).
    """
    if shares <= _LEAST_SHARES:
        return 1
    if shares >= _MOST_SHARES:
        return 10000
    log = _log2(shares)
    weight = 10 ** ((log * log + 125 * log) / 612 - 7 / 34)
    return int(weight) if weight == int(weight) else int(weight) + 1


def io_weight(weight: int) -> int:
    """Turn a blkio weight (10 to 1000) into io.weight (1 to 10000)."""
    return 1 + (weight - 10) * 9999 // 990


def swap_limit(memory: "dict[str, Any]") -> "int | None":
    """Return the limit of swap alone: the spec's number counts memory and swap together."""
    limit = read_number(memory, "limit", _MEMORY)
    both = read_number(memory, "swap", _MEMORY)
    if not both:
        return -1 if both is None and limit == -1 else None
    if both < 0:
        return -1
    if limit is None or limit <= 0:
        raise ConfigError(f"{_MEMORY}.swap: `{both}` needs a memory limit beside it", "set memory.limit too")
    if both < limit:
        raise ConfigError(
            f"{_MEMORY}.swap: `{both}` is less than the memory limit `{limit}`",
            "swap counts memory and swap together",
        )
    return both - limit


def plan_rdma(section: "dict[str, Any]") -> "list[Write]":
    """Return the writes for rdma, which are the same in both versions."""
    writes = []
    for device in section:
        item = read_section(section, device)
        where = f"linux.resources.rdma.{device}"
        handles = read_number(item, "hcaHandles", where, 0)
        objects = read_number(item, "hcaObjects", where, 0)
        values = [device]
        values += [] if handles is None else [f"hca_handle={handles}"]
        values += [] if objects is None else [f"hca_object={objects}"]
        writes.append(("rdma", "rdma.max", " ".join(values)))
    return writes


def _memory(memory: "dict[str, Any]") -> "list[Write]":
    if read_number(memory, "swappiness", _MEMORY, 0) is not None:
        raise ConfigError(
            f"{_MEMORY}.swappiness: `{memory['swappiness']}` cannot be set with cgroup version 2", _ONLY_V1
        )
    if memory.get("disableOOMKiller"):
        raise ConfigError(f"{_MEMORY}.disableOOMKiller: `true` cannot be set with cgroup version 2", _ONLY_V1)
    values = {
        "memory.low": read_number(memory, "reservation", _MEMORY),
        "memory.swap.max": swap_limit(memory),
        "memory.max": read_number(memory, "limit", _MEMORY) or None,
    }
    return [("memory", file, format_limit(value)) for file, value in values.items() if value is not None]


def _cpu(cpu: "dict[str, Any]") -> "list[Write]":
    for name in ("realtimeRuntime", "realtimePeriod"):
        if read_number(cpu, name, _CPU):
            raise ConfigError(f"{_CPU}.{name}: `{cpu[name]}` cannot be set with cgroup version 2", _ONLY_V1)
    writes: list[Write] = []
    shares = read_number(cpu, "shares", _CPU, 0)
    if shares:
        writes.append(("cpu", "cpu.weight", str(weight_of_shares(shares))))
    quota = read_number(cpu, "quota", _CPU)
    period = read_number(cpu, "period", _CPU, 0)
    burst = read_number(cpu, "burst", _CPU, 0)
    if quota or period:
        allowed = str(quota) if quota and quota > 0 else "max"
        writes.append(("cpu", "cpu.max", f"{allowed} {period}" if period else allowed))
    if burst is not None:
        writes.append(("cpu", "cpu.max.burst", str(burst)))
    idle = read_number(cpu, "idle", _CPU)
    if idle is not None:
        writes.append(("cpu", "cpu.idle", str(idle)))
    return writes


def _cpuset(cpu: "dict[str, Any]") -> "list[Write]":
    values = {"cpuset.cpus": read_text(cpu, "cpus", _CPU), "cpuset.mems": read_text(cpu, "mems", _CPU)}
    return [("cpuset", file, value) for file, value in values.items() if value is not None]


def _pids(pids: "dict[str, Any]") -> "list[Write]":
    limit = read_number(pids, "limit", "linux.resources.pids")
    return [] if limit is None else [("pids", "pids.max", format_limit(limit))]


def _block(block: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    weight = read_number(block, "weight", _BLOCK, 0)
    if weight:
        writes.append(("io", "io.bfq.weight", str(weight)))
    for item in read_list(block, "weightDevice", _BLOCK):
        where = f"{_BLOCK}.weightDevice"
        device, own = read_device(item, where), read_number(item, "weight", where, 0)
        if own is not None:
            writes.append(("io", "io.bfq.weight", f"{device} {own}"))
    for field, key in _THROTTLES:
        where = f"{_BLOCK}.{field}"
        for item in read_list(block, field, _BLOCK):
            device, rate = read_device(item, where), read_number(item, "rate", where, 0)
            writes.append(("io", "io.max", f"{device} {key}={rate or 'max'}"))
    return writes


def _hugepages(resources: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    where = "linux.resources.hugepageLimits"
    for item in read_list(resources, "hugepageLimits", "linux.resources"):
        size, limit = read_text(item, "pageSize", where), read_number(item, "limit", where, 0)
        if size is None or limit is None:
            raise ConfigError(f"{where}: `{item}` lacks pageSize or limit", "set both")
        # The reservation first: pages are counted there when they are mapped, and only later when touched.
        writes.append(("hugetlb", f"hugetlb.{size}.rsvd.max", str(limit)))
        writes.append(("hugetlb", f"hugetlb.{size}.max", str(limit)))
    return writes


def _network(network: "dict[str, Any]") -> "list[Write]":
    if network.get("classID") or network.get("priorities"):
        raise ConfigError(f"linux.resources.network: `{network}` cannot be set with cgroup version 2", _ONLY_V1)
    return []


def _unified(unified: "dict[str, Any]") -> "list[Write]":
    writes = []
    for file in unified:
        value = read_text(unified, file, "linux.resources.unified")
        controller, dot, _ = file.partition(".")
        if not dot or "/" in file or not controller:
            raise ConfigError(f"linux.resources.unified: `{file}` is not a control file", "name it as in `memory.high`")
        writes.append((controller, file, value or ""))
    return writes


def _log2(number: int) -> float:
    """Return log2(number) by squaring: `math` would be one more module in every container's process."""
    whole = number.bit_length() - 1
    rest, part, log = number / (1 << whole), 0.5, float(whole)
    while part > 1e-15:
        rest *= rest
        if rest >= 2:
            rest /= 2
            log += part
        part /= 2
    return log
