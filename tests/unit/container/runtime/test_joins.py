"""Namespaces by path: what is refused, and when a stage is needed."""

import os

import pytest

from container.errors import ConfigError
from container.linux.namespaces import FLAGS
from container.runtime import channel, joins
from container.runtime.init import Init


@pytest.fixture
def init():
    ours, theirs = channel.pair()
    made = Init({}, theirs)
    yield made
    made.close()
    ours.close()


def test_new_namespaces_are_flags_and_the_cgroup_one_comes_late(init):
    kinds = ["pid", "network", "cgroup"]
    own = joins.plan(init, {"linux": {"namespaces": [{"type": kind} for kind in kinds]}})
    assert init.new == FLAGS["pid"] | FLAGS["network"]
    assert (init.late, own) == (FLAGS["cgroup"], set(kinds))


def test_our_own_namespace_is_nothing_to_join_and_none_of_the_containers(init):
    own = joins.plan(init, {"linux": {"namespaces": [{"type": "network", "path": "/proc/self/ns/net"}]}})
    assert (init.joins, own) == ([], set())


@pytest.mark.parametrize(
    ("path", "words"),
    [("/proc/self/ns/uts", "is not a network namespace"), ("/no/such", "no such file"), ("/etc/passwd", "cannot join")],
)
def test_a_path_of_another_kind_is_refused(path, words):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigError) as caught:
        joins.open_namespace("network", path)
    assert words in caught.value.message
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("joined", "new", "staged"),
    [
        ([], ["pid", "user", "network"], False),
        (["network"], ["pid"], False),
        (["pid"], [], True),
        (["user"], ["mount"], True),
        (["network"], ["user"], True),
        ([], ["time"], False),
    ],
)
def test_a_stage_enters_what_clone_cannot(init, joined, new, staged):
    init.joins = [(os.open("/dev/null", os.O_RDONLY), FLAGS[kind]) for kind in joined]
    init.new = sum(FLAGS[kind] for kind in new)
    assert joins.needs_stage(init) is staged
