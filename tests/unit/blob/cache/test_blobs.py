import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blob.cache.blobs import BlobStore
from blob.cache.store import Store
from blob.errors import BlobUnknownError, DigestError, StoreError, StoreFullError
from blob.oci.digest import digest_of

DATA = b"some bytes"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make the kernel refuse files above `size`, which looks like a full disk to who writes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_was_committed_is_read_back(blobs: BlobStore, algorithm: str) -> None:
    digest, staged = digest_of(DATA, algorithm), blobs.stage()
    staged.write(DATA[:3])
    staged.write(DATA[3:])
    staged.commit(digest)
    with blobs.open(digest) as file:
        assert file.read() == DATA
    assert blobs.size_of(digest) == len(DATA)
    assert blobs.measure() == (1, len(DATA))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_wrong_bytes_are_never_shown(blobs: BlobStore, tmp_path: Path, algorithm: str) -> None:
    digest, staged = digest_of(DATA, algorithm), blobs.stage()
    staged.write(b"other bytes")
    with pytest.raises(DigestError):
        staged.commit(digest)
    staged.discard()
    assert blobs.size_of(digest) is None
    assert os.listdir(tmp_path / "tmp") == []
    with pytest.raises(BlobUnknownError):
        blobs.open(digest)


def test_a_torn_file_of_a_dead_process_is_removed_at_the_start(tmp_path: Path) -> None:
    first = BlobStore(tmp_path).stage()
    first.write(b"half of")
    # What `kill -9` leaves: the file, and nobody who knows of it.
    assert len(os.listdir(tmp_path / "tmp")) == 1
    BlobStore(tmp_path)
    assert os.listdir(tmp_path / "tmp") == []
    first.discard()


def test_a_full_disk_takes_all_of_a_piece_or_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    staged = blobs.stage()
    staged.write(b"a" * 1000)
    with file_size_limit(1500), pytest.raises(StoreFullError):
        staged.write(b"b" * 1000)
    staged.write(b"c" * 1000)
    staged.commit(digest_of(b"a" * 1000 + b"c" * 1000))
    assert blobs.measure() == (1, 2000)


def test_an_open_blob_outlives_its_deletion(blobs: BlobStore) -> None:
    digest, staged = digest_of(DATA), blobs.stage()
    staged.write(DATA)
    growing = staged.open()
    staged.commit(digest)
    blobs.delete(digest)
    assert growing.read() == DATA
    growing.close()
    blobs.delete(digest)


def test_a_late_write_of_a_given_up_blob_touches_nothing(blobs: BlobStore) -> None:
    staged = blobs.stage()
    staged.discard()
    staged.discard()
    with pytest.raises(StoreError, match="given up"):
        staged.write(DATA)


def test_the_same_blob_may_be_committed_by_many(blobs: BlobStore) -> None:
    digest = digest_of(DATA)

    def commit() -> None:
        staged = blobs.stage()
        staged.write(DATA)
        staged.commit(digest)

    threads = [threading.Thread(target=commit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.measure() == (1, len(DATA))


def test_a_store_belongs_to_one_process(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(StoreError, match="in use by another process"):
        Store(tmp_path)
    with Store(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make store"):
        Store(tmp_path / "file" / "store")
