import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import InvalidReferenceError
from blob.oci.reference import Reference, parse_name, parse_reference

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", Reference("docker.io", "library/alpine", "latest")),
        ("alpine:3.20", Reference("docker.io", "library/alpine", "3.20")),
        ("user/app", Reference("docker.io", "user/app", "latest")),
        ("docker.io/nginx", Reference("docker.io", "library/nginx", "latest")),
        ("index.docker.io/library/nginx:1", Reference("docker.io", "library/nginx", "1")),
        (f"docker.io/library/alpine:3.20@{SHA}", Reference("docker.io", "library/alpine", "3.20", SHA)),
        (f"alpine@{SHA}", Reference("docker.io", "library/alpine", "", SHA)),
        ("localhost:5050/x/y:tag", Reference("localhost:5050", "x/y", "tag")),
        ("localhost:5000/x", Reference("localhost:5000", "x", "latest")),
        ("localhost/x", Reference("localhost", "x", "latest")),
        ("quay.io/cilium/cilium:v1.17.7", Reference("quay.io", "cilium/cilium", "v1.17.7")),
        ("registry.k8s.io/pause", Reference("registry.k8s.io", "pause", "latest")),
        ("[::1]:5000/a/b:c", Reference("[::1]:5000", "a/b", "c")),
        ("a/b/c", Reference("docker.io", "a/b/c", "latest")),
        ("127.0.0.1:43121/demo/busybox:1", Reference("127.0.0.1:43121", "demo/busybox", "1")),
    ],
)
def test_names_mean_what_docker_says(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Upper",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a@",
        "a:b:c",
        "a@sha256:1",
        "a..b",
        "a___b",
        "-a",
        "a b",
        "a/../b",
        "quay.io/",
        "quay.io:99999999/a",
        "x" * 2000,
        "quay.io/" + "a" * 250,
        "a:" + "t" * 129,
        "a\n",
    ],
)
def test_malformed_names_are_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference(text)
    assert len(caught.value.message) < 400


@given(st.text(max_size=60))
def test_what_parses_formats_to_something_that_means_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReferenceError:
        return
    assert parse_reference(str(reference)) == reference


def test_the_digest_selects_before_the_tag() -> None:
    assert parse_reference(f"a:1@{SHA}").selector == SHA
    assert parse_reference("a:1").selector == "1"


def test_a_pinned_reference_keeps_its_name() -> None:
    assert str(parse_reference("quay.io/a:1").with_digest(SHA)) == f"quay.io/a:1@{SHA}"


def test_a_name_for_a_push_has_no_registry() -> None:
    assert parse_name("demo/busybox:1") == ("demo/busybox", "1")
    assert parse_name("demo") == ("demo", "latest")
    with pytest.raises(InvalidReferenceError):
        parse_name("localhost:5050/x")
