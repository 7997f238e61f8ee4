"""A collection on disk: one writer thread, group commit, generations for readers.

A write is checked and encoded by its caller, then queued. The writer thread takes what is queued, applies each request
inside a savepoint of one SQLite transaction, commits (which syncs), publishes a new generation, and only then answers.
So an acknowledged write is durable and visible, a refused one leaves no trace, and waiting writers share a sync.

Large batches become a segment at once, published with their rows in one transaction: one thread builds it while the
other stores the rows. Otherwise documents wait in the tail until :mod:`sparsight.index.maintenance` flushes them.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from sparsight.index.jobs import Effects, Job, JobQueue, Made, Swap, WriteAnswer
from sparsight.index.lexicon import Lexicons, analyse
from sparsight.index.parts import SegmentPart
from sparsight.index.rows import Row, pack
from sparsight.index.schema import CollectionSchema, DerivedModel, FieldSchema, ModelFactory
from sparsight.index.segment import Segment, build_segment
from sparsight.index.tail import Tail, TailPart
from sparsight.types import BM25Field, SAEField

__all__ = ["BULK_DOCUMENTS", "LABELS", "PROFILES", "CollectionStore", "WriteAnswer", "discard"]

BULK_DOCUMENTS = 2_000
"""A write of at least this many documents is built into a segment at once."""

SEGMENTS_FOLDER = "segments"
MODELS_FOLDER = "models"
LABELS = "labels"
"""Key of the meta table: what users call features; ``retrieval.renaming`` says what it holds."""
PROFILES = "profiles"
"""Key of the meta table: steering profiles, versions by name; ``retrieval.profiles`` says what they hold."""


def _seqs_of(segments: Sequence[Segment]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *(segment.seqs for segment in segments)])


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
        self._queue = JobQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._broken: SparsightError | None = None
        self._published = 0
        self._parts: list[SegmentPart] = []
        self._loaded: dict[str, DerivedModel] = {}  # by the folder that it is in
        self._helper = ThreadPoolExecutor(1, f"sparsight-builder-{folder.name}")  # starts its thread when it is used
        self.maintenance_lock = threading.Lock()  # one flush, merge or rebuild at a time
        self.on_change: Callable[[], None] = lambda: None  # maintenance listens
        self._load()
        self._writer: threading.Thread | None = None
        if not read_only:
            storage.create_folder(self._segments_folder)
            storage.remove_leftovers(self._segments_folder, {record.name for record in self.records})
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

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def _segments_folder(self) -> Path:
        return self.folder / SEGMENTS_FOLDER

    def _load(self) -> None:
        """Read the catalogue's state into memory, from one committed state, and publish the first generation."""
        with self.catalog.snapshot():
            self.schema = self.catalog.schema()
            self.state = self.catalog.get_meta("state")
            self.profiles, self.labels = self.catalog.find_meta(PROFILES), self.catalog.find_meta(LABELS)
            self.records = self.catalog.segments()
            dead = np.array(self.catalog.deletions(), np.int64)
            tail_seqs = self.catalog.tail_seqs()
            self._data_version = self.catalog.data_version()
            self.derived: Mapping[str, DerivedModel] = {
                item.name: self.load_model(item) for item in self.schema.fields if item.kind == "sae"
            }
            self._loaded = {path: model for path, model in self._loaded.items() if model in self.derived.values()}
            if not hasattr(self, "lexicons"):
                names = [item.name for item in self.schema.fields if isinstance(item.spec, BM25Field)]
                self.lexicons = Lexicons(names, self._read_terms)
            self.lexicons.ids.forget()  # what another process has added
            known = {part.segment.name: part.segment for part in self._parts if part.segment.schema == self.schema}
            segments = [known.get(r.name) or Segment(self._segments_folder / r.name, self.schema) for r in self.records]
            self._parts = [SegmentPart(segment, np.flatnonzero(np.isin(segment.seqs, dead))) for segment in segments]
            self._tails = [Tail(self.schema, self.derived)]
            self._tails[0].append(list(self.catalog.rows(tail_seqs)), self._average_lengths())
            self._check_complete(len(dead), len(tail_seqs))
        self._analyzers = {
            item.name: Analyzer(item.spec.language) for item in self.schema.fields if isinstance(item.spec, BM25Field)
        }
        self._next_segment = 1 + max([0, *(int(record.name) for record in self.records)])
        self._publish()

    def _check_complete(self, dead: int, tail: int) -> None:
        """Every living document is in exactly one place: cheap enough to check on each opening."""
        stored = self.state["documents"]
        placed = sum(part.documents for part in self._parts) - dead + tail
        if len(self._tails[0].rows) != tail or stored != placed or dead != sum(len(part.dead) for part in self._parts):
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
            (*self._parts, *(tail.view() for tail in self._tails)),
            self.lexicons.ids,
            self._average_lengths(),
            self.derived,
            self.profiles,
            self.labels,
        )

    @property
    def saturated(self) -> dict[str, int]:
        """Weights that did not fit 8 bits, by field, in the live segments and the tail."""
        total: dict[str, int] = {}
        for counts in (*(tail.saturated for tail in self._tails), *(record.saturated for record in self.records)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def tail_documents(self) -> int:
        """Documents waiting for the next flush, dead ones included."""
        return sum(len(tail.rows) for tail in self._tails)

    @property
    def segment_parts(self) -> list[SegmentPart]:
        """The live segments with their deletions, of the latest generation."""
        return [part for part in self.generation.parts if isinstance(part, SegmentPart)]

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
        job = Job(rows, terms, len(rows) >= BULK_DOCUMENTS, request_id=request_id, digest=digest)
        answer: WriteAnswer = self._submit(job).result()
        return answer

    def delete(
        self, ids: Sequence[str] = (), *, node: Node | None = None, request_id: str = "", digest: str = ""
    ) -> WriteAnswer:
        """Delete documents by id (missing ones are skipped) or all that satisfy a filter; durable on return."""
        self._check_open()
        job = Job(delete_ids=ids, delete_filter=node, request_id=request_id, digest=digest)
        answer: WriteAnswer = self._submit(job).result()
        return answer

    def run(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` in the writer thread inside a transaction, then reload memory from the catalogue."""
        self._check_open()
        return self._submit(Job(work=work)).result()

    def seal(self) -> list[TailPart]:
        """Turn to a new tail, and return those that are to be flushed, oldest first; none when nothing waits.

        They stay searchable, and their documents may die, until :meth:`swap` replaces them.
        """
        self._check_open()
        tails: list[TailPart] = self._submit(Job(seal=True)).result()
        return tails

    def swap(self, made: Sequence[Made], replaced: Sequence[str] = (), flushed: int = 0) -> None:
        """Make segments live in place of others, and of the tails' documents up to seq ``flushed``.

        The segments hold what was alive there at some moment; what has died since is settled here, in one transaction.
        """
        self._check_open()
        self._submit(Job(swap=Swap(made, frozenset(replaced), flushed))).result()
        self._remove(replaced)

    def _remove(self, names: Iterable[str]) -> None:
        """Remove segments that the catalogue no longer names."""
        for name in names:
            with contextlib.suppress(StorageError):  # else the next opening removes it
                storage.remove_folder(self._segments_folder / name)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"collection {self.folder.name!r} is closed")
        if self.read_only:
            raise ReadOnlyError(f"collection {self.folder.name!r} was opened read-only")
        if self._broken is not None:
            raise StorageError(
                f"writes stopped after an earlier failure: {self._broken}; close and open the database again"
            ) from self._broken

    def _submit(self, job: Job) -> Future[Any]:
        with self._closing:  # so that nothing is queued behind the end mark
            self._check_open()
            self._queue.put(job)
        return job.future

    def _run(self) -> None:
        """The writer thread."""
        while jobs := self._queue.take():
            self._process(jobs)

    def _process(self, jobs: Sequence[Job]) -> None:
        """One transaction for all jobs: apply, commit, publish, answer."""
        if self._broken is not None:
            for job in jobs:
                job.future.set_exception(self._broken)
            return
        if jobs[0].seal:
            return self._seal(jobs[0].future)
        state_before, effects = copy.deepcopy(self.state), Effects()
        answers: list[tuple[Job, Any]] = []
        try:
            with self.catalog.transaction():
                for job in jobs:
                    try:
                        with self.catalog.savepoint():
                            answers.append((job, self._apply(job, effects)))
                    except ConflictError as error:  # raised before anything was changed
                        job.future.set_exception(error)
                if answers:
                    self.lexicons.write(self.catalog)
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

    def _undo(self, state: dict[str, Any], effects: Effects) -> None:
        self.state = state
        self.lexicons.rollback()
        if self._broken is None:
            discard(self, effects.segments)

    def _apply(self, job: Job, effects: Effects) -> Any:
        if job.work is not None:
            return job.work()
        if job.swap is not None:
            return self._apply_swap(job.swap, effects)
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

    def _apply_rows(self, job: Job, effects: Effects) -> WriteAnswer:
        replaced = self.catalog.find(row.id for row in job.rows)
        for seq in replaced.values():
            self.catalog.delete_document(seq)
            effects.dead.append(seq)
        for seq, (row, terms) in enumerate(zip(job.rows, job.terms, strict=True), self.state["next_seq"]):
            row.seq = seq
            row.terms = {name: self.lexicons.number(name, passages, self.state) for name, passages in terms.items()}
        self.state["next_seq"] += len(job.rows)
        self.state["documents"] += len(job.rows) - len(replaced)
        saturated = 0
        if job.bulk:
            building = self._helper.submit(self.build, job.rows)
            try:
                self._insert(job.rows)
            finally:  # whatever happened to the rows, the segment is ours to publish or to remove
                segment, record = building.result()
                effects.segments.append(segment)
            self.catalog.add_segment(record)
            saturated = sum(record.saturated.values())
        else:
            self._insert(job.rows)
            self.catalog.add_to_tail(row.seq for row in job.rows)
            effects.new_rows.extend(job.rows)
        self.state["version"] += 1
        return WriteAnswer(len(job.rows), len(replaced), 0, self.state["version"], saturated)

    def _insert(self, rows: Sequence[Row]) -> None:
        self.catalog.insert_documents((row.seq, row.id, pack(row)) for row in rows)

    def _apply_delete(self, job: Job, effects: Effects) -> WriteAnswer:
        if job.delete_filter is not None:
            generation = self.generation  # the writer's own latest: a filter delete runs alone
            found = [seq for seq, _ in generation.scan(generation.mask(job.delete_filter))]
        else:
            found = list(self.catalog.find(dict.fromkeys(job.delete_ids)).values())
        for seq in found:
            self.catalog.delete_document(seq)
        effects.dead.extend(found)
        self.state["documents"] -= len(found)
        self.state["version"] += 1
        return WriteAnswer(0, 0, len(found), self.state["version"])

    def _apply_swap(self, swap: Swap, effects: Effects) -> None:
        for name in swap.replaced:
            self.catalog.remove_segment(name)
        for _, record in swap.made:
            self.catalog.add_segment(record)
        new = _seqs_of([segment for segment, _ in swap.made])
        if swap.flushed:
            died = [seq for tail in self._tails for seq in tail.dead]
            self.catalog.add_deletions(np.intersect1d(new, np.array(died, np.int64)).tolist())
            self.catalog.empty_tail(swap.flushed)
        merged = [part.seqs[part.dead] for part in self._parts if part.segment.name in swap.replaced]
        for dead in merged:  # they died before the merge began: nothing holds them any more
            self.catalog.remove_deletions(np.setdiff1d(dead, new).tolist())
        effects.swap = swap

    def load_model(self, item: FieldSchema) -> DerivedModel:
        """The model of a derived field, loaded once.

        Raises
        ------
        CorruptIndexError
            Its files hold another model than the field was filled with.
        """
        assert isinstance(item.spec, SAEField)
        known = self._loaded.get(item.spec.model)
        if known is not None and known.fingerprint == item.fingerprint:
            return known
        model = self._models(item.spec)
        if model.fingerprint != item.fingerprint:
            raise CorruptIndexError(
                f"the model of field {item.name!r} in {self.folder / item.spec.model} changed on disk: "
                f"expected {item.fingerprint[:12]}, found {model.fingerprint[:12]}",
                path=self.folder / item.spec.model,
            )
        self._loaded[item.spec.model] = model
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

    def _take_over(self, effects: Effects, *, reload: bool) -> None:
        """Apply a committed transaction to memory and publish."""
        if reload:
            before = {record.name for record in self.records}
            self._load()
            self._remove(before - {record.name for record in self.records})
            return
        self._tails[-1].append(effects.new_rows, self._average_lengths())
        self._parts += [SegmentPart(segment, np.empty(0, np.int64)) for segment in effects.segments]
        if effects.swap is not None:
            self._take_swap(effects.swap)
        if effects.segments or effects.swap is not None:
            self.records = self.catalog.segments()
        if effects.dead:
            dead = np.array(sorted(effects.dead), np.int64)
            self._parts = [self._without(part, dead) for part in self._parts]
            for tail in self._tails:
                tail.kill(dead)
        self._publish()

    def _without(self, part: SegmentPart, dead: NDArray[np.int64]) -> SegmentPart:
        """A segment's part with more dead documents, ascending seqs; the same one when it holds none of them."""
        at = np.searchsorted(part.seqs, dead)
        at = at[part.seqs[np.minimum(at, part.documents - 1)] == dead] if part.documents else at[:0]
        return SegmentPart(part.segment, np.union1d(part.dead, at)) if len(at) else part

    def _take_swap(self, swap: Swap) -> None:
        gone = [part for part in self._parts if part.segment.name in swap.replaced]
        died = [part.seqs[part.dead] for part in gone]
        died += [np.array(sorted(tail.dead), np.int64) for tail in self._tails if tail.last_seq <= swap.flushed]
        dead = np.unique(np.concatenate(died)) if died else np.empty(0, np.int64)
        self._parts = [part for part in self._parts if part not in gone]
        self._parts += [self._without(SegmentPart(segment, dead[:0]), dead) for segment, _ in swap.made]
        self._tails = [tail for tail in self._tails if tail.last_seq > swap.flushed or tail is self._tails[-1]]

    def _seal(self, future: Future[Any]) -> None:
        """Make the tail one that only loses documents, and begin another."""
        try:
            if self._tails[-1].rows:
                self._tails.append(Tail(self.schema, self.derived))
                self._publish()
            future.set_result([tail.view() for tail in self._tails[:-1]])
        except BaseException as error:  # the writer thread lives on
            future.set_exception(error)

    def _read_terms(self, field: str, term_id: int) -> list[tuple[int, list[str]]]:
        with self._reader_lock:
            self._check_readable()
            return list(self._reader.terms(field, term_id))

    def _check_readable(self) -> None:
        if self._closed:
            raise ClosedError(f"collection {self.folder.name!r} is closed")

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

    def close(self) -> None:
        """Finish queued writes, stop the writer thread, close the catalogue. Harmless when called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.end()
        if self._writer is not None:
            self._writer.join()
        self._helper.shutdown()
        with self._reader_lock, self._refresh_lock:
            self._reader.close()
            self.catalog.close()
