"""Device rules: lines of version 1, and the program of version 2 run by a small interpreter."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.cgroups.devices import DEFAULT_RULES, build_program, parse_rules, plan_v1
from container.errors import ConfigError

READ, WRITE, MKNOD = 2, 4, 1
BLOCK, CHAR = 1, 2
NOTHING = [{"allow": False, "access": "rwm"}]


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """Execute the program as the kernel would, for the opcodes that it may have."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers = [0] * 11
    position = 0
    while True:
        code, both, offset, value = struct.unpack_from("=BBhI", program, position * 8)
        target, source = both & 15, both >> 4
        position += 1
        if code == 0x61:
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif code == 0x54:
            registers[target] &= value
        elif code == 0x74:
            registers[target] >>= value
        elif code == 0xBC:
            registers[target] = registers[source]
        elif code == 0xB7:
            registers[target] = value
        elif code == 0x55:
            position += offset if registers[target] != value else 0
        elif code == 0x15:
            position += offset if registers[target] == value else 0
        else:
            assert code == 0x95
            return registers[0]


def allowed(rules: list, kind: int, access: int, major: int, minor: int) -> bool:
    """Say in plain words what the program shall do."""
    kinds = {"a": (BLOCK, CHAR), "b": (BLOCK,), "c": (CHAR,)}
    for bit in (READ, WRITE, MKNOD):
        if not access & bit:
            continue
        verdict = False
        for allow, letter, rule_major, rule_minor, bits in rules:
            matches = kind in kinds[letter] and rule_major in (None, major) and rule_minor in (None, minor)
            verdict = allow if matches and bits & bit else verdict
        if not verdict:
            return False
    return True


rules = st.lists(
    st.fixed_dictionaries(
        {
            "allow": st.booleans(),
            "type": st.sampled_from("abc"),
            "major": st.sampled_from([None, -1, 1, 5, 10]),
            "minor": st.sampled_from([None, 3, 200]),
            "access": st.sampled_from(["r", "w", "m", "rw", "rwm", ""]),
        }
    ),
    max_size=8,
)


@given(
    rules,
    st.sampled_from([BLOCK, CHAR]),
    st.integers(0, 7),
    st.sampled_from([1, 5, 8, 10, 136]),
    st.sampled_from([0, 2, 3, 200]),
)
def test_program_lets_the_last_matching_rule_decide_for_each_access(found, kind, access, major, minor):
    expected = allowed(parse_rules(found) + DEFAULT_RULES, kind, access, major, minor)
    assert run(build_program(found), kind, access, major, minor) == expected


def test_default_devices_stay_usable():
    program = build_program(NOTHING)
    assert run(program, CHAR, READ | WRITE, 1, 3) == 1
    assert run(program, CHAR, READ | WRITE, 136, 7) == 1
    assert run(program, BLOCK, MKNOD, 8, 0) == 1
    assert run(program, BLOCK, READ, 8, 0) == 0


def test_hole_in_a_wildcard_holds_in_version_2():
    program = build_program([*NOTHING, {"allow": True, "type": "c"}, {"allow": False, "type": "c", "major": 10}])
    assert run(program, CHAR, READ, 11, 0) == 1
    assert run(program, CHAR, READ, 10, 200) == 0


def test_hole_in_a_wildcard_is_refused_in_version_1():
    with pytest.raises(ConfigError, match="denies part of what was allowed"):
        plan_v1([*NOTHING, {"allow": True, "type": "c"}, {"allow": False, "type": "c", "major": 10}])


def test_version_1_denies_all_before_it_allows():
    lines = plan_v1([*NOTHING, {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}])
    assert lines[:2] == [("devices.deny", "a"), ("devices.allow", "c 10:200 rw")]
    assert ("devices.allow", "c 1:3 rwm") in lines
    assert ("devices.allow", "b *:* m") in lines


def test_version_1_spells_out_both_kinds():
    lines = plan_v1([{"allow": True, "type": "a", "major": 1, "minor": 11, "access": "r"}])
    assert lines[:3] == [("devices.deny", "a"), ("devices.allow", "b 1:11 r"), ("devices.allow", "c 1:11 r")]


def test_everything_allowed_is_one_line_and_the_defaults():
    assert plan_v1([{"allow": True}])[0] == ("devices.allow", "a")


def test_no_rules_do_nothing():
    assert plan_v1(None) == []
    assert plan_v1([]) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"type": "c"}, r"devices\[0\]\.allow: `None`"),
        ({"allow": True, "type": "x"}, r"devices\[0\]\.type: `x`"),
        ({"allow": True, "access": "rx"}, r"devices\[0\]\.access: `rx`"),
        ({"allow": True, "major": "1"}, r"devices\[0\]\.major: `1`"),
        ({"allow": True, "minor": -2}, r"devices\[0\]\.minor: `-2`"),
    ],
)
def test_errors_name_rule_and_value(rule, message):
    with pytest.raises(ConfigError, match=message):
        build_program([rule])
