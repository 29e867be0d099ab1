"""linux.resources to control files, both versions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.cgroups.limits_v2 import _log2, io_weight, weight_of_shares
from container.cgroups.resources import (
    asks_for_limits,
    check_before_update,
    plan_v1,
    plan_v2,
    split_path,
    split_small_memory,
)
from container.errors import ConfigError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("resources", "v1", "v2"),
    [
        ({}, [], []),
        (
            {"memory": {"limit": 64 * MIB, "reservation": 32 * MIB}},
            [("memory.limit_in_bytes", "67108864"), ("memory.soft_limit_in_bytes", "33554432")],
            [("memory.low", "33554432"), ("memory.max", "67108864")],
        ),
        (
            {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
            [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "100663296")],
            [("memory.swap.max", "33554432"), ("memory.max", "67108864")],
        ),
        (
            {"memory": {"limit": -1}},
            [("memory.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "max")],
        ),
        ({"memory": {"limit": 0, "swap": 0}}, [], []),
        ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "100")]),
        (
            {"cpu": {"quota": 50000, "period": 100000, "burst": 1000}},
            [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000"), ("cpu.cfs_burst_us", "1000")],
            [("cpu.max", "50000 100000"), ("cpu.max.burst", "1000")],
        ),
        ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max")]),
        ({"cpu": {"period": 50000}}, [("cpu.cfs_period_us", "50000")], [("cpu.max", "max 50000")]),
        ({"cpu": {"idle": 0}}, [("cpu.idle", "0")], [("cpu.idle", "0")]),
        (
            {"cpu": {"cpus": "0-1", "mems": "0"}},
            [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
            [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
        ),
        ({"pids": {"limit": 0}}, [("pids.max", "0")], [("pids.max", "0")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
        ({"pids": {"limit": None}}, [], []),
        (
            {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}},
            [("blkio.bfq.weight", "500"), ("blkio.bfq.weight_device", "8:0 10")],
            [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 10")],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]}},
            [("blkio.throttle.read_bps_device", "8:0 600")],
            [("io.max", "8:0 rbps=600")],
        ),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
            [("blkio.throttle.write_iops_device", "8:0 0")],
            [("io.max", "8:0 wiops=max")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
            [("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"), ("hugetlb.2MB.limit_in_bytes", "4194304")],
            [("hugetlb.2MB.rsvd.max", "4194304"), ("hugetlb.2MB.max", "4194304")],
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}},
            [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")],
            [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")],
        ),
    ],
)
def test_values_arrive_in_their_files(resources, v1, v2):
    assert [(file, value) for _, file, value in plan_v1(resources)] == v1
    assert [(file, value) for _, file, value in plan_v2(resources)] == v2


def test_network_is_for_version_1():
    network = {"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]}}
    assert plan_v1(network) == [
        ("net_cls", "net_cls.classid", "1048577"),
        ("net_prio", "net_prio.ifpriomap", "eth0 500"),
    ]
    with pytest.raises(ConfigError, match="version 2"):
        plan_v2(network)


def test_unified_is_for_version_2_and_comes_last():
    resources = {"unified": {"memory.high": "1000", "hugetlb.1GB.max": "0"}, "memory": {"limit": MIB}}
    assert plan_v2(resources)[-2:] == [("memory", "memory.high", "1000"), ("hugetlb", "hugetlb.1GB.max", "0")]
    with pytest.raises(ConfigError, match="needs cgroup version 2"):
        plan_v1(resources)


def test_swappiness_and_realtime_are_for_version_1():
    old = {"memory": {"swappiness": 60}, "cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000}}
    assert [write[1] for write in plan_v1(old)] == ["memory.swappiness", "cpu.rt_period_us", "cpu.rt_runtime_us"]
    for section in old:
        with pytest.raises(ConfigError, match="cannot be set with cgroup version 2"):
            plan_v2({section: old[section]})


@pytest.mark.parametrize("plan", [plan_v1, plan_v2])
@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"limit": "64m"}}, r"memory\.limit: `64m`"),
        ({"memory": {"limit": True}}, r"memory\.limit: `True`"),
        ({"memory": {"limit": 1 << 70}}, r"memory\.limit: `1180591620717411303424` is out of range"),
        ({"memory": {"limit": 10, "swap": 5}}, r"memory\.swap: `5` is less than"),
        ({"memory": {"swap": 5}}, r"memory\.swap: `5` needs a memory limit"),
        ({"memory": []}, r"memory: `\[\]` is not an object"),
        ({"cpu": {"cpus": "0\n1"}}, r"cpu\.cpus"),
        ({"pids": {"limit": 1.5}}, r"pids\.limit: `1.5`"),
        ({"hugepageLimits": {"pageSize": "2MB"}}, "hugepageLimits"),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, "lacks pageSize or limit"),
        ({"blockIO": {"weightDevice": [{"major": 8}]}}, "lacks major or minor"),
    ],
)
def test_errors_name_field_and_value(plan, resources, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(resources)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (1024, 100), (512, 59), (262144, 10000), (1 << 30, 10000)]
)
def test_shares_become_weights(shares, weight):
    assert weight_of_shares(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_are_never_less_weight(one, other):
    low, high = sorted((one, other))
    assert 1 <= weight_of_shares(low) <= weight_of_shares(high) <= 10000


@given(st.integers(1, 1 << 40))
def test_log2_is_that_of_math(number):
    assert _log2(number) == pytest.approx(math.log2(number), abs=1e-12)


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (1000, 10000), (500, 4950)])
def test_block_weights_are_stretched(weight, expected):
    assert io_weight(weight) == expected


def test_device_rules_are_no_limit():
    assert not asks_for_limits({"devices": [{"allow": False}], "memory": {"limit": None}, "pids": {}})
    assert asks_for_limits({"pids": {"limit": 0}})


def test_check_before_update_wants_a_limit():
    assert check_before_update({"memory": {"limit": 5, "checkBeforeUpdate": True}}) == 5
    assert check_before_update({"memory": {"limit": 5}}) is None
    assert check_before_update(None) is None


def test_only_a_small_memory_limit_waits():
    small = {"memory": {"limit": MIB}, "pids": {"limit": 5}}
    assert split_small_memory(small) == ({"pids": {"limit": 5}}, {"memory": {"limit": MIB}})
    large = {"memory": {"limit": 64 * MIB}}
    assert split_small_memory(large) == (large, None)


@pytest.mark.parametrize("path", ["", "/", "..", "/a/../b", "a\0b", "a\nb"])
def test_paths_that_leave_the_hierarchy_are_refused(path):
    with pytest.raises(ConfigError, match="cgroupsPath"):
        split_path(path)


def test_path_is_taken_apart():
    assert split_path("/a//b/./c/") == ["a", "b", "c"]
