"""Digests: parse, format, and check bytes against them while they stream by.

Out of scope: reading files. Whoever has the bytes feeds them to a `Verifier`.
"""

import hashlib
import re
from dataclasses import dataclass

from blob.errors import DigestError, DigestFormatError

#: Length of the hex text per algorithm that we can verify.
ALGORITHMS = {"sha256": 64, "sha512": 128}

_LONGEST = max(len(name) + 1 + length for name, length in ALGORITHMS.items())
_FORMAT = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class Digest:
    """An algorithm and its lower-case hex text; safe to build a file name from."""

    algorithm: str
    encoded: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def parse_digest(text: str) -> Digest:
    """Parse `sha256:<64 hex>` or `sha512:<128 hex>`.

    Raises:
        DigestFormatError: anything else.
    """
    match = _FORMAT.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise DigestFormatError(f"`{text[:_LONGEST]}` is not a digest", "write `sha256:` and 64 lower-case hex digits")
    return Digest(match[1] or match[3], match[2] or match[4])


def digest_of(data: bytes, algorithm: str = "sha256") -> Digest:
    """Return the digest of `data`."""
    return Digest(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())


class Verifier:
    """Hashes what streams by and tells in the end whether it was what the digest says."""

    def __init__(self, expected: Digest) -> None:
        self.expected = expected
        self.size = 0
        self._hash = hashlib.new(expected.algorithm, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(data)
        self.size += len(data)

    @property
    def actual(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest(self.expected.algorithm, self._hash.hexdigest())

    def is_match(self) -> bool:
        """Tell whether the bytes so far are the whole."""
        return self._hash.hexdigest() == self.expected.encoded

    def verify(self) -> None:
        """Raise DigestError unless the bytes so far are the whole."""
        if not self.is_match():
            raise DigestError(f"{self.size} bytes have digest `{self.actual}`, not `{self.expected}`")


def verify_bytes(data: bytes, expected: Digest) -> None:
    """Raise DigestError unless `data` has the digest."""
    verifier = Verifier(expected)
    verifier.update(data)
    verifier.verify()
