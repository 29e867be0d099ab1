"""Configuration: TOML into frozen structs, with every mistake named by file and key.

    [server]
    listen = ["127.0.0.1:5050"]
    unix_socket = "/run/blob.sock"

    [cache]
    directory = "/var/lib/blob"
    tag_ttl_s = 300

    [upstream."quay.io"]                     # no [upstream] at all: the four defaults; an empty one: none
    url = "https://quay.io"
    credentials = "/etc/blob/quay.login"     # one line, user:password

Out of scope: the command line (it overrides with `msgspec.structs.replace`) and the environment.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from blob.errors import ConfigError

_T = TypeVar("_T")

#: As it stands before the first slash of an image reference.
_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,253}(:[0-9]{1,5})?")

DEFAULT_LISTEN = "127.0.0.1:5050"
DEFAULT_URLS = {
    "docker.io": "https://registry-1.docker.io",
    "ghcr.io": "https://ghcr.io",
    "quay.io": "https://quay.io",
    "registry.k8s.io": "https://registry.k8s.io",
}


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where we listen; `names` are what clients call us, so that `?ns=` with one of them means ourselves."""

    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    unix_socket: str = ""
    names: tuple[str, ...] = ()


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where bytes are kept, and how long a tag is believed without asking again."""

    directory: str = ""
    tag_ttl_s: float = 300


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One registry that we fetch from.

    Attributes:
        insecure: plain HTTP is allowed.
        token_hosts: hosts that may hand out tokens besides the registry's own domain.
        connect_timeout_s: until a connection stands.
        answer_timeout_s: from the request to the head of the answer.
        stall_timeout_s: between two pieces of a body.
    """

    url: str = ""
    username: str = ""
    password: str = ""
    credentials: str = ""
    ca_file: str = ""
    insecure: bool = False
    token_hosts: tuple[str, ...] = ()
    connect_timeout_s: float = 10
    answer_timeout_s: float = 30
    stall_timeout_s: float = 60

    def __repr__(self) -> str:
        # Configurations are logged and shown in tracebacks: without this, passwords would be too.
        return f"Upstream(url={self.url!r})"


def _default_upstreams() -> dict[str, Upstream]:
    return {name: Upstream(url) for name, url in DEFAULT_URLS.items()}


class Config(msgspec.Struct, frozen=True):
    """Everything; `upstreams` is keyed by the registry's name as image references write it."""

    server: Server = Server()
    cache: Cache = Cache()
    upstreams: dict[str, Upstream] = msgspec.field(default_factory=_default_upstreams)


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration `{path}`: {(error.strerror or '').lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` is not TOML: {str(error).lower()}") from error
    return parse_config(tables, str(path))


def parse_config(tables: dict[str, Any], source: str) -> Config:
    """Turn the tables of a configuration into a `Config`; `source` is named in errors.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or makes no sense.
    """
    unknown = sorted(set(tables) - {"server", "cache", "upstream"})
    if unknown:
        raise ConfigError(f"unknown table `{unknown[0]}` in `{source}`", "there are `server`, `cache`, `upstream`")
    server = _convert(tables.get("server", {}), Server, "server", source)
    cache = _convert(tables.get("cache", {}), Cache, "cache", source)
    if cache.tag_ttl_s < 0:
        raise ConfigError(f"`cache.tag_ttl_s` in `{source}` is negative", "0 asks the upstream every time")
    if "upstream" not in tables:
        return Config(server, cache)
    names = _convert(tables["upstream"], dict[str, dict[str, Any]], "upstream", source)
    return Config(server, cache, {name: _parse_upstream(name, names[name], source) for name in names})


def check_upstream(name: str, upstream: Upstream, source: str) -> Upstream:
    """Return the upstream with its URL and credentials filled in.

    Raises:
        ConfigError: its name is no registry, its URL no URL, or a file cannot be read.
    """
    if not _REGISTRY.fullmatch(name):
        raise ConfigError(f"upstream `{name}` in `{source}` is not a registry", "write `host` or `host:port`")
    if min(upstream.connect_timeout_s, upstream.answer_timeout_s, upstream.stall_timeout_s) <= 0:
        raise ConfigError(f"a timeout of upstream `{name}` in `{source}` is not positive")
    url = (upstream.url or f"https://{name}").rstrip("/")
    _check_url(url, name, upstream.insecure, source)
    return _read_credentials(name, msgspec.structs.replace(upstream, url=url), source)


def _parse_upstream(name: str, table: dict[str, Any], source: str) -> Upstream:
    default = {"url": DEFAULT_URLS[name]} if name in DEFAULT_URLS else {}
    return check_upstream(name, _convert(default | table, Upstream, f"upstream.{name}", source), source)


def _check_url(url: str, name: str, insecure: bool, source: str) -> None:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        raise ConfigError(f"url `{url}` of upstream `{name}` in `{source}` is malformed") from None
    if parts.scheme not in ("http", "https") or not usable:
        raise ConfigError(
            f"url `{url}` of upstream `{name}` in `{source}` is not usable", "write `https://host[:port]`"
        )
    if parts.scheme == "http" and not insecure:
        raise ConfigError(
            f"url `{url}` of upstream `{name}` in `{source}` is not encrypted",
            "use https, or allow it with `insecure = true`",
        )


def _read_credentials(name: str, upstream: Upstream, source: str) -> Upstream:
    if not upstream.credentials:
        if bool(upstream.username) != bool(upstream.password):
            raise ConfigError(f"upstream `{name}` in `{source}` has only one of `username` and `password`")
        return upstream
    try:
        line = Path(upstream.credentials).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read credentials of upstream `{name}`: {str(error).lower()}") from error
    username, colon, password = line.partition(":")
    if not (username and colon and password) or "\n" in line:
        raise ConfigError(
            f"credentials file `{upstream.credentials}` of upstream `{name}` is malformed",
            "write one line, `user:password`",
        )
    return msgspec.structs.replace(upstream, username=username, password=password)


def _convert(value: Any, kind: type[_T], where: str, source: str) -> _T:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), where, source)) from error


def _explain(text: str, where: str, source: str) -> str:
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if unknown:
        return f"unknown key `{where}.{unknown[1]}` in `{source}`"
    reason, _, path = text.partition(" - at `$")
    key = where + path.rstrip("`")
    return f"`{key}` in `{source}`: {reason[:1].lower()}{reason[1:]}"
