"""The life of a container by `vapp-oci`, against the kernel."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container.errors import ContainerError
from container.linux import process as processes
from container.linux.capabilities import NAMES
from container.linux.files import TMPFS_MAGIC, filesystem_type
from container.runtime import launch, lifecycle
from container.runtime import state as states
from kernels import RELEASE, needs_idmapped_tmpfs
from linux.bundles import COMMAND, IS_ROOT, Bundle


@pytest.fixture
def bundle(tmp_path) -> Iterator[Bundle]:
    made = Bundle(tmp_path / "b")
    yield made
    made.remove_all()


def wait_for(condition, what: str, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    pidfd = processes.open_verified(pid, None)
    if pidfd is not None:
        lifecycle.wait_gone(pidfd, "c1")
        os.close(pidfd)


# --- life cycle -------------------------------------------------------------------------------------------


def test_create_start_kill_delete(bundle):
    bundle.create()
    created = bundle.state()
    assert created["status"] == "created"
    assert created["bundle"] == str(bundle.path)
    bundle.cli("start", "c1")
    running = bundle.state()
    assert (running["status"], running["pid"]) == ("running", created["pid"])
    bundle.cli("kill", "c1", "KILL")
    wait_gone(running["pid"])
    stopped = bundle.state()
    assert (stopped["status"], stopped["pid"]) == ("stopped", 0)
    bundle.cli("delete", "c1")
    assert [entry.name for entry in bundle.root.iterdir() if not entry.name.startswith(".")] == []


def test_run_passes_output_and_exit_status_and_leaves_nothing(bundle):
    bundle.sh("echo out; echo err >&2; exit 7")
    done = bundle.run(check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert list(bundle.root.glob("c1")) == []


def test_a_signal_ends_run_with_128_and_its_number(bundle):
    bundle.sh("kill -KILL $$; sleep 5")
    # The first process of a pid namespace is immune to its own signals, so its child falls.
    bundle.sh("sh -c 'kill -KILL $$'; exit $?")
    assert bundle.run(check=False).returncode == 137


def test_signals_to_run_go_to_the_program(bundle):
    bundle.sh("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    bundle.write()
    running = subprocess.Popen(
        [*COMMAND, "--root", str(bundle.root), "run", "c1"], cwd=bundle.path, stdout=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.terminate()
        assert running.stdout.read() == "caught\n"
        assert running.wait(10) == 5


def test_functions_of_the_life_cycle_work_without_the_command(bundle):
    bundle.process["args"] = ["sleep", "60"]
    options = launch.Options()
    null = os.open("/dev/null", os.O_RDWR)
    options.stdio = (null, null, null)
    started = lifecycle.create(str(bundle.root), "c1", str(bundle.path), bundle.config, options)
    try:
        assert states.load(str(bundle.root), "c1").status() == "created"
        started.go()
        assert started.feed() == "started"
        assert lifecycle.processes(str(bundle.root), "c1") == [started.pid]
        lifecycle.kill(str(bundle.root), "c1", 9)
        assert processes.exit_code(os.waitpid(started.pid, 0)[1]) == 137
    finally:
        started.close()
        lifecycle.delete(str(bundle.root), "c1", force=True)
        os.close(null)


def test_a_failed_launch_leaves_no_descriptor_and_no_file(bundle):
    bundle.process["args"] = ["/missing"]
    counts = []
    for _ in range(2):  # the first time the cgroup hierarchies are opened, and stay so
        with pytest.raises(ContainerError, match="no such file or directory"):
            lifecycle.create(str(bundle.root), "c1", str(bundle.path), bundle.config, launch.Options())
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1]
    assert states.ids(str(bundle.root)) == []


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["state", "none"], 1, "container does not exist"),
        (["start", "none"], 1, "container does not exist"),
        (["kill", "none", "9"], 1, "container does not exist"),
        (["delete", "none"], 1, "container does not exist"),
        (["delete", "--force", "none"], 0, ""),
        (["exec", "none", "true"], 255, "container does not exist"),
        (["state", "../x"], 1, "container ID"),
        (["delete", "--force", "../x"], 1, "container ID"),
        (["kill", "none", "NOPE"], 1, "unknown signal"),
        (["--log-format", "xml", "list"], 1, "unknown log format"),
        (["--log", "/no/such/dir/log", "list"], 1, "cannot open log"),
    ],
)
def test_errors_have_the_status_and_words_of_runc(bundle, words, status, text):
    done = bundle.cli(*words, check=False)
    assert done.returncode == status
    assert text in done.stderr


def test_wrong_states_are_refused_in_words_that_callers_know(bundle):
    bundle.start()
    pid = bundle.state()["pid"]
    assert "already exists" in bundle.cli("create", "c1", check=False).stderr
    assert "only a created one" in bundle.cli("start", "c1", check=False).stderr
    assert "not stopped" in bundle.cli("delete", "c1", check=False).stderr
    assert "container not paused" in bundle.cli("resume", "c1", check=False).stderr
    bundle.cli("kill", "c1", "9")
    wait_gone(pid)
    assert "container not running" in bundle.cli("kill", "c1", "9", check=False).stderr
    assert "container not running" in bundle.exec("c1", "true", check=False).stderr


def test_errors_go_to_the_log_as_json(bundle):
    log = bundle.path / "log"
    bundle.cli("--log", str(log), "--log-format", "json", "state", "none", check=False)
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container does not exist: `none`")


def test_the_pid_file_has_digits_and_no_newline(bundle):
    bundle.create("c1", "--pid-file", str(bundle.path / "pid"))
    assert (bundle.path / "pid").read_text() == str(bundle.state()["pid"])


def test_list_and_ps_show_what_runs(bundle):
    bundle.start()
    listed = json.loads(bundle.cli("list", "--format", "json").stdout)
    assert [(one["id"], one["status"]) for one in listed] == [("c1", "running")]
    assert bundle.cli("list", "-q").stdout == "c1\n"
    assert bundle.state()["pid"] in json.loads(bundle.cli("ps", "--format", "json", "c1").stdout)
    assert "sleep 60" in bundle.cli("ps", "c1").stdout


def test_a_missing_program_fails_at_create_with_words_that_podman_understands(bundle):
    bundle.process["args"] = ["nosuch"]
    bundle.write()
    done = bundle.cli("create", "c1", check=False)
    assert done.returncode == 1
    assert "executable file not found in $PATH" in done.stderr
    bundle.process["args"] = ["/etc/nosuch"]
    assert "no such file or directory" in bundle.run(check=False).stderr
    (bundle.rootfs / "etc/data").write_text("x")
    bundle.process["args"] = ["/etc/data"]
    assert "permission denied" in bundle.run(check=False).stderr
    assert not (bundle.root / "c1").exists()


def test_the_example_config_runs(tmp_path, bundle):
    bundle.cli("spec", "--bundle", str(bundle.path), *([] if IS_ROOT else ["--rootless"]))
    assert "exists" in bundle.cli("spec", "--bundle", str(bundle.path), check=False).stderr
    config = json.loads((bundle.path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["true"]}
    (bundle.path / "config.json").write_text(json.dumps(config))
    assert bundle.cli("run", "c1").returncode == 0


def test_plan_prints_and_does_nothing(bundle):
    bundle.write()
    assert "pivot into the root" in bundle.cli("plan").stdout
    assert not bundle.root.exists()


def test_features_are_what_containerd_looks_for(bundle):
    found = json.loads(bundle.cli("features").stdout)
    assert {"ro", "rro", "idmap"} <= set(found["mountOptions"])
    assert "user" in found["linux"]["namespaces"]
    assert found["linux"]["mountExtensions"]["idmap"]["enabled"]


# --- pausing and limits -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("root_only")
def test_pause_stops_and_resume_lets_go_on(bundle):
    bundle.start()
    bundle.cli("pause", "c1")
    assert bundle.state()["status"] == "paused"
    assert "container paused" in bundle.exec("c1", "true", check=False).stderr
    bundle.cli("resume", "c1")
    assert bundle.state()["status"] == "running"


@pytest.mark.usefixtures("root_only")
def test_a_paused_container_can_be_killed_and_deleted(bundle):
    bundle.start()
    pid = bundle.state()["pid"]
    bundle.cli("pause", "c1")
    bundle.cli("kill", "c1", "9")
    wait_gone(pid)
    bundle.cli("delete", "c1")
    bundle.start()
    bundle.cli("pause", "c1")
    bundle.cli("delete", "--force", "c1")
    assert not (bundle.root / "c1").exists()


@pytest.mark.usefixtures("root_only")
@pytest.mark.parametrize("gate", [False, True], ids=["run", "create and start"])
def test_a_memory_limit_smaller_than_our_init_is_set_when_the_program_runs(bundle, gate):
    limit = 1 << 20
    bundle.linux["resources"] = {"memory": {"limit": limit}}
    if gate:
        bundle.start()
    else:
        bundle.write()
        null = subprocess.DEVNULL
        bundle.cli("run", "--detach", "c1", capture_output=False, stdin=null, stdout=null)
    state = states.load(str(bundle.root), "c1")
    file = "memory.limit_in_bytes" if "memory" in state.cgroup else "memory.max"
    assert Path(state.cgroup.get("memory") or state.cgroup["unified"], file).read_text().strip() == str(limit)


@pytest.mark.usefixtures("root_only")
def test_update_changes_a_limit_by_option_and_by_document(bundle):
    bundle.linux["resources"] = {"pids": {"limit": 50}}
    bundle.start()
    cgroup = states.load(str(bundle.root), "c1").cgroup
    file = Path(cgroup.get("pids") or cgroup["unified"], "pids.max")
    bundle.cli("update", "--pids-limit", "60", "c1")
    assert file.read_text() == "60\n"
    bundle.cli("update", "--resources", "-", "c1", input='{"pids": {"limit": 70}}')
    assert file.read_text() == "70\n"
    assert "changes nothing" in bundle.cli("update", "c1", check=False).stderr


def held_capabilities() -> set[str]:
    """Return the names of what this process may do."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    bits = int(line.split()[1], 16)
    return {name for number, name in enumerate(NAMES) if bits >> number & 1}


def is_tmpfs(directory: Path) -> bool:
    """Whether `directory` lies on a tmpfs."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        return filesystem_type(fd) == TMPFS_MAGIC
    finally:
        os.close(fd)


def test_a_limit_above_ours_is_clamped_with_a_warning(bundle):
    bundle.process["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 1 << 62, "hard": 1 << 62}]
    bundle.sh("ulimit -n; grep processes /proc/self/limits")
    done = bundle.run()
    hard = subprocess.run(["sh", "-c", "grep processes /proc/self/limits"], capture_output=True, text=True, check=True)
    if hard.stdout.split()[3] == "unlimited":
        pytest.skip("RLIMIT_NPROC is unlimited here")
    if os.geteuid() == 0 and "CAP_SYS_RESOURCE" in held_capabilities():
        pytest.skip("CAP_SYS_RESOURCE is held here, which may raise every limit")
    assert "`RLIMIT_NPROC` is clamped" in done.stderr
    assert hard.stdout.split()[3] in done.stdout


def test_an_oom_score_that_may_not_be_is_a_warning(bundle):
    bundle.process["oomScoreAdj"] = 500
    assert bundle.output("cat /proc/self/oom_score_adj") == "500"


# --- namespaces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
@pytest.mark.usefixtures("root_only")
def test_a_namespace_by_path_is_shared(bundle, kind):
    bundle.start()
    pid = bundle.state()["pid"]
    file = {"network": "net"}.get(kind, kind)
    for namespace in bundle.linux["namespaces"]:
        if namespace["type"] == kind:
            namespace["path"] = f"/proc/{pid}/ns/{file}"
    bundle.config.pop("hostname")
    bundle.sh("ls -l /proc/self/ns")
    bundle.write("c2")
    inside = bundle.cli("run", "c2").stdout
    assert os.readlink(f"/proc/{pid}/ns/{file}") in inside


@pytest.mark.usefixtures("root_only")
def test_a_pid_namespace_by_path_is_shared(bundle):
    bundle.start()
    pid = bundle.state()["pid"]
    next(one for one in bundle.linux["namespaces"] if one["type"] == "pid")["path"] = f"/proc/{pid}/ns/pid"
    bundle.sh("cat /proc/1/cmdline")
    bundle.write("c2")
    assert "sleep" in bundle.cli("run", "c2").stdout


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/etc/hostname", "/no/such"])
def test_a_namespace_path_of_another_kind_is_refused(bundle, path):
    next(one for one in bundle.linux["namespaces"] if one["type"] == "ipc")["path"] = path
    done = bundle.run(check=False)
    assert done.returncode == 1
    assert "ipc namespace" in done.stderr
    assert not (bundle.root / "c1").exists()


def map_ids(bundle: Bundle, host: int, size: int) -> None:
    bundle.linux["namespaces"] = [n for n in bundle.linux["namespaces"] if n["type"] != "user"] + [{"type": "user"}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": host, "size": size}]


@pytest.fixture
def open_bundle() -> Iterator[Bundle]:
    """A bundle whose directories let every user pass."""
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="vapp-test-"))
    path.chmod(0o755)
    made = Bundle(path / "b")
    yield made
    made.remove_all()
    shutil.rmtree(path)


@pytest.mark.usefixtures("root_only")
def test_ids_are_mapped(open_bundle):
    map_ids(open_bundle, 200000, 65536)
    open_bundle.process["user"] = {"uid": 5, "gid": 6, "additionalGids": [7]}
    out = open_bundle.output("cat /proc/self/uid_map; id; cat /proc/self/status")
    assert out.split("\n")[0].split() == ["0", "200000", "65536"]
    assert "uid=5 gid=6" in out
    assert "Groups:\t7" in out


@pytest.mark.usefixtures("root_only")
def test_an_id_that_is_not_mapped_is_refused_with_a_hint(open_bundle):
    map_ids(open_bundle, 200000, 10)
    open_bundle.process["user"] = {"uid": 11, "gid": 0}
    done = open_bundle.run(check=False)
    assert "cannot become user 11:0" in done.stderr
    assert "hint: the id is not mapped" in done.stderr


@pytest.mark.usefixtures("root_only")
def test_a_user_namespace_without_maps_gets_the_callers_ids_and_a_warning(bundle):
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.sh("cat /proc/self/uid_map")
    done = bundle.run()
    assert done.stdout.split() == ["0", "0", "4294967295"]
    assert "it gets the caller's ids" in done.stderr


@pytest.mark.usefixtures("root_only")
@needs_idmapped_tmpfs
def test_in_a_user_namespace_a_closed_directory_can_be_bound_and_a_device_made(open_bundle):
    closed = open_bundle.path / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner" / "file").write_text("seen")
    closed.chmod(0o700)
    map_ids(open_bundle, 200000, 65536)
    (open_bundle.rootfs / "m").mkdir()
    open_bundle.config["mounts"].append({"destination": "/m", "type": "bind", "source": f"{closed}/inner"})
    open_bundle.linux["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "uid": 10, "gid": 11, "fileMode": 0o640}
    ]
    out = open_bundle.output("cat /m/file; echo; stat -c '%a %u:%g %t:%T' /dev/mine; mount | grep /dev/null")
    lines = out.split("\n")
    assert lines[:2] == ["seen", "640 10:11 1:5"]
    assert "nosuid" in lines[2]
    assert "noexec" in lines[2]


@pytest.mark.usefixtures("root_only")
def test_an_idmapped_mount_shows_other_owners(open_bundle):
    source = open_bundle.path / "source"
    source.mkdir()
    if RELEASE < (6, 3) and is_tmpfs(source):
        pytest.skip("tmpfs cannot be idmapped before Linux 6.3")
    (source / "file").touch()
    os.chown(source / "file", 1000, 1000)
    mapping = [{"containerID": 1000, "hostID": 3000, "size": 1}]
    open_bundle.config["mounts"].append(
        {
            "destination": "/m",
            "type": "bind",
            "source": str(source),
            "options": ["bind", "idmap"],
            "uidMappings": mapping,
            "gidMappings": mapping,
        }
    )
    assert open_bundle.output("stat -c %u:%g /m/file") == "3000:3000"


def test_a_time_namespace_has_its_offset(bundle):
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("the kernel has no time namespaces")
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    assert float(bundle.output("cat /proc/uptime").split()[0]) > 1_000_000


def test_host_and_domain_names_are_set(bundle):
    bundle.config |= {"hostname": "somewhere", "domainname": "else"}
    assert bundle.output("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname") == "somewhere\nelse"


def test_a_sysctl_of_an_own_namespace_is_set(bundle):
    bundle.linux["sysctl"] = {"net.ipv4.ip_default_ttl": "33", "kernel.msgmax": "4242"}
    assert bundle.output("cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax") == "33\n4242"


@pytest.mark.usefixtures("root_only")
def test_a_sysctl_is_refused_where_the_namespace_by_path_is_the_hosts(bundle):
    next(one for one in bundle.linux["namespaces"] if one["type"] == "network")["path"] = "/proc/self/ns/net"
    bundle.linux["sysctl"] = {"net.ipv4.ip_default_ttl": "33"}
    assert "needs a namespace of its own" in bundle.run(check=False).stderr


def test_loopback_is_up(bundle):
    assert "LOOPBACK,UP" in bundle.output("busybox ip link show lo")


@pytest.mark.usefixtures("root_only")
def test_an_interface_moves_into_the_container_with_its_addresses(bundle):
    import shutil

    if shutil.which("ip") is None:
        pytest.skip("`ip` is not installed")
    bundle.linux["netDevices"] = {"vappt0": {"name": "inside0"}}
    if subprocess.run(["ip", "link", "add", "vappt0", "type", "veth", "peer", "vappt1"], check=False).returncode != 0:
        pytest.skip("the kernel makes no veth interfaces")
    try:
        subprocess.run(["ip", "addr", "add", "10.231.0.7/24", "dev", "vappt0"], check=True)
        out = bundle.output("busybox ip addr show inside0")
        assert "10.231.0.7/24" in out
        assert "UP" in out
    finally:
        subprocess.run(["ip", "link", "del", "vappt1"], check=False, capture_output=True)
    assert "cannot move interface `vappt0`" in bundle.run(check=False).stderr


# --- hooks ------------------------------------------------------------------------------------------------


def note(bundle: Bundle, name: str, status: int = 0) -> dict[str, object]:
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", f"cat > {bundle.path}/{name}.json; echo {name} >> {bundle.path}/order; exit {status}"],
    }


def test_hooks_run_in_order_with_the_state_on_standard_input(bundle):
    phases = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.config["hooks"] = {phase: [note(bundle, phase)] for phase in phases}
    bundle.config["annotations"] = {"a": "b"}
    bundle.start()
    pid = bundle.state()["pid"]
    bundle.cli("delete", "--force", "c1")
    assert (bundle.path / "order").read_text().split() == list(phases)
    found = {phase: json.loads((bundle.path / f"{phase}.json").read_text()) for phase in phases}
    assert [found[phase]["status"] for phase in phases] == ["creating", "creating", "created", "running", "stopped"]
    assert found["createRuntime"]["pid"] == pid
    assert all(one["id"] == "c1" and one["annotations"] == {"a": "b"} for one in found.values())


def test_a_start_container_hook_runs_inside(bundle):
    bundle.config["root"]["readonly"] = False
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/touch", "args": ["touch", "/tmp/inside"]}]}
    bundle.output("true")
    assert (bundle.rootfs / "tmp/inside").exists()


@pytest.mark.parametrize("phase", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_undoes_the_creation(bundle, phase):
    bundle.config["hooks"] = {phase: [note(bundle, phase, 3)]}
    bundle.write()
    done = bundle.cli("create", "c1", check=False)
    assert f"{phase} hook failed with exit code 3" in done.stderr
    assert not (bundle.root / "c1").exists()


def test_a_failing_poststart_hook_deletes_the_container(bundle):
    bundle.config["hooks"] = {"poststart": [note(bundle, "poststart", 3)]}
    bundle.create()
    done = bundle.cli("start", "c1", check=False)
    assert "poststart hook failed" in done.stderr
    assert not (bundle.root / "c1").exists()
    assert bundle.run(check=False).returncode == 1


def test_failing_poststop_hooks_are_warnings_and_the_others_run(bundle):
    bundle.config["hooks"] = {"poststop": [note(bundle, "one", 3), note(bundle, "two", 4)]}
    bundle.create()
    done = bundle.cli("delete", "--force", "c1")
    assert done.stderr.count("warning: poststop hook failed with exit code") == 2
    assert (bundle.path / "order").read_text().split() == ["one", "two"]


# --- file system ------------------------------------------------------------------------------------------


def test_masked_paths_are_empty_and_read_only_ones_cannot_be_written(bundle):
    (bundle.rootfs / "secret").write_text("secret")
    (bundle.rootfs / "hidden").mkdir()
    (bundle.rootfs / "hidden" / "file").touch()
    (bundle.rootfs / "kept").mkdir()
    bundle.config["root"]["readonly"] = False
    bundle.linux["maskedPaths"] += ["/secret", "/hidden", "/not/there"]
    bundle.linux["readonlyPaths"] += ["/kept", "/not/there/either"]
    out = bundle.output("cat /secret; ls /hidden; touch /kept/x 2>&1; touch /hidden/x 2>&1; touch /tmp/x && echo wrote")
    assert out.count("Read-only file system") == 2
    assert "wrote" in out
    assert "secret" not in out.replace("/secret", "")


def test_a_read_only_root_is_read_only(bundle):
    bundle.config["root"]["readonly"] = True
    assert "Read-only file system" in bundle.output("touch /x 2>&1")


def test_rro_holds_for_mounts_below(bundle, tmp_path):
    bundle.config["mounts"] += [
        {"destination": "/m", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/m/n", "type": "tmpfs", "source": "tmpfs", "options": ["rro"]},
    ]
    out = bundle.output("touch /m/a && echo a; touch /m/n/b 2>&1")
    assert out.startswith("a\n")
    assert "Read-only file system" in out


def test_tmpcopyup_starts_with_what_it_covers(bundle):
    (bundle.rootfs / "etc" / "inner").mkdir()
    (bundle.rootfs / "etc" / "inner" / "file").write_text("kept")
    (bundle.rootfs / "etc" / "link").symlink_to("inner/file")
    bundle.config["mounts"].append(
        {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    )
    assert bundle.output("cat /etc/link; touch /etc/new && echo -wrote") == "kept-wrote"
    assert not (bundle.rootfs / "etc" / "new").exists()


def test_devices_and_links_are_there(bundle):
    out = bundle.output("echo x > /dev/null && busybox head -c1 /dev/zero | busybox wc -c; ls -l /dev/fd /dev/ptmx")
    assert out.startswith("1\n")
    assert "-> /proc/self/fd" in out
    assert "-> pts/ptmx" in out


def test_a_working_directory_that_the_image_lacks_is_made(bundle):
    bundle.config["root"]["readonly"] = True
    bundle.process["cwd"] = "/made/for/it"
    assert bundle.output("busybox pwd") == "/made/for/it"


def test_a_container_without_proc_runs(bundle):
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/proc")]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    assert bundle.output("echo fine") == "fine"


def test_nothing_of_the_container_is_mounted_on_the_host(bundle):
    before = Path("/proc/self/mountinfo").read_text().count(str(bundle.path))
    bundle.start()
    assert Path("/proc/self/mountinfo").read_text().count(str(bundle.path)) == before


# --- process ----------------------------------------------------------------------------------------------


def test_home_is_found_without_the_c_library(bundle):
    (bundle.rootfs / "etc/passwd").write_text("root:x:0:0:root:/where:/bin/sh\n")
    assert bundle.output("echo $HOME") == "/where"


def test_umask_and_no_new_privileges_are_set(bundle):
    bundle.process["user"]["umask"] = 0o27
    assert bundle.output("umask; grep NoNewPrivs /proc/self/status") == "0027\nNoNewPrivs:\t1"


@pytest.mark.usefixtures("root_only")
def test_capabilities_are_as_asked_and_unknown_ones_a_warning(bundle):
    bundle.process["capabilities"] = {name: ["CAP_KILL", "CAP_NEW"] for name in ("bounding", "effective", "permitted")}
    bundle.sh("grep Cap /proc/self/status")
    done = bundle.run()
    masks = dict(line.split(":\t") for line in done.stdout.strip().split("\n"))
    assert [masks[name] for name in ("CapBnd", "CapEff", "CapPrm")] == ["0000000000000020"] * 3
    assert [masks[name] for name in ("CapInh", "CapAmb")] == ["0" * 16] * 2
    assert "capability `CAP_NEW` is unknown" in done.stderr


@pytest.mark.usefixtures("root_only")
def test_groups_of_the_caller_are_kept_where_podman_asks_for_it(bundle):
    bundle.sh("grep Groups /proc/self/status")
    assert bundle.run(extra_groups=[4242]).stdout.split() == ["Groups:"]
    bundle.config["annotations"] = {"run.oci.keep_original_groups": "1"}
    assert bundle.run(extra_groups=[4242]).stdout.split() == ["Groups:", "4242"]


def test_seccomp_denies(bundle):
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    for no_new_privileges in (True, IS_ROOT):
        bundle.process["noNewPrivileges"] = no_new_privileges
        assert "No space left" in bundle.output("mkdir /tmp/x 2>&1")
    assert len(list((bundle.root / ".cache" / "seccomp").iterdir())) == 1


def test_a_seccomp_listener_goes_to_the_agent_with_the_state(bundle):
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(bundle.path / "agent"))
    agent.listen()
    agent.settimeout(20)
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(bundle.path / "agent"),
        "listenerMetadata": "mine",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    bundle.start()
    connection, _ = agent.accept()
    message, fds, _, _ = socket.recv_fds(connection, 65536, 4)
    state = json.loads(message)
    assert (state["fds"], state["metadata"], state["state"]["id"]) == (["seccompFd"], "mine", "c1")
    assert len(fds) == 1
    for one in (connection, agent):
        one.close()
    os.close(fds[0])


def test_a_listener_without_an_agent_is_refused(bundle):
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    assert "without `listenerPath`" in bundle.run(check=False).stderr
    assert not (bundle.root / "c1").exists()


def test_preserved_descriptors_and_sockets_of_activation_go_through_and_no_others(bundle):
    source, target = os.pipe()
    bundle.sh("ls /proc/self/fd; echo $LISTEN_FDS $LISTEN_PID")
    bundle.write()
    environment = {**os.environ, "LISTEN_FDS": "1"}
    script = f"exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null; exec {' '.join(COMMAND)} --root {bundle.root} run"
    done = subprocess.run(
        ["sh", "-c", f"{script} --preserve-fds 1 c1"],
        cwd=bundle.path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(source)
    os.close(target)
    lines = done.stdout.split("\n")
    # One more is the directory that `ls` itself opens: the first free number.
    assert lines[:6] == ["0", "1", "2", "3", "4", "5"]
    assert lines[6] == "1 1"


def test_a_terminal_goes_to_the_console_socket(bundle):
    bundle.process.update({"terminal": True, "consoleSize": {"height": 33, "width": 99}})
    assert "console socket" in bundle.run("--detach", check=False).stderr
    receiver = socket.socket(socket.AF_UNIX)
    receiver.bind(str(bundle.path / "console"))
    receiver.listen()
    receiver.settimeout(20)
    bundle.sh("busybox stty size; test -t 0 && ls -l /dev/console; sleep 60")
    bundle.create("c1", "--console-socket", str(bundle.path / "console"))
    connection, _ = receiver.accept()
    payload, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert payload
    bundle.cli("start", "c1")
    text = b""
    while b"/dev/console" not in text:
        text += os.read(fds[0], 1000)
    assert text.startswith(b"33 99")
    for one in (connection, receiver):
        one.close()
    os.close(fds[0])


def test_a_pidfd_goes_to_its_socket(bundle):
    receiver = socket.socket(socket.AF_UNIX)
    receiver.bind(str(bundle.path / "pidfd"))
    receiver.listen()
    receiver.settimeout(20)
    bundle.create("c1", "--pidfd-socket", str(bundle.path / "pidfd"))
    connection, _ = receiver.accept()
    _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert f"Pid:\t{bundle.state()['pid']}\n" in Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    for one in (connection, receiver):
        one.close()
    os.close(fds[0])


# --- failures ---------------------------------------------------------------------------------------------


def paths_of(value, path=()):
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_of(child, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_config_broken_anywhere_leaves_nothing_behind(bundle, data):
    config = json.loads(json.dumps(bundle.config))
    config["process"]["args"] = ["true"]
    path = data.draw(st.sampled_from([path for path in paths_of(config) if path]))
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(
        st.sampled_from(["/nowhere", "x\0y", -1, 10**30, [], {}, None, True, ["x"], {"path": "x"}])
    )
    (bundle.path / "config.json").write_text(json.dumps(config))
    done = bundle.cli("run", "c1", check=False)
    assert "Traceback" not in done.stderr, (path, done.stderr)
    assert done.returncode == 0 or done.stderr, path
    assert not (bundle.root / "c1").exists(), path


def test_of_many_creators_of_one_id_exactly_one_wins(bundle):
    bundle.write()
    null = subprocess.DEVNULL
    runs = [
        subprocess.Popen(
            [*COMMAND, "--root", str(bundle.root), "create", "c1"],
            cwd=bundle.path,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        for _ in range(5)
    ]
    assert sorted(run.wait(20) for run in runs) == [0, 1, 1, 1, 1]
    assert bundle.state()["status"] == "created"


def test_whenever_create_is_killed_delete_force_removes_all(bundle):
    """`kill -9` of the command at 50 moments of its work: what is left is gone after `delete --force`."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    bundle.write()
    null = subprocess.DEVNULL
    began = time.monotonic()
    bundle.create()
    lasts = time.monotonic() - began
    bundle.cli("delete", "--force", "c1")
    killed = 0
    for round_number in range(50):
        run = subprocess.Popen(
            [*COMMAND, "--root", str(bundle.root), "create", "c1"],
            cwd=bundle.path,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        threading.Event().wait(lasts * (0.25 + 0.75 * round_number / 50))
        run.kill()
        killed += run.wait() != 0
        lifecycle.delete(str(bundle.root), "c1", force=True)
        assert states.ids(str(bundle.root)) == [], round_number
    assert killed > 10
    wait_for(lambda: not list(_inits(bundle)), "inits of killed commands")


def _inits(bundle: Bundle) -> Iterator[str]:
    """Yield every process that still is a copy of our command, or has the bundle as its root."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(bundle.root).encode() in (entry / "cmdline").read_bytes():
                yield entry.name
        except (FileNotFoundError, ProcessLookupError):
            continue
