"""What can go wrong in `blob`, by the decision a caller can take.

BlobError
├── ConfigError             the caller's configuration or command line is wrong: change it
├── InvalidReferenceError   an image name, tag or digest is malformed
│   └── DigestFormatError   a digest is malformed, or of an algorithm that we do not know
├── DigestError             bytes do not match their digest
├── ManifestError           a manifest is broken or not of a kind that we know
│   ├── SizeError           it is too large
│   └── ManifestBlobUnknownError  it names a blob or manifest that is not there
├── ArchiveError            an image archive is broken
├── NotFoundError
│   ├── NameUnknownError    no such repository
│   ├── ManifestUnknownError
│   ├── BlobUnknownError
│   └── UploadUnknownError
├── UploadError             a chunk does not continue its upload
├── RangeError              none of the requested bytes exist
├── UnsupportedError        the operation is not possible here
├── StoreError              the store cannot be read or written
│   └── StoreFullError      no space is left; bytes may still be passed through
└── UpstreamError           another registry cannot be reached or misbehaves (may pass)
    ├── UpstreamTimeoutError    it takes too long
    ├── UpstreamDigestError     it sent bytes that do not match their digest (a DigestError)
    ├── RateLimitedError        it asks us to come back later
    └── DeniedError             it refuses; asking again does not help

Every error carries a `code` (stable, kebab-case, for programs), a `category` (the wire protocol's
word), `retryable`, and a `hint`: what to do, where we know it. `oci_code` and `status` are what the
distribution specification has the server answer, so that it needs no table. Texts are lower case,
name the object and the value, and put literals in backticks. Errors never print; command lines do.
"""


class BlobError(Exception):
    """Root of the tree; `str()` is the message alone, the hint is separate."""

    code = "blob"
    category = "Image"
    retryable = False
    oci_code = "UNKNOWN"
    status = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BlobError):
    """The configuration is wrong; the message names the file, the key and the value."""

    code = "bad-config"
    category = "Config"


class InvalidReferenceError(BlobError):
    """An image name, a tag or a digest is malformed."""

    code = "bad-reference"
    category = "Config"
    oci_code = "NAME_INVALID"
    status = 400


class DigestFormatError(InvalidReferenceError):
    """A digest is malformed, or of an algorithm that we do not know."""

    code = "bad-digest"
    oci_code = "DIGEST_INVALID"


class DigestError(BlobError):
    """Bytes do not match their digest."""

    code = "digest-mismatch"
    oci_code = "DIGEST_INVALID"
    status = 400


class ManifestError(BlobError):
    """A manifest is broken or not of a kind that we know."""

    code = "bad-manifest"
    oci_code = "MANIFEST_INVALID"
    status = 400


class SizeError(ManifestError):
    """A manifest is too large."""

    code = "too-large"
    oci_code = "SIZE_INVALID"
    status = 413


class ManifestBlobUnknownError(ManifestError):
    """A manifest names a blob or a manifest that is not there."""

    code = "manifest-blob-unknown"
    oci_code = "MANIFEST_BLOB_UNKNOWN"


class ArchiveError(BlobError):
    """An image archive is broken."""

    code = "bad-archive"


class NotFoundError(BlobError):
    """Something that was asked for does not exist."""

    code = "not-found"
    status = 404


class NameUnknownError(NotFoundError):
    """No such repository."""

    oci_code = "NAME_UNKNOWN"


class ManifestUnknownError(NotFoundError):
    """No such manifest or tag."""

    oci_code = "MANIFEST_UNKNOWN"


class BlobUnknownError(NotFoundError):
    """No such blob."""

    oci_code = "BLOB_UNKNOWN"


class UploadUnknownError(NotFoundError):
    """No such upload, or it has ended."""

    oci_code = "BLOB_UPLOAD_UNKNOWN"


class UploadError(BlobError):
    """A chunk does not continue its upload; `offset` is where the next one must start."""

    code = "bad-upload"
    oci_code = "BLOB_UPLOAD_INVALID"
    status = 416

    def __init__(self, message: str, hint: str = "", offset: int = 0) -> None:
        super().__init__(message, hint)
        self.offset = offset


class RangeError(BlobError):
    """None of the requested bytes exist; `size` is how many there are."""

    code = "bad-range"
    oci_code = "SIZE_INVALID"
    status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class UnsupportedError(BlobError):
    """The operation is not possible here."""

    code = "unsupported"
    oci_code = "UNSUPPORTED"
    status = 405


class StoreError(BlobError):
    """The store cannot be read or written."""

    code = "store"


class StoreFullError(StoreError):
    """No space is left in the store."""

    code = "store-full"
    status = 507


class UpstreamError(BlobError):
    """Another registry cannot be reached, or misbehaves."""

    code = "registry"
    category = "Network"
    retryable = True
    oci_code = "UNAVAILABLE"
    status = 502


class UpstreamTimeoutError(UpstreamError):
    """Another registry takes too long."""

    code = "deadline"
    category = "Timeout"
    status = 504


class UpstreamDigestError(UpstreamError, DigestError):
    """Another registry sent bytes that do not match their digest."""

    code = "digest-mismatch"
    category = "Image"


class RateLimitedError(UpstreamError):
    """Another registry asks us to come back later, after `retry_after` where it said when."""

    code = "rate-limited"
    oci_code = "TOOMANYREQUESTS"
    status = 429

    def __init__(self, message: str, hint: str = "", retry_after: str = "") -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class DeniedError(UpstreamError):
    """Another registry refuses; asking again does not help.

    The server answers 403 for an upstream's 401 as well: a 401 would invite the client to log in
    to us, which changes nothing.
    """

    code = "denied"
    category = "Image"
    retryable = False
    oci_code = "DENIED"
    status = 403
