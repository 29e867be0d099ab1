"""container.cgroups on this host's hierarchies."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from container.cgroups import devices, hierarchy, tree, v2
from container.cgroups.group import Cgroup, NoCgroup
from container.errors import ConfigError, DeadlineError, HostError, StateError
from container.linux.process import clone3

pytestmark = pytest.mark.usefixtures("root_only")

MIB = 1 << 20


@pytest.fixture(params=["detected", "unified"])
def host(request) -> Iterator[hierarchy.Hierarchy]:
    """What this host has; and, where that is a hybrid, its unified tree alone, as on a version 2 host."""
    found = hierarchy.open_hierarchy()
    if found.finding is not None:
        pytest.skip(f"cgroups: {found.finding.message}")
    if request.param == "unified":
        if found.version != "hybrid":
            pytest.skip(f"the host is {found.version} already")
        found = hierarchy.Hierarchy("v2", {"unified": found._roots["unified"]}, None)
    yield found
    found.close()


@pytest.fixture
def make(host) -> Iterator[Callable[..., Cgroup]]:
    """Make cgroups that are gone after the test."""
    made: list[Cgroup] = []

    def create(resources=None, name="test-cgroups", **more) -> Cgroup:
        made.append(host.create(name, resources, **more))
        return made[-1]

    yield create
    for cgroup in reversed(made):
        cgroup.kill()
        cgroup.remove()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def needs(host: hierarchy.Hierarchy, *controllers: str) -> None:
    missing = [name for name in controllers if not host.has(name)]
    if missing:
        pytest.skip(f"no cgroup controller {', '.join(missing)}")


def test_processes_in_a_cgroup_are_known(make, sleeper):
    cgroup = make()
    cgroup.add(sleeper.pid, cloned=False)
    assert cgroup.pids() == [sleeper.pid]


def test_child_is_cloned_into_the_cgroup(make):
    cgroup = make()
    if cgroup.fd() is None:
        pytest.skip("no unified hierarchy")
    pid, pidfd = clone3(0, cgroup.fd())
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.close(pidfd)
    assert cgroup.pids() == [pid]
    cgroup.kill()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_limits_read_back(host, make):
    needs(host, "memory", "cpu", "pids")
    cgroup = make({"memory": {"limit": 64 * MIB}, "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 7}})
    stats = cgroup.stats()
    assert (stats["memory"]["limit"], stats["pids"]["limit"]) == (64 * MIB, 7)


def test_no_process_at_all_is_a_limit(host, make, sleeper):
    needs(host, "pids")
    cgroup = make({"pids": {"limit": 0}})
    cgroup.add(sleeper.pid, cloned=False)  # moving is not forking
    assert cgroup.stats()["pids"] == {"current": 1, "limit": 0}


def test_memory_limit_kills_and_counts(host, make):
    needs(host, "memory")
    cgroup = make({"memory": {"limit": 16 * MIB}})
    source, target = os.pipe()
    code = "import sys; sys.stdin.read(1); x = b'x' * (256 << 20); print(len(x))"
    with subprocess.Popen(["python3", "-c", code], stdin=source, stdout=subprocess.DEVNULL) as process:
        cgroup.add(process.pid, cloned=False)
        os.write(target, b"x")
        assert process.wait(20) == -signal.SIGKILL
    os.close(source)
    os.close(target)
    assert cgroup.oom_count() == 1


def test_small_memory_limit_waits_for_the_program_if_asked(host, make):
    needs(host, "memory")
    cgroup = make({"memory": {"limit": MIB}}, starts_small=True)
    assert cgroup.stats().get("memory", {"limit": None})["limit"] != MIB
    cgroup.apply_after_start()
    assert cgroup.stats()["memory"]["limit"] == MIB
    assert make({"memory": {"limit": MIB}}, "test-at-once").stats()["memory"]["limit"] == MIB


def test_update_joins_a_hierarchy_that_was_not_needed_before(host, make, sleeper):
    needs(host, "memory")
    cgroup = make()
    cgroup.add(sleeper.pid, cloned=False)
    cgroup.apply({"memory": {"limit": 64 * MIB}})
    assert cgroup.stats()["memory"]["limit"] == 64 * MIB
    with open(f"/proc/{sleeper.pid}/cgroup") as file:
        assert any("memory" in line and "test-cgroups" in line for line in file) or host.version == "v2"


def test_memory_and_swap_can_be_raised_and_lowered(host, make):
    needs(host, "memory")
    cgroup = make()
    for limit in (64 * MIB, 256 * MIB, 32 * MIB):
        cgroup.apply({"memory": {"limit": limit, "swap": limit}})
        assert cgroup.stats()["memory"]["limit"] == limit


def test_frozen_processes_stand_still_until_thawed(make, sleeper):
    cgroup = make()
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        cgroup.add(busy.pid, cloned=False)
        cgroup.freeze()
        before = _cpu_ticks(busy.pid)
        time.sleep(0.05)
        assert _cpu_ticks(busy.pid) == before
        cgroup.thaw()
        deadline = time.monotonic() + 5
        while _cpu_ticks(busy.pid) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _cpu_ticks(busy.pid) > before
        busy.kill()


def test_kill_reaches_a_frozen_cgroup_and_those_below(make, sleeper):
    cgroup = make()
    cgroup.add(sleeper.pid, cloned=False)
    tracked = next(iter(cgroup.paths.values()))
    os.mkdir(f"{tracked}/inner")
    with subprocess.Popen(["sleep", "60"]) as inner:
        with open(f"{tracked}/inner/cgroup.procs", "w") as file:
            file.write(str(inner.pid))
        assert sorted(cgroup.pids()) == sorted([sleeper.pid, inner.pid])
        cgroup.freeze()
        cgroup.kill()
        assert inner.wait(5) == -signal.SIGKILL
    assert sleeper.wait(5) == -signal.SIGKILL


def test_remove_takes_cgroups_that_the_container_made(host, make):
    cgroup = make({"pids": {"limit": 5}} if host.has("pids") else None)
    for path in cgroup.paths.values():
        os.makedirs(f"{path}/one/two")
    cgroup.remove()
    assert not any(os.path.exists(path) for path in cgroup.paths.values())


def test_remove_twice_is_fine(make):
    cgroup = make()
    cgroup.remove()
    cgroup.remove()


def test_remove_names_the_processes_that_are_left(make, sleeper):
    cgroup = make()
    cgroup.add(sleeper.pid, cloned=False)
    with pytest.raises(DeadlineError, match=str(sleeper.pid)):
        cgroup.remove(timeout_s=0.05)


def test_empty_leftover_is_replaced_with_its_limits(host, make):
    needs(host, "pids")
    make({"pids": {"limit": 3}})
    assert make({"pids": {"limit": -1}}).stats()["pids"]["limit"] is None


def test_cgroup_with_processes_is_not_taken_over(make, sleeper):
    make().add(sleeper.pid, cloned=False)
    with pytest.raises(StateError, match="has processes"):
        make()


def test_refused_limit_leaves_nothing(host):
    needs(host, "memory", "cpuset")
    with pytest.raises(ConfigError, match=r"cpuset\.cpus.*`9999`"):
        host.create("test-refused", {"memory": {"limit": 64 * MIB}, "cpu": {"cpus": "9999"}})


def test_missing_controller_is_named(host):
    if host.has("net_cls") or host.version == "v2":
        pytest.skip("the controller net_cls is here")
    with pytest.raises(HostError, match="`net_cls` is not available"):
        host.create("test-missing", {"network": {"classID": 1}, "pids": {"limit": 4}})


def test_saved_paths_are_enough_to_find_it_again(host, make, sleeper):
    saved = dict(make({"pids": {"limit": 9}} if host.has("pids") else None).paths)
    again = host.load(saved)
    again.add(sleeper.pid, cloned=False)
    assert (again.paths, again.pids()) == (saved, [sleeper.pid])


def test_paths_of_another_hierarchy_are_refused(host):
    with pytest.raises(StateError):
        host.load({"unified": "/somewhere/else", "freezer": "/somewhere/else"})


def test_absolute_path_lies_below_the_mount_point(host):
    cgroup = host.create("/vapp/test-absolute")
    try:
        assert all(path.endswith("/vapp/test-absolute") for path in cgroup.paths.values())
    finally:
        cgroup.remove()


def test_device_rules_hold(host, make, in_child):
    """What is allowed opens, what is not is refused, and null always works."""
    needs(host, "devices") if host.version != "v2" else None
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    cgroup = make({"devices": rules})
    assert in_child(lambda: _open_devices(cgroup)) == repr(["/dev/null", "/dev/kmsg r"])


def test_device_program_holds_on_the_unified_hierarchy(make, in_child):
    """The same by a BPF program, which hybrid hosts can attach too; the second one replaces the first."""
    cgroup = make()
    if cgroup.fd() is None:
        pytest.skip("no unified hierarchy")
    devices.attach(cgroup.fd(), devices.build_program([{"allow": True, "access": "rwm"}]))
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    devices.attach(cgroup.fd(), devices.build_program(rules))
    assert in_child(lambda: _open_devices(cgroup)) == repr(["/dev/null", "/dev/kmsg r"])


@pytest.fixture
def hugetlb(host) -> Iterator[tree.Root]:
    """The unified hierarchy with the one controller that version 1 leaves to it on hybrid hosts."""
    root = host._roots.get("unified")
    if host.version != "v2" or root is None or not host.has("hugetlb"):
        pytest.skip("no controller `hugetlb` on a unified hierarchy")
    yield root
    for directory in (f"{root.mountpoint}/vapp", root.mountpoint):
        with open(f"{directory}/cgroup.subtree_control", "w") as file:
            file.write("-hugetlb")


def test_controllers_are_handed_down_to_who_needs_them(hugetlb, make):
    cgroup = make({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]})
    with open(f"{cgroup.paths['unified']}/hugetlb.2MB.max") as file:
        assert int(file.read()) == 4 * MIB


def test_unknown_controller_of_unified_is_named(hugetlb, make):
    with pytest.raises(HostError, match="`nonsense` are not available"):
        make({"unified": {"nonsense.max": "1"}})


def test_delegated_user_steps_aside_and_limits(hugetlb, user):
    """A user in a cgroup of its own: the process moves down one level so that controllers can be handed out."""
    delegated = f"{hugetlb.mountpoint}/vapp/test-delegated"
    v2.enable(hugetlb, "vapp/test-delegated", {"hugetlb"})
    os.makedirs(delegated)
    for name in ("", "cgroup.procs", "cgroup.subtree_control"):
        os.chown(f"{delegated}/{name}", user.uid, user.gid)
    code = """
import sys
from container.cgroups import hierarchy, tree
sys.stdin.read(1)
mounts = hierarchy.parse_mountinfo(open("/proc/self/mountinfo").read())
own = hierarchy.parse_own(open("/proc/self/cgroup").read())
roots = hierarchy.find_roots([mount for mount in mounts if mount.fstype == "cgroup2"], own)
host = hierarchy.Hierarchy("v2", roots, None)
cgroup = host.create("box", {"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]})
path = cgroup.paths["unified"]
print(path, open(path + "/hugetlb.2MB.max").read().strip(), open("/proc/self/cgroup").read().split("0::")[1].strip())
cgroup.remove()
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        v2.move(hugetlb, "vapp/test-delegated", process.pid)
        output, _ = process.communicate("x", 20)
    tree.remove(hugetlb, "vapp/test-delegated", time.monotonic() + 5)
    assert output.split() == [f"{delegated}/vapp/box", "2097152", "/vapp/test-delegated/vapp-self"]


def test_user_without_a_cgroup_may_run_but_not_limit(user):
    code = """
from container.cgroups import hierarchy
from container.errors import HostError
host = hierarchy.open_hierarchy()
cgroup = host.create("x", {"devices": [{"allow": False, "access": "rwm"}]})
print(type(cgroup).__name__, cgroup.fd(), cgroup.pids(), cgroup.paths)
try:
    host.create("x", {"memory": {"limit": 1 << 30}})
except HostError as error:
    print("cannot limit" in error.message, bool(error.hint))
"""
    if hierarchy.open_hierarchy().version == "v2":
        pytest.skip("a cgroup may be delegated here")
    assert user.python(code).stdout.splitlines() == ["NoCgroup None [] {}", "True True"]


def test_no_cgroup_cannot_pause():
    with pytest.raises(HostError, match="cannot pause"):
        NoCgroup(HostError("none is delegated", "log in")).freeze()


def _open_devices(cgroup: Cgroup) -> list[str]:
    cgroup.add(os.getpid(), cloned=False)
    found = []
    for path, mode, name in (
        ("/dev/null", os.O_RDWR, "/dev/null"),
        ("/dev/kmsg", os.O_RDONLY, "/dev/kmsg r"),
        ("/dev/kmsg", os.O_RDWR, "/dev/kmsg rw"),
        ("/dev/net/tun", os.O_RDWR, "/dev/net/tun"),
    ):
        try:
            os.close(os.open(path, mode))
            found.append(name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOENT):
                raise
    return found


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[11])
