import os
from pathlib import Path

import pytest

from container.errors import DigestError, ImageError, RegistryError
from container.images import download
from container.images.download import Source, fetch
from unit.container.images.registry import Registry, serve


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(download, "_FIRST_DELAY_S", 0.001)


def source_of(registry: Registry, name: str, **fields) -> Source:
    return Source(f"{registry.url}/v2/r/blobs/{name}", **fields)


def test_blob_arrives_over_tcp(registry):
    data = os.urandom(1_000_000)
    assert b"".join(fetch(source_of(registry, registry.add_blob(data)), len(data))) == data


def test_blob_arrives_over_a_unix_socket(local: Registry, blob_socket: Path):
    name = local.add_blob(b"data")
    source = Source(f"http://localhost/v2/r/blobs/{name}", str(blob_socket))
    assert b"".join(fetch(source, 4)) == b"data"


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_cut_connection_is_resumed(registry, ignore_range):
    data = os.urandom(1_000_000)
    registry.cut, registry.ignore_range = 300_000, ignore_range
    name = registry.add_blob(data)
    if ignore_range:
        # Each answer starts from the beginning: only an uncut one brings something new.
        chunks = fetch(source_of(registry, name), len(data))
        first = next(chunks)
        registry.cut = 0
        assert first + b"".join(chunks) == data
    else:
        assert b"".join(fetch(source_of(registry, name), len(data))) == data
        assert len(registry.requests) == 4


def test_a_registry_that_recovers_is_waited_for(registry):
    registry.failures = 3
    assert b"".join(fetch(source_of(registry, registry.add_blob(b"x")), 1)) == b"x"


def test_a_registry_that_does_not_recover_is_a_passing_error(registry):
    registry.failures = 99
    with pytest.raises(RegistryError, match="come back later") as caught:
        list(fetch(source_of(registry, registry.add_blob(b"x")), 1))
    assert caught.value.retryable
    assert registry.failures == 94


def test_nobody_listening_is_a_passing_error():
    with pytest.raises(RegistryError, match="refused"):
        list(fetch(Source("http://127.0.0.1:1/v2/r/blobs/x"), 1))


def test_missing_blob_is_not_asked_for_again(registry):
    with pytest.raises(ImageError, match="404 not here"):
        list(fetch(source_of(registry, "sha256:" + "0" * 64), 1))
    assert len(registry.requests) == 1


def test_refusal_is_not_asked_for_again(registry):
    registry.token = "secret"
    with pytest.raises(ImageError, match="access denied"):
        list(fetch(source_of(registry, registry.add_blob(b"x")), 1))
    assert len(registry.requests) == 1


def test_other_length_than_announced_is_a_digest_error(registry):
    with pytest.raises(DigestError, match="has 3 bytes, not the 2"):
        list(fetch(source_of(registry, registry.add_blob(b"xyz")), 2))


def test_redirect_is_followed_without_credentials(registry):
    with serve() as other:
        name = registry.add_blob(b"x")
        other.add_blob(b"x")
        other.token = "other"
        registry.redirect = other.url
        source = source_of(registry, name, headers={"Authorization": "Bearer other"})
        with pytest.raises(ImageError, match="denied"):
            list(fetch(source, 1))
        other.token = ""
        assert b"".join(fetch(source, 1)) == b"x"


def test_redirects_in_a_circle_end(registry):
    registry.redirect = registry.url
    with pytest.raises(ImageError, match="redirects more than"):
        list(fetch(source_of(registry, registry.add_blob(b"x")), 1))


def test_empty_blob_needs_no_request(registry):
    assert list(fetch(source_of(registry, "sha256:any"), 0)) == []
