"""The tour: what a user of the platform does, by the commands that a user types.

It runs in a process of its own, as the user whom it is for, in a directory that is removed afterwards.
Out of scope: making users and directories, and looking for what is left (demonstration.supervise).
"""

import json
import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from container.paths import open_paths, run_root
from demonstration import show
from demonstration.errors import DemoError
from demonstration.rootfs import write_rootfs
from demonstration.servers import Server, end_shim, program, start_daemon, start_origin

IMAGE = "origin.test/busybox:1"
INTERRUPTED = 130

#: How long the daemon and all that serves it may take to end.
_END_S = 20.0

_HELLO = 'echo "hello, I am $(id -un) on $(hostname)"; exit 7'
_CLOCK = """\
trap 'echo "bye, $NAME"; exit 3' TERM
while :; do
  n=$((n + 1))
  echo "tick $n for $NAME" | tee -a /data/ticks
  sleep 0.2
done
"""


def main(directory: Path, report_fd: int) -> int:
    """Give the tour in `directory` and write what it found to `report_fd`; returns the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    with open(report_fd, "w", encoding="utf-8") as report:
        tour = Tour(directory)
        json.dump({"words": tour.words}, report)
        report.write("\n")
        report.flush()
        try:
            tour.give()
        except KeyboardInterrupt:
            return INTERRUPTED
        json.dump({"times": tour.times}, report)
    return 0


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Once is enough: a second one must not disturb the clearing away.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class Tour:
    """One tour.

    Attributes:
        times: seconds of each step, in order.
        words: what occurs in the names of everything that it makes: paths, container ids.
    """

    def __init__(self, directory: Path) -> None:
        tag = secrets.token_hex(2)
        self.hello = f"hello-{tag}"
        self.clock = f"clock-{tag}"
        self.times: dict[str, float] = {}
        self._directory = directory
        self._cleanup = ExitStack()
        self._origin: Server | None = None
        os.chdir(directory)
        os.environ["VAPPC_SOCKET"] = str(directory / "vappc.sock")
        if not run_root().exists():
            self._cleanup.callback(_remove_empty, run_root())
        self._paths = open_paths(directory / "app")
        self._cleanup.callback(end_shim, self._paths)
        self.words = [str(directory), self._paths.run.name, self.hello, self.clock]

    def give(self) -> None:
        """Do every step; whatever happens, end what was started.

        Raises:
            DemoError: a step did not do what it must.
        """
        steps = (
            ("check the machine", self._check_machine),
            ("start the origin registry", self._start_origin),
            ("build an image and push it there", self._push_image),
            ("start the daemon and its cache", self._start_daemon),
            ("pull through the cache", self._pull),
            ("run a container", self._run),
            ("run one in the background", self._run_detached),
            ("exec into it", self._exec),
            ("follow its logs, stop it", self._follow_and_stop),
            ("remove it", self._remove),
            ("pull from the cache, origin gone", self._pull_again),
            ("end the daemon", self._end),
        )
        show.note(f"in {self._directory}, which goes away afterwards")
        try:
            for number, (title, act) in enumerate(steps, 1):
                show.step(number, title)
                with self._timed(title):
                    act()
        except DemoError:
            self._show_logs()
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._cleanup.close()

    def _show_logs(self) -> None:
        for log in sorted(self._directory.glob("*.log")):
            show.note(f"end of {log.name}:")
            for line in log.read_text(errors="replace").splitlines()[-15:]:
                show.output(line)

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.times[title] = time.perf_counter() - began

    def _check_machine(self) -> None:
        said = _ask("vappc", "doctor", "--app-dir", "app", "--json", codes=(0, 1, 125))
        findings = json.loads(said)
        lacking = [found for found in findings if not found["ok"]]
        show.command("vappc", "doctor", "--app-dir", "app")
        for found in lacking:
            show.output(f"{found['severity']:8} {found['name']}: {found['detail']}")
            show.output(f"{'':8} fix: {found['fix']}")
        show.output(f"{len(findings) - len(lacking)} of {len(findings)} checks are well")

    def _start_origin(self) -> None:
        argv = ["docker-proxy-server", "serve", "--no-upstreams", "--store", "origin", "--listen", "127.0.0.1:0"]
        show.command(*argv, background=True)
        self._origin, self._address = start_origin(argv, self._directory / "origin.log")
        self._cleanup.callback(self._origin.stop)
        show.output(f"listens at {self._address}; the remote of this demo, nothing is downloaded")

    def _push_image(self) -> None:
        count = write_rootfs(self._directory / "rootfs.tar")
        show.note(f"rootfs.tar: this machine's busybox, {count} programs in one")
        url = f"http://{self._address}"
        _run("docker-proxy-server", "load", "rootfs.tar", "busybox:1", "--to", url)

    def _start_daemon(self) -> None:
        argv = ["vappc-linux-daemon", "--app-dir", "app", "--socket", "./vappc.sock"]
        argv += ["--registry-listen", "127.0.0.1:0", "--upstream", f"origin.test=http://{self._address}"]
        show.command(*argv, background=True)
        daemon = start_daemon(argv, self._directory / "daemon.log")
        self._cleanup.callback(daemon.stop)
        self._cleanup.callback(self._remove_all)
        self._daemon = daemon
        show.typed("export VAPPC_SOCKET=$PWD/vappc.sock")
        _run("vappc", "ping")

    def _pull(self) -> None:
        _run("vappc", "pull", IMAGE)
        _run("vappc", "images")

    def _run(self) -> None:
        said = _run("vappc", "run", "--rm", "--name", self.hello, IMAGE, "--", "sh", "-c", _HELLO, codes=(7,))
        _must(f"hello, I am root on {self.hello}" in said, "the container did not say hello")
        show.note("exit code 7, as the command said")

    def _run_detached(self) -> None:
        data = self._directory / "data"
        data.mkdir()
        (data / "clock.sh").write_text(_CLOCK)
        argv = ["run", "-d", "--name", self.clock, "-v", "./data:/data", "-e", "NAME=ann"]
        _run("vappc", *argv, IMAGE, "--", "sh", "/data/clock.sh")
        _run("vappc", "ps")

    def _exec(self) -> None:
        said = _run("vappc", "exec", self.clock, "--", "sh", "-c", 'ls /data; ps | grep "[c]lock.sh"')
        _must("clock.sh" in said and "sh /data/clock.sh" in said, "exec does not see the files and the processes")
        inside, outside, _ = _run("vappc", "exec", self.clock, "cat", "/proc/self/uid_map").split()[:3]
        if os.getuid() != 0:
            _must(inside == "0" and int(outside) == os.getuid(), "root in the container is not its user outside")
            show.note(f"uid 0 in there is uid {outside} out here")

    def _follow_and_stop(self) -> None:
        show.command("vappc", "logs", "-f", self.clock, background=True)
        follower = _spawn("vappc", "logs", "-f", self.clock)
        try:
            lines = _follow(follower, until="tick 3")
            show.command("vappc", "stop", self.clock)
            _ask("vappc", "stop", self.clock)
            lines += _follow(follower)
        finally:
            follower.kill()
            follower.wait()
        _must("bye, ann" in lines, "the last line of the log is missing")
        said = _run("vappc", "wait", self.clock)
        _must(said.strip() == "3", "the exit code is not the 3 of the script")

    def _remove(self) -> None:
        _run("vappc", "rm", self.clock)
        _run("stat", "-c", "%n: %s bytes, owned by uid %u", "data/ticks")
        owner = (self._directory / "data" / "ticks").stat().st_uid
        _must(owner == os.getuid(), "what the container wrote does not belong to its user")
        left = [*self._paths.states.glob("*"), *self._paths.bundles.glob("*")]
        _must(not left, f"a removed container left `{', '.join(map(str, left))}`")

    def _pull_again(self) -> None:
        _run("vappc", "image", "rm", IMAGE)
        assert self._origin is not None
        show.typed("kill %1")
        self._origin.stop()
        _run("vappc", "pull", IMAGE)
        _run("vappc", "run", "--rm", "--name", self.hello, IMAGE, "--", "echo", "the origin is down, the cache is not")
        _run("vappc", "image", "rm", IMAGE)

    def _end(self) -> None:
        _run("vappc", "shutdown")
        status = self._daemon.process.wait(_END_S)
        _must(status == 0, f"the daemon ended badly: {self._daemon.last_words()}")
        _must(not self._paths.run.exists(), f"the daemon left `{self._paths.run}`")

    def _remove_all(self) -> None:
        """Take away what an interrupted tour left running."""
        if self._daemon.process.poll() is None:
            for name in _ask("vappc", "ps", "-a", "-q", codes=None).split():
                _ask("vappc", "rm", "-f", name, codes=None)


def _run(*argv: str, codes: tuple[int, ...] = (0,)) -> str:
    """Show and run a command; returns what it wrote.

    Raises:
        DemoError: its exit code is none of `codes`.
    """
    show.command(*argv)
    process = _spawn(*argv)
    try:
        said = "".join(_lines(process))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    _check(argv, process.returncode, codes, "")
    return said


def _ask(*argv: str, codes: tuple[int, ...] | None = (0,)) -> str:
    """Run a command without showing it; returns what it wrote. None for any code."""
    done = subprocess.run(
        [program(argv[0]), *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if codes is not None:
        _check(argv, done.returncode, codes, done.stderr)
    return done.stdout


def _spawn(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program(argv[0]), *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        show.output(line.rstrip("\n"))
        yield line
    process.wait()


def _follow(process: subprocess.Popen[str], until: str = "\0") -> str:
    found = ""
    for line in _lines(process):
        found += line
        if until in line:
            break
    return found


def _check(argv: tuple[str, ...], code: int, codes: tuple[int, ...], words: str) -> None:
    if code not in codes:
        expected = " or ".join(map(str, codes))
        raise DemoError(f"`{shlex.join(argv)}` exited with {code}, not {expected}: {words.strip()}".rstrip(": "))


def _remove_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # somebody else uses it by now


def _must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DemoError(otherwise)
