"""A collection on disk: one writer thread, group commit, generations for readers.

A write is packed by its caller, then queued. The writer thread takes what is queued, applies each request inside
a savepoint of one SQLite transaction, commits (which syncs), publishes a new generation, and only then answers.
So an acknowledged write is durable and visible, a refused one leaves no trace, and waiting writers share a sync.

Large batches become a segment at once, published with their rows in one transaction. Otherwise documents wait in
the tail until :mod:`sparsight.index.maintenance` flushes them.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import (
    ClosedError,
    ConflictError,
    CorruptIndexError,
    ReadOnlyError,
    SparsightError,
    StorageError,
    StorageFullError,
)
from sparsight.index import storage
from sparsight.index.bm25 import Analyzer
from sparsight.index.catalog import Catalog, SegmentRecord
from sparsight.index.filters import Node
from sparsight.index.generation import Generation
from sparsight.index.lexicon import Lexicons, PassageTerms, analyse
from sparsight.index.parts import SegmentPart
from sparsight.index.rows import Row, pack
from sparsight.index.schema import CollectionSchema, DerivedModel, FieldSchema, ModelFactory
from sparsight.index.segment import Segment, build_segment
from sparsight.index.tail import Tail
from sparsight.types import BM25Field, SAEField

__all__ = ["BULK_DOCUMENTS", "CollectionStore", "WriteAnswer", "discard"]

BULK_DOCUMENTS = 2_000
"""A write of at least this many documents is built into a segment at once."""

_GROUP_DOCUMENTS = 4_000  # a commit waits for no more documents than this
SEGMENTS_FOLDER = "segments"
MODELS_FOLDER = "models"


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    """What a write did; ``version`` is the number of committed writes after it."""

    upserted: int = 0
    replaced: int = 0
    deleted: int = 0
    version: int = 0
    saturated: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    """One request to the writer thread. ``work`` runs alone inside a transaction when it is given."""

    rows: Sequence[Row] = ()
    terms: Sequence[Mapping[str, list[PassageTerms]]] = ()
    delete_ids: Sequence[str] = ()
    delete_filter: Node | None = None
    request_id: str = ""
    digest: str = ""
    work: Callable[[], Any] | None = None
    future: Future[Any] = field(default_factory=Future)

    @property
    def alone(self) -> bool:
        return self.work is not None or self.delete_filter is not None or len(self.rows) >= BULK_DOCUMENTS


@dataclass(slots=True)
class _Effects:
    """What a transaction changed, to be applied to memory once it has committed."""

    new_rows: list[Row] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


def discard(store: CollectionStore, segments: Sequence[Segment]) -> None:
    """Remove segments that no transaction has named, as far as that can be known now.

    A commit whose sync failed may still turn out to have happened: then its segments must stay. What is left behind is
    removed by the next opening.
    """
    for segment in segments:
        with contextlib.suppress(StorageError, StorageFullError):
            storage.remove_folder(store.folder / SEGMENTS_FOLDER / segment.name)


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

    Raises
    ------
    CorruptIndexError, IncompatibleModelError
        The stored data cannot be trusted.
    """

    def __init__(self, folder: Path, models: ModelFactory, *, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self._models = models
        self.catalog = Catalog(folder, read_only=read_only)
        self._reader = Catalog(folder, read_only=True)  # for reads beside the writer thread
        self._reader_lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._broken: SparsightError | None = None
        self._published = 0
        self.maintenance_lock = threading.Lock()  # one flush, merge or rebuild at a time
        self.on_change: Callable[[], None] = lambda: None  # maintenance listens
        self._load()
        self._writer: threading.Thread | None = None
        if not read_only:
            storage.create_folder(self._segments_folder)
            storage.remove_leftovers(self._segments_folder, {segment.name for segment in self._segments})
            referenced = {Path(item.spec.model).name for item in self.schema.fields if isinstance(item.spec, SAEField)}
            storage.remove_leftovers(folder / MODELS_FOLDER, referenced)
            self._writer = threading.Thread(target=self._run, name=f"sparsight-writer-{folder.name}", daemon=True)
            self._writer.start()

    @classmethod
    def create(cls, folder: Path, schema: CollectionSchema, models: ModelFactory) -> CollectionStore:
        """Make a new collection's folder, durable when this returns. It appears whole or not at all."""
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
        storage.publish_folder(building, folder)
        return cls(folder, models)

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def _segments_folder(self) -> Path:
        return self.folder / SEGMENTS_FOLDER

    def _load(self) -> None:
        """Read the catalogue's state into memory, from one committed state, and publish the first generation."""
        with self.catalog.snapshot():
            self.schema = self.catalog.schema()
            self.state = self.catalog.get_meta("state")
            self.records = self.catalog.segments()
            dead = np.array(self.catalog.deletions(), np.int64)
            tail_seqs = self.catalog.tail_seqs()
            self._data_version = self.catalog.data_version()
            self.derived: Mapping[str, DerivedModel] = {
                item.name: self.load_model(item) for item in self.schema.fields if item.kind == "sae"
            }
            if not hasattr(self, "lexicons"):
                self.lexicons = Lexicons([item.name for item in self.schema.fields if isinstance(item.spec, BM25Field)])
            self.lexicons.load(self.catalog)  # what is new since the last time
            known = {
                segment.name: segment for segment in getattr(self, "_segments", []) if segment.schema == self.schema
            }
            self._segments = [
                known.get(r.name) or Segment(self._segments_folder / r.name, self.schema) for r in self.records
            ]
            self._parts = [
                SegmentPart(segment, np.flatnonzero(np.isin(segment.seqs, dead))) for segment in self._segments
            ]
            self._tail = Tail(self.schema, self.derived)
            self._tail.append(list(self.catalog.rows(tail_seqs)), self._average_lengths())
            self._check_complete(len(dead), len(tail_seqs))
        self._analyzers = {
            item.name: Analyzer(item.spec.language) for item in self.schema.fields if isinstance(item.spec, BM25Field)
        }
        self._tail_dead: set[int] = set()
        self._next_segment = 1 + max([0, *(int(record.name) for record in self.records)])
        self._publish()

    def _check_complete(self, dead: int, tail: int) -> None:
        """Every living document is in exactly one place: cheap enough to check on each opening."""
        stored = self.catalog.connection.execute("SELECT COUNT(*) FROM documents").fetchone()[0]
        placed = sum(segment.documents for segment in self._segments) - dead + tail
        if len(self._tail.rows) != tail or stored != placed or dead != sum(len(part.dead) for part in self._parts):
            raise CorruptIndexError(
                f"{self.catalog.path}: expected {stored} living documents in segments and tail, found {placed}; "
                "`sparsight repair` rebuilds the segments",
                path=self.catalog.path,
            )

    def _average_lengths(self) -> dict[str, float]:
        return self.lexicons.average_lengths(self.state)

    def _publish(self) -> None:
        """Make memory's state the generation that new searches pin."""
        self._published += 1
        self.generation = Generation(
            self._published,
            self.state["version"],
            self.schema,
            (*self._parts, self._tail.view(self._tail_dead)),
            self.lexicons.ids,
            self._average_lengths(),
            self.derived,
        )

    @property
    def saturated(self) -> dict[str, int]:
        """Weights that did not fit 8 bits, by field, in the live segments and the tail."""
        total: dict[str, int] = dict(self._tail.saturated)
        for record in self.records:
            for name, count in record.saturated.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def tail_documents(self) -> int:
        """Documents waiting for the next flush."""
        return len(self._tail.rows)

    def refresh(self) -> None:
        """For followers: take over what another process has committed since the last call."""
        with self._refresh_lock:
            if self._closed:
                raise ClosedError(f"collection {self.folder.name!r} is closed")
            if not self.read_only or self.catalog.data_version() == self._data_version:
                return
            for attempt in range(5):
                try:
                    return self._load()
                except CorruptIndexError:
                    # A merge may have removed a segment between our reading its name and mapping its files.
                    if attempt == 4 or self.catalog.segments() == self.records:
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
        self._check_open()
        terms = [{name: analyse(row, analyzer) for name, analyzer in self._analyzers.items()} for row in rows]
        answer: WriteAnswer = self._submit(_Job(rows=rows, terms=terms, request_id=request_id, digest=digest)).result()
        return answer

    def delete(
        self, ids: Sequence[str] = (), *, node: Node | None = None, request_id: str = "", digest: str = ""
    ) -> WriteAnswer:
        """Delete documents by id (missing ones are skipped) or all that satisfy a filter; durable on return."""
        self._check_open()
        job = _Job(delete_ids=ids, delete_filter=node, request_id=request_id, digest=digest)
        answer: WriteAnswer = self._submit(job).result()
        return answer

    def run(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` in the writer thread inside a transaction, then reload memory from the catalogue."""
        self._check_open()
        return self._submit(_Job(work=work)).result()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"collection {self.folder.name!r} is closed")
        if self.read_only:
            raise ReadOnlyError(f"collection {self.folder.name!r} was opened read-only")
        if self._broken is not None:
            raise StorageError(
                f"writes stopped after an earlier failure: {self._broken}; close and open the database again"
            ) from self._broken

    def _submit(self, job: _Job) -> Future[Any]:
        with self._closing:  # so that nothing is queued behind the end mark
            self._check_open()
            self._queue.put(job)
        return job.future

    def _run(self) -> None:
        """The writer thread: group what waits, process it, until the end mark."""
        held: _Job | None = None
        while True:
            first = held or self._queue.get()
            if first is None:
                return
            jobs, documents, held, ending = [first], len(first.rows), None, False
            while not first.alone and documents < _GROUP_DOCUMENTS and not self._queue.empty():
                following = self._queue.get()
                if following is None or following.alone:
                    held, ending = following, following is None
                    break
                jobs.append(following)
                documents += len(following.rows)
            self._process(jobs)
            if ending:
                return

    def _process(self, jobs: Sequence[_Job]) -> None:
        """One transaction for all jobs: apply, commit, publish, answer."""
        if self._broken is not None:
            for job in jobs:
                job.future.set_exception(self._broken)
            return
        state_before, effects = copy.deepcopy(self.state), _Effects()
        answers: list[tuple[_Job, Any]] = []
        try:
            with self.catalog.transaction():
                for job in jobs:
                    try:
                        with self.catalog.savepoint():
                            answers.append((job, self._apply(job, effects)))
                    except ConflictError as error:  # raised before anything was changed
                        job.future.set_exception(error)
                if answers:
                    self.catalog.set_meta("state", self.state)
        except BaseException as error:
            if isinstance(error, StorageError):
                self._broken = error  # what the disk now holds is unknown: only a new opening may tell
            self._undo(state_before, effects)
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return
        self.lexicons.commit()
        try:
            self._take_over(effects, reload=any(job.work is not None for job in jobs))
        except BaseException as error:
            # Committed but not shown: say so and stop, rather than serve a state that memory does not match.
            self._broken = StorageError(f"the write is durable but could not be published: {error}")
        for job, answer in answers:
            if self._broken is not None:
                job.future.set_exception(self._broken)
            else:
                job.future.set_result(answer)
        self.on_change()

    def _undo(self, state: dict[str, Any], effects: _Effects) -> None:
        self.state = state
        self.lexicons.rollback()
        if self._broken is None:
            discard(self, effects.segments)

    def _apply(self, job: _Job, effects: _Effects) -> Any:
        if job.work is not None:
            return job.work()
        if job.request_id:
            seen = self.catalog.find_request(job.request_id)
            if seen is not None:
                digest, answer = seen
                if digest != job.digest:
                    raise ConflictError(
                        f"request id {job.request_id!r:.80} was used for a different request", field="request_id"
                    )
                return WriteAnswer(**answer)
        if job.rows:
            result = self._apply_rows(job, effects)
        else:
            result = self._apply_delete(job, effects)
        if job.request_id:
            fields = {name: getattr(result, name) for name in WriteAnswer.__slots__}
            self.catalog.add_request(job.request_id, job.digest, fields)
        return result

    def _apply_rows(self, job: _Job, effects: _Effects) -> WriteAnswer:
        replaced = self.catalog.find(row.id for row in job.rows)
        for seq in replaced.values():
            self.catalog.delete_document(seq)
            effects.dead.append(seq)
        for row, terms in zip(job.rows, job.terms, strict=True):
            row.seq = self.state["next_seq"]
            self.state["next_seq"] += 1
            row.terms = {name: self.lexicons.number(name, passages, self.state) for name, passages in terms.items()}
            self.catalog.insert_document(row.seq, row.id, pack(row))
        self.lexicons.write(self.catalog)
        saturated = 0
        if len(job.rows) >= BULK_DOCUMENTS:
            segment, record = self.build(job.rows)
            effects.segments.append(segment)
            self.catalog.add_segment(record)
            saturated = sum(record.saturated.values())
        else:
            self.catalog.add_to_tail(row.seq for row in job.rows)
            effects.new_rows.extend(job.rows)
        self.state["version"] += 1
        return WriteAnswer(len(job.rows), len(replaced), 0, self.state["version"], saturated)

    def _apply_delete(self, job: _Job, effects: _Effects) -> WriteAnswer:
        if job.delete_filter is not None:
            generation = self.generation  # the writer's own latest: a filter delete runs alone
            found = [seq for seq, _ in generation.scan(generation.mask(job.delete_filter))]
        else:
            found = list(self.catalog.find(dict.fromkeys(job.delete_ids)).values())
        for seq in found:
            self.catalog.delete_document(seq)
        effects.dead.extend(found)
        self.state["version"] += 1
        return WriteAnswer(0, 0, len(found), self.state["version"])

    def load_model(self, item: FieldSchema) -> DerivedModel:
        """The model of a derived field, loaded once.

        Raises
        ------
        CorruptIndexError
            Its files hold another model than the field was filled with.
        """
        known = self.derived.get(item.name) if hasattr(self, "derived") else None
        if known is not None and known.fingerprint == item.fingerprint:
            return known
        assert isinstance(item.spec, SAEField)
        model = self._models(item.spec)
        if model.fingerprint != item.fingerprint:
            raise CorruptIndexError(
                f"the model of field {item.name!r} in {self.folder / item.spec.model} changed on disk: "
                f"expected {item.fingerprint[:12]}, found {model.fingerprint[:12]}",
                path=self.folder / item.spec.model,
            )
        return model

    def build(
        self,
        rows: Sequence[Row],
        schema: CollectionSchema | None = None,
        derived: Mapping[str, DerivedModel] | None = None,
    ) -> tuple[Segment, SegmentRecord]:
        """Build a new segment of rows (ascending seq); its files are durable, the catalogue does not know it yet.

        ``schema`` and ``derived`` are the collection's own unless they are about to change.
        """
        name = f"{self._take_segment_number():08d}"
        schema, derived = schema or self.schema, self.derived if derived is None else derived
        report = build_segment(self._segments_folder / name, schema, rows, derived, self._average_lengths())
        record = SegmentRecord(name, report.documents, report.passages, report.bytes, report.saturated)
        return Segment(self._segments_folder / name, schema), record

    def _take_segment_number(self) -> int:
        with self._closing:
            number = self._next_segment
            self._next_segment += 1
            return number

    def _take_over(self, effects: _Effects, *, reload: bool) -> None:
        """Apply a committed transaction to memory and publish."""
        if reload:
            before = {segment.name for segment in self._segments}
            self._load()
            for name in before - {segment.name for segment in self._segments}:
                with contextlib.suppress(StorageError):  # else the next opening removes it
                    storage.remove_folder(self._segments_folder / name)
            return
        self._tail.append(effects.new_rows, self._average_lengths())
        for segment in effects.segments:
            self._segments.append(segment)
            self._parts.append(SegmentPart(segment, np.empty(0, np.int64)))
            self.records = self.catalog.segments()
        dead = np.array(sorted(effects.dead), np.int64)
        if len(dead):
            for position, part in enumerate(self._parts):
                at = np.searchsorted(part.seqs, dead)
                local = (
                    at[(at < part.documents) & (part.seqs[np.minimum(at, part.documents - 1)] == dead)]
                    if part.documents
                    else at[:0]
                )
                if len(local):
                    self._parts[position] = SegmentPart(part.segment, np.union1d(part.dead, local))
            self._tail_dead |= set(
                np.intersect1d(dead, np.array([row.seq for row in self._tail.rows], np.int64)).tolist()
            )
        self._publish()

    # --- reads beside the search path ----------------------------------------------------------------------

    def rows(self, ids: Iterable[str]) -> list[Row]:
        """Living documents of these ids with all their vectors, from the catalogue; missing ones are left out."""
        with self._reader_lock:
            if self._closed:
                raise ClosedError(f"collection {self.folder.name!r} is closed")
            with self._reader.snapshot():
                wanted = list(ids)
                seqs = self._reader.find(wanted)
                found = {row.id: row for row in self._reader.rows(list(seqs.values()))}
        return [found[id] for id in wanted if id in found]

    def all_rows(self, seqs: Sequence[int]) -> list[Row]:
        """Living documents of these seqs with all their vectors, from the catalogue."""
        with self._reader_lock, self._reader.snapshot():
            return list(self._reader.rows(seqs))

    def close(self) -> None:
        """Finish queued writes, stop the writer thread, close the catalogue. Harmless when called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._writer is not None:
            self._writer.join()
        with self._reader_lock, self._refresh_lock:
            self._reader.close()
            self.catalog.close()
