import asyncio
import os
import socket
import stat
import sys

import pytest

from vappc.errors import AddressError, ConnectError, DaemonError
from vappc.transport.address import (
    VMADDR_CID_LOCAL,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    find,
    is_loopback,
    parse_address,
)
from vappc.transport.connect import open_connection
from vappc.transport.listen import listen as take


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/a.sock", UnixAddress("/run/a.sock")),
        ("./a.sock", UnixAddress("./a.sock")),
        ("unix:/run/a:b.sock", UnixAddress("/run/a:b.sock")),
        ("vsock:49163", VsockAddress(49163)),
        ("vsock:3:49163", VsockAddress(49163, 3)),
        ("tcp:127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("tcp:[::1]:80", TcpAddress("::1", 80)),
    ],
)
def test_addresses_are_read_and_written_back(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "vsock:",
        "vsock:x",
        "vsock:-1",
        "tcp:80",
        "tcp:h:99999",
        "tcp:h:\u0661",
        "http://x",
        "/" + "a" * 108,
    ],
)
def test_what_is_no_address_is_refused_with_a_hint(text):
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert caught.value.hint


def test_address_comes_from_argument_then_environment_then_default():
    assert find("/a", {"VAPPC_SOCKET": "/b"}) == UnixAddress("/a")
    assert find(None, {"VAPPC_SOCKET": "vsock:5"}) == VsockAddress(5)
    assert find(None, {}).path in ("/tmp/vappc.sock", "/run/vapp/vappc.sock")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("evil", False)],
)
def test_only_loopback_is_loopback(host, expected):
    assert is_loopback(host) is expected


def test_nobody_listening_says_how_to_start_a_daemon(tmp_path):
    with pytest.raises(ConnectError) as caught:
        open_connection(UnixAddress(str(tmp_path / "none")))
    assert "vappc-linux-daemon" in caught.value.hint


async def echo(reader, writer, peer):
    writer.write(f"{peer.name}|{peer.denied}|{peer.needs_token}\n".encode())
    await writer.drain()
    await reader.read()
    writer.close()


async def listen(*arguments, **options):
    listener = await take(*arguments, **options)
    await listener.start()
    return listener


async def test_who_connects_early_waits_for_the_start(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await take(address, echo)
    waiting = asyncio.create_task(first_line(address))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await listener.start()
    assert await waiting
    listener.close()


async def first_line(address):
    def talk():
        with open_connection(address, 5) as sock, sock.makefile("rb") as file:
            return file.readline().decode().strip()

    return await asyncio.to_thread(talk)


async def test_unix_socket_is_for_user_and_group_only(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await listen(address, echo)
    assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o660
    assert await first_line(address) == f"uid {os.getuid()} pid {os.getpid()}||False"
    listener.close()
    assert not os.path.exists(address.path)


async def test_stale_socket_is_replaced(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    listener = await listen(address, echo)
    assert await first_line(address)
    listener.close()


async def test_live_socket_is_refused_and_stays(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await listen(address, echo)
    with pytest.raises(DaemonError, match="another daemon listens"):
        await listen(address, echo)
    assert await first_line(address)
    listener.close()


async def test_a_file_is_never_taken_for_a_socket(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(DaemonError, match="no socket"):
        await listen(UnixAddress(str(path)), echo)
    assert path.read_text() == "data"


async def test_closing_leaves_the_socket_of_a_successor(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await listen(address, echo)
    os.unlink(address.path)
    successor = await listen(address, echo)
    listener.close()
    assert os.path.exists(address.path)
    successor.close()


async def test_missing_directory_is_one_clear_error(tmp_path):
    with pytest.raises(DaemonError, match="no such file") as caught:
        await listen(UnixAddress(str(tmp_path / "none" / "s")), echo)
    assert caught.value.hint


async def as_stranger(address, groups):
    """Return what somebody of other ids is told, who has got hold of the socket past its mode."""
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); fd = os.open(sys.argv[1], os.O_PATH);"
        f"os.setgroups({groups}); os.setgid(54321); os.setuid(54321);"
        "s.connect(f'/proc/self/fd/{fd}'); print(s.recv(500).decode())"
    )
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, address.path, stdout=pipe)
    out, _ = await child.communicate()
    return out.decode()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_a_stranger_is_told_no(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await listen(address, echo)
    os.chmod(address.path, 0o666)  # somebody opened it by hand: the credentials still count
    assert "user 54321 is neither" in await as_stranger(address, [])
    listener.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_a_member_of_the_sockets_group_is_welcome(tmp_path):
    address = UnixAddress(str(tmp_path / "s"))
    listener = await listen(address, echo)
    os.chown(address.path, -1, 54322)
    assert "||False" in await as_stranger(address, [54322])
    listener.close()


async def test_tcp_needs_a_token_and_loopback():
    listener = await listen(TcpAddress("127.0.0.1", 0), echo)
    assert (await first_line(TcpAddress("127.0.0.1", listener.port))).endswith("||True")
    listener.close()
    with pytest.raises(DaemonError, match="other machines"):
        await listen(TcpAddress("0.0.0.0", 0), echo)


async def test_taken_port_says_so():
    listener = await listen(TcpAddress("127.0.0.1", 0), echo)
    with pytest.raises(DaemonError, match="in use") as caught:
        await listen(TcpAddress("127.0.0.1", listener.port), echo)
    assert caught.value.hint
    listener.close()


@pytest.mark.parametrize("allowed", [True, False])
async def test_vsock_from_this_machine_only_when_allowed(allowed):
    if not os.path.exists("/sys/module/vsock_loopback"):
        pytest.skip("the kernel module vsock_loopback is not loaded")
    port = 50000 + os.getpid() % 10000
    listener = await listen(VsockAddress(port), echo, allow_local_vsock=allowed)
    line = await first_line(VsockAddress(port, VMADDR_CID_LOCAL))
    listener.close()
    assert ("only the host" in line) is not allowed
