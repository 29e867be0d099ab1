"""Landlock rulesets and session keyrings, in forked children."""

import os

import pytest

from container.linux import keyring, landlock, prctl
from container.linux._libc import SyscallError


def test_rules_take_rights_away_except_beneath(in_child, tmp_path):
    abi = landlock.landlock_abi()
    if abi == 0:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").touch()
    (tmp_path / "out").touch()

    def action():
        ruleset = landlock.create_ruleset(landlock.known_rights(abi))
        landlock.allow_beneath(ruleset, str(tmp_path / "in"), landlock.READ)
        prctl.set_no_new_privs()
        landlock.restrict_self(ruleset)
        os.close(os.open(tmp_path / "in" / "file", os.O_RDONLY))
        refused = []
        for path, flags in ((tmp_path / "in" / "file", os.O_WRONLY), (tmp_path / "out", os.O_RDONLY)):
            try:
                os.open(path, flags)
            except PermissionError:
                refused.append(path.name)
        return refused

    assert in_child(action) == repr(["file", "out"])


def test_rights_grow_with_the_abi():
    assert landlock.known_rights(0) == 0
    assert landlock.known_rights(1) == (1 << 13) - 1
    assert landlock.known_rights(99) == (1 << 16) - 1


def test_new_session_keyring_is_another_one(in_child):
    def action():
        try:
            first = keyring.join_session_keyring("vapp-test-one")
            return first > 0, keyring.join_session_keyring("vapp-test-two") != first
        except SyscallError as error:
            return error.strerror

    answer = in_child(action)
    if "not implemented" in answer or "not permitted" in answer:
        pytest.skip(f"no keyrings here: {answer}")
    assert answer == repr((True, True))
