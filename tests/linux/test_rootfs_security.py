"""One test for each way out of a container that others had (research on runc, crun and youki; CVE numbers below).

The image is the attacker's: what lies in it are links to places where nothing may be made or written.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.linux.files import RESOLVE_IN_ROOT, openat2
from container.runtime import paths
from linux.bundles import COMMAND, IS_ROOT, Bundle


@pytest.fixture
def bundle(tmp_path) -> Iterator[Bundle]:
    made = Bundle(tmp_path / "b")
    made.config["root"]["readonly"] = False
    made.sh("true")
    yield made
    made.remove_all()


@pytest.fixture
def outside(tmp_path) -> Path:
    """A directory of the host that must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file").write_text("untouched")
    return path


def untouched(path: Path) -> bool:
    return os.listdir(path) == ["file"] and (path / "file").read_text() == "untouched"


def link(bundle: Bundle, name: str, target: object) -> None:
    place = bundle.rootfs / name
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.symlink_to(str(target))


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_symlinked_proc_or_sys_is_refused(bundle, outside, name):
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867, CVE-2025-62596."""
    link(bundle, name, "/tmp")
    done = bundle.run(check=False)
    assert done.returncode == 1
    assert f"`/{name}` in the image is a symbolic link" in done.stderr
    assert untouched(outside)


def test_a_symlinked_dev_makes_nothing_outside(bundle, outside):
    """CVE-2026-41579, CVE-2026-47766."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    link(bundle, "dev", outside)
    bundle.run(check=False)
    assert untouched(outside)


@pytest.mark.parametrize("target", ["{}", "{}/file", "{}/new", "../../../../../../../../{}/new"])
def test_a_mount_target_behind_a_link_stays_inside(bundle, outside, target):
    """CVE-2021-30465, CVE-2024-45310, CVE-2019-18837, CVE-2025-24965."""
    link(bundle, "etc", target.format(outside))
    source = bundle.path / "source"
    source.mkdir()
    (source / "in").write_text("in")
    bundle.config["mounts"] += [
        {"destination": "/etc/deep/er", "type": "bind", "source": str(source), "options": ["bind"]},
        {"destination": "/etc/new", "type": "bind", "source": str(source / "in"), "options": ["bind"]},
    ]
    bundle.sh("cat /etc/new /etc/deep/er/in")
    done = bundle.run(check=False)
    assert untouched(outside)
    assert done.stdout in ("inin", "")


def test_a_dangling_link_is_made_inside_and_a_loop_is_an_error(bundle, outside):
    source = bundle.path / "in"
    source.write_text("in")
    link(bundle, "etc/hosts", "/var/run/none/hosts")
    bundle.config["mounts"].append({"destination": "/etc/hosts", "type": "bind", "source": str(source)})
    assert bundle.output("cat /var/run/none/hosts") == "in"
    (bundle.rootfs / "etc/hosts").unlink()
    link(bundle, "etc/hosts", "hosts")
    assert "too many levels of symbolic links" in bundle.run(check=False).stderr


def test_a_target_that_changes_while_we_look_never_leads_outside(bundle, outside):
    """The race of CVE-2021-30465: a directory and a link to the host change places all the time."""
    (bundle.rootfs / "a").mkdir()
    (bundle.rootfs / "b").symlink_to(outside)
    swapper = subprocess.Popen(
        ["sh", "-c", "while :; do mv -T a t; mv -T b a; mv -T t b; mv -T a t; mv -T b a; mv -T t b; done 2>/dev/null"],
        cwd=bundle.rootfs,
    )
    root = os.open(bundle.rootfs, os.O_PATH | os.O_DIRECTORY)
    try:
        for number in range(300):
            for make in (paths.open_directory, paths.open_file):
                try:
                    fd = make(root, f"/a/x{number}/{make.__name__}")
                except Exception:  # the place was away in this moment
                    continue
                assert os.readlink(f"/proc/self/fd/{fd}").startswith(str(bundle.rootfs))
                os.close(fd)
    finally:
        swapper.kill()
        swapper.wait()
        os.close(root)
    assert untouched(outside)


def test_masks_are_the_hosts_null_device_whatever_the_image_has_there(bundle, outside):
    """CVE-2025-31133, CVE-2025-62161: the image's /dev/null is a link to a file that then is not hidden."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "secret").write_text("secret")
    (bundle.rootfs / "dev" / "null").symlink_to("/secret")
    bundle.linux["maskedPaths"].append("/secret")
    bundle.linux["devices"] = []
    bundle.sh("stat -L -c '%t:%T %F' /secret; cat /secret")
    done = bundle.run(check=False)
    if done.returncode == 0:
        assert done.stdout == "1:3 character special file\n"
    else:
        assert "exists in the image" in done.stderr or "/dev/null" in done.stderr


def test_masks_hide_a_file_reached_through_a_link_and_nothing_outside(bundle, outside):
    link(bundle, "hidden", outside / "file")
    bundle.linux["maskedPaths"].append("/hidden")
    bundle.linux["readonlyPaths"].append("/hidden")
    bundle.run(check=False)
    assert untouched(outside)


def test_the_console_is_the_terminal_and_not_what_the_image_has_there(bundle, outside):
    """CVE-2025-52565: /dev/pts/0 and /dev/console are the image's to prepare."""
    import socket

    bundle.process["terminal"] = True
    link(bundle, "dev/console", outside / "file")
    receiver = socket.socket(socket.AF_UNIX)
    receiver.bind(str(bundle.path / "console"))
    receiver.listen()
    receiver.settimeout(20)
    bundle.sh("stat -c %t /dev/console; sleep 50")
    bundle.create("c1", "--console-socket", str(bundle.path / "console"))
    connection, _ = receiver.accept()
    _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    bundle.cli("start", "c1")
    assert os.read(fds[0], 100).startswith(b"88")
    for one in (connection, receiver):
        one.close()
    os.close(fds[0])
    assert untouched(outside)


@pytest.mark.parametrize("directory", ["/proc/self/fd/7", "/proc/self/fd/7/inner", "/proc/1/fd/3"])
def test_a_working_directory_by_a_descriptor_of_the_host_is_refused(bundle, directory):
    """CVE-2024-21626."""
    bundle.process["cwd"] = directory
    bundle.write()
    leaky = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    done = subprocess.run(
        ["sh", "-c", f"exec 7</; exec {' '.join(COMMAND)} --root {bundle.root} run --preserve-fds 8 c1"],
        cwd=bundle.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(leaky)
    assert done.returncode == 1
    assert "cannot chdir" in done.stderr or "outside of the container" in done.stderr or "mount point" in done.stderr


def test_descriptors_of_the_caller_do_not_reach_the_program(bundle):
    bundle.sh("ls /proc/self/fd")
    bundle.write()
    done = subprocess.run(
        ["sh", "-c", f"exec 7</ 9</etc; exec {' '.join(COMMAND)} --root {bundle.root} run c1"],
        cwd=bundle.path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_no_import_reads_the_image(bundle, tmp_path):
    """CVE-2019-14271: the image holds modules under the very paths that our interpreter searches."""
    import sys

    marker = "raise SystemExit('the image was imported')\n"
    for entry in {path for path in sys.path if path.startswith("/")} | {os.path.dirname(os.__file__)}:
        place = Path(f"{bundle.rootfs}{entry}/encodings")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("ascii", "koi8_r", "latin_1", "utf_16", "__init__"):
            (place / f"{name}.py").write_text(marker)
        for name in ("warnings", "traceback", "resource", "pwd"):
            (place.parent / f"{name}.py").write_text(marker)
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert bundle.output("echo fine") == "fine"
    bundle.process["args"] = ["/nosuch"]
    assert "no such file" in bundle.run(check=False).stderr


def test_a_script_cannot_run_the_runtime_inside(bundle):
    """CVE-2019-5736: `#!/proc/self/exe` re-executes the runtime, whose file could then be written."""
    (bundle.rootfs / "bin/again").write_text("#!/proc/self/exe\n")
    (bundle.rootfs / "bin/again").chmod(0o755)
    before = os.stat(os.path.realpath(COMMAND[0]))
    for words in (["/bin/again"], ["/proc/self/exe"]):
        bundle.process["args"] = words
        assert "this is the runtime itself" in bundle.run(check=False).stderr
    after = os.stat(os.path.realpath(COMMAND[0]))
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_proc_over_which_the_image_mounts_is_not_used_for_sysctls(bundle, outside):
    """CVE-2019-16884, CVE-2025-52881: /proc/sys of the image would catch what is written."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    place = bundle.rootfs / "proc/sys/net/ipv4/ip_default_ttl"
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "file")
    bundle.linux["sysctl"] = {"net.ipv4.ip_default_ttl": "33"}
    bundle.run(check=False)
    assert untouched(outside)


def test_a_device_of_the_image_is_not_taken_for_one_that_was_asked_for(bundle):
    if not IS_ROOT:
        pytest.skip("needs root: nodes are bound in a user namespace")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    os.mknod(bundle.rootfs / "dev/null", 0o20666, os.makedev(1, 5))
    assert "is another device" in bundle.run(check=False).stderr


def test_a_mount_over_proc_is_refused_however_it_is_spelled(bundle):
    for destination in ("/proc/sys", "//proc/self", "/x/../proc/1"):
        bundle.config["mounts"].append({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
        assert "inside /proc" in bundle.run(check=False).stderr
        bundle.config["mounts"].pop()


def test_a_document_with_huge_nesting_is_an_error_and_no_crash(bundle):
    bundle.write()
    config = json.dumps(bundle.config)[:-1] + ', "x": ' + "[" * 50_000 + "]" * 50_000 + "}"
    (bundle.path / "config.json").write_text(config)
    done = bundle.cli("run", "c1", check=False)
    assert (done.returncode, "nested too deeply" in done.stderr) == (1, True)


def test_a_path_is_never_resolved_by_string(tmp_path):
    """The one primitive below all of the above, against an absolute and a climbing link."""
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "abs").symlink_to("/in")
    (root / "up").symlink_to("../../../../in")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    for name in ("abs", "up"):
        found = openat2(fd, name, os.O_PATH, 0, RESOLVE_IN_ROOT)
        assert os.readlink(f"/proc/self/fd/{found}") == str(root / "in")
        os.close(found)
    os.close(fd)
