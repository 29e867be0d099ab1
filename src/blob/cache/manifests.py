"""Manifests, tags and links of repositories, in one SQLite file.

A repository is a pair: the upstream it mirrors (the empty string for our own) and its name. Manifests are kept
as the bytes they came in. Every change is one durable transaction, so a tag never names a manifest that is not
here. Reading is quick and may be done on the event loop; call what writes from a thread.

Out of scope: blobs (files, see `blobs`); whether something may be stored (`local`, `remote`).
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob.errors import StoreError, StoreFullError
from blob.oci.digest import Digest, parse_digest
from blob.oci.manifest import Document

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS manifests (digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    upstream TEXT, repository TEXT, digest TEXT, subject TEXT NOT NULL,
    PRIMARY KEY (upstream, repository, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_by_digest ON members (digest);
CREATE TABLE IF NOT EXISTS tags (
    upstream TEXT, repository TEXT, tag TEXT, digest TEXT NOT NULL, checked_at REAL NOT NULL,
    PRIMARY KEY (upstream, repository, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (repository TEXT, digest TEXT, PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS links_by_digest ON links (digest);
"""

#: The upstream of repositories that are our own.
LOCAL = ""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it is served; not parsed, since serving needs no more than this."""

    raw: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class StoredTag:
    """What a tag meant when it was last checked, in seconds since the epoch."""

    digest: str
    checked_at: float


class ManifestStore:
    """The file; open it once per process."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _mapped_errors(path):
            self._writer = _connect(path)
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                self._writer.close()
                raise StoreError(
                    f"`{path}` has format {version}, not {FORMAT}",
                    "use another directory, or a matching version",
                )
            self._writer.executescript(f"{_SCHEMA} PRAGMA user_version = {FORMAT};")
            self._reader = _connect(path)
        self._path = path

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._reader.close()
            self._writer.close()

    def get(self, upstream: str, repository: str, digest: str) -> StoredManifest | None:
        """Return a manifest of a repository."""
        return self._manifest(
            "SELECT raw, media_type, digest FROM manifests JOIN members USING (digest)"
            " WHERE upstream = ? AND repository = ? AND digest = ?",
            (upstream, repository, digest),
        )

    def find(self, digest: str) -> StoredManifest | None:
        """Return a manifest of whatever repository."""
        return self._manifest("SELECT raw, media_type, digest FROM manifests WHERE digest = ?", (digest,))

    def get_tag(self, upstream: str, repository: str, tag: str) -> StoredTag | None:
        """Return what a tag means."""
        rows = self._read(
            "SELECT digest, checked_at FROM tags WHERE upstream = ? AND repository = ? AND tag = ?",
            (upstream, repository, tag),
        )
        return StoredTag(*rows[0]) if rows else None

    def list_tags(self, upstream: str, repository: str, limit: int = -1, last: str = "") -> list[str]:
        """Return tags in the order of their bytes, those after `last`, at most `limit`."""
        rows = self._read(
            "SELECT tag FROM tags WHERE upstream = ? AND repository = ? AND tag > ? ORDER BY tag LIMIT ?",
            (upstream, repository, last, limit),
        )
        return [row[0] for row in rows]

    def list_referrers(self, upstream: str, repository: str, subject: str) -> list[StoredManifest]:
        """Return the manifests of a repository that name `subject` as theirs."""
        rows = self._read(
            "SELECT raw, media_type, digest FROM manifests JOIN members USING (digest)"
            " WHERE upstream = ? AND repository = ? AND subject = ? ORDER BY digest",
            (upstream, repository, subject),
        )
        return [StoredManifest(*row) for row in rows]

    def has_repository(self, repository: str) -> bool:
        """Tell whether a repository of our own holds anything."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM members WHERE upstream = '' AND repository = ?)"
            " OR EXISTS (SELECT 1 FROM links WHERE repository = ?)"
        )
        return bool(self._read(query, (repository, repository))[0][0])

    def has_link(self, repository: str, digest: Digest) -> bool:
        """Tell whether a blob belongs to a repository of our own."""
        query = "SELECT 1 FROM links WHERE repository = ? AND digest = ?"
        return bool(self._read(query, (repository, str(digest))))

    def put(
        self, upstream: str, repository: str, document: Document, tag: str = "", checked_at: float = 0
    ) -> StoredManifest:
        """Store a manifest and, if there is a `tag`, point it there."""
        digest = str(document.digest)
        subject = document.content.subject.digest if document.content.subject else ""
        with self._transaction() as write:
            write.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?)",
                (digest, document.media_type, document.raw),
            )
            write.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (upstream, repository, digest, subject))
            if tag:
                values = (upstream, repository, tag, digest, checked_at)
                write.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", values)
        return StoredManifest(document.raw, document.media_type, digest)

    def touch_tag(self, upstream: str, repository: str, tag: str, checked_at: float) -> None:
        """Note that a tag still means the same."""
        with self._transaction() as write:
            write.execute(
                "UPDATE tags SET checked_at = ? WHERE upstream = ? AND repository = ? AND tag = ?",
                (checked_at, upstream, repository, tag),
            )

    def delete_tag(self, upstream: str, repository: str, tag: str) -> bool:
        """Forget a tag, not what it means; return whether there was one."""
        with self._transaction() as write:
            query = "DELETE FROM tags WHERE upstream = ? AND repository = ? AND tag = ?"
            return write.execute(query, (upstream, repository, tag)).rowcount > 0

    def delete_manifest(self, upstream: str, repository: str, digest: str) -> bool:
        """Forget a manifest and the tags that name it; return whether there was one."""
        where, key = "upstream = ? AND repository = ? AND digest = ?", (upstream, repository, digest)
        with self._transaction() as write:
            existed = write.execute(f"DELETE FROM members WHERE {where}", key).rowcount > 0
            write.execute(f"DELETE FROM tags WHERE {where}", key)
            write.execute(
                "DELETE FROM manifests WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM members WHERE digest = ?1)",
                (digest,),
            )
        return existed

    def link_blob(self, repository: str, digest: Digest) -> None:
        """Note that a blob belongs to a repository of our own."""
        with self._transaction() as write:
            write.execute("INSERT OR IGNORE INTO links VALUES (?, ?)", (repository, str(digest)))

    def unlink_blob(self, repository: str, digest: Digest) -> tuple[bool, bool]:
        """Take a blob from a repository; return whether it was there, and whether another has it."""
        with self._transaction() as write:
            query = "DELETE FROM links WHERE repository = ? AND digest = ?"
            existed = write.execute(query, (repository, str(digest))).rowcount > 0
            others = write.execute("SELECT 1 FROM links WHERE digest = ?", (str(digest),)).fetchall()
        return existed, bool(others)

    def _manifest(self, query: str, values: tuple[str, ...]) -> StoredManifest | None:
        rows = self._read(query, values)
        return StoredManifest(*rows[0]) if rows else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with _mapped_errors(self._path):
            # To the end: an open cursor would pin this connection to an old snapshot.
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _mapped_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


def stored_digest(manifest: StoredManifest) -> Digest:
    """Return the digest of a stored manifest, parsed."""
    return parse_digest(manifest.digest)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _mapped_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        kind = StoreFullError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else StoreError
        raise kind(f"cannot use `{path}`: {str(error).lower()}") from error
