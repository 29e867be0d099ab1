"""The node's namespaces, as an ordinary user and as root."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Enters the node of argv[1], tells what it is like, and then stays until its stdin ends.
ENTER = """
import json, os, sys
sys.path[:] = [path for path in sys.path if path]
from container.errors import ContainerError
from container.shim.node import enter_node, join_node
try:
    if len(sys.argv) > 3:
        node = join_node(sys.argv[1], int(sys.argv[3]))
    else:
        node = enter_node(sys.argv[1], uplink=sys.argv[2] == "uplink")
except ContainerError as error:
    print(json.dumps({"error": error.message, "hint": error.hint}), flush=True)
    sys.exit(3)
from container.network.links import interface_ip
answer = node.to_json() | {
    "joined": node.joined,
    "me": os.getpid(),
    "session": os.getsid(0),
    "uid": os.getuid(),
    "map": open("/proc/self/uid_map").read().split(),
    "lo": interface_ip("lo"),
    "tap": interface_ip("tap*"),
    "here": {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in ("user", "net", "cgroup", "mnt")},
    "slave": "master:" in open("/proc/self/mountinfo").read() or "shared:" not in open("/proc/self/mountinfo").read(),
}
print(json.dumps(answer), flush=True)
sys.stdin.read()
os._exit(0)
"""


class Shim:
    """A process in a node, with what it told about it."""

    def __init__(self, run_dir: Path, identity: dict, environment: dict, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", ENTER, str(run_dir), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            **identity,
        )
        self.answer = json.loads(self.process.stdout.readline())
        self.code = self.process.wait(10)

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.stdout.read() == ""
        self.process.stdout.close()


@pytest.fixture
def node(user):
    """Start shims of one run directory; the node is ended after the test."""
    run_dir = user.make_dir(f"run-{time.monotonic_ns()}")
    shims: list[Shim] = []
    identity = {"user": user.uid, "group": user.gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(*arguments: str) -> dict:
        shims.append(Shim(run_dir, identity, user.environment, *(arguments or ("none",))))
        return shims[-1].answer | {"code": shims[-1].code}

    start.run_dir = run_dir
    start.end = lambda: shims.pop().end()
    yield start
    for shim in shims:
        shim.end()
    user.python("import sys; from container.shim.node import end_node; end_node(sys.argv[1])", str(run_dir))
    assert _settled(lambda: not user.processes()), user.processes()


def _settled(condition, timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def names(answer: dict) -> list[str]:
    return [finding[0] for finding in answer["findings"]]


def test_user_becomes_root_of_many_ids(node, user):
    answer = node()
    if answer["mode"] != "subids":
        pytest.skip(f"no subordinate ids: {answer['findings']}")
    assert (answer["uid"], answer["map"][:3]) == (0, ["0", str(user.uid), "1"])
    assert sum(count for _, _, count in answer["uids"]) >= 65536


def test_starter_returns_and_the_node_stays_in_a_session_of_its_own(node):
    answer = node()
    assert answer["code"] == 0
    assert answer["session"] == answer["me"] == answer["pid"]
    assert Path(f"/proc/{answer['me']}").exists()


def test_namespaces_are_new_and_loopback_is_up(node):
    answer = node()
    outside = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in answer["here"]}
    assert not set(answer["here"].values()) & set(outside.values())
    assert (answer["lo"], answer["slave"]) == ("127.0.0.1", True)


def test_next_shim_joins_after_a_kill(node):
    first = node()
    os.kill(first["me"], 9)
    node.end()
    second = node()
    assert second["joined"]
    assert {name: second["here"][name] for name in ("user", "net", "cgroup")} == first["namespaces"]
    assert second["here"]["mnt"] != first["here"]["mnt"]
    assert second["keeper"] == first["keeper"]


def test_shim_joins_through_any_process_of_the_node(node):
    first = node()
    second = node("none", str(first["me"]))
    assert second["joined"]
    assert second["here"]["net"] == first["here"]["net"]


def test_process_elsewhere_is_not_joined(node):
    node()
    assert "is not in the node" in node("none", str(os.getpid()))["error"]


def test_stale_record_makes_a_new_node(node):
    first = node()
    os.kill(first["keeper"][0], 9)
    os.kill(first["me"], 9)
    node.end()
    second = node()
    assert not second["joined"]
    assert second["keeper"] != first["keeper"]


def test_record_with_other_namespaces_is_stale(node):
    """The keeper's number may belong to somebody else by now."""
    node()
    path = node.run_dir / "node.json"
    record = json.loads(path.read_text())
    record["namespaces"]["net"] += 1
    path.write_text(json.dumps(record))
    assert not node()["joined"]


def test_keeper_holds_no_descriptor_of_ours(node):
    pid = node()["keeper"][0]
    # While it is being loaded it has its libraries open; what it keeps is what counts.
    assert _settled(lambda: _descriptors(pid) == {"/dev/null"}), _descriptors(pid)


def _descriptors(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    return found


def test_one_id_is_better_than_none(node, user):
    """Without ranges the node still comes up, and says what it lacks."""
    code = """
import os, sys
from container.shim import subids
subids.TOOLS = {"newuidmap": "/nonexistent", "newgidmap": "/nonexistent"}
from container.shim.node import enter_node, end_node
node = enter_node(sys.argv[1], uplink=False)
setgroups = open("/proc/self/setgroups").read().strip()
print(node.mode, node.findings[0][0], open("/proc/self/uid_map").read().split(), setgroups, flush=True)
end_node(sys.argv[1])
os._exit(0)
"""
    result = user.python(code, str(node.run_dir))
    assert result.stdout.split(maxsplit=2) == ["single", "subids", f"['0', '{user.uid}', '1'] deny\n"], result.stderr


def test_unmappable_range_is_one_clear_error_and_leaves_nothing(node, user):
    code = """
import sys
from container.errors import HostError
from container.shim import node
plan = node.plan_node
def wrong(uid, gid):
    made = plan(uid, gid)
    made.uids = [(0, uid, 1), (1, 5, 10)]
    return made
node.plan_node = wrong
try:
    node.enter_node(sys.argv[1], uplink=False)
except HostError as error:
    print(error.message)
"""
    result = user.python(code, str(node.run_dir))
    if "no range" in result.stderr:
        pytest.skip("no subordinate ids")
    assert result.stdout.startswith("cannot map ids `0 "), result
    assert not (node.run_dir / "node.json").exists()
    assert _settled(lambda: not user.processes())


@pytest.mark.parametrize("last", ["write_maps", "write_record", "_expect"])
def test_killed_guide_leaves_nothing(node, user, last):
    """Whatever the step, whoever is left notices and goes."""
    code = f"""
import os, sys
from container.shim import node
node.{last} = lambda *_: os.kill(os.getpid(), 9)
node.enter_node(sys.argv[1], uplink=False)
"""
    assert user.python(code, str(node.run_dir)).returncode == -9
    assert _settled(lambda: not user.processes())
    assert not (node.run_dir / "node.json").exists()


def test_killed_node_is_an_error_and_leaves_no_keeper(node, user):
    code = """
import os, sys
from container.shim import node
fork = node._fork_keeper
def fork_and_die():
    fork()
    os.kill(os.getpid(), 9)
node._fork_keeper = fork_and_die
node.enter_node(sys.argv[1], uplink=False)
"""
    result = user.python(code, str(node.run_dir))
    assert "was killed while it was set up" in result.stderr
    assert _settled(lambda: not user.processes())


def test_no_tun_is_a_finding_not_a_failure(node):
    if Path("/dev/net/tun").exists() and Path("/dev/net/tun").stat().st_mode & 0o006 == 0o006:
        pytest.skip("/dev/net/tun is open to everybody")
    answer = node("uplink")
    assert names(answer) == ["uplink"]
    assert answer["pasta"] is None
    assert "chmod" in answer["findings"][0][2] or "modprobe" in answer["findings"][0][2]


@pytest.mark.usefixtures("tun")
class TestUplink:
    """With pasta."""

    @pytest.fixture(autouse=True)
    def _pasta(self):
        from container.network.program import find_program

        if find_program("pasta") is None:
            pytest.skip("`pasta` is not installed")
        routes = Path("/proc/net/route").read_text().splitlines()[1:]
        if not any(route.split()[1] == "00000000" for route in routes):
            pytest.skip("this host has no default route, which pasta needs")

    def test_node_gets_an_address_of_its_own(self, node):
        answer = node("uplink")
        assert (names(answer), answer["tap"]) == ([], "10.0.2.100")

    def test_uplink_outlives_a_shim_and_serves_the_next(self, node):
        first = node("uplink")
        os.kill(first["me"], 9)
        node.end()
        second = node("uplink")
        assert second["pasta"] == first["pasta"]
        assert second["tap"] == "10.0.2.100"

    def test_lost_uplink_is_attached_anew(self, node, user):
        first = node("uplink")
        os.kill(first["me"], 9)
        os.kill(first["pasta"][0], 9)
        node.end()
        assert _settled(lambda: first["pasta"][0] not in user.processes())
        second = node("uplink")
        assert (names(second), second["tap"]) == ([], "10.0.2.100")
        assert second["pasta"] != first["pasta"]

    def test_stray_uplink_of_a_killed_guide_is_ended_by_the_next(self, node, user):
        code = """
import os, sys
from container.shim import node
node.write_record = lambda *_: os.kill(os.getpid(), 9)
node.enter_node(sys.argv[1], uplink=True)
"""
        assert user.python(code, str(node.run_dir)).returncode == -9
        assert _settled(lambda: len(user.processes()) == 1)
        (stray,) = user.processes()
        assert names(node("uplink")) == []
        assert stray not in user.processes()

    def test_node_ends_itself_from_within(self, node, user):
        code = """
import os, sys
from container.shim.node import end_node, enter_node
entered = enter_node(sys.argv[1], uplink=True)
end_node(sys.argv[1])
print(bool(entered.pasta), os.listdir(sys.argv[1]), flush=True)
os._exit(0)
"""
        assert user.python(code, str(node.run_dir)).stdout == "True []\n"
        assert _settled(lambda: not user.processes())

    def test_host_loopback_is_out_of_reach(self, node, user):
        """What listens on the host's loopback trusts who can reach it; a container is not among those."""
        answer = node("uplink")
        with socket.create_server(("127.0.0.1", 0)) as server:
            code = f"""
import os, socket
from container.linux.namespaces import CLONE_NEWNET, CLONE_NEWUSER, setns
from container.linux.process import pidfd_open
setns(pidfd_open({answer["me"]}), CLONE_NEWUSER | CLONE_NEWNET)
try:
    socket.create_connection(("10.0.2.2", {server.getsockname()[1]}), timeout=1)
except OSError:
    print("out of reach")
"""
            result = user.python(code)
        assert result.stdout.strip() == "out of reach", result.stderr


def test_root_keeps_its_ids_and_network(root_only, tmp_path):
    shim = Shim(tmp_path, {}, {"PATH": os.environ["PATH"]}, "none")
    outside = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in shim.answer["here"]}
    here = shim.answer["here"]
    shim.end()
    assert (shim.answer["mode"], shim.answer["keeper"], shim.code) == ("root", None, 0)
    assert {name for name in here if here[name] != outside[name]} == {"mnt"}
    assert list(tmp_path.iterdir()) == []


def test_root_of_a_user_namespace_around_us_is_root(node, user):
    """As under `podman unshare`: the node is used as it is, with a word about how few ids there are."""
    code = """
import os, sys
from container.linux.namespaces import CLONE_NEWUSER, CLONE_NEWNS, unshare
from container.linux import prctl
uid, gid = os.getuid(), os.getgid()
unshare(CLONE_NEWUSER)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
from container.shim.node import enter_node
node = enter_node(sys.argv[1], uplink=True)
print(node.mode, node.findings[0][0], node.uids, flush=True)
os._exit(0)
"""
    result = user.python(code, str(node.run_dir))
    assert result.stdout == f"root subids [(0, {user.uid}, 1)]\n", result.stderr
