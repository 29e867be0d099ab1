"""PURE. Which registry and repository a request means.

In this order: a first path segment `localhost` (a repository of our own and nothing else), `?ns=HOST`
(containerd's mirrors), a first path segment that is a configured upstream (`quay.io/cilium/cilium`), a
repository of our own, Docker Hub. Names only ever select among configured
upstreams; nothing in a request makes us connect to a host of its choice.

Out of scope: asking anybody.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from blob.errors import NameUnknownError, UnsupportedError
from blob.oci.reference import DOCKER_HUB, HUB_ALIASES, add_library, check_repository

#: The upstream of a target that is ours.
LOCAL = ""

#: First path segment of names that must not leave this machine, whatever is configured.
LOCAL_PREFIX = "localhost/"


@dataclass(frozen=True, slots=True)
class Target:
    """A repository at an upstream, or our own; `is_guess` if Docker Hub was only the last resort."""

    upstream: str
    repository: str
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """The rules, for one configuration.

    Attributes:
        upstreams: names of the configured ones.
        own: what clients call ourselves in `?ns=`.
        is_local: tells whether a repository of ours exists.
    """

    upstreams: Collection[str]
    own: Collection[str]
    is_local: Callable[[str], bool]

    def find(self, name: str, ns: str = "") -> Target:
        """Return what a read of `name` means.

        Raises:
            InvalidReferenceError: it is no repository name.
            NameUnknownError: no configured upstream has it, nor have we.
        """
        if name.startswith(LOCAL_PREFIX):
            return self._find_local(name.removeprefix(LOCAL_PREFIX))
        target = self._named_upstream(name, ns)
        if target:
            return target
        if self._is_foreign(ns):
            raise NameUnknownError(f"`{ns[:100]}` is not a configured upstream", "add it to the configuration")
        check_repository(name)
        if self.is_local(name):
            return Target(LOCAL, name)
        if DOCKER_HUB in self.upstreams:
            return Target(DOCKER_HUB, add_library(DOCKER_HUB, name), is_guess=True)
        raise NameUnknownError(f"no repository `{name}`")

    def find_writable(self, name: str, ns: str = "") -> str:
        """Return the repository of ours that a write to `name` means, whether it exists or not.

        Raises:
            InvalidReferenceError: it is no repository name.
            UnsupportedError: it belongs to an upstream.
        """
        if name.startswith(LOCAL_PREFIX):
            return check_repository(name.removeprefix(LOCAL_PREFIX))
        target = self._named_upstream(name, ns)
        if target or self._is_foreign(ns):
            raise UnsupportedError(
                f"`{target.upstream if target else ns[:100]}` is cached here, not written",
                "push to the registry itself, or under a name of your own",
            )
        return check_repository(name)

    def _find_local(self, name: str) -> Target:
        if not self.is_local(check_repository(name)):
            raise NameUnknownError(f"no repository `{name}` of our own", "load or push it first")
        return Target(LOCAL, name)

    def _named_upstream(self, name: str, ns: str) -> Target | None:
        ns = DOCKER_HUB if ns in HUB_ALIASES else ns
        first, _, rest = name.partition("/")
        if ns in self.upstreams and ns not in self.own:
            upstream, repository = ns, name
        elif rest and first in self.upstreams:
            upstream, repository = first, rest
        else:
            return None
        return Target(upstream, check_repository(add_library(upstream, repository)))

    def _is_foreign(self, ns: str) -> bool:
        return bool(ns) and ns not in self.own


def collapse_prefix(path: str) -> str:
    """Return `path` below `/v2/`; a second `v2/` is dropped.

    Clients send it when an image's name itself was written with `/v2/`.
    """
    return path.removeprefix("/v2").removeprefix("/").removeprefix("v2/")
