"""The log format, and a pump that dies at any step."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.shim.logs import MAX_LINE, Pump, format_lines

PREFIX = b"2026-01-01T00:00:00.000000000Z stdout"


def texts(log: bytes) -> bytes:
    """Return what was written, from lines in CRI log format."""
    parts = (line.split(b" ", 3) for line in log.split(b"\n")[:-1])
    return b"".join(text + (b"\n" if tag == b"F" else b"") for _, _, tag, text in parts)


@given(st.binary(max_size=3 * MAX_LINE), st.booleans())
def test_format_covers_what_it_says_and_keeps_every_byte(data: bytes, partial: bool) -> None:
    log, used = format_lines(data, PREFIX, partial)
    assert texts(log) == data[:used]
    assert used == len(data) or (not partial and b"\n" not in data[used:])


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_any_split_of_the_stream_gives_the_same_lines(chunks: list[bytes]) -> None:
    rest, log = b"", b""
    for chunk in chunks:
        rest += chunk
        text, used = format_lines(rest, PREFIX, False)
        log, rest = log + text, rest[used:]
    text, _ = format_lines(rest, PREFIX, True)
    assert texts(log + text) == b"".join(chunks)


def test_long_line_is_cut_into_partial_ones() -> None:
    log, _ = format_lines(b"x" * (2 * MAX_LINE + 1) + b"\n", PREFIX, False)
    assert [line.split(b" ")[2] for line in log.split(b"\n")[:-1]] == [b"P", b"P", b"F"]


@pytest.fixture
def pump(tmp_path: Path) -> Pump:
    return Pump(str(tmp_path), str(tmp_path / "log"), terminal=False)


def test_successor_goes_on_where_the_predecessor_died(pump: Pump, tmp_path: Path) -> None:
    stdout, stderr = pump.make_fifos()
    os.write(stdout, b"one\ntw")
    pump.take(pump.streams[0])
    # Died behind the write and before the record: a line too many that nobody vouches for.
    with open(tmp_path / "log", "ab") as log:
        log.write(b"garbage")
    successor = Pump(str(tmp_path), str(tmp_path / "log"), terminal=False)
    successor.open_fifos()
    pump.close()
    os.write(stdout, b"o\n")
    os.close(stdout)
    os.close(stderr)
    successor.drain()
    successor.close()
    assert texts((tmp_path / "log").read_bytes()) == b"one\ntwo\n"


def test_spool_that_was_emptied_without_a_record_loses_and_repeats_nothing(pump: Pump, tmp_path: Path) -> None:
    stdout, stderr = pump.make_fifos()
    os.write(stdout, b"one\n")
    pump.take(pump.streams[0])
    os.truncate(tmp_path / "stdout.spool", 0)
    successor = Pump(str(tmp_path), str(tmp_path / "log"), terminal=False)
    successor.open_fifos()
    pump.close()
    os.write(stdout, b"two\n")
    os.close(stdout)
    os.close(stderr)
    successor.drain()
    successor.close()
    assert texts((tmp_path / "log").read_bytes()) == b"one\ntwo\n"


def test_big_output_does_not_stay_in_the_spool(pump: Pump, tmp_path: Path) -> None:
    stdout, stderr = pump.make_fifos()
    line = b"y" * 1023 + b"\n"
    for _ in range(40):
        os.write(stdout, line * 32)
        pump.take(pump.streams[0])
    os.close(stdout)
    os.close(stderr)
    pump.drain()
    pump.close()
    assert texts((tmp_path / "log").read_bytes()) == line * 32 * 40
    assert (tmp_path / "stdout.spool").stat().st_size <= 300 << 10
