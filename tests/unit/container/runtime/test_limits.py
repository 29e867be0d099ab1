"""Limits and scheduling of a process."""

import os
import resource

import pytest

from container.errors import LaunchError
from container.runtime import limits


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ({"deadline": 2, "period": 2}, "requires `runtime`"),
        ({"runtime": 2000}, "requires `deadline`"),
        ({"runtime": 0, "deadline": 2}, "greater than 0"),
        ({"runtime": 1023, "deadline": 10000}, "must be between"),
        ({"runtime": 1 << 63, "deadline": 1 << 63}, "must be between"),
        ({"runtime": 4000, "deadline": 3000}, "must be <= deadline"),
        ({"runtime": 2000, "deadline": 4000, "period": 3000}, "must be <= period"),
    ],
)
def test_a_wrong_deadline_says_which_number_is_wrong(scheduler, words):
    with pytest.raises(LaunchError) as caught:
        limits.set_scheduling({"cwd": "/", "scheduler": {"policy": "SCHED_DEADLINE", **scheduler}})
    assert words in caught.value.message


@pytest.mark.parametrize(
    "process",
    [
        {"scheduler": {"policy": "SCHED_FAIR"}},
        {"scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}},
        {"ioPriority": {"class": "IOPRIO_CLASS_X"}},
    ],
)
def test_unknown_words_are_refused(process):
    with pytest.raises(LaunchError, match="is unknown"):
        limits.set_scheduling({"cwd": "/", **process})


def test_a_limit_above_ours_is_clamped_with_a_warning(in_child_process):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spec = {"cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1 << 62, "hard": 1 << 62}]}
    warnings, (soft, now) = in_child_process(
        lambda: (limits.set_rlimits(spec), resource.getrlimit(resource.RLIMIT_NOFILE))
    )
    assert len(warnings) == 1
    assert f"clamped to the hard limit {hard}" in warnings[0]
    assert soft == now == hard


def test_a_lower_limit_is_set(in_child_process):
    spec = {"cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]}
    assert in_child_process(lambda: (limits.set_rlimits(spec), resource.getrlimit(resource.RLIMIT_NOFILE))) == (
        [],
        (10, 20),
    )


def test_an_unknown_limit_is_refused():
    with pytest.raises(LaunchError, match="RLIMIT_X"):
        limits.set_rlimits({"cwd": "/", "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]})


def test_a_list_of_numbers_is_read():
    assert limits._parse_list("0-2,7") == [0, 1, 2, 7]
    assert limits._parse_list("") == []
    with pytest.raises(LaunchError, match="list of numbers"):
        limits._parse_list("a-b")


def test_affinity_is_set(in_child_process):
    cpu = min(os.sched_getaffinity(0))
    assert in_child_process(lambda: (limits.set_affinity(str(cpu)), sorted(os.sched_getaffinity(0)))) == (None, [cpu])
