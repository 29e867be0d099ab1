"""The wire between init and launcher."""

import os

import pytest

from container.errors import HostError
from container.runtime import channel


@pytest.fixture
def ends():
    left, right = channel.pair()
    yield left, right
    left.close()
    right.close()


def test_messages_keep_their_borders_and_carry_descriptors(ends):
    left, right = ends
    source, target = os.pipe()
    left.send(channel.CONSOLE, b"x", (target,))
    left.send(channel.READY)
    kind, payload, fds = right.receive()
    assert (kind, payload, len(fds)) == (channel.CONSOLE, b"x", 1)
    os.write(fds[0], b"through")
    assert os.read(source, 100) == b"through"
    assert not os.get_inheritable(fds[0])
    for fd in (source, target, *fds):
        os.close(fd)
    assert right.receive() == (channel.READY, b"", [])


def test_the_end_is_an_empty_message_and_sending_to_nobody_is_no_error(ends):
    left, right = ends
    left.close()
    assert right.receive() == (b"", b"", [])
    right.send(channel.READY)


@pytest.mark.parametrize("error", [HostError("no `x`", "install `x`"), OSError(2, "No such file"), ValueError("odd")])
def test_errors_arrive_with_message_hint_and_errno(ends, error):
    left, right = ends
    left.send_error(error)
    kind, payload, _ = right.receive()
    assert kind == channel.ERROR
    found = channel.parse_error(payload)
    assert (found.message, found.hint) == (str(error), getattr(error, "hint", ""))
    assert found.errno == (getattr(error, "errno", 0) or 0)


def test_a_socket_may_lie_deeper_than_its_address_is_long(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    listener = channel.listen(f"{deep}/s.sock")
    caller = channel.connect(f"{deep}/s.sock")
    answer = channel.accept(listener)
    answer.send(channel.GO)
    assert caller.receive()[0] == channel.GO
    for end in (listener, caller, answer):
        end.close()


def test_nobody_who_listens_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        channel.connect(f"{tmp_path}/none.sock")
