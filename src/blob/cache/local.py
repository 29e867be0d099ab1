"""Repositories of our own: what was pushed here.

A manifest is stored only when everything it names is here. Out of scope: uploads in progress (`uploads`), and
removing blobs that no manifest names any more.
"""

import asyncio

from blob.cache.bodies import Body, FileBody
from blob.cache.manifests import LOCAL, StoredManifest
from blob.cache.store import Store
from blob.cache.uploads import Upload
from blob.errors import (
    BlobUnknownError,
    DigestError,
    ManifestBlobUnknownError,
    ManifestError,
    ManifestUnknownError,
)
from blob.oci import media_types
from blob.oci.digest import Digest, parse_digest
from blob.oci.manifest import Descriptor, Document, Index, Manifest, parse_manifest


class Local:
    """All repositories of our own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def has_repository(self, repository: str) -> bool:
        """Tell whether anything is in the repository."""
        return self._store.manifests.has_repository(repository)

    def get_manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return a manifest by tag or digest.

        Raises:
            ManifestUnknownError: there is none.
        """
        manifests, digest = self._store.manifests, reference
        if ":" not in reference:
            tag = manifests.get_tag(LOCAL, repository, reference)
            digest = tag.digest if tag else ""
        found = manifests.get(LOCAL, repository, digest) if digest else None
        if found is None:
            raise ManifestUnknownError(f"no manifest `{reference}` in repository `{repository}`")
        return found

    async def put_manifest(self, repository: str, reference: str, raw: bytes, content_type: str) -> Document:
        """Store a manifest under a tag or its digest.

        Raises:
            ManifestError: it is broken, or names what is not here.
            DigestError: it has another digest.
        """
        expected = parse_digest(reference) if ":" in reference else None
        document = parse_manifest(raw, content_type, expected.algorithm if expected else "sha256")
        if expected and document.digest != expected:
            raise DigestError(f"the manifest has digest `{document.digest}`, not `{expected}`")
        await asyncio.to_thread(self._put, repository, document, "" if expected else reference)
        return document

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """Forget a tag, or a manifest with all its tags.

        Raises:
            ManifestUnknownError: there is none.
        """
        manifests = self._store.manifests
        delete = manifests.delete_manifest if ":" in reference else manifests.delete_tag
        if not await asyncio.to_thread(delete, LOCAL, repository, reference):
            raise ManifestUnknownError(f"no manifest `{reference}` in repository `{repository}`")

    def list_tags(self, repository: str, limit: int | None, last: str) -> tuple[list[str], bool]:
        """Return tags and whether there are more."""
        if limit is None:
            return self._store.manifests.list_tags(LOCAL, repository, -1, last), False
        tags = self._store.manifests.list_tags(LOCAL, repository, limit + 1, last)
        return tags[:limit], len(tags) > limit > 0

    def get_referrers(self, repository: str, digest: Digest) -> list[Descriptor]:
        """Return descriptors of the manifests that name `digest` as their subject."""
        found = self._store.manifests.list_referrers(LOCAL, repository, str(digest))
        return [_describe_referrer(stored) for stored in found]

    def get_blob_size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob.

        Raises:
            BlobUnknownError: the repository does not have it.
        """
        size = self._store.blobs.size_of(digest) if self._has_blob(repository, digest) else None
        if size is None:
            raise BlobUnknownError(f"no blob `{digest}` in repository `{repository}`")
        return size

    def open_blob(self, repository: str, digest: Digest) -> Body:
        """Open a blob.

        Raises:
            BlobUnknownError: the repository does not have it.
        """
        self.get_blob_size(repository, digest)
        return FileBody(self._store.blobs.open(digest))

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        """Give a repository a blob of another one; return whether that has it."""
        if not (source and self._has_blob(source, digest)) or self._store.blobs.size_of(digest) is None:
            return False
        await asyncio.to_thread(self._store.manifests.link_blob, repository, digest)
        return True

    async def keep_upload(self, upload: Upload, digest: Digest) -> None:
        """Store what was uploaded.

        Raises:
            DigestError: the bytes are others.
        """
        await upload.commit(digest)
        await asyncio.to_thread(self._store.manifests.link_blob, upload.repository, digest)

    async def delete_blob(self, repository: str, digest: Digest) -> None:
        """Take a blob from a repository; the bytes go when no repository of ours has it any more.

        Raises:
            BlobUnknownError: the repository does not have it.
        """
        existed, is_elsewhere = await asyncio.to_thread(self._store.manifests.unlink_blob, repository, digest)
        if not existed:
            raise BlobUnknownError(f"no blob `{digest}` in repository `{repository}`")
        if not is_elsewhere:
            await asyncio.to_thread(self._store.blobs.delete, digest)

    def _has_blob(self, repository: str, digest: Digest) -> bool:
        return self._store.manifests.has_link(repository, digest)

    def _put(self, repository: str, document: Document, tag: str) -> None:
        content = document.content
        if isinstance(content, Index):
            for entry in content.manifests:
                self._check_manifest(repository, entry)
        else:
            for entry in _needed_blobs(content):
                self._check_blob(repository, entry)
        self._store.manifests.put(LOCAL, repository, document, tag)

    def _check_manifest(self, repository: str, entry: Descriptor) -> None:
        if self._store.manifests.get(LOCAL, repository, entry.digest) is None:
            raise ManifestBlobUnknownError(
                f"the index names manifest `{entry.digest}`, which is not in `{repository}`", "push it first"
            )

    def _check_blob(self, repository: str, entry: Descriptor) -> None:
        digest = parse_digest(entry.digest)
        size = self._store.blobs.size_of(digest)
        if size is None:
            raise ManifestBlobUnknownError(f"the manifest names blob `{digest}`, which is not here", "push it first")
        if size != entry.size:
            raise ManifestError(f"the manifest gives blob `{digest}` {entry.size} bytes, it has {size}")
        # A client skips what HEAD showed it, be it from the cache of an upstream of the same name.
        if not self._has_blob(repository, digest):
            self._store.manifests.link_blob(repository, digest)


def _needed_blobs(manifest: Manifest) -> list[Descriptor]:
    return [e for e in (manifest.config, *manifest.layers) if not media_types.is_foreign(e.media_type)]


def _describe_referrer(stored: StoredManifest) -> Descriptor:
    content = parse_manifest(stored.raw, stored.media_type).content
    artifact_type = content.artifact_type
    if isinstance(content, Manifest) and not artifact_type:
        artifact_type = content.config.media_type
    return Descriptor(
        stored.media_type,
        stored.digest,
        len(stored.raw),
        artifact_type=artifact_type,
        annotations=content.annotations,
    )
