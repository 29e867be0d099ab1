"""The shim: what it runs, what it tells, and that nothing is lost when it is killed."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncinotify
import pytest

from container import errors, paths
from container.linux import prctl
from container.shim.client import Exit, Shim, Stdio
from linux.rootfs import make_bundle, make_rootfs

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root_only")]

Start = Callable[[str, list[str]], Awaitable[Path]]


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[Shim]:
    prctl.set_subreaper()  # as the daemon is
    one = await Shim.start(paths.open_paths(tmp_path / "app"), uplink=False)
    try:
        yield one
    finally:
        await one.shutdown(force=True)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    return make_rootfs(tmp_path / "image")


@pytest.fixture
def start(shim: Shim, rootfs: Path, tmp_path: Path) -> Start:
    """Run a program as container NAME; returns its log."""

    async def run(name: str, args: list[str]) -> Path:
        bundle = make_bundle(tmp_path / name, args, rootfs)
        await shim.run(name, bundle, Stdio(bundle / "log"))
        return bundle / "log"

    return run


def lines(log: Path) -> list[tuple[str, str, str]]:
    """Return (stream, tag, text) of every line."""
    parts = (line.split(" ", 3) for line in log.read_text().splitlines())
    return [(stream, tag, text) for _, stream, tag, text in parts]


async def first_line(log: Path) -> None:
    """Wait until something is in `log`."""
    with asyncinotify.Inotify() as inotify:
        inotify.add_watch(log, asyncinotify.Mask.MODIFY)
        async with asyncio.timeout(10):
            while not log.read_text():
                await inotify.get()


def read_terminal(master: int) -> bytes:
    """Return all that a terminal has, whose last process has ended: then the end is EIO."""
    said = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 1000):
            said += data
    return said


async def shim_pid(shim: Shim) -> int:
    return (await shim.hello())["pid"]


async def kill_shim(shim: Shim) -> None:
    os.kill(await shim_pid(shim), signal.SIGKILL)


async def test_exit_code_and_output_are_kept(shim: Shim, start: Start) -> None:
    log = await start("one", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (await shim.wait("one")).code == 3
    assert sorted(lines(log)) == [("stderr", "F", "err"), ("stdout", "F", "out")]
    await shim.delete("one")
    assert await shim.states() == []


async def test_death_by_signal_is_told(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    await shim.kill("one", signal.SIGKILL)
    outcome = await shim.wait("one")
    assert (outcome.code, outcome.signal) == (137, 9)


async def test_line_without_end_is_a_partial_one(shim: Shim, start: Start) -> None:
    log = await start("one", ["sh", "-c", "echo -n prompt"])
    await shim.wait("one")
    assert lines(log) == [("stdout", "P", "prompt")]


async def test_long_lines_are_cut_and_nothing_is_lost(shim: Shim, start: Start) -> None:
    log = await start("one", ["sh", "-c", "cat /bin/busybox | od -v -An -tx1 | head -c 100000 | tr -d '\\n'"])
    await shim.wait("one")
    assert [tag for _, tag, _ in lines(log)] == ["P"] * 6
    assert sum(len(text) for _, _, text in lines(log)) > 90000


async def test_missing_program_is_an_error_and_leaves_nothing(shim: Shim, start: Start) -> None:
    with pytest.raises(errors.LaunchError, match="executable file not found"):
        await start("one", ["nosuch"])
    assert await shim.states() == []


async def test_taken_name_is_refused(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    with pytest.raises(errors.ExistsError, match="one"):
        await start("one", ["true"])


async def test_created_container_starts_when_told(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", ["sh", "-c", "exit 4"], rootfs)
    state = await shim.create("one", bundle, Stdio(bundle / "log"))
    assert state.status == "created"
    await shim.start_container("one")
    assert (await shim.wait("one")).code == 4


async def test_created_container_survives_the_shim(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", ["sh", "-c", "exit 4"], rootfs)
    await shim.create("one", bundle, Stdio(bundle / "log"))
    await kill_shim(shim)
    await shim.start_container("one")
    assert (await shim.wait("one")).code == 4


async def test_exec_gives_output_and_exit_code(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    handle = await shim.exec("one", "e1", {"args": ["sh", "-c", "cat; exit 5"], "cwd": "/", "env": ["PATH=/bin"]})
    os.write(handle.stdin, b"hello")
    os.close(handle.steal("stdin"))
    assert (await handle.wait()).code == 5
    assert os.read(handle.stdout, 100) == b"hello"
    handle.close()


async def test_exec_on_a_terminal(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    process = {"args": ["sh", "-c", "stty size 2>/dev/null; tty"], "cwd": "/", "env": ["PATH=/bin"]}
    handle = await shim.exec("one", "e1", process, terminal=True, rows=33, cols=99)
    await handle.wait()
    said = read_terminal(handle.master)
    handle.close()
    assert said.startswith(b"33 99\r\n/dev/pts/")


async def test_exec_outlives_the_shim(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    handle = await shim.exec("one", "e1", {"args": ["sh", "-c", "cat; exit 6"], "cwd": "/", "env": ["PATH=/bin"]})
    await kill_shim(shim)
    os.close(handle.steal("stdin"))
    assert (await handle.wait()).code == 6
    handle.close()


async def test_paused_container_stands_still(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    await shim.pause("one")
    assert (await shim.state("one")).status == "paused"
    await shim.resume("one")
    assert (await shim.state("one")).status == "running"


async def test_helper_runs_with_pipes(shim: Shim) -> None:
    helper = await shim.spawn(["/bin/sh", "-c", "cat; exit 7"])
    helper.stdin.write(b"question")
    helper.stdin.close()
    assert await helper.stdout.read() == b"question"
    assert await helper.wait() == 7


async def test_end_while_no_shim_lives_is_known(shim: Shim, start: Start) -> None:
    log = await start("one", ["sh", "-c", "sleep 0.2; echo last words; exit 9"])
    await kill_shim(shim)
    assert await shim.wait("one") == Exit(9, finished=(await shim.wait("one")).finished)
    assert lines(log) == [("stdout", "F", "last words")]


async def test_second_client_sees_what_the_first_began(shim: Shim, start: Start, tmp_path: Path) -> None:
    await start("one", ["sh", "-c", "sleep 0.1; exit 8"])
    other = await Shim.start(paths.open_paths(tmp_path / "app"), uplink=False)
    assert (await other.wait("one")).code == 8
    await other.close()


async def test_shutdown_is_refused_while_containers_run(shim: Shim, start: Start) -> None:
    await start("one", ["sleep", "60"])
    with pytest.raises(errors.StateError, match="1 containers run"):
        await shim.shutdown()


async def test_reopened_log_gets_what_comes_later(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", ["sh", "-c", "echo a; cat; exit 0"], rootfs)
    log = bundle / "log"
    await shim.run("one", bundle, Stdio(log, stdin=True))
    await first_line(log)
    log.rename(bundle / "log.1")
    await shim.reopen_log("one")
    stdin = shim.open_stdin("one")
    os.write(stdin, b"b\n")
    os.close(stdin)
    await shim.close_stdin("one")
    await shim.wait("one")
    assert (lines(bundle / "log.1"), lines(log)) == ([("stdout", "F", "a")], [("stdout", "F", "b")])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
async def test_random_kills_lose_no_container_line_or_exit_code(
    shim: Shim, rootfs: Path, tmp_path: Path, seed: int
) -> None:
    """SIGKILL the shim at random moments while containers start, talk and end."""
    chance = random.Random(seed)
    kills = 0
    began = time.monotonic()
    await run_and_delete(shim, make_bundle(tmp_path / "first", ["true"], rootfs))
    # On a slow machine slower, too: a shim that dies ten times over one start is taken for broken.
    longest = max(0.08, 4 * (time.monotonic() - began))

    async def keep_killing() -> None:
        nonlocal kills
        while kills < 30:
            pid = await shim_pid(shim)
            await asyncio.sleep(chance.uniform(0, longest))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1

    async def keep_running(worker: int) -> None:
        turn = 0
        while kills < 30:
            turn += 1
            await run_one(f"c{worker}-{turn}", chance.randrange(1, 120), chance.randrange(1, 300))

    async def run_one(name: str, code: int, count: int) -> None:
        script = f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo line $i; done; exit {code}"
        bundle = make_bundle(tmp_path / name, ["sh", "-c", script], rootfs)
        await shim.run(name, bundle, Stdio(bundle / "log"))
        assert (await shim.wait(name)).code == code
        assert lines(bundle / "log") == [("stdout", "F", f"line {i}") for i in range(1, count + 1)]
        await shim.delete(name, force=True)

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_killing())
        for worker in range(3):
            group.create_task(keep_running(worker))
    assert await shim.states() == []


@pytest.mark.timeout(120)
async def test_many_containers_leave_nothing(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", ["true"], rootfs)
    for _ in range(20):
        await run_and_delete(shim, bundle)
    pid = await shim_pid(shim)
    before = (len(os.listdir(f"/proc/{pid}/fd")), resident(pid), len(os.listdir("/proc/self/fd")))
    for _ in range(200):
        await run_and_delete(shim, bundle)
    after = (len(os.listdir(f"/proc/{pid}/fd")), resident(pid), len(os.listdir("/proc/self/fd")))
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] - before[1] < 512, "the shim grew by more than 512 KiB in 200 containers"


async def run_and_delete(shim: Shim, bundle: Path) -> None:
    await shim.run("same", bundle, Stdio(Path("/dev/null")))
    await shim.wait("same")
    await shim.delete("same")


def resident(pid: int) -> int:
    """Return private memory of `pid` in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")


async def test_terminal_outlives_the_shim(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    script = "echo before; read word; echo got $word; exit 3"
    bundle = make_bundle(tmp_path / "one", ["sh", "-c", script], rootfs, terminal=True)
    log = bundle / "log"
    await shim.run("one", bundle, Stdio(log))
    await first_line(log)
    await kill_shim(shim)
    assert (await shim.state("one")).status == "running"
    terminal = shim.open_stdin("one")
    os.write(terminal, b"hello\n")
    os.close(terminal)
    assert (await shim.wait("one")).code == 3
    assert "got hello" in log.read_text()


async def test_what_a_start_left_out_is_told(
    shim: Shim, rootfs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    too_many = [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]
    bundle = make_bundle(tmp_path / "one", ["true"], rootfs, rlimits=too_many)
    await shim.run("one", bundle, Stdio(bundle / "log"))
    assert "container=one `RLIMIT_NOFILE` is clamped" in caplog.text


async def test_client_that_never_reads_holds_up_nobody(shim: Shim, rootfs: Path, tmp_path: Path) -> None:
    socket_path = paths.open_paths(tmp_path / "app").shim_socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.connect(str(socket_path))
        deaf.send(b'{"id": 1, "op": "hello", "follow": true}')
        bundle = make_bundle(tmp_path / "one", ["true"], rootfs)
        async with asyncio.timeout(50):
            for _ in range(120):
                await run_and_delete(shim, bundle)
