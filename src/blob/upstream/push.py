"""Push an opened archive into a registry.

Out of scope: choosing the registry, and progress bars (the caller's `report` gets bytes).
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from blob.oci.digest import Digest
from blob.oci.manifest import Document
from blob.upstream.archive import Archive
from blob.upstream.client import Opener, RegistryClient

#: Called with bytes done and bytes in total; never goes backwards.
Report = Callable[[int, int], None]


async def push_archive(
    client: RegistryClient,
    archive: Archive,
    repository: str,
    tag: str,
    report: Report = lambda _done, _total: None,
) -> Document:
    """Push the image in `archive` to `repository:tag` and return its manifest (or index).

    Blobs that the repository has are not sent; manifests go last, what is named before what names it.

    Raises:
        ArchiveError: the archive is broken.
        UpstreamError: the registry cannot be reached, or refuses.
    """
    digests = archive.blob_digests()
    total = sum(map(archive.size_of, digests))
    done = 0
    for digest in digests:
        await client.push_blob(repository, digest, archive.size_of(digest), _opener(archive, digest))
        done += archive.size_of(digest)
        report(done, total)
    for document in archive.documents[:-1]:
        await client.put_manifest(repository, str(document.digest), document.raw, document.media_type)
    await client.put_manifest(repository, tag, archive.top.raw, archive.top.media_type)
    return archive.top


def _opener(archive: Archive, digest: Digest) -> Opener:
    async def read() -> AsyncIterator[bytes]:
        chunks = archive.chunks(digest)
        while data := await asyncio.to_thread(next, chunks, b""):
            yield data

    return read
