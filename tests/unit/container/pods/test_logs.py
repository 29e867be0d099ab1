import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.pods.logs import Entry, parse_line, read, seconds

TIME = "2026-01-02T03:04:05.000000006Z"


def lines(*texts, tag="F"):
    return "".join(f"{TIME} stdout {tag} {text}\n" for text in texts).encode()


async def collect(path, **options):
    return [entry.text.decode() async for entry in read(path, **options)]


def test_full_lines_get_their_newline_back_and_partial_ones_do_not():
    assert parse_line(f"{TIME} stderr F a b".encode()) == Entry(TIME, "stderr", b"a b\n")
    assert parse_line(f"{TIME} stdout P a".encode()) == Entry(TIME, "stdout", b"a")
    assert parse_line(f"{TIME} stdout F ".encode()) == Entry(TIME, "stdout", b"\n")


@pytest.mark.parametrize("line", [b"", b"x", b"t stdin F x", b"t stdout"])
def test_what_is_no_log_line_is_nothing(line):
    assert parse_line(line) is None


@given(st.binary())
def test_any_line_is_read_without_error(line):
    parse_line(line)


def test_times_have_nanoseconds():
    assert seconds("1970-01-01T00:00:01.500000000Z") == 1.5
    assert seconds("1970-01-01T01:00:01+01:00") == 1.0
    assert seconds("yesterday") == 0.0


async def test_a_missing_log_is_empty(tmp_path):
    assert await collect(tmp_path / "log") == []


async def test_an_unfinished_line_is_not_shown(tmp_path):
    (tmp_path / "log").write_bytes(lines("a") + b"2026 stdout F half")
    assert await collect(tmp_path / "log") == ["a\n"]


async def test_since_leaves_out_what_is_older(tmp_path):
    (tmp_path / "log").write_bytes(b"2026-01-01T00:00:00.0Z stdout F old\n2026-01-02T00:00:00.0Z stdout F new\n")
    assert await collect(tmp_path / "log", since=seconds("2026-01-01T12:00:00Z")) == ["new\n"]


@pytest.mark.parametrize(
    ("tail", "expected"), [(0, []), (1, ["d\n"]), (2, ["b", "c\n", "d\n"]), (9, ["a\n", "b", "c\n", "d\n"])]
)
async def test_tail_counts_the_containers_lines(tmp_path, tail, expected):
    (tmp_path / "log").write_bytes(lines("a") + lines("b", tag="P") + lines("c", "d"))
    assert await collect(tmp_path / "log", tail=tail) == expected


async def test_tail_of_a_long_log(tmp_path):
    (tmp_path / "log").write_bytes(lines(*(str(number) for number in range(5000))))
    assert await collect(tmp_path / "log", tail=3) == ["4997\n", "4998\n", "4999\n"]


class Follower:
    def __init__(self, path, **options):
        self.ended = asyncio.Event()
        self.entries = read(path, ended=self.ended, **options)

    async def next(self):
        return (await asyncio.wait_for(anext(self.entries), 5)).text.decode()

    async def rest(self):
        self.ended.set()
        return [entry.text.decode() async for entry in self.entries]


async def test_following_sees_what_is_added_and_stops_at_the_end(tmp_path):
    path = tmp_path / "log"
    follower = Follower(path)
    path.write_bytes(lines("a"))
    assert await follower.next() == "a\n"
    with path.open("ab") as file:
        file.write(lines("b")[:20])
        file.flush()
        file.write(lines("b")[20:])
    assert await follower.next() == "b\n"
    with path.open("ab") as file:
        file.write(lines("c"))
    assert await follower.rest() == ["c\n"]


async def test_following_survives_a_rotation_without_loss(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(lines("a"))
    follower = Follower(path)
    assert await follower.next() == "a\n"
    with path.open("ab") as file:
        file.write(lines("b"))
        os.rename(path, tmp_path / "log.1")
        file.write(lines("c"))
    path.write_bytes(lines("d"))
    assert [await follower.next() for _ in range(3)] == ["b\n", "c\n", "d\n"]
    assert await follower.rest() == []


async def test_following_survives_emptying_in_place(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(lines("a", "b"))
    follower = Follower(path)
    assert [await follower.next(), await follower.next()] == ["a\n", "b\n"]
    waiting = asyncio.create_task(follower.next())
    os.truncate(path, 0)
    while os.path.getsize(path) == 0 and not waiting.done():
        await asyncio.sleep(0.01)
        with path.open("ab") as file:
            file.write(lines("c"))
    assert await waiting == "c\n"


async def test_a_log_cut_back_and_written_again_is_not_shown_twice(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(lines("a", "b"))
    follower = Follower(path)
    assert [await follower.next(), await follower.next()] == ["a\n", "b\n"]
    os.truncate(path, len(lines("a")))
    with path.open("ab") as file:
        file.write(lines("b", "c"))
    assert await follower.next() == "c\n"
    assert await follower.rest() == []


async def test_an_abandoned_follower_leaves_no_descriptor(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(lines("a"))
    before = set(os.listdir("/proc/self/fd"))
    follower = Follower(path)
    await follower.next()
    await follower.entries.aclose()
    assert len(os.listdir("/proc/self/fd")) == len(before)
