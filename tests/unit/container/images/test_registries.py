import pytest

from blob.oci.reference import parse_reference
from container.images.load import local_repository
from container.images.registries import DEFAULT_UPSTREAMS, registry_for


@pytest.mark.parametrize(
    ("name", "url", "repository"),
    [
        ("alpine", "unix:///b", "docker.io/library/alpine"),
        ("docker.io/library/alpine:3", "unix:///b", "docker.io/library/alpine"),
        ("quay.io/a/b", "unix:///b", "quay.io/a/b"),
        ("localhost/demo:1", "unix:///b", "localhost/demo"),
        ("127.0.0.1:5055/x:1", "http://127.0.0.1:5055", "x"),
        ("localhost:5055/x/y:1", "http://localhost:5055", "x/y"),
        ("[::1]:5055/x", "http://[::1]:5055", "x"),
        ("registry.example/a/b", "https://registry.example", "a/b"),
        ("registry.example:5000/a", "https://registry.example:5000", "a"),
        ("localhost.example:5000/a", "https://localhost.example:5000", "a"),
        ("127.evil.example:1/a", "https://127.evil.example:1", "a"),
    ],
)
def test_every_name_has_one_registry(name, url, repository):
    found = registry_for(parse_reference(name), "unix:///b", DEFAULT_UPSTREAMS)
    assert (found.url, found.repository) == (url, repository)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("localhost/demo:1", "demo"),
        ("demo:1", "loaded/docker-io/library/demo"),
        ("127.0.0.1:5055/x:1", "loaded/127-0-0-1-5055/x"),
    ],
)
def test_a_loaded_image_is_kept_where_no_other_registry_is(name, repository):
    assert local_repository(parse_reference(name)) == repository
