"""Installed seccomp programs, in forked children."""

import ctypes
import errno
import os
import platform
import socket
import subprocess
import sys

import pytest

from container.errors import HostError
from container.linux import prctl, seccomp
from container.linux.seccomp_default import default_profile

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def _library():
    try:
        seccomp.load_library()
    except HostError as error:
        pytest.skip(error.message)


def under(profile, action):
    """Return an action that first puts itself under `profile`."""
    program = seccomp.compile_profile(profile)

    def act():
        prctl.set_no_new_privs()
        seccomp.install(program)
        return action()

    return act


def call(name: str, *arguments: int) -> str:
    """Make the libc call `name`; returns `ok` or the name of the errno."""
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) >= 0:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]


def deny(name: str, **more):
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": [name], "action": "SCMP_ACT_ERRNO", **more}],
    }


def test_denied_call_fails_with_the_errno_of_the_rule(in_child):
    assert in_child(under(deny("dup", errnoRet=errno.ENOTTY), lambda: call("dup", 0))) == repr("ENOTTY")


def test_denied_call_fails_with_eperm_by_default(in_child):
    assert in_child(under(deny("dup"), lambda: call("dup", 0))) == repr("EPERM")


def test_default_action_meets_what_no_rule_names(in_child):
    """An allow-list with an errno of its own: this is how profiles of engines are written."""
    names = ["write", "exit_group", "rt_sigaction", "rt_sigprocmask", "futex", "mmap", "munmap", "brk", "close"]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
    assert in_child(under(profile, lambda: call("dup", 0))) == repr("ENOSYS")


def test_arguments_are_compared(in_child):
    test = {"index": 0, "op": "SCMP_CMP_EQ", "value": socket.AF_INET6}
    profile = deny("socket", args=[test], errnoRet=errno.EAFNOSUPPORT)

    def both():
        return call("socket", socket.AF_INET, 2, 0), call("socket", socket.AF_INET6, 2, 0)

    assert in_child(under(profile, both)) == repr(("ok", "EAFNOSUPPORT"))


def test_two_tests_of_one_argument_mean_either(in_child):
    tests = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (socket.AF_INET6, socket.AF_UNIX)]
    profile = deny("socket", args=tests)

    def three():
        return [call("socket", family, 2, 0) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)]

    assert in_child(under(profile, three)) == repr(["ok", "EPERM", "EPERM"])


def test_notification_gives_a_listener(in_child):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}]}
    program = seccomp.compile_profile(profile)

    def listener():
        prctl.set_no_new_privs()
        fd = seccomp.install(program)
        return os.readlink(f"/proc/self/fd/{fd}")

    assert in_child(listener) == repr("anon_inode:seccomp notify")


DEFAULT = default_profile(["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SETUID"], platform.machine())


def test_default_profile_keeps_namespaces_mounts_and_vsock_away(in_child):
    def attempts():
        return [
            call("unshare", 0x20000),
            call("unshare", 0x10000000),
            call("mount", 0, 0, 0, 0, 0),
            call("socket", 40, 1, 0),
            call("syscall", 250, 0, 0),
        ]

    expected = ["EPERM", "EPERM", "EPERM", "EAFNOSUPPORT", "EPERM"]
    if platform.machine() != "x86_64":
        expected = expected[:4]
    assert in_child(lambda: under(DEFAULT, attempts)()[: len(expected)]) == repr(expected)


PYTHON = """
import asyncio, socket, sqlite3, subprocess, threading
thread = threading.Thread(target=int)
thread.start()
thread.join()
sqlite3.connect(":memory:").execute("select 1")
async def main():
    process = await asyncio.create_subprocess_exec("echo", "ok", stdout=subprocess.PIPE)
    print((await process.communicate())[0].decode().strip())
asyncio.run(main())
"""

PROGRAMS = [
    ["busybox", "sh", "-c", "ls / >/dev/null && echo ok"],
    ["sh", "-c", "sleep 0.01 & wait; find /etc -maxdepth 1 | sort | tail -1 >/dev/null; date >/dev/null; echo ok"],
    ["perl", "-e", "my $pid = fork; exit 0 if !$pid; waitpid $pid, 0; print qq(ok\\n)"],
    [
        sys.executable,
        "-c",
        PYTHON,
    ],
]


@pytest.mark.parametrize("argv", PROGRAMS, ids=lambda argv: os.path.basename(argv[0]))
def test_ordinary_programs_run_under_the_default_profile(argv):
    program = seccomp.compile_profile(DEFAULT)

    def enter():
        prctl.set_no_new_privs()
        seccomp.install(program)

    try:
        result = subprocess.run(argv, preexec_fn=enter, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip(f"`{argv[0]}` is not installed")
    assert (result.stdout, result.stderr) == ("ok\n", "")
