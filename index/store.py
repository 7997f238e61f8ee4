"""A collection on disk: one writer thread, group commit, generations for readers.

A write is checked and encoded by its caller, then queued. The writer thread takes what is queued, applies each request
inside a savepoint of one SQLite transaction, commits (which syncs), publishes a new generation, and only then answers
(:mod:`sparsight.index.transactions`). So an acknowledged write is durable and visible, a refused one leaves no trace,
and waiting writers share a sync.

Large batches become a segment at once, published with their rows in one transaction: one thread builds it while the
other stores the rows. Otherwise documents wait in the tail until :mod:`sparsight.index.maintenance` flushes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sparsight.errors import ClosedError, CorruptIndexError, ReadOnlyError, StorageError
from sparsight.index import storage
from sparsight.index.catalog import Catalog, SegmentRecord
from sparsight.index.filters import Node
from sparsight.index.generation import Generation
from sparsight.index.jobs import Job, JobQueue, Made, Swap, WriteAnswer
from sparsight.index.lexicon import analyse
from sparsight.index.memory import MODELS_FOLDER, SEGMENTS_FOLDER, Memory
from sparsight.index.parts import SegmentPart
from sparsight.index.rows import Row
from sparsight.index.schema import CollectionSchema, DerivedModel, ModelFactory
from sparsight.index.segment import Segment, build_segment
from sparsight.index.tail import TailPart
from sparsight.index.transactions import Transactions, remove_segments
from sparsight.types import SAEField

__all__ = ["BULK_DOCUMENTS", "CollectionStore"]

BULK_DOCUMENTS = 2_000
"""A write of at least this many documents is built into a segment at once."""


class CollectionStore:
    """The index of one collection.

    Parameters
    ----------
    folder : Path
        The collection's folder; :meth:`create` makes one.
    models : ModelFactory
        Loads the model of a derived (SAE) field.
    read_only : bool
        Follow another process's writes instead of writing; call :meth:`refresh` before searching.

    Attributes
    ----------
    catalog : Catalog
        Only the writer thread may change it: :meth:`run`.
    memory : Memory
        What it holds, in memory.
    maintenance_lock : Lock
        Held by a flush, a merge or a rebuild.
    on_change : callable
        Called after every transaction; maintenance listens.

    Raises
    ------
    CorruptIndexError, IncompatibleModelError
        The stored data cannot be trusted.
    """

    def __init__(self, folder: Path, models: ModelFactory, *, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self.catalog = Catalog(folder, read_only=read_only)
        self._reader = Catalog(folder, read_only=True)  # for reads beside the writer thread
        self._reader_lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._queue = JobQueue()
        self._closing = threading.Lock()
        self._closed = False
        self.maintenance_lock = threading.Lock()
        self.on_change: Callable[[], None] = lambda: None
        self.memory = Memory(folder, self.catalog, models, self._read_terms)
        self._transactions = Transactions(folder, self.catalog, self.memory, self.build)
        self._writer: threading.Thread | None = None
        if not read_only:
            storage.create_folder(folder / SEGMENTS_FOLDER)
            storage.remove_leftovers(folder / SEGMENTS_FOLDER, {record.name for record in self.memory.records})
            referenced = {Path(item.spec.model).name for item in self.schema.fields if isinstance(item.spec, SAEField)}
            storage.remove_leftovers(folder / MODELS_FOLDER, referenced)
            self._writer = threading.Thread(target=self._run, name=f"sparsight-writer-{folder.name}", daemon=True)
            self._writer.start()

    @classmethod
    def create(cls, folder: Path, schema: CollectionSchema, models: ModelFactory,
               fill: Callable[[Path], None] | None = None) -> CollectionStore:  # fmt: skip
        """Make a new collection's folder, durable when this returns. It appears whole or not at all.

        ``fill`` puts the models of its fields into the folder.
        """
        building = folder.with_name(storage.BUILDING_PREFIX + folder.name)
        if building.exists():
            storage.remove_folder(building)
        storage.create_folder(building)
        storage.create_folder(building / SEGMENTS_FOLDER)
        catalog = Catalog(building)
        try:
            catalog.create(schema.check())
        finally:
            catalog.close()
        if fill is not None:
            fill(building)
            storage.sync_tree(building)
        storage.publish_folder(building, folder)
        return cls(folder, models)

    # --- what is there now ---------------------------------------------------------------------------------

    @property
    def schema(self) -> CollectionSchema:
        """The collection's fields."""
        return self.memory.schema

    @property
    def generation(self) -> Generation:
        """What a search that begins now sees, for as long as it holds it."""
        return self.memory.generation

    @property
    def segment_parts(self) -> list[SegmentPart]:
        """The live segments with their deletions, of the latest generation."""
        return [part for part in self.generation.parts if isinstance(part, SegmentPart)]

    def refresh(self) -> None:
        """For followers: take over what another process has committed since the last call."""
        with self._refresh_lock:
            if self._closed:
                raise ClosedError(f"collection {self.folder.name!r} is closed")
            if not self.read_only or self.catalog.data_version() == self.memory.data_version:
                return
            for attempt in range(5):
                try:
                    return self.memory.load()
                except CorruptIndexError:
                    # A merge may have removed a segment between our reading its name and mapping its files.
                    if attempt == 4 or self.catalog.segments() == self.memory.records:
                        raise

    # --- writes --------------------------------------------------------------------------------------------

    def write(self, rows: Sequence[Row], *, request_id: str = "", digest: str = "") -> WriteAnswer:
        """Insert or replace documents, all or none; returns when they are durable and searchable.

        Raises
        ------
        ConflictError
            The request id was used with another digest in the last 24 hours.
        StorageError, StorageFullError
            The operating system refused. Nothing was written, unless it was the last sync that failed (StorageError):
            then only the next opening can tell, and the same request id makes a retry safe.
        """
        self.check_writable()
        analyzers = self.memory.analyzers
        terms = [{name: analyse(row, analyzer) for name, analyzer in analyzers.items()} for row in rows]
        job = Job(rows, terms, len(rows) >= BULK_DOCUMENTS, request_id=request_id, digest=digest)
        answer: WriteAnswer = self._submit(job).result()
        return answer

    def delete(
        self, ids: Sequence[str] = (), *, node: Node | None = None, request_id: str = "", digest: str = ""
    ) -> WriteAnswer:
        """Delete documents by id (missing ones are skipped) or all that satisfy a filter; durable on return."""
        job = Job(delete_ids=ids, delete_filter=node, request_id=request_id, digest=digest)
        answer: WriteAnswer = self._submit(job).result()
        return answer

    def run(self, work: Callable[[], Any], *, reload: bool = False) -> Any:
        """Run ``work`` in the writer thread inside a transaction, then take over what it noted: labels and profiles.

        With ``reload``, for which the caller holds ``maintenance_lock``, it may change anything: all is read again.
        """
        assert not reload or self.maintenance_lock.locked(), "a flush that is under way would lose deletions"
        return self._submit(Job(work=work, reload=reload)).result()

    def seal(self) -> list[TailPart]:
        """Turn to a new tail, and return those that are to be flushed, oldest first; none when nothing waits.

        They stay searchable, and their documents may die, until :meth:`swap` replaces them.
        """
        tails: list[TailPart] = self._submit(Job(seal=True)).result()
        return tails

    def swap(self, made: Sequence[Made], replaced: Sequence[str] = (), flushed: int = 0) -> None:
        """Make segments live in place of others, and of the tails' documents up to seq ``flushed``.

        The segments hold what was alive there at some moment; what has died since is settled here, in one transaction.
        """
        self._submit(Job(swap=Swap(made, frozenset(replaced), flushed))).result()
        remove_segments(self.folder, replaced)

    def build(
        self,
        rows: Sequence[Row],
        schema: CollectionSchema | None = None,
        derived: Mapping[str, DerivedModel] | None = None,
    ) -> Made:
        """Build a new segment of rows (ascending seq); its files are durable, the catalogue does not know it yet.

        ``schema`` and ``derived`` are the collection's own unless they are about to change.
        """
        with self._closing:  # other threads build, too
            name = f"{self.memory.next_segment:08d}"
            self.memory.next_segment += 1
        schema, derived = schema or self.schema, self.memory.derived if derived is None else derived
        folder = self.folder / SEGMENTS_FOLDER / name
        report = build_segment(folder, schema, rows, derived, self.memory.average_lengths())
        record = SegmentRecord(name, report.documents, report.passages, report.bytes, report.saturated)
        return Segment(folder, schema), record

    def check_writable(self) -> None:
        """Raise ClosedError, ReadOnlyError or StorageError if nothing can be written."""
        if self._closed:
            raise ClosedError(f"collection {self.folder.name!r} is closed")
        if self.read_only:
            raise ReadOnlyError(f"collection {self.folder.name!r} was opened read-only")
        if self._transactions.broken is not None:
            raise StorageError(
                f"writes stopped after an earlier failure: {self._transactions.broken}; close and open the database "
                "again"
            ) from self._transactions.broken

    def _submit(self, job: Job) -> Future[Any]:
        with self._closing:  # so that nothing is queued behind the end mark
            self.check_writable()
            self._queue.put(job)
        return job.future

    def _run(self) -> None:
        """The writer thread."""
        while jobs := self._queue.take():
            if self._transactions.process(jobs):
                self.on_change()

    # --- reads beside the search path ----------------------------------------------------------------------

    def rows(self, ids: Iterable[str]) -> list[Row]:
        """Living documents of these ids with all their vectors, from the catalogue; missing ones are left out."""
        with self._reader_lock:
            self._check_readable()
            with self._reader.snapshot():
                wanted = list(ids)
                seqs = self._reader.find(wanted)
                found = {row.id: row for row in self._reader.rows(list(seqs.values()))}
        return [found[id] for id in wanted if id in found]

    def all_rows(self, seqs: Sequence[int]) -> list[Row]:
        """Living documents of these seqs with all their vectors, from the catalogue."""
        with self._reader_lock, self._reader.snapshot():
            return list(self._reader.rows(seqs))

    def _read_terms(self, field: str, term_id: int) -> list[tuple[int, list[str]]]:
        with self._reader_lock:
            self._check_readable()
            return list(self._reader.terms(field, term_id))

    def _check_readable(self) -> None:
        if self._closed:
            raise ClosedError(f"collection {self.folder.name!r} is closed")

    def close(self) -> None:
        """Finish queued writes, stop the writer thread, close the catalogue. Harmless when called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.end()
        if self._writer is not None:
            self._writer.join()
        self._transactions.close()
        with self._reader_lock, self._refresh_lock:
            self._reader.close()
            self.catalog.close()
