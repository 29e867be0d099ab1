"""Mount options as data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.linux.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
)
from container.runtime.options import ATTRIBUTES, IGNORED, PROPAGATION, parse


@pytest.mark.parametrize(
    ("words", "attr_set", "attr_clr"),
    [
        (["ro"], MOUNT_ATTR_RDONLY, 0),
        (["ro", "rw"], 0, MOUNT_ATTR_RDONLY),
        (["rw", "ro"], MOUNT_ATTR_RDONLY, 0),
        (["nosuid", "nodev"], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0),
        (["noatime"], MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    ],
)
def test_the_last_word_wins(words, attr_set, attr_clr):
    options = parse(words)
    assert (options.attr_set, options.attr_clr) == (attr_set, attr_clr)


def test_words_with_an_r_in_front_hold_for_the_whole_tree():
    options = parse(["rro", "nosuid"])
    assert (options.tree_set, options.attr_set) == (MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID)


@pytest.mark.parametrize("words", [["rbind"], ["rbind", "bind"], ["bind", "rbind"]])
def test_rbind_stays_recursive_beside_bind(words):
    assert parse(words).recursive


def test_propagation_is_read():
    assert parse(["rprivate"]).propagation == MS_PRIVATE | MS_REC
    assert parse(["slave"]).propagation == MS_SLAVE


def test_unknown_words_go_to_the_file_system():
    assert parse(["mode=755", "size=1k", "newinstance", "sync"]).data == [
        ("mode", "755"),
        ("size", "1k"),
        ("newinstance", None),
        ("sync", None),
    ]


def test_idmap_is_read_with_and_without_maps():
    assert parse(["ridmap"]).idmap == "ridmap"
    assert parse(["idmap=uids=0-1-2"]).idmap_text == "uids=0-1-2"


@given(st.lists(st.sampled_from([*ATTRIBUTES, *PROPAGATION, *IGNORED, *(f"r{word}" for word in ATTRIBUTES)])))
def test_nothing_is_set_and_cleared_at_once_but_the_access_time_field(words):
    options = parse(words)
    assert not options.attr_set & options.attr_clr & ~MOUNT_ATTR__ATIME
    assert not options.tree_set & options.tree_clr & ~MOUNT_ATTR__ATIME
    assert options.data == []
