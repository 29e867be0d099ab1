"""What users see, compared word for word. The command runs in its own process against a real socket."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time

import pytest

from container.intent import ContainerInfo, ExitStatus, MountSpec
from fakes.daemon import fake_daemon
from vappc.cli import output, values
from vappc.cli.containers import status
from vappc.cli.main import VERBS, build_parser

COMMAND = [sys.executable, "-m", "vappc.cli.main"]


@pytest.fixture
async def daemon(tmp_path):
    async with fake_daemon(tmp_path) as made:
        yield made


async def vappc(daemon, *arguments, stdin=b""):
    """Run the command and return (status, stdout, stderr)."""
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, "VAPPC_SOCKET": daemon.address if daemon else "/nonexistent/vappc.sock"}
    child = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    out, err = await child.communicate(stdin)
    return child.returncode, out.decode(), err.decode()


def script(text):
    return ["--entrypoint", "/bin/sh", "demo", "--", "-c", text]


async def test_run_is_the_command_with_its_output_and_status(daemon):
    found = await vappc(daemon, "run", *script("echo out; echo err >&2; exit 7"))
    assert found == (7, "out\n", "fetching demo\nerr\n")


async def test_run_passes_stdin_on(daemon):
    assert await vappc(daemon, "run", "-i", "--rm", "--pull", "missing", *script("cat"), stdin=b"a\0b" * 100_000) == (
        0,
        "a\0b" * 100_000,
        "fetching demo\n",
    )


async def test_run_without_a_command_takes_the_images(daemon):
    assert (await vappc(daemon, "run", "demo"))[0] == 0


async def test_detached_run_prints_the_name_and_the_rest_of_life_works(daemon):
    assert (await vappc(daemon, "run", "-d", "--name", "web", "-e", "A=b", *script("echo $A; exec sleep 60")))[:2] == (
        0,
        "web\n",
    )
    code, out, _ = await vappc(daemon, "ps")
    assert code == 0
    assert out.splitlines()[0].split() == ["NAME", "IMAGE", "COMMAND", "CREATED", "STATUS"]
    assert out.splitlines()[1].startswith("web    demo    /bin/sh -c 'echo $A; exec sle…")
    assert await vappc(daemon, "ps", "-q") == (0, "web\n", "")
    assert json.loads((await vappc(daemon, "ps", "--json"))[1])[0]["status"] == "running"
    assert await vappc(daemon, "logs", "web") == (0, "b\n", "")
    assert await vappc(daemon, "logs", "--timestamps", "web") == (0, "2026-01-02T03:04:05.000000006Z b\n", "")
    assert await vappc(daemon, "exec", "-i", "web", "--", "/bin/cat", stdin=b"in") == (0, "in", "")
    assert (await vappc(daemon, "exec", "web", "/bin/sh", "-c", "exit 9"))[0] == 9
    assert json.loads((await vappc(daemon, "inspect", "web"))[1])[0]["info"]["id"] == "web"
    assert await vappc(daemon, "pause", "web") == (0, "web\n", "")
    assert await vappc(daemon, "resume", "web") == (0, "web\n", "")
    assert await vappc(daemon, "stop", "-t", "5", "web") == (0, "web\n", "")
    assert await vappc(daemon, "wait", "web") == (0, "143\n", "")
    assert await vappc(daemon, "rm", "web") == (0, "web\n", "")
    assert await vappc(daemon, "ps", "-a") == (0, "NAME   IMAGE   COMMAND   CREATED   STATUS\n", "")


async def test_images_are_listed_and_removed(daemon):
    assert (await vappc(daemon, "pull", "demo"))[:2] == (0, "sha256:" + "1" * 64 + "\n")
    assert await vappc(daemon, "images") == (
        0,
        (
            "NAME                            ID             CREATED      SIZE\n"
            "docker.io/library/demo:latest   111111111111   2026-01-02   1.2 MB\n"
        ),
        "",
    )
    assert json.loads((await vappc(daemon, "images", "--json"))[1])[0]["size_bytes"] == 1234567
    assert json.loads((await vappc(daemon, "image", "inspect", "demo"))[1])[0]["layers"] == ["sha256:" + "3" * 64]
    assert await vappc(daemon, "image", "rm", "demo") == (0, "demo\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "err"),
    [
        (["run", "--entrypoint", "/no/such", "demo"], 127, "fetching demo\nvappc: cannot run `/no/such`: no such file"),
        (["run", "--entrypoint", "/etc", "demo"], 126, "fetching demo\nvappc: cannot run `/etc`: permission denied\n"),
        (["run", "nope"], 125, "fetching nope\nvappc: no image `nope` in its registry\nhint: check the name\n"),
        (["run", "--pull", "never", "demo"], 125, "vappc: image `demo` is not here and may not be pulled\nhint: pull"),
        (["run", "-v", "/no/such:/x", "demo"], 125, "vappc: mount source `/no/such` does not exist\nhint: make it"),
        (["stop", "nobody"], 125, "vappc: no container `nobody`\nhint: `vappc ps -a` lists all\n"),
        (["exec", "nobody"], 125, "vappc: no command to run\nhint: write `vappc exec nobody -- COMMAND`\n"),
        (["run", "-d", "-i", "demo"], 125, "vappc: `-d` and `-i` exclude each other\nhint: leave out one of them\n"),
        (["--socket", "bad:x", "ps"], 125, "vappc: `bad:x` is no address\nhint: write `/path`"),
    ],
)
async def test_errors_are_words_a_hint_and_a_status(daemon, arguments, code, err):
    found = await vappc(daemon, *arguments)
    assert found[0] == code
    assert found[1] == ""
    assert found[2].startswith(err)
    assert "Traceback" not in found[2]


async def test_without_a_daemon_the_hint_says_how_to_start_one():
    code, out, err = await vappc(None, "ps")
    assert (code, out) == (125, "")
    assert err == (
        "vappc: cannot connect to `/nonexistent/vappc.sock`: no such file or directory\n"
        "hint: is the daemon running? start it with `vappc-linux-daemon --socket /nonexistent/vappc.sock`\n"
    )


async def test_one_bad_name_of_several_does_not_stop_the_rest(daemon):
    await vappc(daemon, "run", "-d", "--name", "a", *script("exec sleep 60"))
    code, out, err = await vappc(daemon, "kill", "nobody", "a")
    assert (code, out) == (125, "a\n")
    assert "no container `nobody`" in err


async def test_ping_and_version_as_json(daemon):
    assert json.loads((await vappc(daemon, "ping", "--json"))[1])["address"] == daemon.address
    assert json.loads((await vappc(daemon, "version", "--json"))[1])["protocol"] == 1
    assert json.loads((await vappc(None, "version", "--json"))[1])["daemon"] is None


async def test_a_reader_that_stops_early_is_no_traceback(daemon):
    text = f"{' '.join(COMMAND)} run --entrypoint /bin/sh demo -- -c 'while :; do echo y; done' | head -1"
    env = {**os.environ, "VAPPC_SOCKET": daemon.address}
    child = await asyncio.create_subprocess_shell(
        text, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
    )
    out, err = await child.communicate()
    assert (out, err) == (b"y\n", b"fetching demo\n")


async def in_terminal(daemon, arguments, keys):
    """Run the command on a terminal, press `keys` once it shows `ready`, and return (status, what it showed)."""
    child, fd = pty.fork()
    if child == 0:
        os.environ["VAPPC_SOCKET"] = daemon.address
        os.execv(COMMAND[0], [*COMMAND, *arguments])

    def talk():
        shown = b""
        while True:
            try:
                shown += os.read(fd, 4096)
            except OSError:
                break
            if keys and b"ready" in shown and keys not in sent:
                sent.append(keys)
                os.write(fd, keys)
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()

    sent = []
    return await asyncio.to_thread(talk)


async def test_ctrl_c_goes_to_the_container(daemon):
    text = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    code, shown = await in_terminal(daemon, ["run", *script(text)], b"\x03")
    assert code == 3
    assert "caught" in shown
    assert "Traceback" not in shown


async def test_ctrl_c_while_pulling_cancels_and_leaves_nothing(daemon):
    daemon.images.gate = asyncio.Event()
    daemon.images.remote["ready"] = daemon.images.remote["demo"]
    code, shown = await in_terminal(daemon, ["run", "--entrypoint", "/bin/true", "ready"], b"\x03")
    assert code == 130
    assert "Traceback" not in shown
    assert await daemon.engine.list() == []


async def test_tables_on_a_terminal_are_tables(daemon):
    await vappc(daemon, "pull", "demo")
    code, shown = await in_terminal(daemon, ["images"], b"")
    assert code == 0
    assert "docker.io/library/demo:latest" in shown


def test_help_is_quick_and_loads_nothing_heavy():
    check = (
        "import sys, runpy; sys.argv = ['vappc', '--help']\n"
        "try: runpy.run_module('vappc.cli.main', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'rich', 'msgspec', 'aiohttp', 'socket', 'subprocess'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stderr) == (0, "")
    assert all(f"    {verb}" in out.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser([verb]).parse_args([verb, "--help"])
    assert caught.value.code == 0
    assert VERBS[verb][1][1:] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_verbs(shell):
    out = subprocess.run([*COMMAND, "completion", shell], capture_output=True, text=True, check=True).stdout
    assert all(verb in out for verb in VERBS)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_values_of_options():
    assert [values.memory(text) for text in ("512m", "2G", "1.5k", "7", "1KiB")] == [
        536870912,
        2147483648,
        1536,
        7,
        1024,
    ]
    assert values.volume("/a:/b:ro") == MountSpec("/a", "/b", True)
    assert values.volume("a:/b") == MountSpec(os.path.abspath("a"), "/b", False)
    assert values.environment(["A=1", "HOME", "NO"], {"HOME": "/h"}) == ["A=1", "HOME=/h"]
    assert values.label("k=v=w") == ("k", "v=w")
    assert values.moment("10m", 1000.0) == 400.0
    assert values.moment("1700000000", 1000.0) == 1700000000.0


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (values.memory, "much"),
        (values.memory, "0"),
        (values.volume, "/a"),
        (values.volume, "/a:b"),
        (values.volume, "/a:/b:rx"),
        (values.label, "=v"),
        (values.instance_id, "-x"),
        (values.instance_id, "a/b"),
        (values.positive, "0"),
        (values.positive, "nan"),
    ],
)
def test_bad_values_are_refused_by_name(read, text):
    with pytest.raises(Exception, match="`"):
        read(text)


def test_sizes_and_ages_have_one_unit():
    assert [output.size(number) for number in (0, 999, 1234, 123456, 12_300_000, 5e12)] == [
        "0 B",
        "999 B",
        "1.2 kB",
        "123 kB",
        "12.3 MB",
        "5.0 TB",
    ]
    assert [output.age(1000 - passed, 1000) for passed in (0, 1, 59, 60, 3600 * 5)] == [
        "0 seconds",
        "1 second",
        "59 seconds",
        "1 minute",
        "5 hours",
    ]


def test_states_are_phrases():
    info = ContainerInfo("a", "a", "i", "x", "running", 0, started=100)
    assert status(info, 160) == "up 1 minute"
    ended = ContainerInfo("a", "a", "i", "x", "stopped", 0, exit=ExitStatus(137, 9, 100, oom=True))
    assert status(ended, 101) == "exited (137) 1 second ago (out of memory)"
    assert status(ContainerInfo("a", "a", "i", "x", "paused", 0), time.time()) == "paused"
