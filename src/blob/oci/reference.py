"""Image references: parsed and formatted here, once for the whole project.

`[registry/]repository[:tag][@digest]`, with Docker's short names (`alpine` is
`docker.io/library/alpine:latest`). The grammar is that of the distribution specification; lengths are
checked before any pattern runs. Out of scope: which registry a name is fetched from (that is routing).
"""

import re
from dataclasses import dataclass, replace

from blob.errors import InvalidReferenceError
from blob.oci.digest import Digest, parse_digest

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

#: host + "/" + repository must fit, or clients refuse it (distribution-spec, "Pulling manifests").
LONGEST_NAME = 255
LONGEST_REFERENCE = 1024

HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")


@dataclass(frozen=True, slots=True)
class Reference:
    """One image: where, which repository, and a tag, a digest or both (the digest then decides)."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What names the manifest in its repository: the digest if there is one, otherwise the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest | str) -> "Reference":
        """Return the same image pinned to `digest`."""
        return replace(self, digest=str(digest))


def parse_reference(text: str) -> Reference:
    """Parse an image reference as people write it; without tag and digest the tag is `latest`.

    Raises:
        InvalidReferenceError: it is malformed; the message says which part.
    """
    if not text or len(text) > LONGEST_REFERENCE:
        raise InvalidReferenceError(f"an image name has 1 to {LONGEST_REFERENCE} characters, not {len(text)}")
    rest, digest = _split_digest(text)
    rest, tag = _split_tag(rest)
    registry, repository = _split_registry(rest)
    if len(registry) + 1 + len(repository) > LONGEST_NAME:
        raise InvalidReferenceError(f"image name `{text[:40]}…` is longer than {LONGEST_NAME} characters")
    check_registry(registry)
    check_repository(repository)
    if tag is not None:
        check_tag(tag)
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def parse_name(text: str) -> tuple[str, str]:
    """Parse `repository[:tag]` without a registry, as a push to a known registry takes it.

    Raises:
        InvalidReferenceError: it is malformed.
    """
    repository, tag = _split_tag(text)
    check_repository(repository)
    return repository, DEFAULT_TAG if tag is None else check_tag(tag)


def check_repository(name: str) -> str:
    """Return `name` if it is a repository name.

    Raises:
        InvalidReferenceError: it is not.
    """
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidReferenceError(
            f"`{name[:LONGEST_NAME]}` is not a repository name",
            "use lower-case letters and digits, separated by `.`, `_`, `-` and `/`",
        )
    return name


def check_tag(tag: str) -> str:
    """Return `tag` if it is one.

    Raises:
        InvalidReferenceError: it is not.
    """
    if not _TAG.fullmatch(tag):
        raise InvalidReferenceError(f"`{tag[:140]}` is not a tag", "use up to 128 letters, digits, `_`, `.` and `-`")
    return tag


def check_registry(registry: str) -> str:
    """Return `registry` if it is a host with an optional port.

    Raises:
        InvalidReferenceError: it is not.
    """
    if len(registry) > LONGEST_NAME or not _REGISTRY.fullmatch(registry):
        raise InvalidReferenceError(f"`{registry[:LONGEST_NAME]}` is not a registry", "write `host` or `host:port`")
    return registry


def add_library(registry: str, repository: str) -> str:
    """Return the repository as Docker Hub knows it: official images live below `library/`."""
    return f"library/{repository}" if registry == DOCKER_HUB and "/" not in repository else repository


def _split_digest(text: str) -> tuple[str, str]:
    name, at, digest = text.partition("@")
    return name, str(parse_digest(digest)) if at else ""


def _split_tag(text: str) -> tuple[str, str | None]:
    # A colon before the last slash belongs to the registry's port.
    head, colon, tag = text.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (text, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        return DOCKER_HUB, add_library(DOCKER_HUB, name)
    registry = DOCKER_HUB if first in HUB_ALIASES else first
    return registry, add_library(registry, rest)


def _is_registry(first: str) -> bool:
    return first == "localhost" or any(c in first for c in ".:[") or first != first.lower()
