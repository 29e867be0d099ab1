"""The distribution API below `/v2/`: what each request does.

Handlers find out who is meant (`names`), let the cache do the work and shape the answer (`replies`). Every
name, tag and digest is parsed before it is used for anything. Out of scope: the table of routes (`app`).
"""

from collections.abc import AsyncIterator, Collection, Mapping
from urllib.parse import urlencode

from aiohttp import web

from blob.cache.local import Local
from blob.cache.remote import Remote
from blob.cache.uploads import Upload, Uploads
from blob.errors import (
    BlobUnknownError,
    InvalidReferenceError,
    NameUnknownError,
    SizeError,
    StoreError,
    UnsupportedError,
)
from blob.oci import media_types
from blob.oci.digest import parse_digest
from blob.oci.manifest import LARGEST_MANIFEST, Descriptor, Index, format_manifest
from blob.oci.reference import check_tag
from blob.server.names import LOCAL, Names, Target
from blob.server.ranges import parse_chunk_range
from blob.server.replies import (
    blob_headers,
    format_upload_range,
    format_warning,
    reply,
    reply_json,
    reply_manifest,
    send_blob,
)

#: The parts of a path that a route names.
Parts = Mapping[str, str]

_MOST_TAGS = 10_000


class Distribution:
    """The handlers; one object per server."""

    def __init__(
        self, remotes: Mapping[str, Remote], local: Local, uploads: Uploads, own_names: Collection[str]
    ) -> None:
        self._remotes = remotes
        self._local = local
        self._uploads = uploads
        self._names = Names(remotes, own_names, local.has_repository)

    async def check_api(self, _request: web.Request, _parts: Parts) -> web.StreamResponse:
        """Say that this is a registry."""
        return reply_json({})

    async def get_manifest(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """GET and HEAD of a manifest; HEAD fetches it too, since GET comes next."""
        reference = _check_reference(parts["reference"])
        target = self._find(request, parts)
        if target.upstream == LOCAL:
            return reply_manifest(self._local.get_manifest(target.repository, reference), is_hit=True)
        answer = await self._remotes[target.upstream].get_manifest(target.repository, reference)
        return reply_manifest(answer.manifest, answer.is_hit, answer.warning)

    async def put_manifest(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Store a manifest."""
        reference = _check_reference(parts["reference"])
        repository = self._find_writable(request, parts)
        raw = await _read_manifest(request)
        document = await self._local.put_manifest(repository, reference, raw, request.headers.get("Content-Type", ""))
        headers = {
            "Location": f"/v2/{repository}/manifests/{document.digest}",
            "Docker-Content-Digest": str(document.digest),
        }
        if document.content.subject:
            headers["OCI-Subject"] = document.content.subject.digest
        return reply(201, headers)

    async def delete_manifest(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Forget a tag or a manifest."""
        reference = _check_reference(parts["reference"])
        await self._local.delete_manifest(self._find_writable(request, parts), reference)
        return reply(202)

    async def get_blob(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Send a blob."""
        digest = parse_digest(parts["digest"])
        target = self._find(request, parts)
        if target.upstream == LOCAL:
            body = self._local.open_blob(target.repository, digest)
        else:
            body = await self._remotes[target.upstream].open_blob(target.repository, digest)
        return await send_blob(request, body, digest)

    async def head_blob(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Tell the size of a blob."""
        digest = parse_digest(parts["digest"])
        target = self._find(request, parts)
        if target.upstream == LOCAL:
            size = self._local.get_blob_size(target.repository, digest)
        elif target.is_guess and not self._remotes[target.upstream].has_blob(digest):
            # Who pushes a new repository of ours asks like this. Docker Hub's word that it has the
            # blob would make the client skip it, and then it would be missing here.
            raise BlobUnknownError(f"no blob `{digest}` in repository `{parts['name']}`")
        else:
            size = await self._remotes[target.upstream].get_blob_size(target.repository, digest)
        return reply(200, blob_headers(digest) | {"Content-Length": str(size)})

    async def delete_blob(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Take a blob from a repository."""
        digest = parse_digest(parts["digest"])
        await self._local.delete_blob(self._find_writable(request, parts), digest)
        return reply(202)

    async def list_tags(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """List tags, in pages if the client wants."""
        target, limit, last = self._find(request, parts), _parse_limit(request), request.query.get("last", "")
        warning = ""
        if limit == 0:
            tags, has_more = list[str](), False
        elif target.upstream == LOCAL:
            tags, has_more = self._local.list_tags(target.repository, limit, last)
        else:
            remote = self._remotes[target.upstream]
            tags, has_more, warning = await remote.list_tags(target.repository, limit, last)
        headers = {"Warning": format_warning(warning)} if warning else {}
        if has_more and tags:
            query = {"n": str(limit or len(tags)), "last": tags[-1]}
            query |= {"ns": request.query["ns"]} if "ns" in request.query else {}
            headers["Link"] = f'</v2/{parts["name"]}/tags/list?{urlencode(query)}>; rel="next"'
        return reply_json({"name": parts["name"], "tags": tags}, headers=headers)

    async def list_referrers(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """List what refers to a manifest; nothing is an empty list, never 404."""
        parse_digest(parts["digest"])
        found = await self._referrers(request, parts)
        wanted = request.query.get("artifactType", "")
        if wanted:
            found = [entry for entry in found if entry.artifact_type == wanted]
        index = Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=tuple(found))
        headers = {"Content-Type": media_types.OCI_INDEX}
        return reply(200, headers | ({"OCI-Filters-Applied": "artifactType"} if wanted else {}), format_manifest(index))

    async def start_upload(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Begin an upload, or do with one request: mount a blob, or take the whole."""
        repository, query = self._find_writable(request, parts), request.query
        if "mount" in query:
            digest = parse_digest(query["mount"])
            if await self._local.mount_blob(repository, query.get("from", ""), digest):
                return _created_blob(repository, str(digest))
        expected = query.get("digest")
        if expected:
            parse_digest(expected)
        upload = self._uploads.start(repository)
        if not expected:
            return _uploading(upload, 202)
        try:
            return await self._finish(request, upload, expected)
        finally:
            # The client was never told of this session, so it cannot continue it.
            self._uploads.drop(upload)

    async def append_upload(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Take a piece."""
        upload = self._upload(request, parts)
        await self._append(request, upload)
        return _uploading(upload, 202)

    async def finish_upload(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Take the last piece, if there is one, and store the blob."""
        upload = self._upload(request, parts)
        return await self._finish(request, upload, request.query.get("digest", ""))

    async def get_upload(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Tell how far an upload is."""
        return _uploading(self._upload(request, parts), 204)

    async def cancel_upload(self, request: web.Request, parts: Parts) -> web.StreamResponse:
        """Forget an upload."""
        self._uploads.drop(self._upload(request, parts))
        return reply(204)

    async def _finish(self, request: web.Request, upload: Upload, text: str) -> web.StreamResponse:
        digest = parse_digest(text)
        await self._append(request, upload)
        try:
            await self._local.keep_upload(upload, digest)
        finally:
            self._uploads.drop(upload)
        return _created_blob(upload.repository, str(digest))

    async def _append(self, request: web.Request, upload: Upload) -> None:
        try:
            await upload.append(_chunks(request), _extent(request))
        except StoreError:
            # What is here so far is what fills the disk.
            self._uploads.drop(upload)
            raise

    async def _referrers(self, request: web.Request, parts: Parts) -> list[Descriptor]:
        digest = parse_digest(parts["digest"])
        try:
            target = self._find(request, parts)
        except NameUnknownError:
            return []
        if target.upstream == LOCAL:
            return self._local.get_referrers(target.repository, digest)
        index = await self._remotes[target.upstream].get_referrers(target.repository, digest)
        return list(index.manifests) if index else []

    def _find(self, request: web.Request, parts: Parts) -> Target:
        return self._names.find(parts["name"], request.query.get("ns", ""))

    def _find_writable(self, request: web.Request, parts: Parts) -> str:
        return self._names.find_writable(parts["name"], request.query.get("ns", ""))

    def _upload(self, request: web.Request, parts: Parts) -> Upload:
        return self._uploads.get(self._find_writable(request, parts), parts["upload"])


def _check_reference(text: str) -> str:
    return str(parse_digest(text)) if ":" in text else check_tag(text)


def _parse_limit(request: web.Request) -> int | None:
    text = request.query.get("n")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidReferenceError(f"`n` is a number of tags, not `{text[:40]}`")
    return min(int(text), _MOST_TAGS)


async def _read_manifest(request: web.Request) -> bytes:
    raw = bytearray()
    async for chunk in _chunks(request):
        raw += chunk
        if len(raw) > LARGEST_MANIFEST:
            raise SizeError(f"a manifest has at most {LARGEST_MANIFEST} bytes")
    return bytes(raw)


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedError("a digest is of bytes that are not encoded", "send without `Content-Encoding`")
    while data := await request.content.readany():
        yield data


def _extent(request: web.Request) -> tuple[int, int] | None:
    header = request.headers.get("Content-Range")
    if header is None or request.headers.get("Content-Length") == "0":
        return None
    extent = parse_chunk_range(header)
    if extent is None:
        raise InvalidReferenceError(f"`Content-Range: {header[:60]}` is malformed", "write `first-last`")
    return extent


def _uploading(upload: Upload, status: int) -> web.StreamResponse:
    headers = {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        "Range": format_upload_range(upload.size),
        "Docker-Upload-UUID": upload.id,
    }
    return reply(status, headers)


def _created_blob(repository: str, digest: str) -> web.StreamResponse:
    return reply(201, {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})
