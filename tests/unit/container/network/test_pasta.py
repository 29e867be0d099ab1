"""What pasta is told, and what of its words is passed on."""

import os
import signal

import pytest

from container.errors import DeadlineError
from container.network.pasta import last_words, pasta_arguments
from container.network.program import find_program, run_program


def test_no_port_is_taken_from_the_host_or_shown_to_it():
    arguments = pasta_arguments(12, "/run/p")
    for option in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):
        assert arguments[arguments.index(option) + 1] == "none"
    assert arguments[-1] == "12"


def test_host_loopback_is_reached_only_if_asked_for():
    assert "--no-map-gw" in pasta_arguments(12, "/run/p")
    assert "--no-map-gw" not in pasta_arguments(12, "/run/p", host_loopback=True)


def test_words_about_syslog_are_not_the_reason():
    lines = ["Failed to open tun socket in namespace", "Failed to send 45 bytes to syslog"]
    assert last_words(lines) == "failed to open tun socket in namespace"
    assert last_words([]) == "it gave no reason"


def test_program_tells_its_exit_code_and_last_words():
    shell = find_program("sh")
    assert shell is not None
    assert run_program(shell, ["-c", "echo one >&2; echo two >&2; exit 7"], 5) == (7, ["one", "two"])
    assert run_program(shell, ["-c", "kill -9 $$"], 5) == (137, [])


def test_program_that_hangs_is_killed(tmp_path):
    shell = find_program("sh")
    with pytest.raises(DeadlineError, match="did not end"):
        run_program(shell, ["-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], 0.3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_program_gets_the_signals_that_python_ignores():
    """pasta refuses to start where SIGPIPE is ignored."""
    shell = find_program("sh")
    code, words = run_program(shell, ["-c", "grep SigIgn /proc/$$/status >&2"], 5)
    assert code == 0
    assert int(words[0].split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


def test_unknown_program_is_not_found():
    assert find_program("no-such-program-of-ours") is None
