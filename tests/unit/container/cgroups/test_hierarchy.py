"""Finding hierarchies in the texts of several hosts."""

from container.cgroups.hierarchy import _version, find_roots, parse_mountinfo, parse_own, unescape
from container.cgroups.stats import parse_flat, parse_nested
from container.linux.files import CGROUP2_SUPER_MAGIC, CGROUP_SUPER_MAGIC

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
HYBRID_OWN = "4:memory:/a b/c\n2:cpu,cpuacct:/\n1:name=systemd:/s\n0::/unit\n"


def test_unified_host_has_one_root():
    roots = find_roots(parse_mountinfo(V2), parse_own("0::/user.slice/x.service\n"))
    assert _version(roots) == "v2"
    root = roots["unified"]
    assert (root.mountpoint, root.own, root.magic) == (
        "/sys/fs/cgroup",
        "user.slice/x.service",
        CGROUP2_SUPER_MAGIC,
    )


def test_hybrid_host_has_controllers_and_a_unified_tree():
    roots = find_roots(parse_mountinfo(HYBRID), parse_own(HYBRID_OWN))
    assert _version(roots) == "hybrid"
    assert set(roots) == {"cpu", "cpuacct", "memory", "unified"}
    assert roots["cpu"] is roots["cpuacct"]
    assert (roots["memory"].own, roots["memory"].magic) == ("a b/c", CGROUP_SUPER_MAGIC)


def test_pure_version_1_host():
    without = "".join(line for line in HYBRID.splitlines(keepends=True) if "cgroup2" not in line)
    assert _version(find_roots(parse_mountinfo(without), parse_own(HYBRID_OWN))) == "v1"


def test_mount_that_shows_a_part_of_the_hierarchy():
    """As in a container without a cgroup namespace: the mount's root is our own cgroup."""
    mounts = parse_mountinfo(V2.replace(" / /sys/fs/cgroup", " /docker/abc /sys/fs/cgroup"))
    assert find_roots(mounts, parse_own("0::/docker/abc/sub\n"))["unified"].own == "sub"
    assert find_roots(mounts, parse_own("0::/docker/abc\n"))["unified"].own == "."
    assert find_roots(mounts, parse_own("0::/docker/abcd\n"))["unified"].own == "."


def test_upper_mount_of_two_at_one_place_counts():
    mounts = parse_mountinfo(V2 + V2.replace(" / /sys", " /../.. /sys"))
    assert [mount.root for mount in mounts] == ["/../.."]


def test_host_without_cgroups_has_no_roots():
    assert find_roots(parse_mountinfo("1 0 8:1 / / rw - ext4 /dev/sda rw\nnonsense\n"), {}) == {}


def test_octal_escapes_are_undone():
    assert unescape(r"/a\040b\134c") == "/a b\\c"


def test_flat_file_is_parsed():
    assert parse_flat("usage_usec 12\nnr 0\nmax max\n") == {"usage_usec": 12, "nr": 0}


def test_pressure_is_parsed():
    assert parse_nested("some avg10=1.50 total=7\nfull avg10=0.00 total=0\n") == {
        "some": {"avg10": 1.5, "total": 7},
        "full": {"avg10": 0, "total": 0},
    }
