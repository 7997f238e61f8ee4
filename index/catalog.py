"""The catalogue: one SQLite file per collection that holds the truth.

Documents with everything needed to index them again, which of them are in the tail, which documents of
segments are dead, the live segments, the lexicons, the answers to recent request ids. A write is
acknowledged when its transaction has committed under ``synchronous=FULL``; the commit syncs the log first.

SQLite has no page checksums, so every row that holds user data or decides what is visible carries the
CRC-32C of its values, checked on every read.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from sparsight.errors import CorruptIndexError, StorageError, StorageFullError
from sparsight.index.container import crc32c
from sparsight.index.rows import Row, unpack
from sparsight.index.schema import CollectionSchema

__all__ = ["CATALOG_FILE", "REQUEST_MEMORY_S", "Catalog", "SegmentRecord"]

CATALOG_FILE = "catalog.db"
CATALOG_VERSION = 2
REQUEST_MEMORY_S = 24 * 3600
"""How long a request id is remembered."""

_PAGE_BYTES = 8_192  # five rows of 225 weights in a page, where 4,096 would hold two; measured 30 % faster in bulk
_CACHE_KIB = 65_536  # so that a bulk write's pages go to the log once, at the commit
_ROW_TERMS = 1_024  # terms in a row of the lexicon, so that one of millions is read in a second

_TABLES: dict[str, tuple[dict[str, type], str | tuple[str, ...]]] = {
    "meta": ({"key": str, "value": str, "crc": int}, "key"),
    "documents": ({"seq": int, "id": str, "body": bytes, "crc": int}, "seq"),
    "tail": ({"seq": int}, "seq"),
    "deletions": ({"seq": int, "crc": int}, "seq"),
    "segments": ({"name": str, "documents": int, "passages": int, "bytes": int, "saturated": str, "crc": int}, "name"),
    "terms": ({"field": str, "first_id": int, "terms": str, "crc": int}, ("field", "first_id")),
    "requests": ({"request_id": str, "digest": str, "answer": str, "created": float, "crc": int}, "request_id"),
}


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A live segment as the catalogue knows it. ``name`` is its folder; ``saturated`` counts weights by field."""

    name: str
    documents: int
    passages: int
    bytes: int
    saturated: dict[str, int]


def _crc(*values: Any) -> int:
    return crc32c(msgpack.packb(values))


class Catalog:
    """A connection to a collection's catalogue. Not for use by two threads at once.

    Raises
    ------
    CorruptIndexError
        The file is no database, is damaged, or a row's checksum fails.
    StorageError, StorageFullError
        The operating system refused.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.path = folder / CATALOG_FILE
        self.read_only = read_only
        with self._translate():
            uri = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self.connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            self.connection.execute("PRAGMA busy_timeout = 5000")
            if not read_only:
                self.connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                self.connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextlib.contextmanager
    def _translate(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            # A missing table is damage too: all are made in one transaction.
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "no such table" in str(error):
                raise CorruptIndexError(f"{self.path}: {error} ({name})", path=self.path) from error
            if name.startswith("SQLITE_FULL"):
                raise StorageFullError(
                    f"the disk is full: {self.path}; free space and try again", path=self.path
                ) from error
            raise StorageError(f"{self.path}: {error} ({name})", path=self.path) from error

    def _checked(self, crc: Any, *values: Any) -> None:
        found = _crc(*values)
        if found != crc:
            table, key = values[:2]
            expected = f"{crc:08x}" if isinstance(crc, int) else repr(crc)  # a damaged file may hold anything
            raise CorruptIndexError(
                f"{self.path}: row {key!r:.100} of table {table}: checksum expected {expected}, found {found:08x}",
                path=self.path,
                table=table,
                key=key,
            )

    # --- schema, state -------------------------------------------------------------------------------------

    def create(self, schema: CollectionSchema) -> None:
        """Make the tables of a new collection, in one transaction."""
        import sqlite_utils  # here, because it takes as long to import as a collection takes to open

        with self.transaction():
            database = sqlite_utils.Database(self.connection)
            for name, (columns, key) in _TABLES.items():
                required = set(columns) - ({key} if isinstance(key, str) else set(key))
                database[name].create(columns, pk=key, not_null=required)  # type: ignore[union-attr]
            self.connection.execute("CREATE UNIQUE INDEX documents_id ON documents (id)")
            self.set_meta("format", {"version": CATALOG_VERSION})
            self.set_meta("schema", schema.to_json())
            self.set_meta("state", {"next_seq": 1, "version": 0, "documents": 0})

    def get_meta(self, key: str) -> dict[str, Any]:
        """A value of the meta table."""
        with self._translate():
            row = self.connection.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise CorruptIndexError(f"{self.path}: row {key!r} of table meta is missing", path=self.path)
        self._checked(row[1], "meta", key, row[0])
        value: dict[str, Any] = json.loads(row[0])
        return value

    def find_meta(self, key: str) -> dict[str, Any]:
        """A value of the meta table that may not be there; then it is empty."""
        with self._translate():
            there = self.connection.execute("SELECT 1 FROM meta WHERE key = ?", (key,)).fetchone()
        return self.get_meta(key) if there else {}

    def set_meta(self, key: str, value: dict[str, Any]) -> None:
        """Store a value of the meta table."""
        text = json.dumps(value)
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, text, _crc("meta", key, text)))

    def schema(self) -> CollectionSchema:
        """The collection's schema.

        Raises
        ------
        CorruptIndexError
            Also when the file was written by another version of the format.
        """
        version = self.get_meta("format")["version"]
        if version != CATALOG_VERSION:
            raise CorruptIndexError(f"{self.path}: expected format {CATALOG_VERSION}, found {version}", path=self.path)
        return CollectionSchema.from_json(self.get_meta("schema"))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One write transaction; durable when the block ends without an exception, without effect otherwise."""
        with self._translate():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside the block see one committed state."""
        with self._translate():
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.execute("COMMIT")

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a transaction that is undone alone when it raises."""
        self.connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK TO part")
            self.connection.execute("RELEASE part")
            raise
        self.connection.execute("RELEASE part")

    def data_version(self) -> int:
        """Changes whenever another connection has committed."""
        with self._translate():
            return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    # --- documents -----------------------------------------------------------------------------------------

    def insert_documents(self, rows: Iterable[tuple[int, str, bytes]]) -> None:
        """Store document versions as (seq, id, body); their ids must be free."""
        self.connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?)",
            ((seq, id, body, _crc("documents", seq, id, body)) for seq, id, body in rows),
        )

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """``{id: seq}`` of those ids that exist."""
        with self._translate():
            return dict(
                self.connection.execute(
                    "SELECT id, seq FROM documents WHERE id IN (SELECT value FROM json_each(?))", (json.dumps([*ids]),)
                )
            )

    def delete_document(self, seq: int) -> None:
        """Remove a document: from the tail if it is there, else by a deletion mark for its segment."""
        self.connection.execute("DELETE FROM documents WHERE seq = ?", (seq,))
        if self.connection.execute("DELETE FROM tail WHERE seq = ?", (seq,)).rowcount == 0:
            self.add_deletions([seq])

    def rows(self, seqs: Sequence[int]) -> Iterator[Row]:
        """The documents of ``seqs`` that still exist, in that order, each checked."""
        with self._translate():
            for seq in seqs:
                found = self.connection.execute("SELECT id, body, crc FROM documents WHERE seq = ?", (seq,)).fetchone()
                if found is not None:
                    id, body, crc = found
                    self._checked(crc, "documents", seq, id, body)
                    yield unpack(id, seq, body)

    def all_seqs(self) -> list[int]:
        """Every living document's seq, ascending."""
        with self._translate():
            return [seq for (seq,) in self.connection.execute("SELECT seq FROM documents ORDER BY seq")]

    # --- tail, deletions, segments -------------------------------------------------------------------------

    def tail_seqs(self) -> list[int]:
        """Documents that are in no segment yet, ascending."""
        with self._translate():
            return [seq for (seq,) in self.connection.execute("SELECT seq FROM tail ORDER BY seq")]

    def add_to_tail(self, seqs: Iterable[int]) -> None:
        self.connection.executemany("INSERT INTO tail VALUES (?)", ((seq,) for seq in seqs))

    def empty_tail(self, last: int) -> None:
        """Take the documents up to and including seq ``last`` out of the tail."""
        self.connection.execute("DELETE FROM tail WHERE seq <= ?", (last,))

    def deletions(self) -> list[int]:
        """Documents of live segments that are dead, ascending, each checked."""
        with self._translate():
            rows = self.connection.execute("SELECT seq, crc FROM deletions ORDER BY seq").fetchall()
        for seq, crc in rows:
            self._checked(crc, "deletions", seq)
        return [seq for seq, _ in rows]

    def add_deletions(self, seqs: Iterable[int]) -> None:
        self.connection.executemany(
            "INSERT OR REPLACE INTO deletions VALUES (?, ?)", ((seq, _crc("deletions", seq)) for seq in seqs)
        )

    def remove_deletions(self, seqs: Iterable[int]) -> None:
        self.connection.executemany("DELETE FROM deletions WHERE seq = ?", ((seq,) for seq in seqs))

    def segments(self) -> list[SegmentRecord]:
        """The live segments, oldest first, each record checked."""
        with self._translate():
            rows = self.connection.execute("SELECT * FROM segments ORDER BY name").fetchall()
        for *values, crc in rows:
            self._checked(crc, "segments", *values)
        return [
            SegmentRecord(name, documents, passages, size, json.loads(text))
            for name, documents, passages, size, text, _ in rows
        ]

    def add_segment(self, record: SegmentRecord) -> None:
        values = (record.name, record.documents, record.passages, record.bytes, json.dumps(record.saturated))
        self.connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", (*values, _crc("segments", *values)))

    def remove_segment(self, name: str) -> None:
        self.connection.execute("DELETE FROM segments WHERE name = ?", (name,))

    # --- lexicon -------------------------------------------------------------------------------------------

    def terms(self, field: str, term_id: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Rows of a BM25 field's lexicon from the one that holds ``term_id``, each checked: its first term's number,
        and its terms."""
        with self._translate():
            for first, text, crc in self.connection.execute(
                "SELECT first_id, terms, crc FROM terms WHERE field = ? AND first_id >= ? ORDER BY first_id",
                (field, term_id - term_id % _ROW_TERMS),
            ):
                self._checked(crc, "terms", field, first, text)
                yield first, text.split("\n")

    def add_terms(self, field: str, term_id: int, terms: Sequence[str]) -> None:
        """Append to a field's lexicon, which has ``term_id`` terms. Terms are words: they hold no line break."""
        first, last_row = next(self.terms(field, term_id), (term_id, []))
        lines = [*last_row, *terms]
        for start in range(0, len(lines), _ROW_TERMS):
            values = (field, first + start, "\n".join(lines[start : start + _ROW_TERMS]))
            self.connection.execute(
                "INSERT OR REPLACE INTO terms VALUES (?, ?, ?, ?)", (*values, _crc("terms", *values))
            )

    # --- request ids ---------------------------------------------------------------------------------------

    def find_request(self, request_id: str) -> tuple[str, dict[str, Any]] | None:
        """``(digest, answer)`` of a request seen in the last 24 hours, or None."""
        row = self.connection.execute(
            "SELECT digest, answer, created, crc FROM requests WHERE request_id = ?", (request_id,)
        ).fetchone()
        if row is None:
            return None
        digest, answer, created, crc = row
        self._checked(crc, "requests", request_id, digest, answer, created)
        if created < time.time() - REQUEST_MEMORY_S:
            return None
        return digest, json.loads(answer)

    def add_request(self, request_id: str, digest: str, answer: dict[str, Any]) -> None:
        now, text = time.time(), json.dumps(answer)
        self.connection.execute("DELETE FROM requests WHERE created < ?", (now - REQUEST_MEMORY_S,))
        self.connection.execute(
            "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)",
            (request_id, digest, text, now, _crc("requests", request_id, digest, text, now)),
        )

    # --- checks --------------------------------------------------------------------------------------------

    def verify(self) -> Iterator[str]:
        """Every fault found: SQLite's own integrity check, then each row's checksum."""
        with self._translate():
            for (line,) in self.connection.execute("PRAGMA integrity_check"):
                if line != "ok":
                    yield f"{self.path}: {line}"
            for table, (columns, _) in _TABLES.items():
                if "crc" not in columns:
                    continue
                for *values, crc in self.connection.execute(f"SELECT * FROM {table}"):
                    try:
                        self._checked(crc, table, *values)
                    except CorruptIndexError as error:
                        yield error.message
