"""Shared by the tests of container.runtime that need no rights."""

import ast
import os

import pytest


@pytest.fixture
def in_child_process():
    """Run a function in a forked child that may ruin itself; returns its result."""

    def run(action):
        source, target = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(target, repr(action()).encode())
            finally:
                os._exit(0)
        os.close(target)
        with open(source) as file:
            text = file.read()
        os.waitpid(pid, 0)
        return ast.literal_eval(text)

    return run
