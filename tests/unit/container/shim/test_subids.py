"""Subordinate ids: ranges, maps, and what is missing."""

import os

from container.shim.record import Node, read_record
from container.shim.subids import extents, first_free, is_privileged, login_of, parse_ranges, read_ranges

TEXT = "anna:100000:65536\n1000:300000:1000\nbert:165536:65536\nbroken\nanna:x:1\nanna:5:0\nanna:400000:10\n"


def test_ranges_are_found_by_name_and_by_number():
    assert parse_ranges(TEXT, 1000, "anna") == [(100000, 65536), (300000, 1000), (400000, 10)]
    assert parse_ranges(TEXT, 7, None) == []


def test_map_begins_with_oneself():
    assert extents(1000, [(100000, 65536), (300000, 10)]) == [
        (0, 1000, 1),
        (1, 100000, 65536),
        (65537, 300000, 10),
    ]


def test_login_name_comes_from_passwd():
    assert login_of(1000, "root:x:0:0\nanna:x:1000:1000:::\n") == "anna"
    assert login_of(5, "root:x:0:0\n") is None


def test_missing_file_has_no_ranges(tmp_path):
    assert read_ranges(str(tmp_path / "none"), 1000) == []


def test_free_range_lies_behind_all_others():
    assert first_free(TEXT) == 400010
    assert first_free("") == 100000


def test_ordinary_program_is_not_privileged():
    assert not is_privileged(os.path.realpath("/bin/sh"), 7)


def test_record_round_trips():
    node = Node("subids", [(0, 1000, 1)], [(0, 1000, 1)])
    node.findings = [("uplink", "no tun", "chmod")]
    node.keeper, node.pasta, node.pid, node.namespaces = (5, 6), None, 4, {"user": 1}
    again = Node.from_json(node.to_json())
    assert again.to_json() == node.to_json()


def test_record_of_another_version_or_broken_is_none(tmp_path):
    assert read_record(str(tmp_path)) is None
    (tmp_path / "node.json").write_text('{"version": 99}')
    assert read_record(str(tmp_path)) is None
    (tmp_path / "node.json").write_text("{")
    assert read_record(str(tmp_path)) is None
