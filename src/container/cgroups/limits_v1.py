"""linux.resources in the files of cgroup version 1 (Documentation/admin-guide/cgroup-v1). PURE."""

from container.cgroups import devices
from container.cgroups.fields import read_device, read_list, read_number, read_section, read_text
from container.cgroups.limits_v2 import plan_rdma, swap_limit
from container.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from container.cgroups.fields import Write

_MEMORY = "linux.resources.memory"
_CPU = "linux.resources.cpu"
_BLOCK = "linux.resources.blockIO"
_NETWORK = "linux.resources.network"

#: field of linux.resources.cpu -> file. The period goes first: a quota is checked against it.
_CPU_NUMBERS = (
    ("shares", "cpu.shares"),
    ("period", "cpu.cfs_period_us"),
    ("quota", "cpu.cfs_quota_us"),
    ("burst", "cpu.cfs_burst_us"),
    ("realtimePeriod", "cpu.rt_period_us"),
    ("realtimeRuntime", "cpu.rt_runtime_us"),
    ("idle", "cpu.idle"),
)

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)


def plan(resources: "dict[str, Any]") -> "list[Write]":
    """Return the writes in order."""
    if read_section(resources, "unified"):
        raise ConfigError(
            f"linux.resources.unified: `{next(iter(resources['unified']))}` needs cgroup version 2",
            "use memory, cpu and pids, or boot with `systemd.unified_cgroup_hierarchy=1`",
        )
    return [
        *(("devices", file, value) for file, value in devices.plan_v1(resources.get("devices"))),
        *_memory(read_section(resources, "memory")),
        *_cpu(read_section(resources, "cpu")),
        *_pids(read_section(resources, "pids")),
        *_block(read_section(resources, "blockIO")),
        *_hugepages(resources),
        *_network(read_section(resources, "network")),
        *plan_rdma(read_section(resources, "rdma")),
    ]


def _memory(memory: "dict[str, Any]") -> "list[Write]":
    swap_limit(memory)  # the same rules hold, and its error says more than the kernel's EINVAL
    swappiness = read_number(memory, "swappiness", _MEMORY, 0)
    values = {
        "memory.limit_in_bytes": read_number(memory, "limit", _MEMORY) or None,
        "memory.memsw.limit_in_bytes": read_number(memory, "swap", _MEMORY) or None,
        "memory.soft_limit_in_bytes": read_number(memory, "reservation", _MEMORY) or None,
        "memory.swappiness": swappiness,
        "memory.oom_control": 1 if memory.get("disableOOMKiller") else None,
    }
    if swappiness is not None and swappiness > 100:
        raise ConfigError(f"{_MEMORY}.swappiness: `{swappiness}` is out of range", "use 0 to 100")
    return [("memory", file, str(max(value, -1))) for file, value in values.items() if value is not None]


def _cpu(cpu: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    for field, file in _CPU_NUMBERS:
        value = read_number(cpu, field, _CPU)
        # 0 means unset, except for burst and idle where it is the way back.
        if value or (value == 0 and field in ("burst", "idle")):
            writes.append(("cpu", file, str(value)))
    for field in ("cpus", "mems"):
        text = read_text(cpu, field, _CPU)
        if text is not None:
            writes.append(("cpuset", f"cpuset.{field}", text))
    return writes


def _pids(pids: "dict[str, Any]") -> "list[Write]":
    limit = read_number(pids, "limit", "linux.resources.pids")
    if limit is None:
        return []
    return [("pids", "pids.max", "max" if limit < 0 else str(limit))]


def _block(block: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    for field, file in (("weight", "blkio.bfq.weight"), ("leafWeight", "blkio.leaf_weight")):
        value = read_number(block, field, _BLOCK, 0)
        if value:
            writes.append(("blkio", file, str(value)))
    for item in read_list(block, "weightDevice", _BLOCK):
        where = f"{_BLOCK}.weightDevice"
        device = read_device(item, where)
        for field, file in (
            ("weight", "blkio.bfq.weight_device"),
            ("leafWeight", "blkio.leaf_weight_device"),
        ):
            value = read_number(item, field, where, 0)
            if value:
                writes.append(("blkio", file, f"{device} {value}"))
    for field, file in _THROTTLES:
        where = f"{_BLOCK}.{field}"
        for item in read_list(block, field, _BLOCK):
            device, rate = read_device(item, where), read_number(item, "rate", where, 0)
            writes.append(("blkio", file, f"{device} {rate or 0}"))
    return writes


def _hugepages(resources: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    where = "linux.resources.hugepageLimits"
    for item in read_list(resources, "hugepageLimits", "linux.resources"):
        size, limit = read_text(item, "pageSize", where), read_number(item, "limit", where, 0)
        if size is None or limit is None:
            raise ConfigError(f"{where}: `{item}` lacks pageSize or limit", "set both")
        writes.append(("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", str(limit)))
        writes.append(("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit)))
    return writes


def _network(network: "dict[str, Any]") -> "list[Write]":
    writes: list[Write] = []
    class_id = read_number(network, "classID", _NETWORK, 0)
    if class_id:
        writes.append(("net_cls", "net_cls.classid", str(class_id)))
    for item in read_list(network, "priorities", _NETWORK):
        where = f"{_NETWORK}.priorities"
        name, priority = read_text(item, "name", where), read_number(item, "priority", where, 0)
        if name is None or priority is None or " " in name:
            raise ConfigError(f"{where}: `{item}` lacks name or priority", "set both")
        writes.append(("net_prio", "net_prio.ifpriomap", f"{name} {priority}"))
    return writes
