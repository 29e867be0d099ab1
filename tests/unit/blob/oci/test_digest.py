import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import DigestError, DigestFormatError
from blob.oci.digest import Verifier, digest_of, parse_digest, verify_bytes


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_survives_parsing_and_formatting(algorithm: str) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, b'x').hexdigest()}"
    assert str(parse_digest(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:baddigeststring",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "/etc/passwd",
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "a" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DigestFormatError):
        parse_digest(text)


@given(st.text())
def test_parsing_never_fails_in_another_way(text: str) -> None:
    try:
        parsed = parse_digest(text)
    except DigestFormatError:
        return
    assert str(parsed) == text


@given(st.binary(), st.lists(st.integers(0, 50)))
def test_the_verifier_does_not_care_how_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    verifier, position = Verifier(digest_of(data)), 0
    for cut in cuts:
        verifier.update(data[position : position + cut])
        position += cut
    verifier.update(data[position:])
    verifier.verify()
    assert verifier.size == len(data)


def test_wrong_bytes_are_named_with_both_digests() -> None:
    with pytest.raises(DigestError, match=r"not `sha256:") as caught:
        verify_bytes(b"other", digest_of(b"right"))
    assert str(digest_of(b"other")) in caught.value.message
