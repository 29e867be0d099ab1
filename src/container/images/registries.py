"""Decide which server an image name is fetched from. PURE.

- `localhost/demo`: our own registry, under that very name, by which it looks nowhere else.
- a registry that our own one is configured to fetch from: our own one, which caches, with the registry's name
  in front of the repository.
- any other: that registry itself, by https; on this machine's loopback addresses by http.

Our own registry refuses names it does not know, so that nobody can use it to reach other hosts; what the user
of this daemon asks for by name is a different matter.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from blob.oci.reference import Reference

LOCAL = "localhost"
DEFAULT_UPSTREAMS = frozenset({"docker.io", "ghcr.io", "quay.io", "registry.k8s.io"})

_PORT = re.compile(r":[0-9]+$")


@dataclass(frozen=True, slots=True)
class Registry:
    """A server, and what it calls the repository.

    Attributes:
        url: `unix:///path`, `http://host` or `https://host`.
        repository: the name in its paths.
    """

    url: str
    repository: str

    @property
    def socket(self) -> str:
        """The path of its Unix socket; empty if it has none."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else ""

    @property
    def base(self) -> str:
        """Its URL in HTTP."""
        return "http://localhost" if self.socket else self.url


def registry_for(reference: Reference, blob_url: str, upstreams: Collection[str]) -> Registry:
    """Return where to fetch `reference`.

    Args:
        reference: what is wanted.
        blob_url: our own registry.
        upstreams: registries that it is configured to fetch from.
    """
    if reference.registry == LOCAL:
        return Registry(blob_url, f"{LOCAL}/{reference.repository}")
    if reference.registry in upstreams:
        return Registry(blob_url, f"{reference.registry}/{reference.repository}")
    scheme = "http" if _is_loopback(_PORT.sub("", reference.registry)) else "https"
    return Registry(f"{scheme}://{reference.registry}", reference.repository)


def _is_loopback(host: str) -> bool:
    try:
        return host == LOCAL or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
