"""Compiling seccomp profiles; nothing is installed here."""

import errno

import pytest

from container.errors import ConfigError, HostError
from container.linux import seccomp
from container.linux.seccomp_default import default_profile

ALLOW = {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.fixture(autouse=True)
def _library():
    try:
        seccomp.load_library()
    except HostError as error:
        pytest.skip(error.message)
    seccomp._compiled.clear()


def rule(**more):
    return {"names": ["getpid"], "action": "SCMP_ACT_ERRNO"} | more


def test_program_is_whole_instructions():
    bpf = seccomp.compile_profile(ALLOW | {"syscalls": [rule()]}).bpf
    assert bpf
    assert len(bpf) % 8 == 0


@pytest.mark.parametrize("action", sorted(seccomp.SCMP_ACT))
def test_every_action_compiles(action):
    default = "SCMP_ACT_ALLOW" if action != "SCMP_ACT_ALLOW" else "SCMP_ACT_ERRNO"
    assert seccomp.compile_profile({"defaultAction": default, "syscalls": [rule(action=action)]}).bpf


@pytest.mark.parametrize("op", sorted(seccomp.SCMP_CMP))
def test_every_operator_compiles(op):
    test = {"index": 0, "op": op, "value": 1, "valueTwo": 1}
    assert seccomp.compile_profile(ALLOW | {"syscalls": [rule(args=[test])]}).bpf


def test_unknown_calls_are_passed_over():
    with_it = ALLOW | {"syscalls": [rule(names=["getpid", "call_of_the_year_2040"])]}
    assert seccomp.compile_profile(with_it).bpf == seccomp.compile_profile(ALLOW | {"syscalls": [rule()]}).bpf


def test_errno_is_part_of_the_program():
    first, second = (seccomp.compile_profile(ALLOW | {"syscalls": [rule(errnoRet=number)]}).bpf for number in (1, 38))
    assert first != second


def test_equal_profiles_are_compiled_once():
    assert seccomp.compile_profile(dict(ALLOW)) is seccomp.compile_profile(dict(ALLOW))


def test_kept_program_is_used_by_the_next_process(tmp_path, monkeypatch):
    profile = ALLOW | {"syscalls": [rule()]}
    bpf = seccomp.compile_profile(profile, str(tmp_path)).bpf
    seccomp._compiled.clear()
    monkeypatch.setattr(seccomp, "_compile", lambda _: pytest.fail("compiled again"))
    assert seccomp.compile_profile(profile, str(tmp_path)).bpf == bpf


def test_kept_program_of_another_profile_is_not_used(tmp_path):
    """Even where the names of the files are equal: the whole profile is compared."""
    profile = ALLOW | {"syscalls": [rule()]}
    bpf = seccomp.compile_profile(profile, str(tmp_path)).bpf
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"another profile\0" + b"\x06\0\0\0\0\0\xff\x7f")
    seccomp._compiled.clear()
    assert seccomp.compile_profile(profile, str(tmp_path)).bpf == bpf


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        ([], 0),
        (["SECCOMP_FILTER_FLAG_LOG"], seccomp.SECCOMP_FILTER_FLAG_LOG),
        (["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 5),
        (["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], 0),
    ],
)
def test_flags_are_carried(names, flags):
    assert seccomp.compile_profile(ALLOW | {"flags": names}).flags == flags


def test_notification_asks_for_a_listener():
    profile = ALLOW | {
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [rule(action="SCMP_ACT_NOTIFY")],
    }
    program = seccomp.compile_profile(profile)
    assert program.notifies
    assert program.flags == 1 | 8 | 16 | 32


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({}, "action `None` is unknown"),
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "action `SCMP_ACT_MAYBE` is unknown"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "would lock up"),
        (ALLOW | {"flags": ["FAST"]}, "flags: `FAST` is unknown"),
        (ALLOW | {"architectures": ["SCMP_ARCH_PDP11"]}, "architectures: `SCMP_ARCH_PDP11`"),
        (ALLOW | {"syscalls": [rule(errnoRet=70000)]}, r"syscalls\[0\]: errnoRet `70000`"),
        (ALLOW | {"syscalls": [rule(args=[{"index": 6, "op": "SCMP_CMP_EQ"}])]}, "index `6`"),
        (ALLOW | {"syscalls": [rule(args=[{"index": 0, "op": "EQ"}])]}, "op `EQ`"),
        (ALLOW | {"syscalls": [rule(args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])]}, "value `-1`"),
    ],
)
def test_errors_name_the_field(profile, message):
    with pytest.raises(ConfigError, match=message) as caught:
        seccomp.compile_profile(profile)
    assert caught.value.hint


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_default_profile_grants_by_capability(machine):
    def actions(capabilities):
        rules = default_profile(capabilities, machine)["syscalls"]
        return {
            name: (one["action"], one.get("errnoRet")) for one in rules if "args" not in one for name in one["names"]
        }

    assert actions([])["mount"] == ("SCMP_ACT_ERRNO", errno.EPERM)
    assert actions(["CAP_SYS_ADMIN"])["mount"] == ("SCMP_ACT_ALLOW", None)
    assert "clone3" not in actions([])
    assert actions([])["keyctl"] == ("SCMP_ACT_ERRNO", errno.EPERM)


def test_default_profile_compiles():
    assert seccomp.compile_profile(default_profile(["CAP_SYS_CHROOT"], "x86_64")).bpf
