"""Which devices a container may use: rules of the runtime-spec for either version of cgroups.

Version 1 takes lines (`devices.deny`, `devices.allow`), version 2 a BPF program that the kernel runs
at each open and mknod. Planning and the program are PURE; `attach` is the only thing that acts.

One rule decides: for each kind of access (read, write, mknod) the last matching rule of the list
counts, and what no rule names is denied. The program does exactly that: it walks the rules from the
last to the first with the set of accesses that are still undecided; a denying rule that meets one of
them ends with no, an allowing rule takes its own out, and an empty set ends with yes. Version 1
cannot carve a hole into a wildcard (the kernel forgets such a line without an error), so there we
refuse what it would lose.
"""

import ctypes
import errno
import os
import struct

from container.cgroups.fields import read_number
from container.errors import ConfigError
from container.linux._libc import SyscallError, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[bool, str, int | None, int | None, int]

# include/uapi/linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 1 << 1
BPF_DEVCG_ACC_MKNOD = 1 << 0
BPF_DEVCG_ACC_READ = 1 << 1
BPF_DEVCG_ACC_WRITE = 1 << 2
BPF_DEVCG_DEV_BLOCK = 1 << 0
BPF_DEVCG_DEV_CHAR = 1 << 1

#: opcodes: BPF_LDX|BPF_MEM|BPF_W, BPF_ALU|BPF_AND|BPF_K, BPF_ALU|BPF_RSH|BPF_K, BPF_ALU|BPF_MOV|BPF_X,
#: BPF_ALU64|BPF_MOV|BPF_K, BPF_JMP|BPF_JNE|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_EXIT
_LOAD, _AND, _SHIFT, _COPY, _SET, _UNLESS, _IF, _EXIT = 0x61, 0x54, 0x74, 0xBC, 0xB7, 0x55, 0x15, 0x95

_ACCESS = {"m": BPF_DEVCG_ACC_MKNOD, "r": BPF_DEVCG_ACC_READ, "w": BPF_DEVCG_ACC_WRITE}
_TYPES = {"b": BPF_DEVCG_DEV_BLOCK, "c": BPF_DEVCG_DEV_CHAR}
_ALL = 7

#: What every container gets (config-linux.md, "Default Devices"): making nodes, which gives no access,
#: null, zero, full, random, urandom, tty, ptmx and the slaves of its terminals.
DEFAULT_RULES: "list[Rule]" = [
    (True, "c", None, None, BPF_DEVCG_ACC_MKNOD),
    (True, "b", None, None, BPF_DEVCG_ACC_MKNOD),
    (True, "c", 1, 3, _ALL),
    (True, "c", 1, 5, _ALL),
    (True, "c", 1, 7, _ALL),
    (True, "c", 1, 8, _ALL),
    (True, "c", 1, 9, _ALL),
    (True, "c", 5, 0, _ALL),
    (True, "c", 5, 2, _ALL),
    (True, "c", 136, None, _ALL),
]

_NR_BPF = {"x86_64": 321, "aarch64": 280}


def parse_rules(found: object) -> "list[Rule]":
    """Return linux.resources.devices as (allow, type, major, minor, access); an open number is None.

    Raises:
        ConfigError: a rule has a type, number or access that does not exist.
    """
    if found is None:
        return []
    if not isinstance(found, list):
        raise ConfigError(f"linux.resources.devices: `{found}` is not a list", "write it as [{...}]")
    return [_parse_rule(item, f"linux.resources.devices[{number}]") for number, item in enumerate(found)]


def _parse_rule(item: "dict[str, Any]", where: str) -> "Rule":
    allow, kind, access = item.get("allow"), item.get("type") or "a", item.get("access") or "rwm"
    if not isinstance(allow, bool):
        raise ConfigError(f"{where}.allow: `{allow}` is neither true nor false", "set it")
    if kind not in ("a", "b", "c"):
        raise ConfigError(f"{where}.type: `{kind}` is no kind of device", "use a, b or c")
    if not isinstance(access, str) or set(access) - set(_ACCESS):
        raise ConfigError(f"{where}.access: `{access}` is unknown", "use letters of rwm")
    major, minor = (read_number(item, name, where, -1) for name in ("major", "minor"))
    bits = sum(_ACCESS[letter] for letter in set(access))
    return allow, kind, None if major == -1 else major, None if minor == -1 else minor, bits


def plan_v1(found: object) -> "list[tuple[str, str]]":
    """Return (file, line) for cgroup version 1; without rules there is nothing to do.

    Raises:
        ConfigError: a rule denies a part of what an earlier one allowed, which version 1 cannot express.
    """
    rules = parse_rules(found)
    if not rules:
        return []
    lines = [("devices.deny", "a")]
    allowed: list[Rule] = []
    for rule in rules + DEFAULT_RULES:
        if rule[1:4] == ("a", None, None) and rule[4] == _ALL:
            lines, allowed = [("devices.allow" if rule[0] else "devices.deny", "a")], []
        else:
            _refuse_hole(rule, allowed, everything=lines[0][0] == "devices.allow")
            allowed += [rule] if rule[0] else []
            lines += [("devices.allow" if rule[0] else "devices.deny", line) for line in _lines(rule)]
    return lines


def _refuse_hole(rule: "Rule", allowed: "list[Rule]", everything: bool) -> None:
    if rule[0] or everything:
        return
    for other in allowed:
        if other[1:4] != rule[1:4] and other[4] & rule[4] and _overlaps(other, rule):
            raise ConfigError(
                f"linux.resources.devices: `{' '.join(_lines(rule))}` denies part of what was allowed",
                "cgroup version 1 cannot do that; name the allowed devices one by one",
            )


def _overlaps(one: "Rule", other: "Rule") -> bool:
    kinds = one[1] == other[1] or "a" in (one[1], other[1])
    return kinds and all(a is None or b is None or a == b for a, b in zip(one[2:4], other[2:4], strict=True))


def _lines(rule: "Rule") -> "list[str]":
    _, kind, major, minor, bits = rule
    numbers = f"{'*' if major is None else major}:{'*' if minor is None else minor}"
    letters = "".join(letter for letter in "rwm" if bits & _ACCESS[letter])
    # `a` with numbers means everything to the kernel, so both kinds are spelt out.
    return [f"{one} {numbers} {letters}" for one in (("b", "c") if kind == "a" else (kind,))]


def build_program(found: object) -> bytes:
    """Return the BPF instructions for the rules; the host's defaults are added behind them.

    The kernel hands over struct bpf_cgroup_dev_ctx { __u32 access_type; __u32 major; __u32 minor; }
    with access << 16 | type. Registers: r2 type, r3 undecided access, r4 major, r5 minor.
    """
    code = [
        _instruction(_LOAD, 2, 1, 0, 0),
        _instruction(_COPY, 3, 2, 0, 0),
        _instruction(_AND, 2, 0, 0, 0xFFFF),
        _instruction(_SHIFT, 3, 0, 0, 16),
        _instruction(_LOAD, 4, 1, 4, 0),
        _instruction(_LOAD, 5, 1, 8, 0),
    ]
    for rule in reversed(parse_rules(found) + DEFAULT_RULES):
        code += _rule_code(rule)
    return b"".join([*code, _instruction(_SET, 0, 0, 0, 0), _instruction(_EXIT, 0, 0, 0, 0)])


def _rule_code(rule: "Rule") -> "list[bytes]":
    allow, kind, major, minor, bits = rule
    body = _allow_code(bits) if allow else _deny_code(bits)
    tests = [(5, minor), (4, major), (2, _TYPES.get(kind))]
    for register, value in tests:
        if value is not None:
            body = [_instruction(_UNLESS, register, 0, len(body), value), *body]
    return body


def _allow_code(bits: int) -> "list[bytes]":
    return [
        _instruction(_AND, 3, 0, 0, _ALL & ~bits),
        _instruction(_UNLESS, 3, 0, 2, 0),
        _instruction(_SET, 0, 0, 0, 1),
        _instruction(_EXIT, 0, 0, 0, 0),
    ]


def _deny_code(bits: int) -> "list[bytes]":
    return [
        _instruction(_COPY, 1, 3, 0, 0),
        _instruction(_AND, 1, 0, 0, bits),
        _instruction(_IF, 1, 0, 2, 0),
        _instruction(_SET, 0, 0, 0, 0),
        _instruction(_EXIT, 0, 0, 0, 0),
    ]


def _instruction(code: int, target: int, source: int, offset: int, value: int) -> bytes:
    """struct bpf_insn { __u8 code; __u8 dst_reg:4, src_reg:4; __s16 off; __s32 imm; };"""
    # Device numbers may have bit 31 set; the field is signed, the bits are what counts.
    return struct.pack("=BBhI", code, source << 4 | target, offset, value & 0xFFFFFFFF)


def attach(cgroup_fd: int, program: bytes) -> None:
    """Make `program` decide for the cgroup, and take away those that we attached before it.

    The new one is attached first: while both are there, both must agree, so nothing opens up in between.

    Raises:
        SyscallError: EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the first user namespace.
    """
    before = _attached(cgroup_fd)
    fd = _load(program)
    try:
        _bpf(BPF_PROG_ATTACH, struct.pack("=IIII", cgroup_fd, fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI))
    finally:
        os.close(fd)
    for number in before:
        _detach(cgroup_fd, number)


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    head = struct.pack(
        "=IIQQ",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
    )
    return _bpf(BPF_PROG_LOAD, head)[0]


def _attached(cgroup_fd: int) -> "list[int]":
    """Return the ids of the device programs of this cgroup itself (BPF_PROG_QUERY)."""
    ids = (ctypes.c_uint32 * 64)()
    query = struct.pack("=IIIIQI", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    _, answer = _bpf(BPF_PROG_QUERY, query)
    (count,) = struct.unpack_from("=I", answer, 24)
    return list(ids[:count])


def _detach(cgroup_fd: int, number: int) -> None:
    fd, _ = _bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=I", number))
    try:
        _bpf(BPF_PROG_DETACH, struct.pack("=III", cgroup_fd, fd, BPF_CGROUP_DEVICE))
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        os.close(fd)


def _bpf(command: int, attributes: bytes) -> "tuple[int, bytes]":
    """bpf(2): union bpf_attr may be longer than what a command reads, if the rest is zero."""
    buffer = ctypes.create_string_buffer(attributes, 72)
    number = _NR_BPF.get(os.uname().machine)
    if number is None:
        raise SyscallError("bpf", errno.ENOSYS)
    return syscall(number, "bpf", command, buffer, len(buffer)), buffer.raw
