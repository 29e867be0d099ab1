"""Docker/OCI registry: a pull-through cache in front of many upstreams, and a writable local registry.

What is here is light to import; `blob.upstream` (client, archives) and `blob.server` are imported by name.
"""

from blob.errors import BlobError
from blob.oci.digest import Digest, parse_digest
from blob.oci.reference import Reference, parse_reference

__all__ = ["BlobError", "Digest", "Reference", "parse_digest", "parse_reference"]
