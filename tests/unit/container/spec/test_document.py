"""JSON by the C halves of the json package alone."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.spec import document

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_decodes_to_itself(value):
    assert document.decode(document.encode(value)) == value
    assert document.decode(document.pretty(value).encode()) == value


@given(VALUES)
def test_it_reads_and_writes_what_the_json_package_does(value):
    assert json.loads(document.encode(value)) == value
    assert json.loads(document.pretty(value)) == value
    assert document.decode(json.dumps(value, indent=1).encode()) == value


@given(st.text(max_size=30))
def test_it_refuses_what_the_json_package_refuses(text):
    try:
        expected = json.loads(text, parse_constant=document._Scanner.parse_constant)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            document.decode(text)
    else:
        assert document.decode(text) == expected


@pytest.mark.parametrize("raw", [b"", b" ", b"{", b"[1,]", b"1 2", b"\xff", b"NaN", b'["\x01"]', b"\xef\xbb\xbf{}"])
def test_broken_documents_are_value_errors(raw):
    with pytest.raises(ValueError, match=r"."):
        document.decode(raw)


def test_deep_nesting_is_a_recursion_error_and_no_crash():
    with pytest.raises(RecursionError):
        document.decode(b"[" * 200_000)


def test_pretty_is_what_runc_prints():
    assert document.pretty({"a": [1, {"b": None}], "c": []}) == json.dumps({"a": [1, {"b": None}], "c": []}, indent=2)


def test_what_is_not_json_cannot_be_encoded():
    with pytest.raises(TypeError, match="bytes"):
        document.encode({"a": b""})


def test_the_package_takes_over_where_the_c_module_is_missing():
    code = (
        "import sys; sys.modules['_json'] = None\n"
        "from container.spec import document as d\n"
        "print(d.decode(b'[1, {}]'), d.encode({'a': 1}), d.pretty([1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == '[1, {}] {"a": 1} [\n  1\n]\n'
