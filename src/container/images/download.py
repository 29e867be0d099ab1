"""Fetch one blob over HTTP, blocking: from a Unix socket or a URL, and on after a broken connection.

Runs in the unpacker, which has nothing else to do, so it needs no event loop. Out of scope: logging in (the
caller passes the header) and checking the bytes (whoever reads them does).
"""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from container.errors import DigestError, ImageError, RegistryError

_CHUNK = 256 * 1024
#: A cache may have to fetch the blob itself before its first byte comes.
_TIMEOUT_S = 60.0
#: Failures in a row without a single byte between them.
_ATTEMPTS = 5
_FIRST_DELAY_S = 0.1
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a blob is.

    Attributes:
        url: `http://...` or `https://...`; with `socket` only its path matters.
        socket: path of a Unix socket, or empty.
        headers: sent along, but never to another host.
    """

    url: str
    socket: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class _PassingError(Exception):
    """The registry cannot answer now."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def fetch(source: Source, size: int) -> Iterator[bytes]:
    """Yield the bytes of a blob of `size` bytes.

    Raises:
        RegistryError: it could not be had; asking later may help.
        ImageError: the registry does not have it, or does not give it to us.
        DigestError: the registry has another length for it.
    """
    done = failures = 0
    while done < size:
        before = done
        try:
            for chunk in _fetch_from(source, done, size):
                done += len(chunk)
                yield chunk
            if done < size:
                raise _PassingError(f"connection closed after {done} of {size} bytes")
        except (OSError, http.client.HTTPException, _PassingError) as error:
            failures = failures + 1 if done == before else 1
            if failures >= _ATTEMPTS:
                raise RegistryError(
                    f"cannot fetch `{source.url}`: {str(error).lower() or type(error).__name__}",
                    "check the network, then pull again: what was fetched is in the cache",
                ) from error
            time.sleep(_FIRST_DELAY_S * 2**failures)


def _fetch_from(source: Source, start: int, size: int) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        response = _open(source, start, stack)
        skip = 0
        if response.status == http.client.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise _PassingError("answered with another range than was asked for")
        else:
            skip = start
            _check_length(source, response, size)
        while chunk := response.read(_CHUNK):
            if skip:
                dropped = min(skip, len(chunk))
                chunk, skip = chunk[dropped:], skip - dropped
            if chunk:
                yield chunk


def _check_length(source: Source, response: http.client.HTTPResponse, size: int) -> None:
    if response.length is not None and response.length != size:
        raise DigestError(
            f"`{source.url}` has {response.length} bytes, not the {size} of the manifest",
            "the registry and the manifest disagree; pull again, or tell the image's author",
        )


def _open(source: Source, start: int, stack: contextlib.ExitStack) -> http.client.HTTPResponse:
    for _ in range(_MOST_REDIRECTS):
        connection, target = _connect(source)
        stack.callback(connection.close)
        range_header = {"Range": f"bytes={start}-"} if start else {}
        connection.request("GET", target, headers={**source.headers, **range_header})
        response = connection.getresponse()
        stack.callback(response.close)
        if response.status not in _REDIRECTS:
            _check_status(source, response)
            return response
        source = _follow(source, response.headers.get("Location", ""))
    raise ImageError(f"`{source.url}` redirects more than {_MOST_REDIRECTS} times")


def _connect(source: Source) -> tuple[http.client.HTTPConnection, str]:
    url = urlsplit(source.url)
    target = url.path + (f"?{url.query}" if url.query else "")
    if source.socket:
        return _UnixConnection(source.socket), target
    secure = url.scheme == "https"
    connection = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    return connection(url.netloc.rpartition("@")[2], timeout=_TIMEOUT_S), target


def _follow(source: Source, location: str) -> Source:
    target = urljoin(source.url, location)
    url, before = urlsplit(target), urlsplit(source.url)
    if url.scheme not in ("http", "https") or (before.scheme, url.scheme) == ("https", "http"):
        raise ImageError(f"`{source.url}` redirects to `{target}`, which is not safe to follow")
    same = url.netloc == before.netloc
    return Source(target, source.socket if same else "", source.headers if same else {})


def _check_status(source: Source, response: http.client.HTTPResponse) -> None:
    if response.status in (200, 206):
        return
    text = f"`{source.url}`: {_reason(response)}"
    if response.status in _PASSING:
        raise _PassingError(text)
    if response.status in (401, 403):
        raise ImageError(f"access denied to {text}", "configure credentials for this registry")
    raise ImageError(f"cannot fetch {text}", "pull again: the tag may have moved")


def _reason(response: http.client.HTTPResponse) -> str:
    """Return what the registry says about its refusal: distribution-spec, "Error Codes"."""
    try:
        message = json.loads(response.read(65536))["errors"][0]["message"]
    except (ValueError, LookupError, TypeError):
        message = ""
    return f"{response.status} {message or response.reason}"[:500]
