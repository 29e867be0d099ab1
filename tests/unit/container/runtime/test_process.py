"""The program: where it is found, its environment, and what of its identity is left out."""

import pytest

from container.errors import LaunchError
from container.runtime import process


@pytest.fixture
def bin_dir(tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "data").write_text("x")
    return tmp_path


def spec(name, path):
    return {"cwd": "/", "args": [name], "env": [f"PATH={path}"]}


def test_a_program_is_found_in_the_path_of_the_container(bin_dir):
    assert process.find_program(spec("tool", f"/nowhere:{bin_dir}")) == f"{bin_dir}/tool"
    assert process.find_program(spec(f"{bin_dir}/tool", "")) == f"{bin_dir}/tool"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "executable file not found in $PATH"),
        ("{}/missing", "no such file or directory"),
        ("{}/data", "permission denied"),
        ("data", "permission denied"),
        ("{}", "permission denied"),
    ],
)
def test_failures_have_the_words_that_podman_looks_for(bin_dir, name, words):
    with pytest.raises(LaunchError) as caught:
        process.find_program(spec(name.format(bin_dir), bin_dir))
    assert words in caught.value.message


def test_the_last_of_two_variables_wins():
    assert process.environment({"cwd": "/", "env": ["A=1", "A=2", "HOME=/h"]}) == {"A": "2", "HOME": "/h"}


def test_unknown_capabilities_and_denied_groups_are_warnings():
    wanted = {"cwd": "/", "capabilities": {"bounding": ["CAP_X", "CAP_KILL"]}, "user": {"additionalGids": [1]}}
    assert process.identity_warnings(wanted, setgroups=True) == ["capability `CAP_X` is unknown and left out"]
    assert len(process.identity_warnings(wanted, setgroups=False)) == 2


def test_the_permitted_set_is_what_proc_says():
    with open("/proc/self/status") as file:
        expected = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
    assert process.permitted_capabilities() == expected


def test_stdio_on_the_null_device_keeps_its_owner(tmp_path, in_child_process):
    import os

    def action():
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        before = os.stat("/dev/null").st_uid
        process.give_stdio(before + 1)
        return os.stat("/dev/null").st_uid == before

    assert in_child_process(action)
