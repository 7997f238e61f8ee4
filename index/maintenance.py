"""Flush, merge, rebuild: making segments in the background while searches and writes go on.

New segments are built from the catalogue's or the tail's rows by the calling thread; only their publication runs in
the writer thread, in one transaction that is short whatever the size of the segments. Documents that died while a
segment was being built are found then.

The work is done in small pieces with pauses between them. Python's lock is handed over only every 5 ms when it is not
given up, so a search beside a long loop would wait that long several times.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import SparsightError, StorageError
from sparsight.index.jobs import Made
from sparsight.index.parts import Part, SegmentPart
from sparsight.index.rows import Row
from sparsight.index.schema import CollectionSchema
from sparsight.index.store import CollectionStore
from sparsight.index.transactions import remove_segments

__all__ = ["FLUSH_DOCUMENTS", "Maintenance", "compact", "flush", "merge_candidates", "rebuild"]

FLUSH_DOCUMENTS = 2_048
"""A tail of this many documents is flushed to a segment.

A search takes 0.12 ms for each 1,000 documents of a tail and 0.06 ms for a small segment (225 weights a document), so a
longer tail costs it more than the segments that flushes leave.
"""

MERGE_FACTOR = 4
"""This many segments of one size class are merged; a class spans a factor of 4 in documents."""

REBUILD_DOCUMENTS = 262_144
"""Documents in a segment that a rebuild makes: what is held in memory at a time."""

_READ_DOCUMENTS = 32  # rows read from the catalogue between two pauses: about half a millisecond
_PAUSE_S = 1e-4


def flush(store: CollectionStore) -> bool:
    """Build a segment of the tail's living documents; False when there are none."""
    with store.maintenance_lock:
        return _flush(store)


def _flush(store: CollectionStore) -> bool:
    tails = store.seal()
    if not tails:
        return False
    rows = [part.document(local) for part in tails for local in _living(part).tolist()]
    made = [store.build(rows)] if rows else []
    _swap(store, made, [], int(tails[-1].seqs[-1]))
    return bool(made)


def _living(part: Part) -> NDArray[np.int64]:
    return np.arange(part.documents) if part.alive is None else np.flatnonzero(part.alive)


def _swap(store: CollectionStore, made: Sequence[Made], replaced: Sequence[str], flushed: int = 0) -> None:
    try:
        store.swap(made, replaced, flushed)
    except StorageError:
        raise  # the commit may have happened after all: its segments must stay
    except BaseException:
        remove_segments(store.folder, [segment.name for segment, _ in made])
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


def _merge(store: CollectionStore, parts: Sequence[SegmentPart]) -> None:
    """Replace segments by one with their living documents, read from the catalogue."""
    seqs = np.sort(np.concatenate([part.seqs[_living(part)] for part in parts])).tolist()
    rows: list[Row] = []
    for start in range(0, len(seqs), _READ_DOCUMENTS):
        rows += store.all_rows(seqs[start : start + _READ_DOCUMENTS])
        time.sleep(_PAUSE_S)
    _swap(store, [store.build(rows)] if rows else [], [part.segment.name for part in parts])


def compact(store: CollectionStore) -> None:
    """Flush, then merge everything into one segment without dead documents."""
    with store.maintenance_lock:
        _flush(store)
        parts = store.segment_parts
        if len(parts) > 1 or any(part.alive is not None for part in parts):
            _merge(store, parts)


def rebuild(store: CollectionStore, schema: CollectionSchema) -> None:
    """Change the schema: build every living document into new segments under it and swap all at once.

    Writes wait meanwhile; searches go on with the old generation.
    """

    def work() -> None:
        catalog = store.catalog
        old = [record.name for record in store.memory.records]
        derived = dict(store.memory.derived)
        for item in schema.fields:
            if item.kind == "sae" and store.schema.field(item.name) != item:
                derived[item.name] = store.memory.load_model(item)
        seqs = catalog.all_seqs()
        parts = (seqs[start : start + REBUILD_DOCUMENTS] for start in range(0, len(seqs), REBUILD_DOCUMENTS))
        made = [store.build(list(catalog.rows(part)), schema, derived) for part in parts]
        for name in old:
            catalog.remove_segment(name)
        for _, record in made:
            catalog.add_segment(record)
        catalog.empty_tail(store.memory.state["next_seq"])
        catalog.remove_deletions(catalog.deletions())
        catalog.set_meta("schema", schema.to_json())

    with store.maintenance_lock:
        store.run(work, reload=True)


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
                import structlog  # here, because it is slow to import and seldom needed

                structlog.get_logger(__name__).warning(
                    "maintenance failed", collection=self._store.folder.name, error=str(error)
                )

    def _step(self) -> bool:
        """One flush or merge, if one is due."""
        store = self._store
        if store.memory.tail_documents >= FLUSH_DOCUMENTS:
            return flush(store)
        with store.maintenance_lock:
            parts = store.segment_parts
            names = merge_candidates([(part.segment.name, part.documents, len(part.dead)) for part in parts])
            if names:
                _merge(store, [part for part in parts if part.segment.name in names])
            return bool(names)

    def close(self) -> None:
        """Stop after the step under way."""
        self._stopping = True
        self._due.set()
        self._thread.join()
