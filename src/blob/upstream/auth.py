"""Authentication at a registry: challenges, bearer tokens and their cache.

One `Authenticator` belongs to one registry and one set of credentials, so a token can never reach
another. Out of scope: sending requests (the caller lends a function), and tokens that we hand out.
"""

import asyncio
import base64
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
from yarl import URL

from blob.errors import DeniedError, UpstreamError

#: A token without `expires_in` lives 60 s (token specification of the distribution project).
DEFAULT_LIFETIME_S = 60
#: Asked again before it ends: what it is for takes a while.
USABLE_SHARE = 0.8

_LARGEST_HEADER = 8192
_SCHEME = re.compile(r"[ ,]*([A-Za-z][A-Za-z0-9-]*)(?: +|$)")
_PARAMETER = re.compile(r'[ ,]*([A-Za-z0-9_-]+) *= *(?:"((?:[^"\\]|\\.)*)"|([^ ,"]+))')

#: Fetch a URL with these headers: status and body.
Fetch = Callable[[URL, dict[str, str]], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a registry offers; the scheme is in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    expires: float


def parse_challenges(header: str) -> list[Challenge]:
    """Parse a `WWW-Authenticate` header; commas inside quotes belong to the value.

    What cannot be understood ends the list: a registry's odd tail must not hide what came before.
    """
    found: list[Challenge] = []
    position, header = 0, header[:_LARGEST_HEADER]
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter and found:
            quoted = parameter[2]
            value = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters[parameter[1].lower()] = value
            position = parameter.end()
            continue
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        found.append(Challenge(scheme[1].lower()))
        position = scheme.end()
    return found


def may_ask_token(registry: URL, realm: URL, token_hosts: tuple[str, ...] = ()) -> bool:
    """Tell whether `realm` may see a request (and credentials) on behalf of `registry`.

    The header that names the realm comes over the network, so it must not choose any host it likes
    (CVE-2026-33540): the registry's own host, its domain (`registry-1.docker.io` and
    `auth.docker.io`), or one that the configuration lists. Never down from https to http.
    """
    if realm.scheme not in ("http", "https") or (realm.scheme, registry.scheme) == ("http", "https"):
        return False
    host, own = (realm.host or "").lower(), (registry.host or "").lower()
    if host == own or host in token_hosts:
        return True
    if _is_address(own) or own.count(".") < 2:
        return host.endswith(f".{own}") and "." in own and not _is_address(own)
    domain = own.partition(".")[2]
    return host == domain or host.endswith(f".{domain}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Authenticator:
    """Knows what to send with a request, and learns it from a refusal."""

    def __init__(
        self,
        registry: URL,
        fetch: Fetch,
        credentials: tuple[str, str] | None = None,
        token_hosts: tuple[str, ...] = (),
    ) -> None:
        self._registry = registry
        self._fetch = fetch
        self._credentials = credentials
        self._token_hosts = token_hosts
        self._basic = False
        self._tokens: dict[str, _Token] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def header(self, scope: str) -> str:
        """Return the `Authorization` value known to serve `scope`, or the empty string."""
        if self._basic:
            return self._basic_header()
        token = self._tokens.get(scope)
        return f"Bearer {token.value}" if token and token.expires > time.monotonic() else ""

    async def answer(self, header: str, scope: str, refused: str) -> str:
        """Return a new `Authorization` value after a 401, or the empty string if there is nothing to try.

        Args:
            header: the `WWW-Authenticate` of the refusal.
            scope: what the request needs, as `repository:<name>:<actions>`.
            refused: the `Authorization` value that was refused, empty if none was sent.

        Raises:
            DeniedError: the registry's token service refuses, or must not be asked.
            UpstreamError: it cannot be reached or does not answer sensibly.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse_challenges(header))}
        if "bearer" in challenges:
            return await self._answer_bearer(challenges["bearer"], scope, refused)
        if "basic" in challenges and self._credentials and not refused:
            self._basic = True
            return self._basic_header()
        return ""

    async def _answer_bearer(self, challenge: Challenge, scope: str, refused: str) -> str:
        # One request per scope: whoever waited finds the token of who was first.
        async with self._locks.setdefault(scope, asyncio.Lock()):
            known = self.header(scope)
            if known and known != refused:
                return known
            self._forget_expired()
            self._tokens[scope] = token = await self._request_token(challenge, scope)
            return f"Bearer {token.value}"

    async def _request_token(self, challenge: Challenge, scope: str) -> _Token:
        realm = self._check_realm(challenge.parameters.get("realm", ""))
        query = {"scope": challenge.parameters.get("scope") or scope}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        headers = {"Authorization": self._basic_header()} if self._credentials else {}
        status, body = await self._fetch(realm.update_query({k: v for k, v in query.items() if v}), headers)
        if status in (400, 401, 403):
            hint = "check the username and password" if headers else "configure a username and password"
            raise DeniedError(f"token service `{realm.host}` refuses `{scope}` with status {status}", hint)
        if status != 200:
            raise UpstreamError(f"token service `{realm.host}` answers with status {status}")
        return _read_token(body, str(realm.host))

    def _check_realm(self, text: str) -> URL:
        try:
            realm = URL(text)
        except ValueError:
            realm = URL()
        if not may_ask_token(self._registry, realm, self._token_hosts):
            raise DeniedError(
                f"registry `{self._registry.host}` sends us to `{text[:200]}` for a token",
                "if that is right, list the host in `token_hosts` of the upstream",
            )
        return realm

    def _basic_header(self) -> str:
        pair = ":".join(self._credentials or ())
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")

    def _forget_expired(self) -> None:
        now = time.monotonic()
        self._tokens = {scope: token for scope, token in self._tokens.items() if token.expires > now}
        self._locks = {scope: lock for scope, lock in self._locks.items() if lock.locked()}


def _read_token(body: bytes, host: str) -> _Token:
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"token service `{host}` answers nonsense") from error
    value = answer.token or answer.access_token
    # The value becomes a header: a line break in it would become two.
    if not value or not value.isascii() or not value.isprintable():
        raise UpstreamError(f"token service `{host}` answers without a token")
    return _Token(value, time.monotonic() + max(answer.expires_in or DEFAULT_LIFETIME_S, 1) * USABLE_SHARE)
