"""What goes over the wire to a client: errors, manifests, and the bytes of blobs.

Bodies are never encoded: their digest is of the bytes as they are. Large stretches of a file are sent by
the kernel; over TLS, where it cannot, in large pieces. Out of scope: deciding what to send.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from aiohttp import web

from blob.cache.bodies import Body, Stretch
from blob.cache.manifests import StoredManifest
from blob.errors import BlobError, RangeError, RateLimitedError, UploadError
from blob.oci.digest import Digest
from blob.server.ranges import format_content_range, parse_range

logger = logging.getLogger(__name__)

JSON = "application/json"
_SMALL = 64 << 10
_PIECE = 256 << 10
_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_LONGEST_WARNING = 1000


def reply(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> web.Response:
    """Return an answer of the distribution API."""
    return web.Response(status=status, headers=_API_VERSION | (headers or {}), body=body)


def reply_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return an answer whose body is JSON."""
    return reply(status, {"Content-Type": JSON} | (headers or {}), msgspec.json.encode(value))


def reply_error(error: BlobError) -> web.Response:
    """Return an error as the specification shapes it; our hint travels as its detail."""
    entry = {"code": error.oci_code, "message": error.message, "detail": {"hint": error.hint} if error.hint else None}
    return reply_json({"errors": [entry]}, error.status, _error_headers(error))


def reply_manifest(manifest: StoredManifest, is_hit: bool, warning: str = "") -> web.Response:
    """Return a manifest."""
    headers = {
        "Content-Type": manifest.media_type,
        "Docker-Content-Digest": manifest.digest,
        "ETag": f'"{manifest.digest}"',
        "X-Cache": "HIT" if is_hit else "MISS",
    }
    if warning:
        headers["Warning"] = format_warning(warning)
    return reply(200, headers, manifest.raw)


def format_warning(text: str) -> str:
    """Return a `Warning` value, which clients show to people."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return '299 - "{}"'.format(plain[:_LONGEST_WARNING].replace("\\", "/").replace('"', "'"))


def blob_headers(digest: Digest) -> dict[str, str]:
    """Return what every answer about a blob says."""
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
    }


async def send_blob(request: web.Request, body: Body, digest: Digest) -> web.StreamResponse:
    """Send a blob, or the range of it that is asked for, and close it.

    An error before the first byte is an answer like any other; after it the connection is cut, so that the
    client sees that it has less than it was promised.
    """
    try:
        extent = parse_range(request.headers.get("Range", ""), body.size) if body.size is not None else None
        start, end = extent or (0, body.size)
        headers = _API_VERSION | blob_headers(digest) | {"X-Cache": "HIT" if body.is_hit else "MISS"}
        if extent and body.size is not None:
            headers["Content-Range"] = format_content_range(*extent, body.size)
        response = web.StreamResponse(status=206 if extent else 200, headers=headers)
        response.content_length = None if end is None else end - start
        async with aclosing(body.pieces(start, end)) as pieces:
            first = await anext(pieces, b"")
            await _send_pieces(request, response, first, pieces)
        return response
    finally:
        body.close()


async def _send_pieces(
    request: web.Request, response: web.StreamResponse, first: Stretch | bytes, rest: AsyncIterator[Stretch | bytes]
) -> None:
    if isinstance(first, Stretch) and first.count == response.content_length and first.count <= _SMALL:
        first = os.pread(first.file.fileno(), first.count, first.offset)
    await response.prepare(request)
    try:
        await _send_piece(request, response, first)
        async for piece in rest:
            await _send_piece(request, response, piece)
        await response.write_eof()
    except BlobError as error:
        logger.warning("answer cut path=%s: %s", request.path, error)
        if request.transport:
            request.transport.abort()


async def _send_piece(request: web.Request, response: web.StreamResponse, piece: Stretch | bytes) -> None:
    if isinstance(piece, bytes):
        if piece:
            await response.write(piece)
        return
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    if response.content_length is None or transport.get_extra_info("sslcontext"):
        await _copy(response, piece)
    elif piece.count:
        await asyncio.get_running_loop().sendfile(transport, piece.file, piece.offset, piece.count, fallback=False)


async def _copy(response: web.StreamResponse, piece: Stretch) -> None:
    offset, end = piece.offset, piece.offset + piece.count
    while offset < end:
        data = os.pread(piece.file.fileno(), min(_PIECE, end - offset), offset)
        await response.write(data)
        offset += len(data)


def _error_headers(error: BlobError) -> dict[str, str]:
    if isinstance(error, RangeError):
        return {"Content-Range": f"bytes */{error.size}"}
    if isinstance(error, RateLimitedError) and error.retry_after.isdigit():
        return {"Retry-After": error.retry_after}
    if isinstance(error, UploadError):
        return {"Range": format_upload_range(error.offset)}
    return {}


def format_upload_range(size: int) -> str:
    """Return the `Range` of an upload with `size` bytes; of none it is `0-0`, as clients expect."""
    return f"0-{max(0, size - 1)}"
