import pytest
from hypothesis import given
from hypothesis import strategies as st

from blob.errors import InvalidReferenceError, NameUnknownError, UnsupportedError
from blob.server.names import Names, Target, collapse_prefix

UPSTREAMS = ("docker.io", "quay.io", "localhost:5000")
NAMES = Names(UPSTREAMS, ("proxy.internal:5050",), lambda name: name in ("mine", "team/app"))
ALONE = Names((), (), lambda name: name == "mine")


@pytest.mark.parametrize(
    ("name", "ns", "expected"),
    [
        ("cilium/cilium", "quay.io", Target("quay.io", "cilium/cilium")),
        ("library/alpine", "docker.io", Target("docker.io", "library/alpine")),
        ("alpine", "docker.io", Target("docker.io", "library/alpine")),
        ("alpine", "registry-1.docker.io", Target("docker.io", "library/alpine")),
        ("quay.io/cilium/cilium", "", Target("quay.io", "cilium/cilium")),
        ("docker.io/library/alpine", "", Target("docker.io", "library/alpine")),
        ("docker.io/alpine", "", Target("docker.io", "library/alpine")),
        ("localhost:5000/x", "", Target("localhost:5000", "x")),
        ("quay.io/a/b", "proxy.internal:5050", Target("quay.io", "a/b")),
        ("quay.io/a/b", "elsewhere:5050", Target("quay.io", "a/b")),
        ("mine", "", Target("", "mine")),
        ("mine", "proxy.internal:5050", Target("", "mine")),
        ("team/app", "", Target("", "team/app")),
        ("nginx", "", Target("docker.io", "library/nginx", is_guess=True)),
        ("user/app", "", Target("docker.io", "user/app", is_guess=True)),
        ("a/b/c", "", Target("docker.io", "a/b/c", is_guess=True)),
        ("ghcr.io/a/b", "", Target("docker.io", "ghcr.io/a/b", is_guess=True)),
    ],
)
def test_a_name_means_one_registry(name: str, ns: str, expected: Target) -> None:
    assert NAMES.find(name, ns) == expected


@pytest.mark.parametrize("ns", ["gcr.io", "169.254.169.254", "localhost:22", "evil.test/x", "http://x", "."])
def test_a_namespace_never_makes_us_ask_a_host_of_the_clients_choice(ns: str) -> None:
    with pytest.raises(NameUnknownError):
        NAMES.find("mine", ns)
    with pytest.raises(UnsupportedError):
        NAMES.find_writable("mine", ns)


def test_without_docker_hub_unknown_names_are_unknown() -> None:
    with pytest.raises(NameUnknownError):
        ALONE.find("nginx")
    assert ALONE.find("mine") == Target("", "mine")


@pytest.mark.parametrize("name", ["Upper", "a//b", "../x", "a/../b", "quay.io/", "quay.io/../x", "x" * 300])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidReferenceError):
        NAMES.find(name)


@pytest.mark.parametrize("name", ["quay.io/a/b", "docker.io/library/alpine"])
def test_upstreams_are_not_written(name: str) -> None:
    with pytest.raises(UnsupportedError):
        NAMES.find_writable(name)


def test_anything_else_may_be_written() -> None:
    assert NAMES.find_writable("nginx") == "nginx"
    assert NAMES.find_writable("new/repo", "proxy.internal:5050") == "new/repo"


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_asked_only_configured_upstreams_are_meant(name: str, ns: str) -> None:
    try:
        assert NAMES.find(name, ns).upstream in ("", *UPSTREAMS)
    except (InvalidReferenceError, NameUnknownError):
        pass


@pytest.mark.parametrize("path", ["/v2/a/b", "/v2/v2/a/b"])
def test_a_doubled_prefix_is_dropped_once(path: str) -> None:
    assert collapse_prefix(path) == "a/b"
    assert collapse_prefix("/v2") == collapse_prefix("/v2/") == ""


def test_localhost_never_leaves_the_machine() -> None:
    names = Names({"docker.io"}, set(), lambda name: name == "demo")
    assert names.find("localhost/demo") == Target("", "demo")
    assert names.find_writable("localhost/new") == "new"
    with pytest.raises(NameUnknownError, match="of our own"):
        names.find("localhost/absent")
