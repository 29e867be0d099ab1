"""The real daemon with its shim and its registry, driven over its socket; as whoever runs the tests, and as
an unprivileged user if that is root."""

import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from container.intent import ContainerRunSpec, ExecSpec, MountSpec
from e2e.daemons import IMAGE, NOBODY, Running, free_port, make_archive
from vappc.client import Client, ServerError
from vappc.protocol import output_bytes

pytestmark = [
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs `busybox` (package busybox-static)"),
    pytest.mark.slow,
]


USERS = ["root", "nobody"] if os.getuid() == 0 else ["me"]


@pytest.fixture(scope="module", params=USERS)
def daemon(request):
    uid = NOBODY if request.param == "nobody" else os.getuid()
    directory = Path(tempfile.mkdtemp(prefix="vapp-e2e-"))
    directory.chmod(0o755)
    (directory / "xdg").mkdir()
    archive = make_archive(directory)
    for path in (directory, directory / "xdg"):
        os.chown(path, uid, -1)
    running = Running(directory, uid, free_port())
    running.start()
    try:
        with Client(running.address) as client:
            client.load_image(str(archive), IMAGE)
        yield running
    finally:
        running.clean()


@pytest.fixture
def client(daemon):
    with Client(daemon.address) as made:
        yield made
        for found in made.list_containers():
            made.remove(found.id, force=True)


def spec(*argv, **fields):
    return ContainerRunSpec(image=IMAGE, command=list(argv), **fields)


def run(client, *argv, **fields):
    """Run to the end; return (code, stdout, stderr)."""
    out = {"stdout": b"", "stderr": b""}
    with client.run_attached(spec(*argv, remove=True, **fields)) as process:
        for found in process:
            out[found.stream] += output_bytes(found)
    return process.exit.code, out["stdout"].decode(), out["stderr"].decode()


def test_output_and_exit_code_arrive(client):
    assert run(client, "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")


def test_a_container_is_root_in_its_own_pid_namespace(client):
    assert run(client, "sh", "-c", "echo $$; id -u; echo $HOSTNAME", hostname="box") == (0, "1\n0\nbox\n", "")


def test_stdin_reaches_the_container(client):
    with client.run_attached(spec("cat", stdin=True, remove=True)) as process:
        process.write(b"hello")
        process.close_stdin()
        assert b"".join(output_bytes(found) for found in process) == b"hello"
    assert process.exit.code == 0


def test_a_terminal_is_a_terminal(client):
    with client.run_attached(spec("sh", terminal=True, stdin=True, remove=True), rows=11, cols=22) as process:
        process.write(b"test -t 0 && echo is a tty; exit 4\n")
        shown = b"".join(output_bytes(found) for found in process)
    assert b"is a tty\r\n" in shown
    assert process.exit.code == 4


def test_bind_mounts_show_and_read_only_is_kept(client, daemon):
    shared = daemon.directory / "shared"
    shared.mkdir(exist_ok=True)
    os.chown(shared, daemon.uid, -1)
    (shared / "file").write_text("data")
    code, out, _ = run(client, "cat", "/mnt/file", mounts=[MountSpec(str(shared), "/mnt")])
    assert (code, out) == (0, "data")
    code, _, err = run(client, "touch", "/mnt/x", mounts=[MountSpec(str(shared), "/mnt", read_only=True)])
    assert code == 1
    assert "Read-only" in err


def test_network_none_has_loopback_only(client):
    assert run(client, "ls", "/sys/class/net", network="none")[:2] == (0, "lo\n")


def test_read_only_root_cannot_be_written(client):
    assert run(client, "touch", "/x", read_only=True)[0] == 1


def test_a_detached_life(client):
    client.run_container(spec("sh", "-c", "echo $A; exec sleep 60", env=["A=b"], instance_id="life"))
    assert client.state("life") == "Running"
    assert next(client.logs("life", follow=True)).text == "b\n"
    assert [found.text for found in client.logs("life")] == ["b\n"]
    assert client.exec("life", ["sh", "-c", "cat; exit 3"], stdin=b"in").code == 3
    client.stop("life", 0.2)
    assert client.wait("life").code == 137
    client.remove("life")
    assert client.list_containers() == []


def test_pause_and_resume(client):
    client.run_container(spec("sleep", "60", instance_id="frozen"))
    try:
        client.pause("frozen")
    except ServerError as error:
        if "without a cgroup" in error.message:
            pytest.skip(f"no cgroup of our own here: {error}")
        raise
    assert client.list_containers()[0].status == "paused"
    client.resume("frozen")
    assert client.state("frozen") == "Running"


def test_exec_on_a_terminal_ends_with_its_code(client):
    client.run_container(spec("sleep", "60", instance_id="tty"))
    with client.open_exec("tty", ExecSpec(["sh"], terminal=True, stdin=True)) as process:
        process.write(b"test -t 1 && echo yes; exit 5\n")
        assert b"yes" in b"".join(output_bytes(found) for found in process)
    assert process.exit.code == 5


@pytest.mark.parametrize("path", ["/no/such", "/etc/passwd"])
def test_a_program_that_cannot_run_is_an_error_and_leaves_nothing(client, daemon, path):
    with pytest.raises(ServerError) as caught:
        client.run_container(spec(path))
    assert caught.value.code == "launch"
    assert os.listdir(daemon.paths.bundles) == []


def test_nothing_is_left_of_a_removed_container(client, daemon):
    def traces():
        with open("/proc/self/mountinfo") as mounts:
            return (
                sorted(line.split()[4] for line in mounts),
                sorted(os.listdir(daemon.paths.bundles)),
                sorted(os.listdir(daemon.paths.states)),
            )

    def descriptors():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    run(client, "true")
    before, open_before = traces(), descriptors()
    for _ in range(5):
        run(client, "true")
    assert traces() == before
    deadline = time.monotonic() + 10
    while descriptors() > open_before and time.monotonic() < deadline:
        time.sleep(0.02)  # the daemon sees the end of a connection a moment after we do
    assert descriptors() <= open_before


def test_a_killed_daemon_loses_no_container_and_no_exit_code(daemon):
    with Client(daemon.address) as client:
        client.run_container(spec("sleep", "60", instance_id="runs"))
        client.run_container(spec("sh", "-c", "echo early; sleep 1; echo late; exit 9", instance_id="ends"))
        client.run_container(spec("sh", "-c", "exit 6", instance_id="ended"))
        client.wait("ended")
    daemon.stop(signal.SIGKILL)
    ended = daemon.paths.states / "ends" / "exit.json"
    deadline = time.monotonic() + 10
    while not ended.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    daemon.start()
    with Client(daemon.address) as client:
        assert client.state("runs") == "Running"
        assert client.wait("ended").code == 6
        assert client.wait("ends").code == 9
        assert [found.text for found in client.logs("ends")] == ["early\n", "late\n"]
        assert client.exec("runs", ["echo", "hi"]).stdout == b"hi\n"
        for name in ("runs", "ends", "ended"):
            client.remove(name, force=True)


def test_sigterm_ends_it_cleanly_and_containers_run_on(daemon):
    with Client(daemon.address) as client:
        client.run_container(spec("sleep", "60", instance_id="runs"))
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.address)
    daemon.start()
    with Client(daemon.address) as client:
        assert client.state("runs") == "Running"
        client.remove("runs", force=True)


def test_a_second_daemon_on_the_app_directory_is_refused(daemon):
    said = daemon.fails()
    assert "another daemon uses the app directory" in said
    assert "hint: " in said
    assert "Traceback" not in said


def beside(daemon: Running, name: str, port: int) -> Running:
    """Return a daemon of the same user with directories of its own, not started."""
    other = Running(daemon.directory / name, daemon.uid, port)
    for path in (other.directory, other.directory / "xdg"):
        path.mkdir()
        os.chown(path, daemon.uid, -1)
    return other


def test_a_taken_port_is_one_clear_error(daemon):
    other = beside(daemon, "other", 0)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        other.port = sock.getsockname()[1]
        said = other.fails()
    shutil.rmtree(other.paths.run)
    assert f"the registry cannot listen on `127.0.0.1:{other.port}`: address already in use" in said
    assert "hint: " in said


def test_a_live_socket_of_somebody_else_is_refused(daemon):
    other = beside(daemon, "third", free_port())
    said = other.fails("--socket", daemon.address)
    assert not other.paths.shim_socket.exists()
    shutil.rmtree(other.paths.run)
    assert f"another daemon listens on `{daemon.address}`" in said
    with Client(daemon.address) as client:
        client.ping()


def test_an_unwritable_app_directory_is_one_clear_error(daemon):
    said = daemon.fails("--app-dir", "/proc/vapp")
    assert "app directory `/proc/vapp`" in said
    assert "hint: " in said


def test_it_answers_soon(daemon):
    daemon.stop()
    began = time.monotonic()
    daemon.start()
    with Client(daemon.address) as client:
        client.ping()
    # The budget is half a second; a loaded machine may take its time.
    assert time.monotonic() - began < 5
