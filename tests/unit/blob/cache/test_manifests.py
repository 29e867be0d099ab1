import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blob.cache.manifests import LOCAL, ManifestStore
from blob.errors import StoreError
from blob.oci.digest import digest_of
from blob.oci.manifest import Document, parse_manifest
from unit.blob.fakeregistry import make_image


@pytest.fixture
def manifests(tmp_path: Path) -> Iterator[ManifestStore]:
    store = ManifestStore(tmp_path / "meta.db")
    yield store
    store.close()


def document(name: str, **extra: object) -> Document:
    return parse_manifest(make_image(name.encode(), **extra))


def test_a_tag_and_its_manifest_are_stored_together(manifests: ManifestStore) -> None:
    stored = manifests.put("up", "a/b", document("x"), "1", checked_at=5)
    tag = manifests.get_tag("up", "a/b", "1")
    assert tag is not None
    assert (tag.digest, tag.checked_at) == (stored.digest, 5)
    assert manifests.get("up", "a/b", tag.digest) == stored
    assert manifests.find(tag.digest) == stored


def test_repositories_and_upstreams_are_kept_apart(manifests: ManifestStore) -> None:
    stored = manifests.put("up", "a/b", document("x"), "1")
    assert manifests.get_tag(LOCAL, "a/b", "1") is None
    assert manifests.get_tag("up", "a/c", "1") is None
    assert manifests.get("other", "a/b", stored.digest) is None
    assert not manifests.has_repository("a/b")


def test_a_moved_tag_leaves_the_old_manifest(manifests: ManifestStore) -> None:
    old = manifests.put(LOCAL, "a", document("old"), "1")
    new = manifests.put(LOCAL, "a", document("new"), "1")
    tag = manifests.get_tag(LOCAL, "a", "1")
    assert tag is not None
    assert tag.digest == new.digest
    assert manifests.get(LOCAL, "a", old.digest) == old


def test_tags_are_listed_in_order_and_in_pages(manifests: ManifestStore) -> None:
    for tag in ("b", "a", "C", "c"):
        manifests.put(LOCAL, "a", document("x"), tag)
    assert manifests.list_tags(LOCAL, "a") == ["C", "a", "b", "c"]
    assert manifests.list_tags(LOCAL, "a", 2) == ["C", "a"]
    assert manifests.list_tags(LOCAL, "a", 2, "a") == ["b", "c"]
    assert manifests.list_tags(LOCAL, "a", last="bb") == ["c"]


def test_a_deleted_manifest_takes_its_tags_but_not_other_repositories_copy(manifests: ManifestStore) -> None:
    stored = manifests.put(LOCAL, "a", document("x"), "1")
    manifests.put(LOCAL, "b", document("x"), "1")
    assert manifests.delete_manifest(LOCAL, "a", stored.digest)
    assert manifests.get_tag(LOCAL, "a", "1") is None
    assert not manifests.has_repository("a")
    assert manifests.get(LOCAL, "b", stored.digest) == stored
    assert not manifests.delete_manifest(LOCAL, "a", stored.digest)
    manifests.delete_manifest(LOCAL, "b", stored.digest)
    assert manifests.find(stored.digest) is None


def test_referrers_are_found_by_their_subject(manifests: ManifestStore) -> None:
    subject = document("image")
    signature = document("signature", subject={"mediaType": "x", "digest": str(subject.digest), "size": 1})
    stored = manifests.put(LOCAL, "a", signature)
    assert manifests.list_referrers(LOCAL, "a", str(subject.digest)) == [stored]
    assert manifests.list_referrers(LOCAL, "b", str(subject.digest)) == []


def test_a_blob_is_gone_only_when_no_repository_links_it(manifests: ManifestStore) -> None:
    digest = digest_of(b"x")
    manifests.link_blob("a", digest)
    manifests.link_blob("b", digest)
    assert manifests.unlink_blob("a", digest) == (True, True)
    assert manifests.unlink_blob("a", digest) == (False, True)
    assert manifests.unlink_blob("b", digest) == (True, False)


def test_what_was_stored_survives_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from blob.cache.manifests import ManifestStore;"
        "from blob.oci.manifest import parse_manifest; store = ManifestStore(Path(sys.argv[1]));"
        "store.put('', 'a', parse_manifest(sys.stdin.buffer.read()), '1'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "meta.db"], input=make_image(b"x"), check=False)
    store = ManifestStore(tmp_path / "meta.db")
    assert store.list_tags(LOCAL, "a") == ["1"]
    store.close()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "meta.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        ManifestStore(tmp_path / "meta.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        ManifestStore(tmp_path / "meta.db")
