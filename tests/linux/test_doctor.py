"""The doctor on this host, as root and as a user."""

import json
import os
import time

import pytest

from container.doctor import findings

ASK = """
import dataclasses, json, sys
from pathlib import Path
from container.doctor import findings
print(json.dumps([dataclasses.asdict(one) for one in findings(Path(sys.argv[1]))]))
"""

NAMES = [
    "kernel",
    "openat2",
    "mount-api",
    "clone3",
    "pidfd-exit",
    "user-namespaces",
    "idmap-tools",
    "subids",
    "pasta",
    "tun",
    "app-dir",
    "disk-space",
    "user-xattrs",
    "overlay",
    "procfs",
    "cgroups",
    "libseccomp",
    "runtime-dir",
]


@pytest.fixture
def ask(user):
    def run(app) -> dict[str, dict]:
        result = user.python(ASK, str(app))
        assert result.returncode == 0, result.stderr
        return {one["name"]: one for one in json.loads(result.stdout)}

    return run


def test_everything_is_checked_in_less_than_a_second(tmp_path):
    started = time.monotonic()
    found = findings(tmp_path)
    assert time.monotonic() - started < 1
    assert [one.name for one in found] == NAMES


def test_what_is_wrong_has_a_fix_and_what_is_right_has_none(ask, user, tmp_path):
    for one in [*ask(user.home).values(), *(vars_of(one) for one in findings(tmp_path))]:
        assert bool(one["fix"]) != one["ok"], one


def vars_of(one) -> dict:
    return {name: getattr(one, name) for name in one.__slots__}


def test_user_with_subids_can_run_containers(ask, user):
    found = ask(user.home / "app")
    assert found["user-namespaces"]["ok"], found["user-namespaces"]
    assert found["idmap-tools"]["ok"]
    assert found["subids"]["ok"]
    assert found["overlay"]["ok"], found["overlay"]
    assert found["procfs"]["ok"], found["procfs"]


def test_nothing_is_left_in_the_app_directory(ask, user):
    app = user.make_dir("doctor-app")
    ask(app)
    assert list(app.iterdir()) == []


def test_unwritable_app_directory_is_named(ask):
    found = ask("/proc/nowhere/app")
    assert found["app-dir"]["severity"] == "error"
    assert "--app-dir" in found["app-dir"]["fix"]


def test_closed_tun_is_found_out_by_opening_it(ask, user):
    mode = os.stat("/dev/net/tun").st_mode if os.path.exists("/dev/net/tun") else 0
    assert ask(user.home)["tun"]["ok"] == (mode & 0o006 == 0o006)


@pytest.mark.usefixtures("tun")
def test_open_tun_is_well(ask, user):
    assert ask(user.home)["tun"]["ok"]


def test_masked_proc_is_found_out(in_child, root_only):
    """Something mounted over a part of /proc makes the kernel refuse a fresh one in a user namespace."""
    from container.doctor import _check_proc
    from container.linux import mount, namespaces

    def action():
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.mount("none", "/", None, mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("/dev/null", "/proc/meminfo", None, mount.MS_BIND)
        found = _check_proc(root=False, namespaces=True)
        return found.ok, found.severity, "unmask" in found.fix

    assert in_child(action) == repr((False, "error", True))


def test_forbidden_user_namespaces_are_found_out(in_child, root_only):
    """The limit of a user namespace around us counts for its inside as the sysctl does for the host."""
    from container.doctor import _check_user_namespace
    from container.linux import namespaces

    def action():
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        with open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/self/{kind}", "w") as file:
                file.write("0 0 1")
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        found = _check_user_namespace(root=False)
        return found.ok, found.severity, "max_user_namespaces" in found.fix

    assert in_child(action) == repr((False, "error", True))
