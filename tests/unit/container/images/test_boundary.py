import inspect

import pytest

from blob import errors as blob
from container.errors import ConfigError, ContainerError, DigestError, NotFoundError, RegistryError
from container.images.boundary import blob_errors, translate

KINDS = [kind for _, kind in inspect.getmembers(blob, inspect.isclass) if issubclass(kind, blob.BlobError)]


def make(kind: type[blob.BlobError]) -> blob.BlobError:
    return kind("m", size=1) if kind is blob.RangeError else kind("m", "h")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_blob_has_one_of_ours(kind):
    with pytest.raises(ContainerError, match="m") as caught, blob_errors():
        raise make(kind)
    assert caught.value.retryable == kind.retryable


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (blob.InvalidReferenceError, ConfigError),
        (blob.UpstreamDigestError, DigestError),
        (blob.ManifestUnknownError, NotFoundError),
        (blob.UpstreamTimeoutError, RegistryError),
    ],
)
def test_the_decision_for_the_caller_stays_the_same(kind, ours):
    assert type(translate(make(kind))) is ours
