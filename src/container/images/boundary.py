"""Turn what `blob` complains about into the errors of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from blob import errors as blob
from container.errors import ConfigError, ContainerError, DigestError, ImageError, NotFoundError, RegistryError

#: The first that fits wins, so the special ones come before what they are kinds of.
_TABLE: tuple[tuple[type[blob.BlobError], type[ContainerError]], ...] = (
    (blob.InvalidReferenceError, ConfigError),
    (blob.ConfigError, ConfigError),
    (blob.DigestError, DigestError),
    (blob.NotFoundError, NotFoundError),
    (blob.DeniedError, ImageError),
    (blob.UpstreamError, RegistryError),
    (blob.BlobError, ImageError),
)


@contextmanager
def blob_errors() -> Iterator[None]:
    """Raise every BlobError inside as a ContainerError with the same words."""
    try:
        yield
    except blob.BlobError as error:
        raise translate(error) from error


def translate(error: blob.BlobError) -> ContainerError:
    """Return the error of this package that tells the caller the same."""
    kind = next(ours for theirs, ours in _TABLE if isinstance(error, theirs))
    translated = kind(error.message, error.hint)
    translated.retryable = error.retryable
    return translated
