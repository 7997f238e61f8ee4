"""Searching one part of a generation: a segment, or the tail. Both answer the same questions.

A part's documents have local numbers 0..documents-1 in order of ``seq``. Masks are one bool per document;
None allows all. Scores of impact fields are exact integers in the 8-bit domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.index.effort import NO_WORK
from sparsight.index.filters import Node
from sparsight.index.ranges import ranges
from sparsight.index.rows import Row
from sparsight.index.segment import Segment, pack_bits
from sparsight.kernels import EXACT, CancelFlag, Effort, Work, score_passages, score_postings, topk_documents_batch

if TYPE_CHECKING:
    from pyroaring import BitMap

__all__ = ["BoolMask", "ImpactQuery", "LocalHits", "Part", "SegmentPart", "best_of_groups", "both", "flags_of", "top"]

BoolMask: TypeAlias = NDArray[np.bool_]


class ImpactQuery(NamedTuple):
    """A quantised query: sorted unique terms (u32), signed weights (i16), and what a score of 1 is worth."""

    terms: NDArray[np.uint32]
    weights: NDArray[np.int16]
    unit: float


class LocalHits(NamedTuple):
    """Documents of a part, best first: local numbers, scores (i32 or f32), winning passage within the document.

    ``work`` is that of the search that found them.
    """

    documents: NDArray[np.int64]
    scores: NDArray[np.int32] | NDArray[np.float32]
    passages: NDArray[np.int64]
    work: Work = NO_WORK


class Part(Protocol):
    """What a generation asks of its parts."""

    documents: int
    passages: int
    seqs: NDArray[np.int64]
    alive: BoolMask | None

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
    ) -> list[LocalHits]: ...

    def search_dense(
        self,
        field: str,
        queries: NDArray[np.float32],
        k: int,
        masks: Sequence[BoolMask | None],
        cancel: CancelFlag | None,
    ) -> list[LocalHits]: ...

    def score_impacts(self, field: str, documents: NDArray[np.int64], query: ImpactQuery) -> LocalHits: ...

    def score_dense(self, field: str, documents: NDArray[np.int64], query: NDArray[np.float32]) -> LocalHits: ...

    def evaluate(self, node: Node) -> BoolMask: ...

    def holders(self, field: str, term: int, level: int) -> NDArray[np.int64]: ...

    def document_frequency(self, field: str, terms: NDArray[np.uint32]) -> NDArray[np.int64]: ...

    def sparse_row(
        self, field: str, document: int, passage: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[Any]]: ...

    def dense_row(self, field: str, document: int, passage: int) -> NDArray[np.float32] | None: ...

    def passages_of(self, document: int) -> int: ...

    def document(self, document: int) -> Row: ...


def both(a: BoolMask | None, b: BoolMask | None) -> BoolMask | None:
    """Documents allowed by both masks."""
    if a is None:
        return b
    return a if b is None else a & b


def flags_of(bitmap: BitMap, count: int) -> BoolMask:
    """A roaring bitmap of row numbers below ``count`` as one bool a row."""
    flags = np.zeros(count, bool)
    flags[np.asarray(bitmap.to_array(), np.int64)] = True
    return flags


def passage_rows(
    passage_offsets: NDArray[np.uint32], documents: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All passages of some documents, and where each document's begin among them."""
    begins = passage_offsets[documents]
    rows, starts = ranges(begins, passage_offsets[documents + 1] - begins)
    return rows.astype(np.uint32), starts[:-1]


def documents_of(passage_offsets: NDArray[np.uint32], passages: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The documents of ascending passages, each once."""
    documents = np.searchsorted(passage_offsets, passages, side="right") - 1
    return documents[np.diff(documents, prepend=-1) > 0]


def _bits_at(words: NDArray[np.uint64], positions: NDArray[np.int64]) -> BoolMask:
    """Single bits of packed words."""
    return (words[positions >> 6] >> (positions & 63).astype(np.uint64) & np.uint64(1)).astype(bool)


def best_of_groups(
    scores: NDArray[np.int32] | NDArray[np.float32], begins: NDArray[np.int64]
) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int64]]:
    """Each group's largest score and its first position within the group. Groups are not empty."""
    if len(begins) == len(scores):  # one passage a document, the usual case
        return scores, np.zeros(len(scores), np.int64)
    if len(begins) == 0:
        return scores[:0], begins
    best = np.maximum.reduceat(scores, begins)
    counts = np.diff(np.append(begins, len(scores)))
    position = np.arange(len(scores)) - np.repeat(begins, counts)
    losing = scores < np.repeat(best, counts)
    return best, np.minimum.reduceat(np.where(losing, len(scores), position), begins)


def top(scores: NDArray[np.int32] | NDArray[np.float32], k: int, allowed: BoolMask) -> NDArray[np.int64]:
    """Numbers of the k best allowed documents; ties go to the lower number."""
    candidates = np.flatnonzero(allowed)
    if len(candidates) > k:
        chosen = scores[candidates]
        kth = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
        candidates = candidates[chosen >= kth]
    order = np.lexsort((candidates, -scores[candidates].astype(np.float64)))
    return candidates[order[:k]]


_MANY_TERMS = 512
"""From so many on, passages are scored by their own vectors, not by the terms' postings. Re-scoring an SAE field asks
so, with a weight for each of thousands of latents. With few terms it would read a second copy of the field for
nothing."""


class SegmentPart:
    """A segment with its deletions at one generation."""

    def __init__(self, segment: Segment, dead: NDArray[np.int64]) -> None:
        self.segment = segment
        self.documents = segment.documents
        self.passages = segment.passages
        self.seqs = segment.seqs
        self.dead = dead  # local numbers, ascending
        self.alive: BoolMask | None = None
        if len(dead):
            self.alive = np.ones(segment.documents, bool)
            self.alive[dead] = False

    @cached_property
    def _single(self) -> bool:
        """Whether every document is one passage: then their numbers agree, and 7,000 need not be looked up (0.7 ms)."""
        return self.documents == self.passages and bool((np.diff(self.segment.passage_offsets) == 1).all())

    @cached_property
    def _alive_words(self) -> NDArray[np.uint64] | None:
        return None if self.alive is None else pack_bits(self.alive)

    def _words(self, mask: BoolMask | None) -> NDArray[np.uint64] | None:
        if mask is None:
            return self._alive_words
        return pack_bits(mask if self.alive is None else mask & self.alive)

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
        """Top k documents of each query; only scores above the query's ``min_scores`` (and above 0) count."""
        found = topk_documents_batch(
            self.segment.postings(field),
            [(query.terms, query.weights) for query in queries],
            k,
            masks=self._word_list(masks),
            min_score=min(min_scores),
            effort=effort,
            cancel=cancel,
            threads=threads,
        )
        offsets = self.segment.passage_offsets
        hits = []
        for one, least in zip(found, min_scores, strict=True):
            kept = int(np.count_nonzero(one.scores > least))  # best first: what is too low is at the end
            documents = one.documents[:kept].astype(np.int64)
            passages = one.passages[:kept].astype(np.int64) - offsets[documents]
            hits.append(LocalHits(documents, one.scores[:kept], passages, one.work))
        return hits

    def _word_list(
        self, masks: Sequence[BoolMask | None]
    ) -> NDArray[np.uint64] | list[NDArray[np.uint64] | None] | None:
        if all(mask is masks[0] for mask in masks):
            return self._words(masks[0])
        return [self._words(mask) for mask in masks]

    def search_dense(
        self,
        field: str,
        queries: NDArray[np.float32],
        k: int,
        masks: Sequence[BoolMask | None],
        cancel: CancelFlag | None,
    ) -> list[LocalHits]:
        """Top k documents by inner product of each query (B, D)."""
        if cancel is not None:
            cancel.check()
        present = self.segment.present(field)
        complete = int(np.bitwise_count(present).sum()) == self.documents
        words: dict[int, NDArray[np.uint64] | None] = {}
        for mask in masks:
            if id(mask) not in words:
                allowed = self._words(mask)
                words[id(mask)] = allowed if complete else present if allowed is None else present & allowed
        offsets, index = self.segment.passage_offsets, self.segment.dense(field)
        found = index.search_batch(queries, k, passage_offsets=offsets, masks=[words[id(mask)] for mask in masks])
        work = Work("exact" if index.exact else "approximate", 0, 0, self.passages, 0)
        return [
            LocalHits(
                one.documents.astype(np.int64), one.scores, one.passages.astype(np.int64) - offsets[one.documents], work
            )
            for one in found
        ]

    def score_impacts(self, field: str, documents: NDArray[np.int64], query: ImpactQuery) -> LocalHits:
        """Exact scores of chosen documents, in their order."""
        rows, begins = passage_rows(self.segment.passage_offsets, documents)
        if len(query.terms) > _MANY_TERMS:
            scores = score_passages(self.segment.forward(field), query.terms, query.weights, rows)
        else:
            order = np.argsort(rows, kind="stable")
            scores = np.empty(len(rows), np.int32)
            scores[order] = score_postings(self.segment.postings(field), query.terms, query.weights, rows[order])
        best, passages = best_of_groups(scores, begins)
        return LocalHits(documents, best, passages)

    def score_dense(self, field: str, documents: NDArray[np.int64], query: NDArray[np.float32]) -> LocalHits:
        """Inner products of chosen documents, in their order; NaN for documents without a vector."""
        from sparsight.index.dense import scores

        rows, begins = passage_rows(self.segment.passage_offsets, documents)
        best, passages = best_of_groups(scores(self.segment.dense_rows(field), rows, query), begins)
        have = _bits_at(self.segment.present(field), documents)
        return LocalHits(documents, np.where(have, best, np.float32(np.nan)), passages)

    def evaluate(self, node: Node) -> BoolMask:
        """Documents whose metadata satisfies a filter."""
        return flags_of(self.segment.columns.evaluate(node), self.documents)

    def holders(self, field: str, term: int, level: int) -> NDArray[np.int64]:
        """Documents, ascending, with a passage in which ``term`` has an impact of at least ``level``."""
        passages, impacts = self.segment.postings(field).decode(term)
        passages = passages[impacts >= level]
        return passages.astype(np.int64) if self._single else documents_of(self.segment.passage_offsets, passages)

    def document_frequency(self, field: str, terms: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Passages that hold each term, those of dead documents included until they are merged away."""
        postings = self.segment.postings(field)
        if len(postings.term_ids) == 0:
            return np.zeros(len(terms), np.int64)
        at = np.minimum(np.searchsorted(postings.term_ids, terms), len(postings.term_ids) - 1)
        return np.where(postings.term_ids[at] == terms, postings.frequencies[at].astype(np.int64), 0)

    def sparse_row(
        self, field: str, document: int, passage: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[Any]]:
        """One passage's term ids, 8-bit impacts and weights."""
        return self.segment.sparse_row(field, int(self.segment.passage_offsets[document]) + passage)

    def dense_row(self, field: str, document: int, passage: int) -> NDArray[np.float32] | None:
        """One passage's dense vector, or None."""
        if not int(self.segment.present(field)[document >> 6]) >> (document & 63) & 1:
            return None
        row: NDArray[np.float32] = self.segment.dense_rows(field)[int(self.segment.passage_offsets[document]) + passage]
        return row

    def passages_of(self, document: int) -> int:
        """Passages of a document."""
        first, last = self.segment.passage_offsets[document:document + 2].tolist()
        return int(last - first)

    def document(self, document: int) -> Row:
        """The stored parts of a document."""
        return self.segment.document(document)
