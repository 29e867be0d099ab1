"""A registry seen through the cache.

A tag is believed for some time without asking; then a HEAD request tells whether it still means the same.
When the
upstream cannot answer (network, 5xx, 429), what is here is served with a warning; when it refuses (401,
403) or says that there is nothing (404), that is the answer. What is named by digest never changes and is
asked for once.

Out of scope: several mirrors of one registry, and deciding what to keep.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from blob.cache.bodies import Body, FileBody, FillBody, PassedBody
from blob.cache.counters import Counters
from blob.cache.fills import Fills, Origin
from blob.cache.manifests import StoredManifest, StoredTag
from blob.cache.single_flight import SingleFlight
from blob.cache.store import Store
from blob.errors import (
    DeniedError,
    ManifestUnknownError,
    NotFoundError,
    StoreError,
    StoreFullError,
    UpstreamError,
)
from blob.oci.digest import Digest
from blob.oci.manifest import Document, Index
from blob.upstream.client import RegistryClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A manifest, whether it was here, and what the client should be warned of."""

    manifest: StoredManifest
    is_hit: bool
    warning: str = ""


class Remote:
    """One upstream registry."""

    def __init__(
        self,
        client: RegistryClient,
        store: Store,
        fills: Fills,
        counters: Counters,
        tag_ttl_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = client.name
        self._client = client
        self._store = store
        self._fills = fills
        self._counters = counters
        self._tag_ttl_s = tag_ttl_s
        self._clock = clock
        self._flights: SingleFlight[Answer] = SingleFlight()

    async def close(self) -> None:
        """Stop what runs and close the connections."""
        await self._flights.close()
        await self._client.close()

    async def get_manifest(self, repository: str, reference: str) -> Answer:
        """Return a manifest by tag or digest.

        Raises:
            ManifestUnknownError: there is none.
            UpstreamError: it is not here and the upstream does not give it.
        """
        answer = self._find(repository, reference)
        if answer is None:
            answer = await self._flights.run((repository, reference), lambda: self._fetch(repository, reference))
        self._count(answer)
        return answer

    async def open_blob(self, repository: str, digest: Digest) -> Body:
        """Open a blob, from the store or as it is downloaded.

        Raises:
            BlobUnknownError: there is none.
            UpstreamError: it is not here and the upstream does not give it.
        """
        origin = Origin(self._client, repository)
        while True:
            if self._store.blobs.size_of(digest) is not None:
                self._counters.blob_hits += 1
                return FileBody(self._store.blobs.open(digest))
            body = await self._follow(origin, digest)
            if body:
                return body

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether a blob is in the store."""
        return self._store.blobs.size_of(digest) is not None

    async def get_blob_size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob without downloading it.

        Raises:
            BlobUnknownError: there is none.
            UpstreamError: it is not here and the upstream does not tell.
        """
        size = self._store.blobs.size_of(digest)
        fill = self._fills.find(digest)
        if size is None and fill:
            size = fill.size
        return await self._client.head_blob(repository, digest) if size is None else size

    async def list_tags(self, repository: str, limit: int | None, last: str) -> tuple[list[str], bool, str]:
        """Return tags, whether there are more, and a warning when only known ones are listed.

        Raises:
            NameUnknownError: there is no such repository.
            UpstreamError: the upstream does not answer, and nothing is known.
        """
        try:
            return *await self._client.list_tags(repository, limit, last), ""
        except UpstreamError as error:
            tags = self._store.manifests.list_tags(self.name, repository, -1, last)
            if not tags or isinstance(error, DeniedError):
                raise
            count = len(tags) if limit is None else limit
            return tags[:count], len(tags) > count, f"only cached tags: {error.message}"

    async def get_referrers(self, repository: str, digest: Digest) -> Index | None:
        """Return what refers to `digest`, None if nothing does.

        A registry without the referrers API (404) may have the fallback tag; one that cannot answer is an error, or
        clients would take a signed image for an unsigned one.

        Raises:
            UpstreamError: the upstream does not answer.
        """
        try:
            content = (await self._client.get_referrers(repository, digest)).content
        except ManifestUnknownError:
            tag = f"{digest.algorithm[:32]}-{digest.encoded[:64]}"
            try:
                content = (await self._client.get_manifest(repository, tag)).content
            except ManifestUnknownError:
                return None
        return content if isinstance(content, Index) else None

    async def _follow(self, origin: Origin, digest: Digest) -> Body | None:
        try:
            follower, is_ours = self._fills.join(digest, origin)
        except StoreFullError as error:
            logger.warning("blob passed through digest=%s: %s", digest, error)
            size = await self._client.head_blob(origin.repository, digest)
            return PassedBody(origin, digest, size)
        try:
            await follower.wait_head()
        except StoreFullError:
            pass  # the body will find out and pass through
        except (UpstreamError, NotFoundError):
            follower.close()
            if is_ours:
                raise
            return None  # the download of another repository failed: try ours
        except BaseException:
            follower.close()
            raise
        self._counters.blob_misses += 1
        return FillBody(follower, origin)

    def _find(self, repository: str, reference: str) -> Answer | None:
        manifests = self._store.manifests
        if ":" in reference:
            found = manifests.find(reference)
        else:
            known = manifests.get_tag(self.name, repository, reference)
            found = manifests.find(known.digest) if known and self._is_fresh(known) else None
        return Answer(found, is_hit=True) if found else None

    def _is_fresh(self, tag: StoredTag) -> bool:
        # A clock that was set back makes ages negative; then asking is the safe side.
        return 0 <= self._clock() - tag.checked_at < self._tag_ttl_s

    async def _fetch(self, repository: str, reference: str) -> Answer:
        known = None if ":" in reference else self._store.manifests.get_tag(self.name, repository, reference)
        found = self._store.manifests.find(known.digest) if known else None
        if found is None:
            return await self._fetch_new(repository, reference)
        try:
            return await self._revalidate(repository, reference, found)
        except DeniedError:
            raise
        except UpstreamError as error:
            logger.warning("stale tag served repository=%s tag=%s: %s", repository, reference, error)
            return Answer(found, is_hit=True, warning=f"stale: {error.message}")

    async def _revalidate(self, repository: str, tag: str, found: StoredManifest) -> Answer:
        head = await self._client.head_manifest(repository, tag)
        if str(head.digest) != found.digest:
            return await self._fetch_new(repository, tag)
        touch = self._store.manifests.touch_tag
        await self._keep(lambda: touch(self.name, repository, tag, self._clock()))
        return Answer(found, is_hit=True)

    async def _fetch_new(self, repository: str, reference: str) -> Answer:
        document = await self._client.get_manifest(repository, reference)
        tag = "" if ":" in reference else reference
        put = self._store.manifests.put
        await self._keep(lambda: put(self.name, repository, document, tag, self._clock()))
        return Answer(_as_stored(document), is_hit=False)

    async def _keep(self, write: Callable[[], object]) -> None:
        try:
            await asyncio.to_thread(write)
        except StoreError as error:
            # A cache that cannot write still serves.
            logger.warning("manifest not kept: %s", error)

    def _count(self, answer: Answer) -> None:
        self._counters.manifest_hits += answer.is_hit
        self._counters.manifest_misses += not answer.is_hit
        self._counters.manifest_stale += bool(answer.warning)


def _as_stored(document: Document) -> StoredManifest:
    return StoredManifest(document.raw, document.media_type, str(document.digest))
