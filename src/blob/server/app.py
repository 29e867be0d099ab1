"""The application: which request goes to which handler, and what happens to errors.

Paths are matched as they were sent, undecoded: nothing that needs decoding is a valid name, so nothing is
decoded twice or differently by two readers. Out of scope: listening (`serve`).
"""

import logging
import re
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, web

from blob.errors import BlobError, InvalidReferenceError, NameUnknownError, UnsupportedError
from blob.server.admin import Admin
from blob.server.distribution import Distribution, Parts
from blob.server.names import collapse_prefix
from blob.server.replies import reply_error

logger = logging.getLogger(__name__)

Handler = Callable[[Distribution, web.Request, Parts], Awaitable[web.StreamResponse]]

_LONGEST_PATH = 1024
_ID = r"(?P<upload>[0-9a-f]{32})"

#: Path below /v2/, then handlers by method; the first that matches wins.
ROUTES: tuple[tuple[str, dict[str, Handler]], ...] = (
    (r"", {"GET": Distribution.check_api, "HEAD": Distribution.check_api}),
    (r"(?P<name>.+)/blobs/uploads/?", {"POST": Distribution.start_upload}),
    (
        rf"(?P<name>.+)/blobs/uploads/{_ID}",
        {
            "PATCH": Distribution.append_upload,
            "PUT": Distribution.finish_upload,
            "GET": Distribution.get_upload,
            "DELETE": Distribution.cancel_upload,
        },
    ),
    (
        r"(?P<name>.+)/manifests/(?P<reference>[^/]+)",
        {
            "GET": Distribution.get_manifest,
            "HEAD": Distribution.get_manifest,
            "PUT": Distribution.put_manifest,
            "DELETE": Distribution.delete_manifest,
        },
    ),
    (
        r"(?P<name>.+)/blobs/(?P<digest>[^/]+)",
        {"GET": Distribution.get_blob, "HEAD": Distribution.head_blob, "DELETE": Distribution.delete_blob},
    ),
    (r"(?P<name>.+)/tags/list", {"GET": Distribution.list_tags}),
    (r"(?P<name>.+)/referrers/(?P<digest>[^/]+)", {"GET": Distribution.list_referrers}),
)
_COMPILED = [(re.compile(pattern), methods) for pattern, methods in ROUTES]


def make_app(distribution: Distribution, admin: Admin) -> web.Application:
    """Return the application."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await _answer(distribution, request)
        admin.count(request.method, response.status)
        return response

    app = web.Application()
    app.router.add_get("/health", admin.health)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/api/v1/cache/stats", admin.stats)
    app.router.add_route("*", "/v2", handle)
    app.router.add_route("*", "/v2/{path:.*}", handle)
    return app


async def _answer(distribution: Distribution, request: web.Request) -> web.StreamResponse:
    logger.debug("request method=%s path=%s", request.method, request.raw_path)
    try:
        methods, parts = _match(request.raw_path)
        handler = methods.get(request.method)
        if handler is None:
            return _wrong_method(request.method, methods)
        return await handler(distribution, request, parts)
    except BlobError as error:
        if error.status >= 500:
            logger.warning("request failed method=%s path=%s: %s", request.method, request.raw_path, error)
        return reply_error(error)
    except (ClientError, ConnectionError):
        # The client left in the middle of its body; there is nobody to answer.
        logger.debug("client left method=%s path=%s", request.method, request.raw_path)
        raise
    except Exception:
        logger.exception("request broke method=%s path=%s", request.method, request.raw_path)
        return reply_error(BlobError("internal error", "the server's log says more"))


def _match(raw_path: str) -> tuple[dict[str, Handler], Parts]:
    path = collapse_prefix(raw_path.partition("?")[0])
    # Some clients encode the colon of a digest; anything else encoded is no name.
    path = path.replace("%3A", ":").replace("%3a", ":")
    if len(path) > _LONGEST_PATH or "%" in path:
        raise InvalidReferenceError("the path is no name that a registry has")
    for pattern, methods in _COMPILED:
        match = pattern.fullmatch(path)
        if match:
            return methods, match.groupdict()
    raise NameUnknownError(f"nothing is at `/v2/{path}`")


def _wrong_method(method: str, methods: dict[str, Handler]) -> web.Response:
    response = reply_error(UnsupportedError(f"method {method} is not possible here"))
    response.headers["Allow"] = ", ".join(sorted(methods))
    return response
