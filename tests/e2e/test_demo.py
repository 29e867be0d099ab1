"""`scripts/demo`, as whoever runs the tests: it comes to its end, it can be interrupted, nothing is left.

It is run without scripts/setup before it, which could renew the environment under the running tests.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from demonstration import show, traces  # noqa: E402 - they are scripts, not an installed package

DEMO = [sys.executable, str(SCRIPTS / "demo.py")]
NOTHING = frozenset()

needs_busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs `busybox` (package busybox-static)")
needs_uv = pytest.mark.skipif(
    os.geteuid() == 0 and not (SCRIPTS.parent / ".tools" / "bin" / "uv").exists() and shutil.which("uv") is None,
    reason="needs `uv` (scripts/setup)",
)


@needs_busybox
@needs_uv
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_comes_to_its_end_and_leaves_nothing():
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all went well, and nothing is left" in done.stdout
    assert done.stdout.count("bye, ann") == (2 if os.geteuid() == 0 else 1)


@needs_busybox
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["docker-proxy-server load", "vappc pull", "tick 1"])
def test_it_can_be_interrupted_and_leaves_nothing(number, moment):
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = ""
        for line in process.stdout:
            said += line
            if moment in line:
                process.send_signal(number)
                break
        said += process.stdout.read()
    assert process.returncode == 130, said
    assert "interrupted; nothing is left" in said


@pytest.mark.slow
def test_a_step_that_fails_is_named_with_what_to_do_and_nothing_is_left(tmp_path):
    done = subprocess.run(
        DEMO, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1
    assert "demo: `busybox` is not installed\nhint: `sudo apt install busybox-static`" in done.stderr
    assert "left something behind" not in done.stderr


def test_a_process_that_left_its_parents_is_still_found():
    script = """if True:
        import os, signal, subprocess
        from container.linux.prctl import set_subreaper
        from demonstration import traces
        set_subreaper()
        subprocess.run(["setsid", "sh", "-c", "sleep 61 &"], check=True)
        found = traces.ours(None)
        print(traces.describe(found))
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        traces.wait_gone(None)
        print(traces.describe(traces.ours(None)))
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert "sleep 61" in first
    assert second == "[]"


def test_what_others_did_meanwhile_is_not_counted_as_left():
    before = traces.Snapshot(dict.fromkeys(traces.KINDS, NOTHING))
    after = traces.Snapshot({**before.found, "mounts": frozenset({"overlay /demo-1/root", "tmpfs /elsewhere"})})
    assert traces.left_over(before, after, ["/demo-1"], None)["mounts"] == ["overlay /demo-1/root"]


def test_a_long_command_is_shown_as_lines_that_a_shell_reads_as_one():
    words = ["echo", *(f"{number:020}" for number in range(12))]
    lines = show.format_command(words)
    assert len(lines) > 1
    assert max(map(len, lines)) < 120
    said = subprocess.run(["sh", "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert said.split() == words[1:]


def test_columns_of_numbers_are_aligned_at_their_right():
    assert show.format_table(("what", "n"), [("a", "1"), ("longer", "100")])[1:] == [
        "    a          1",
        "    longer   100",
    ]
