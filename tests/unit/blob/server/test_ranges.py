import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import RangeError
from blob.server.ranges import format_content_range, parse_chunk_range, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=500-1499", (500, 1500)),
        ("bytes=500-", (500, 4000)),
        ("bytes=-500", (3500, 4000)),
        ("bytes=2000-5000", (2000, 4000)),
        ("bytes=-9999", (0, 4000)),
        ("bytes=0-0", (0, 1)),
        ("Bytes=0-0", (0, 1)),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("pages=1-2", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges_mean_what_the_rfc_says(header: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 4000) == expected


@pytest.mark.parametrize("header", ["bytes=500-0", "bytes=4000-", "bytes=5000-10000", "bytes=-0"])
def test_ranges_of_nothing_are_refused_with_the_size(header: str) -> None:
    with pytest.raises(RangeError) as caught:
        parse_range(header, 4000)
    assert caught.value.size == 4000


@given(st.text(max_size=50), st.integers(0, 10**6))
def test_a_range_is_always_inside(header: str, size: int) -> None:
    for text in (header, "bytes=" + header):
        try:
            found = parse_range(text, size)
        except RangeError:
            continue
        assert found is None or 0 <= found[0] < found[1] <= size


def test_the_answer_names_the_last_byte() -> None:
    assert format_content_range(0, 10, 20) == "bytes 0-9/20"


@pytest.mark.parametrize(
    ("header", "expected"),
    [("0-9", (0, 9)), ("bytes 5-9/10", (5, 9)), ("bytes=0-9", (0, 9)), ("x", None), ("5-", None)],
)
def test_chunk_ranges_come_in_two_spellings(header: str, expected: tuple[int, int] | None) -> None:
    assert parse_chunk_range(header) == expected
