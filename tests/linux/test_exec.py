"""Further programs in a running container."""

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.errors import LaunchError, StateError
from container.runtime import exec as execs
from linux.bundles import COMMAND, Bundle


@pytest.fixture
def bundle(tmp_path) -> Iterator[Bundle]:
    made = Bundle(tmp_path / "b")
    made.process["env"].append("GIVEN=1")
    made.start()
    yield made
    made.remove_all()


def test_output_status_and_environment_are_the_programs(bundle):
    done = bundle.exec("--env", "MORE=2", "c1", "sh", "-c", "echo $GIVEN$MORE; echo e >&2; exit 4", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "12\n", "e\n")


def test_it_is_in_all_namespaces_and_in_the_cgroup_of_the_container(bundle):
    inside = bundle.exec("c1", "ls", "-l", "/proc/self/ns").stdout
    namespaces = Path(f"/proc/{bundle.state()['pid']}/ns")
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
        assert os.readlink(namespaces / name) in inside
    mine = bundle.exec("c1", "cat", "/proc/self/cgroup").stdout
    assert sorted(mine.split()) == sorted(bundle.exec("c1", "cat", "/proc/1/cgroup").stdout.split())


def test_user_directory_and_capabilities_by_option(bundle):
    if os.geteuid() != 0:
        pytest.skip("needs root: a single id is mapped")
    words = ["--user", "1:2", "--additional-gids", "3", "--cwd", "/tmp", "--cap", "CAP_SYS_NICE"]
    out = bundle.exec(
        *words, "c1", "sh", "-c", "id; busybox pwd; grep -E 'Groups|CapBnd|CapInh' /proc/self/status"
    ).stdout
    assert "uid=1 gid=2" in out
    assert "\n/tmp\n" in out
    assert "Groups:\t3" in out
    assert "CapInh:\t0000000000000000" in out
    assert int(out.split("CapBnd:\t")[1].split()[0], 16) >> 23 & 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cap", "CAP_NEW", "c1", "true"], "unknown capability"),
        (["--user", "root", "c1", "true"], "in numbers"),
        (["--cwd", "/nowhere", "c1", "true"], "cannot chdir"),
        (["c1"], "needs a command"),
        (["c1", "nosuch"], "executable file not found in $PATH"),
        (["--process", "/nowhere", "c1"], "cannot read"),
    ],
)
def test_what_cannot_be_done_fails_with_255(bundle, words, text):
    done = bundle.exec(*words, check=False)
    assert done.returncode == 255
    assert text in done.stderr


def test_inheritable_capabilities_are_empty_even_where_the_container_has_some(bundle):
    """CVE-2022-29162, CVE-2022-27650."""
    bundle.remove_all()
    bundle.process["capabilities"]["inheritable"] = ["CAP_KILL"]
    bundle.start()
    assert "CapInh:\t0000000000000000" in bundle.exec("c1", "cat", "/proc/self/status").stdout


def test_no_descriptor_of_ours_is_inside(bundle):
    """CVE-2024-21626: a directory of the host left open is a way out."""
    assert bundle.exec("c1", "ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]
    assert os.readlink(f"/proc/{bundle.state()['pid']}/fd/2") is not None
    assert sorted(os.listdir(f"/proc/{bundle.state()['pid']}/fd")) == ["0", "1", "2"]


def test_a_process_document_is_run(bundle):
    spec = {"cwd": "/", "args": ["sh", "-c", "echo $A; umask"], "env": ["A=b", "PATH=/bin"], "user": {"umask": 0o77}}
    (bundle.path / "process.json").write_text(json.dumps(spec))
    assert bundle.exec("--process", "process.json", "c1").stdout == "b\n0077\n"
    assert bundle.exec("--process", "-", "c1", input=json.dumps(spec)).stdout == "b\n0077\n"


def test_detached_it_goes_on_and_its_pid_is_in_the_file(bundle):
    null = subprocess.DEVNULL
    bundle.exec("--detach", "--pid-file", "pid", "c1", "sleep", "50", capture_output=False, stdin=null, stdout=null)
    pid = int((bundle.path / "pid").read_text())
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGKILL)


def test_a_terminal_goes_to_the_console_socket(bundle):
    receiver = socket.socket(socket.AF_UNIX)
    receiver.bind(str(bundle.path / "console"))
    receiver.listen()
    receiver.settimeout(20)
    null = subprocess.DEVNULL
    words = [
        "--tty",
        "--detach",
        "--console-socket",
        "console",
        "c1",
        "sh",
        "-c",
        "test -t 0 && echo terminal; sleep 50",
    ]
    bundle.exec(*words, capture_output=False, stdin=null, stdout=null)
    connection, _ = receiver.accept()
    _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert os.read(fds[0], 100).startswith(b"terminal")
    for one in (connection, receiver):
        one.close()
    os.close(fds[0])


def test_signals_go_to_the_program(bundle):
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    running = subprocess.Popen(
        [*COMMAND, "--root", str(bundle.root), "exec", "c1", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.terminate()
        assert running.stdout.read() == "caught\n"
        assert running.wait(10) == 9


def test_the_runtime_cannot_be_looked_into_from_the_container(bundle):
    """CVE-2016-9962: what enters is not dumpable until it has become the program."""
    watcher = (
        "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; "
        "busybox readlink $p/exe | grep python; ls -l $p/fd 2>/dev/null | grep -E 'state|/proc' ; done; done"
    )
    running = subprocess.Popen(
        [*COMMAND, "--root", str(bundle.root), "exec", "c1", "sh", "-c", watcher],
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        began = time.monotonic()
        for _ in range(15):
            bundle.exec("c1", "true")
        assert time.monotonic() - began < 60
        bundle.cli("kill", "--all", "c1", "9")
        assert running.stdout is not None
        assert running.stdout.read() == ""


def test_the_function_reports_staged_then_started(bundle):
    spec = {"cwd": "/", "args": ["true"], "env": ["PATH=/bin"]}
    null = os.open("/dev/null", os.O_RDWR)
    running = execs.begin(str(bundle.root), "c1", spec, (null, null, null))
    try:
        assert running.feed() == "staged"
        running.proceed()
        assert running.feed() == "started"
        os.waitpid(running.stage, 0)
        assert os.waitpid(running.pid, 0)[1] == 0
    finally:
        running.close()
        os.close(null)


def test_a_failing_function_leaves_nothing(bundle):
    spec = {"cwd": "/", "args": ["nosuch"], "env": ["PATH=/bin"]}
    counts = []
    for _ in range(2):
        running = execs.begin(str(bundle.root), "c1", spec)
        running.feed()
        running.proceed()
        with pytest.raises(LaunchError, match="executable file not found"):
            running.feed()
        running.abort()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1]


def test_nothing_runs_in_a_stopped_container(bundle):
    pidfd = os.pidfd_open(bundle.state()["pid"])
    bundle.cli("kill", "c1", "9")
    select.select([pidfd], [], [], 10)
    os.close(pidfd)
    with pytest.raises(StateError, match="container not running"):
        execs.begin(str(bundle.root), "c1", {"cwd": "/", "args": ["true"]})
