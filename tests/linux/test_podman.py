"""podman with conmon in front of our runtime, as root and as an ordinary user."""

import os
import pty
import select
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from linux.bundles import COMMAND, IS_ROOT, Bundle

pytestmark = pytest.mark.peers

IMAGE = "localhost/vapp-busybox:1"
#: What this host allows at most; podman asks for more by default.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network", "none"]


class Podman:
    """podman with its own storage, and a runtime."""

    def __init__(self, home: Path, runtime: Path) -> None:
        self.home = home
        self.argv = [
            "podman",
            f"--root={home}/storage",
            f"--runroot={home}/run",
            f"--tmpdir={home}/tmp",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            f"--runtime={runtime}",
        ]

    def __call__(self, *words: str, check: bool = True, timeout_s: float = 50) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.argv, *words], capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"`{' '.join(words)}` failed with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("run", *LIMITS, *words, check=check)


def write_runtime(path: Path) -> Path:
    """Write the command as one file: podman takes a runtime by its path."""
    path.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    path.chmod(0o755)
    return path


def write_image(home: Path) -> Path:
    rootfs = home / "rootfs"
    Bundle.make_rootfs(rootfs)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nsomeone:x:1000:1000::/:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nsomeone:x:1000:\n")
    with tarfile.open(home / "image.tar", "w") as archive:
        archive.add(rootfs, arcname=".")
    return home / "image.tar"


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    for program in ("podman", "conmon"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed")
    if not IS_ROOT:
        pytest.skip("needs root; as a user see `test_rootless_podman_runs_a_container`")
    # Not below pytest's own directory: the console socket's path must be short.
    home = Path(tempfile.mkdtemp(prefix="vapp-podman-"))
    made = Podman(home, write_runtime(home / "vapp-oci"))
    made("import", str(write_image(home)), IMAGE)
    yield made
    made("rm", "--all", "--force", "--time=0")
    made("rmi", "--all", "--force", check=False)
    subprocess.run(["umount", "--recursive", str(home / "storage")], capture_output=True, check=False)
    subprocess.run(["umount", "--recursive", str(home / "storage/overlay")], capture_output=True, check=False)
    shutil.rmtree(home)


def test_run_passes_output_and_exit_code(podman):
    done = podman.run("--rm", IMAGE, "sh", "-c", "echo hello; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "hello\n")


def test_a_missing_program_is_127_and_one_that_may_not_run_126(podman):
    assert podman.run("--rm", IMAGE, "nosuch", check=False).returncode == 127
    assert podman.run("--rm", IMAGE, "/etc/passwd", check=False).returncode == 126


def test_exec_logs_and_stop(podman):
    podman.run(
        "--detach", "--name", "c1", IMAGE, "sh", "-c", "echo logged; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    )
    assert podman("exec", "c1", "sh", "-c", "echo inside; exit 5", check=False).stdout == "inside\n"
    assert podman("exec", "c1", "sh", "-c", "exit 5", check=False).returncode == 5
    deadline = time.monotonic() + 10
    while podman("logs", "c1").stdout != "logged\n":
        assert time.monotonic() < deadline
    podman("stop", "--time=10", "c1")
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1").stdout == "exited 0\n"
    podman("rm", "c1")


def test_pause_and_kill(podman):
    podman.run("--detach", "--name", "c2", IMAGE, "sleep", "100")
    podman("pause", "c2")
    assert podman("inspect", "--format", "{{.State.Status}}", "c2").stdout == "paused\n"
    podman("unpause", "c2")
    podman("kill", "c2")
    assert podman("wait", "c2").stdout == "137\n"
    podman("rm", "--force", "--time=0", "c2")


def test_a_terminal(podman):
    pid, master = pty.fork()
    if pid == 0:
        words = [
            *podman.argv,
            "run",
            *LIMITS,
            "-it",
            "--rm",
            IMAGE,
            "sh",
            "-c",
            "test -t 0 && echo is-a-tty; read x; echo got-$x",
        ]
        os.execvp(words[0], words)
    text = _read_until(master, b"is-a-tty")
    os.write(master, b"line\n")
    text += _read_until(master, b"got-line")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 0, text


def _read_until(fd: int, wanted: bytes, timeout_s: float = 30) -> bytes:
    text = b""
    deadline = time.monotonic() + timeout_s
    while wanted not in text:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, text
        try:
            text += os.read(fd, 1000)
        except OSError:
            raise AssertionError(text) from None
    return text


def test_a_read_only_root_and_a_user(podman):
    done = podman.run("--rm", "--read-only", "--user", "someone", IMAGE, "sh", "-c", "id -u; touch /x", check=False)
    assert done.stdout == "1000\n"
    assert "Read-only file system" in done.stderr


def test_capabilities_seccomp_and_a_volume(podman):
    volume = podman.home / "volume"
    volume.mkdir()
    (volume / "file").write_text("in the volume")
    words = ["--rm", "--cap-drop=all", "-v", f"{volume}:/v:ro", IMAGE]
    out = podman.run(*words, "sh", "-c", "cat /v/file; grep -E 'CapBnd|Seccomp:' /proc/self/status").stdout
    assert out == "in the volumeCapBnd:\t0000000000000000\nSeccomp:\t2\n"


def test_rootless_podman_runs_a_container(user):
    for program in ("podman", "conmon", "newuidmap"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed")
    home = user.make_dir("podman")
    archive = write_image(home)
    runtime = write_runtime(home / "vapp-oci")
    if IS_ROOT:
        subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(home)], check=True)
    words = ["run", *LIMITS, "--rm", IMAGE, "sh", "-c", "echo hello; exit 3"]
    try:
        imported = user.run([*Podman(home, runtime).argv, "import", str(archive), IMAGE], timeout_s=50)
        if imported.returncode != 0:
            pytest.skip(f"rootless podman does not work here: {imported.stderr.strip()[-200:]}")
        done = user.run([*Podman(home, runtime).argv, *words], timeout_s=50)
        if done.returncode != 3:
            peer = Podman(home, Path(shutil.which("runc") or shutil.which("crun") or "runc"))
            before = user.run([*peer.argv, *words], timeout_s=50)
            if before.returncode != 3:
                pytest.skip(f"rootless podman does not work here either with `{peer.argv[-1]}`: {before.stderr[-200:]}")
        assert (done.returncode, done.stdout) == (3, "hello\n"), done.stderr
    finally:
        user.run(["podman", f"--root={home}/storage", f"--runroot={home}/run", "system", "migrate"])
        user.run(["podman", "unshare", "rm", "-rf", str(home / "storage"), str(home / "run"), str(home / "tmp")])
        user.kill_all() if IS_ROOT else None
