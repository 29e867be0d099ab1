"""Requests to one registry: connection, redirects, authentication, and errors in our words.

What a request means is the client's business (`client`); here a request is a method, a URL and headers.
Redirects are followed by hand, because `Authorization` must not travel to another host and because a
redirect must not lead from https to http. Out of scope: retries and mirrors.
"""

import asyncio
import io
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from blob.errors import (
    BlobError,
    ConfigError,
    DeniedError,
    NotFoundError,
    RateLimitedError,
    UpstreamError,
    UpstreamTimeoutError,
)
from blob.upstream.auth import Authenticator

MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BUFFER = 2**20
_LARGEST_ERROR = 64 << 10
_LARGEST_TOKEN = 1 << 20

#: A body that can be sent again after a 401 or a redirect.
Body = Callable[[], AsyncIterator[bytes]] | bytes | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds per stage: connecting, waiting for the head of an answer, waiting for more of a body."""

    connect_s: float = 10
    answer_s: float = 30
    stall_s: float = 60


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a registry is and how we present ourselves.

    Attributes:
        name: what errors call it.
        url: its root, `http` or `https`.
        unix_socket: connect to this path instead of the host of `url`.
        credentials: username and password.
        ca_file: certificates to trust besides the system's.
        insecure: redirects and token services may use plain HTTP.
        token_hosts: hosts that may hand out tokens besides the registry's own domain.
    """

    name: str
    url: str
    unix_socket: str = ""
    credentials: tuple[str, str] | None = None
    ca_file: str = ""
    insecure: bool = False
    token_hosts: tuple[str, ...] = ()
    timeouts: Timeouts = Timeouts()


class Transport:
    """The connections to one registry; an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.base = _parse_base(endpoint)
        self._session: aiohttp.ClientSession | None = None
        self._auth = Authenticator(self.base, self._fetch, endpoint.credentials, endpoint.token_hosts)

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the next request would open new ones."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def send(
        self, method: str, url: URL, scope: str, headers: dict[str, str] | None = None, body: Body = None
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer, whatever its status; the caller must release it.

        Raises:
            UpstreamError: the registry cannot be reached, or redirects us where we do not go.
            DeniedError: its token service refuses.
        """
        authorization = self._auth.header(scope)
        response = await self._follow(method, url, headers or {}, authorization, body)
        if response.status == 401 and self.is_own(response.url):
            challenge = ", ".join(response.headers.getall("WWW-Authenticate", []))
            response.release()
            answer = await self._auth.answer(challenge, scope, authorization)
            if not answer:
                raise DeniedError(
                    f"registry `{self.endpoint.name}` asks for a login", "configure a username and password"
                )
            response = await self._follow(method, url, headers or {}, answer, body)
        return response

    def url_of(self, path: str) -> URL:
        """Return the URL of `path` below the API's root."""
        return URL(f"{str(self.base).rstrip('/')}/v2/{path}", encoded=True)

    def is_own(self, url: URL) -> bool:
        """Tell whether `url` is at the registry itself, so that it may see our credentials."""
        return url.origin() == self.base.origin()

    async def raise_for_status(self, response: aiohttp.ClientResponse, what: str, missing: type[NotFoundError]) -> None:
        """Turn a refusal into the error that says what to do about it; `what` was asked for."""
        if response.status < 400:
            return
        name, status = self.endpoint.name, response.status
        reason = await self._read_reason(response)
        if status == 404:
            raise missing(f"registry `{name}` has no {what}{reason}")
        if status in (401, 403):
            raise DeniedError(
                f"registry `{name}` denies access to {what}{reason}",
                "it does not exist, or needs other credentials",
            )
        if status == 429:
            raise RateLimitedError(
                f"registry `{name}` limits our requests{reason}",
                "wait, or configure credentials",
                response.headers.get("Retry-After", ""),
            )
        raise UpstreamError(f"registry `{name}` answers {what} with status {status}{reason}")

    @contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """Turn what goes wrong on the connection into our errors."""
        name = self.endpoint.name
        try:
            yield
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"registry `{name}` does not answer in time") from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamError(f"cannot connect to registry `{name}`: {_reason(error.os_error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(
                f"connection to registry `{name}` failed: {str(error).lower() or type(error).__name__}"
            ) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeouts = self.endpoint.timeouts
            self._session = aiohttp.ClientSession(
                connector=self._make_connector(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s, sock_read=timeouts.stall_s),
                # Bytes are hashed and stored as they were sent, so nobody may encode or decode them.
                auto_decompress=False,
                headers={"User-Agent": "4lock-core", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
            )
        return self._session

    def _make_connector(self) -> aiohttp.BaseConnector:
        if self.endpoint.unix_socket:
            return aiohttp.UnixConnector(self.endpoint.unix_socket)
        if self.base.scheme == "http" and not self.endpoint.ca_file:
            return aiohttp.TCPConnector()
        context = ssl.create_default_context()
        if self.endpoint.ca_file:
            try:
                context.load_verify_locations(self.endpoint.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"cannot read certificates `{self.endpoint.ca_file}` of `{self.endpoint.name}`"
                ) from error
        return aiohttp.TCPConnector(ssl=context)

    async def _follow(
        self, method: str, url: URL, headers: dict[str, str], authorization: str, body: Body
    ) -> aiohttp.ClientResponse:
        for _ in range(MOST_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization and self.is_own(url) else {}
            response = await self._request(method, url, headers | own, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.release()
            url = self._redirected(response.url, location)
        raise UpstreamError(f"registry `{self.endpoint.name}` redirects more than {MOST_REDIRECTS} times")

    def _redirected(self, url: URL, location: str) -> URL:
        with self.mapped_errors():
            target = url.join(URL(location, encoded=True))
        if self.is_own(target):
            return target
        downgrade = target.scheme != "https" and not (self.endpoint.insecure or self.base.scheme == "http")
        if target.scheme not in ("http", "https") or downgrade or self.endpoint.unix_socket:
            raise UpstreamError(f"registry `{self.endpoint.name}` redirects to `{target.origin()}`, refused")
        return target

    async def _request(self, method: str, url: URL, headers: dict[str, str], body: Body) -> aiohttp.ClientResponse:
        # aiohttp would write a large `bytes` at once; a file it sends in pieces.
        data = body() if callable(body) else io.BytesIO(body) if body else body
        # While a large body is being sent no answer is due; then `sock_read` is the bound.
        wait_s = None if callable(body) else self.endpoint.timeouts.answer_s
        with self.mapped_errors():
            async with asyncio.timeout(wait_s):
                return await self._open().request(method, url, headers=headers, data=data, allow_redirects=False)

    async def _fetch(self, url: URL, headers: dict[str, str]) -> tuple[int, bytes]:
        with self.mapped_errors():
            async with (
                asyncio.timeout(self.endpoint.timeouts.answer_s),
                self._open().get(url, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, await read_capped(response, _LARGEST_TOKEN)

    async def _read_reason(self, response: aiohttp.ClientResponse) -> str:
        try:
            async with asyncio.timeout(self.endpoint.timeouts.answer_s):
                body = await read_capped(response, _LARGEST_ERROR)
            message = msgspec.json.decode(body)["errors"][0]["message"]
        except (aiohttp.ClientError, OSError, TimeoutError, BlobError, ValueError, LookupError, TypeError):
            return ""
        return f": {''.join(c for c in str(message)[:300] if c.isprintable())}"


async def read_capped(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the whole body.

    Raises:
        UpstreamError: it is longer than `most` bytes.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            response.close()
            raise UpstreamError(f"`{response.url.origin()}` sends more than {most} bytes")
    return b"".join(parts)


def _reason(error: OSError) -> str:
    # Name resolution has negative numbers and texts of its own.
    number = error.errno or 0
    return (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()


def _parse_base(endpoint: Endpoint) -> URL:
    try:
        base = URL(endpoint.url)
    except ValueError:
        base = URL()
    if base.scheme not in ("http", "https") or not base.host or base.query_string or base.user:
        raise ConfigError(f"`{endpoint.url}` is not the URL of a registry", "write `https://host[:port]`")
    return base
