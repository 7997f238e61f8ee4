"""Flush, merge, rebuild: making segments in the background while searches and writes go on.

New segments are built from the catalogue's or the tail's rows by the calling thread; only their publication
runs in the writer thread, in one transaction. Documents that died while a segment was being built are found
then, by comparing the segment with the catalogue.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import structlog

from sparsight.errors import SparsightError, StorageError
from sparsight.index.catalog import SegmentRecord
from sparsight.index.schema import CollectionSchema
from sparsight.index.segment import Segment
from sparsight.index.store import CollectionStore, discard

__all__ = ["FLUSH_DOCUMENTS", "Maintenance", "compact", "flush", "merge_candidates", "rebuild"]

FLUSH_DOCUMENTS = 4_096
"""A tail of this many documents is flushed to a segment."""

MERGE_FACTOR = 4
"""This many segments of one size class are merged; a class spans a factor of 4 in documents."""

REBUILD_DOCUMENTS = 262_144
"""Documents in a segment that a rebuild makes: what is held in memory at a time."""

_log = structlog.get_logger(__name__)


def _publish(
    store: CollectionStore,
    made: Sequence[tuple[Segment, SegmentRecord]],
    replaced: Sequence[str],
    flushed: Sequence[int],
) -> None:
    """In the writer thread: swap segments, settle who died meanwhile. Runs inside a transaction."""
    catalog = store.catalog
    gone = np.concatenate([_seqs_of(store, name) for name in replaced] or [np.empty(0, np.int64)])
    new = np.concatenate([segment.seqs for segment, _ in made] or [np.empty(0, np.int64)])
    for name in replaced:
        catalog.remove_segment(name)
    for _, record in made:
        catalog.add_segment(record)
    waiting = set(catalog.tail_seqs())
    catalog.add_deletions(seq for seq in flushed if seq not in waiting)  # deleted or replaced during the flush
    catalog.remove_from_tail(flushed)
    catalog.remove_deletions(np.setdiff1d(gone, new).tolist())  # dead rows of merged segments are no more


def _seqs_of(store: CollectionStore, name: str) -> np.ndarray:
    return next(
        part.seqs for part in store.generation.parts if getattr(getattr(part, "segment", None), "name", "") == name
    )


def flush(store: CollectionStore) -> bool:
    """Build a segment of the tail's living documents; False when there are none."""
    with store.maintenance_lock:
        return _flush(store)


def _flush(store: CollectionStore) -> bool:
    tail = store.generation.parts[-1]
    living = np.arange(tail.documents) if tail.alive is None else np.flatnonzero(tail.alive)
    if len(living) == 0:
        if tail.documents:  # only dead documents wait: let memory forget them
            store.run(lambda: None)
        return False
    made = store.build([tail.document(int(local)) for local in living])
    _run(store, [made], [], made[0].seqs.tolist())
    return True


def _run(
    store: CollectionStore,
    made: Sequence[tuple[Segment, SegmentRecord]],
    replaced: Sequence[str],
    flushed: Sequence[int],
) -> None:
    try:
        store.run(lambda: _publish(store, made, replaced, flushed))
    except StorageError:
        raise  # the commit may have happened after all: its segments must stay
    except BaseException:
        discard(store, [segment for segment, _ in made])
        raise


def merge_candidates(sizes: Sequence[tuple[str, int, int]]) -> list[str]:
    """Names of segments to merge next, or none.

    ``sizes`` are (name, documents, dead). Segments are classed by the logarithm of their living documents;
    the smallest class with at least 4 members is merged; a segment with more dead than living documents is rewritten.
    """
    classes: dict[int, list[str]] = defaultdict(list)
    for name, documents, dead in sizes:
        if dead * 2 > documents:
            return [name]
        classes[int(math.log(max(documents - dead, 1), MERGE_FACTOR))].append(name)
    full = [members for _, members in sorted(classes.items()) if len(members) >= MERGE_FACTOR]
    return full[0] if full else []


def _merge(store: CollectionStore, names: Sequence[str]) -> None:
    """Replace segments by one with their living documents, read from the catalogue."""
    parts = [part for part in store.generation.parts if getattr(getattr(part, "segment", None), "name", "") in names]
    living = [part.seqs if part.alive is None else part.seqs[part.alive] for part in parts]
    rows = store.all_rows(np.sort(np.concatenate(living)).tolist())
    made = [store.build(rows)] if rows else []
    _run(store, made, names, [])


def compact(store: CollectionStore) -> None:
    """Flush, then merge everything into one segment without dead documents."""
    with store.maintenance_lock:
        _flush(store)
        names = [part.segment.name for part in store.generation.parts[:-1]]  # type: ignore[attr-defined]
        if len(names) > 1 or any(part.alive is not None for part in store.generation.parts[:-1]):
            _merge(store, names)


def rebuild(store: CollectionStore, schema: CollectionSchema) -> None:
    """Change the schema: build every living document into new segments under it and swap all at once.

    Writes wait meanwhile; searches go on with the old generation.
    """

    def work() -> None:
        catalog = store.catalog
        old = [record.name for record in store.records]
        derived = dict(store.derived)
        for item in schema.fields:
            if item.kind == "sae" and store.schema.field(item.name) != item:
                derived[item.name] = store.load_model(item)
        seqs = catalog.all_seqs()
        parts = (seqs[start : start + REBUILD_DOCUMENTS] for start in range(0, len(seqs), REBUILD_DOCUMENTS))
        made = [store.build(list(catalog.rows(part)), schema, derived) for part in parts]
        for name in old:
            catalog.remove_segment(name)
        for _, record in made:
            catalog.add_segment(record)
        catalog.remove_from_tail(catalog.tail_seqs())
        catalog.remove_deletions(catalog.deletions())
        catalog.set_meta("schema", schema.to_json())

    with store.maintenance_lock:
        store.run(work)


class Maintenance:
    """A background thread that flushes and merges one collection when that is due."""

    def __init__(self, store: CollectionStore) -> None:
        self._store = store
        self._due = threading.Event()
        self._stopping = False
        store.on_change = self._due.set
        self._due.set()  # what an earlier process left
        self._thread = threading.Thread(
            target=self._loop, name=f"sparsight-maintenance-{store.folder.name}", daemon=True
        )
        self._thread.start()

    def _loop(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping:
                return
            try:
                while self._step() and not self._stopping:
                    pass
            except SparsightError as error:
                # The data is safe in the catalogue; searches go on over more and smaller parts.
                _log.warning("maintenance failed", collection=self._store.folder.name, error=str(error))

    def _step(self) -> bool:
        """One flush or merge, if one is due."""
        store = self._store
        if store.tail_documents >= FLUSH_DOCUMENTS:
            return flush(store)
        with store.maintenance_lock:
            parts = store.generation.parts[:-1]
            names = merge_candidates([(p.segment.name, p.documents, len(p.dead)) for p in parts])  # type: ignore[attr-defined]
            if names:
                _merge(store, names)
            return bool(names)

    def close(self) -> None:
        """Stop after the step under way."""
        self._stopping = True
        self._due.set()
        self._thread.join()
