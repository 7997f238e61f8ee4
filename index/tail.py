"""The tail: documents not yet in a segment, searchable as soon as they are acknowledged.

Append-only arrays of forward vectors, scored whole: at most a few thousand passages, so a search of the tail
costs less than building postings for it would. A :class:`TailPart` is a view of the first n documents;
appending never changes what a view sees, because arrays only grow at their end or are copied when full.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.index import columns, filters
from sparsight.index.parts import (
    BoolMask,
    ImpactQuery,
    LocalHits,
    best_of_groups,
    both,
    documents_of,
    flags_of,
    passage_rows,
    top,
)
from sparsight.index.rows import Row
from sparsight.index.schema import CollectionSchema, DerivedModel
from sparsight.index.segment import impact_columns
from sparsight.kernels import EXACT, CancelFlag, Effort, Forward, Work, score_passages
from sparsight.types import BM25Field, DenseField

__all__ = ["Tail", "TailPart"]

_CHUNK = 256
"""Documents whose metadata is put into columns together; the last, partial chunk is evaluated row by row."""


class _Growing:
    """A numpy array that grows at its end; ``view(n)`` stays valid and unchanged for ever."""

    def __init__(self, dtype: Any, *shape: int) -> None:
        self._data = np.empty((1024, *shape), dtype)
        self.length = 0

    def extend(self, values: NDArray[Any]) -> None:
        end = self.length + len(values)
        if end > len(self._data):
            grown = np.empty((max(end, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
            grown[: self.length] = self._data[: self.length]
            self._data = grown  # older views keep the old array
        self._data[self.length : end] = values
        self.length = end

    def view(self, length: int) -> NDArray[Any]:
        view = self._data[:length]
        view.flags.writeable = False
        return view


class _ImpactStore:
    """Forward vectors of one impact field; for BM25 also in which passages each term occurs."""

    def __init__(self, count_terms: bool) -> None:
        self.indptr = _Growing(np.uint64)
        self.indptr.extend(np.zeros(1, np.uint64))
        self.term_ids = _Growing(np.uint32)
        self.impacts = _Growing(np.uint8)
        self.values = _Growing(np.float32)
        self.occurrences: dict[int, list[int]] | None = defaultdict(list) if count_terms else None
        self.saturated = 0


class Tail:
    """Documents appended since the last flush. Used by the writer alone; searches use :meth:`view`.

    When a flush begins, the writer turns to a new tail and leaves this one as it is, but for documents that die.
    """

    def __init__(self, schema: CollectionSchema, derived: Mapping[str, DerivedModel]) -> None:
        self.schema = schema
        self._derived = derived
        self.rows: list[Row] = []
        self.dead: set[int] = set()  # seqs of those deleted or replaced since they were appended
        self._latest: TailPart | None = None
        self._seqs = _Growing(np.int64)
        self._offsets = _Growing(np.uint32)
        self._offsets.extend(np.zeros(1, np.uint32))
        self._impacts: dict[str, _ImpactStore] = {}
        self._dense: dict[str, tuple[_Growing, _Growing]] = {}
        self._columns: list[columns.Columns] = []
        for field in schema.fields:
            if isinstance(field.spec, DenseField):
                self._dense[field.name] = (_Growing(np.float32, field.dimension), _Growing(np.bool_))
            else:
                self._impacts[field.name] = _ImpactStore(isinstance(field.spec, BM25Field))

    def append(self, rows: Sequence[Row], average_lengths: Mapping[str, float]) -> None:
        """Add rows of ascending seq. They are seen by views made afterwards."""
        if not rows:
            return
        first_passage = int(self._offsets.view(self._offsets.length)[-1])
        counts = np.array([row.passages for row in rows], np.uint32)
        for field in self.schema.fields:
            if isinstance(field.spec, DenseField):
                vectors, present = self._dense[field.name]
                for row in rows:
                    missing = np.zeros((row.passages, field.dimension), np.float32)
                    vectors.extend(row.dense.get(field.name, missing))
                    present.extend(np.array([field.name in row.dense]))
                continue
            column = impact_columns(field, rows, self._derived, average_lengths.get(field.name, 1.0))
            store = self._impacts[field.name]
            store.indptr.extend(column.indptr[1:] + np.uint64(store.term_ids.length))
            store.term_ids.extend(column.term_ids)
            store.impacts.extend(column.impacts)
            store.values.extend(column.values)
            store.saturated += column.saturated
            if store.occurrences is not None:
                passage_of = (
                    np.repeat(np.arange(int(counts.sum())), np.diff(column.indptr).astype(np.int64)) + first_passage
                )
                for term, passage in zip(column.term_ids.tolist(), passage_of.tolist(), strict=True):
                    store.occurrences[term].append(passage)
        self.rows.extend(rows)
        self._seqs.extend(np.array([row.seq for row in rows], np.int64))
        self._offsets.extend((first_passage + np.cumsum(counts)).astype(np.uint32))
        while (len(self._columns) + 1) * _CHUNK <= len(self.rows):
            start = len(self._columns) * _CHUNK
            self._columns.append(columns.build([row.metadata for row in self.rows[start : start + _CHUNK]]))

    def kill(self, seqs: NDArray[np.int64]) -> None:
        """Mark those of ``seqs`` (ascending) that are here as dead."""
        mine = self._seqs.view(self._seqs.length)
        if len(mine) and len(seqs) and seqs[-1] >= mine[0] and seqs[0] <= mine[-1]:
            self.dead.update(np.intersect1d(seqs, mine, assume_unique=True).tolist())

    @property
    def last_seq(self) -> int:
        """The seq of the last document, 0 when there is none."""
        return self.rows[-1].seq if self.rows else 0

    def view(self) -> TailPart:
        """The tail as it is now, without its dead documents."""
        latest = self._latest
        if latest is None or (latest.documents, latest.died) != (len(self.rows), len(self.dead)):
            latest = self._latest = TailPart(self, len(self.rows), self.dead)
        return latest

    @property
    def saturated(self) -> dict[str, int]:
        """Saturated weights by field."""
        return {name: store.saturated for name, store in self._impacts.items()}


class TailPart:
    """The first documents of a tail at one generation."""

    def __init__(self, tail: Tail, documents: int, dead_seqs: set[int]) -> None:
        self.documents = documents
        self.died = len(dead_seqs)
        self.seqs = tail._seqs.view(documents)
        self._offsets = tail._offsets.view(documents + 1)
        self.passages = int(self._offsets[-1])
        self._rows = tail.rows  # append-only; only the first `documents` are looked at
        self._columns = tail._columns[: documents // _CHUNK]
        self._dense = {
            name: (vectors.view(self.passages), present.view(documents))
            for name, (vectors, present) in tail._dense.items()
        }
        self._forward, self._values, self._occurrences = {}, {}, {}
        for name, store in tail._impacts.items():
            indptr = store.indptr.view(self.passages + 1)
            end = int(indptr[-1])
            self._forward[name] = Forward(indptr, store.term_ids.view(end), store.impacts.view(end))
            self._values[name] = store.values.view(end)
            self._occurrences[name] = store.occurrences
        self.alive: BoolMask | None = None
        if dead_seqs:
            self.alive = ~np.isin(self.seqs, np.fromiter(dead_seqs, np.int64, len(dead_seqs)))

    def search_impacts(
        self,
        field: str,
        queries: Sequence[ImpactQuery],
        k: int,
        masks: Sequence[BoolMask | None],
        min_scores: Sequence[int],
        cancel: CancelFlag | None,
        threads: int,
        effort: Effort = EXACT,
    ) -> list[LocalHits]:
        """Top k documents of each query, as :meth:`SegmentPart.search_impacts`; exact whatever the effort."""
        hits = []
        for query, mask, least in zip(queries, masks, min_scores, strict=True):
            if cancel is not None:
                cancel.check()
            scores = score_passages(self._forward[field], query.terms, query.weights)
            best, passages = best_of_groups(scores, self._offsets[:-1].astype(np.int64))
            allowed = both(both(mask, self.alive), best > max(0, least))
            chosen = top(best, k, allowed if allowed is not None else np.ones(0, bool))
            work = Work("exact", 0, 0, self.passages, self.passages)
            hits.append(LocalHits(chosen, best[chosen], passages[chosen], work))
        return hits

    def search_dense(
        self,
        field: str,
        queries: NDArray[np.float32],
        k: int,
        masks: Sequence[BoolMask | None],
        cancel: CancelFlag | None,
    ) -> list[LocalHits]:
        """Top k documents by inner product of each query (B, D)."""
        from sparsight.index.dense import scores

        vectors, present = self._dense[field]
        hits = []
        for query, mask in zip(queries, masks, strict=True):
            if cancel is not None:
                cancel.check()
            best, passages = best_of_groups(scores(vectors, None, query), self._offsets[:-1].astype(np.int64))
            allowed = both(both(mask, self.alive), present)
            chosen = top(best, k, allowed if allowed is not None else present)
            work = Work("exact", 0, 0, self.passages, 0)
            hits.append(LocalHits(chosen, best[chosen], passages[chosen], work))
        return hits

    def score_impacts(self, field: str, documents: NDArray[np.int64], query: ImpactQuery) -> LocalHits:
        """Exact scores of chosen documents, in their order."""
        rows, begins = passage_rows(self._offsets, documents)
        scores = score_passages(self._forward[field], query.terms, query.weights, rows)
        best, passages = best_of_groups(scores, begins)
        return LocalHits(documents, best, passages)

    def score_dense(self, field: str, documents: NDArray[np.int64], query: NDArray[np.float32]) -> LocalHits:
        """Inner products of chosen documents, in their order; NaN for documents without a vector."""
        from sparsight.index.dense import scores

        vectors, present = self._dense[field]
        rows, begins = passage_rows(self._offsets, documents)
        best, passages = best_of_groups(scores(vectors, rows, query), begins)
        return LocalHits(documents, np.where(present[documents], best, np.float32(np.nan)), passages)

    def evaluate(self, node: filters.Node) -> BoolMask:
        """Documents whose metadata satisfies a filter."""
        parts = [flags_of(chunk.evaluate(node), _CHUNK) for chunk in self._columns]
        rest = self._rows[len(self._columns) * _CHUNK : self.documents]
        parts.append(np.fromiter((filters.matches(node, row.metadata) for row in rest), bool, len(rest)))
        return np.concatenate(parts)

    def holders(self, field: str, term: int, level: int) -> NDArray[np.int64]:
        """Documents, ascending, with a passage in which ``term`` has an impact of at least ``level``."""
        forward = self._forward[field]
        entries = np.flatnonzero((forward.term_ids == term) & (forward.impacts >= level))
        passages = np.searchsorted(forward.indptr, entries.astype(np.uint64), side="right") - 1
        return documents_of(self._offsets, passages.astype(np.uint32))

    def document_frequency(self, field: str, terms: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Passages that hold each term."""
        occurrences = self._occurrences[field] or {}
        return np.array([bisect_left(occurrences.get(term, ()), self.passages) for term in terms.tolist()], np.int64)

    def sparse_row(
        self, field: str, document: int, passage: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[Any]]:
        """One passage's term ids, 8-bit impacts and weights."""
        forward, row = self._forward[field], int(self._offsets[document]) + passage
        span = slice(int(forward.indptr[row]), int(forward.indptr[row + 1]))
        return forward.term_ids[span], forward.impacts[span], self._values[field][span]

    def dense_row(self, field: str, document: int, passage: int) -> NDArray[np.float32] | None:
        """One passage's dense vector, or None."""
        vectors, present = self._dense[field]
        return vectors[int(self._offsets[document]) + passage] if present[document] else None

    def passages_of(self, document: int) -> int:
        """Passages of a document."""
        first, last = self._offsets[document:document + 2].tolist()
        return int(last - first)

    def document(self, document: int) -> Row:
        """The stored parts of a document."""
        return self._rows[document]
