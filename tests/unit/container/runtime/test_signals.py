"""Signals by number and name, and their defaults."""

import os
import signal

import pytest

from container.errors import ConfigError
from container.runtime import signals


@pytest.mark.parametrize(
    ("word", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("SIGHUP", 1), ("64", 64)]
)
def test_numbers_and_names_are_read(word, number):
    assert signals.parse(word) == number


@pytest.mark.parametrize("word", ["", "0", "65", "-9", "DFL", "SIG_DFL", "SIG_BLOCK", "NOPE", "MAX", "٩"])
def test_what_is_no_signal_is_refused(word):
    with pytest.raises(ConfigError, match="unknown signal"):
        signals.parse(word)


def test_a_child_gets_the_defaults_back():
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        signals.reset()
        lines = [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))]
        os.write(target, "".join(lines).encode())
        os._exit(0)
    os.close(target)
    with open(source) as file:
        masks = [int(line.split()[1], 16) for line in file]
    os.waitpid(pid, 0)
    assert masks == [0, 0]
