import os
import stat

from container.pods import etc


def test_servers_on_loopback_are_left_out():
    text = "search lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0\n"
    assert etc.resolv_conf([text], keep_loopback=False) == "search lan\nnameserver 10.0.0.1\noptions edns0\n"
    assert etc.resolv_conf([text], keep_loopback=True) == text


def test_the_next_candidate_is_taken_when_the_first_has_no_usable_server():
    stub, real = "nameserver 127.0.0.53\nnameserver ::1\n", "nameserver fe80::1%eth0\n"
    assert etc.resolv_conf([stub, real], keep_loopback=False) == real
    assert etc.resolv_conf([stub], keep_loopback=False) == ""


def test_hosts_name_the_container():
    lines = etc.hosts("web").splitlines()
    assert lines[0].split() == ["127.0.0.1", "localhost"]
    assert lines[-1].split() == ["127.0.1.1", "web"]


def test_files_are_readable_for_everybody_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        etc.write(tmp_path, "web", keep_loopback=True)
    finally:
        os.umask(before)
    assert (tmp_path / "hostname").read_text() == "web\n"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}
