"""Hooks: real programs, their input, environment, order and end."""

import os
import select
import time

import pytest

from container.errors import LaunchError
from container.runtime import hooks


def sh(script, **more):
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def test_each_reads_the_state_and_they_run_in_order(tmp_path):
    wanted = [sh(f"cat >> {tmp_path}/out; echo {number} >> {tmp_path}/out") for number in (1, 2, 3)]
    hooks.run(wanted, b"state ", "prestart", str(tmp_path))
    assert (tmp_path / "out").read_text() == "state 1\nstate 2\nstate 3\n"


def test_a_failing_hook_stops_the_rest_and_tells_its_last_words(tmp_path):
    wanted = [sh("echo broken >&2; exit 3"), sh(f"touch {tmp_path}/late")]
    with pytest.raises(LaunchError) as caught:
        hooks.run(wanted, b"", "createRuntime", str(tmp_path))
    assert "createRuntime hook failed with exit code 3" in caught.value.message
    assert "broken" in caught.value.message
    assert not (tmp_path / "late").exists()


def ends(pid: int) -> bool:
    """Wait until `pid` has ended; False if it does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


def test_a_hook_is_killed_at_its_timeout_with_what_it_started(tmp_path):
    began = time.monotonic()
    with pytest.raises(LaunchError, match="timeout of 1 s"):
        hooks.run([sh(f"sleep 50 & echo $! > {tmp_path}/pid; wait", timeout=1)], b"", "poststop", str(tmp_path))
    assert time.monotonic() - began < 10
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_missing_program_says_so(tmp_path):
    with pytest.raises(LaunchError, match="no such file or directory"):
        hooks.run([{"path": "/no/such/hook"}], b"", "prestart", str(tmp_path))


def test_a_hook_need_not_read_its_input(tmp_path):
    hooks.run([{"path": "/bin/true"}], b"x" * (1 << 18), "prestart", str(tmp_path))


def test_the_environment_is_ours_only_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", "ours")
    hooks.run([sh(f"echo $MARK > {tmp_path}/a")], b"", "prestart", str(tmp_path))
    hooks.run([sh(f"echo $MARK > {tmp_path}/b", env=["MARK=theirs"])], b"", "prestart", str(tmp_path))
    hooks.run([sh(f"echo $MARK > {tmp_path}/c", env=[])], b"", "prestart", str(tmp_path))
    hooks.run([sh(f"echo $MARK > {tmp_path}/d")], b"", "startContainer")
    assert [(tmp_path / name).read_text().strip() for name in "abcd"] == ["ours", "theirs", "", ""]
