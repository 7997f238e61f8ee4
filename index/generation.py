"""A generation: one consistent state of a collection, and searches over it.

A search holds a reference to its generation for its whole life, so every retriever, filter, score and stored
text comes from the same state; segments stay mapped as long as a generation that holds them is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import UnknownFieldError
from sparsight.index.effort import NO_WORK, shared_out, total_work
from sparsight.index.filters import Node
from sparsight.index.parts import BoolMask, ImpactQuery, LocalHits, Part, both
from sparsight.index.rows import Row
from sparsight.index.schema import CollectionSchema, DerivedModel, FieldSchema
from sparsight.kernels import CancelFlag, Work
from sparsight.types import Effort

__all__ = ["Condition", "Found", "Generation", "Mask", "Place", "Reference"]

_EXACT = Effort()

Mask: TypeAlias = tuple[BoolMask | None, ...]
"""Allowed documents of each part; None allows all that are alive."""


class Reference(NamedTuple):
    """A document within a generation: the part's position and the local number."""

    part: int
    document: int


Place: TypeAlias = tuple[Reference, int]
"""A passage of a document."""


class SparseRows(NamedTuple):
    """Passages (n) in an impact field: where each begins, (n + 1,), then term ids, 8-bit impacts and weights."""

    indptr: NDArray[np.int64]
    ids: NDArray[np.uint32]
    impacts: NDArray[np.uint8]
    weights: NDArray[np.float32]


class Found(NamedTuple):
    """Documents of a generation as parallel arrays (n,): where they are, their seq, score and best passage.

    ``work`` is that of the search that found them.
    """

    parts: NDArray[np.int64]
    documents: NDArray[np.int64]
    seqs: NDArray[np.int64]
    scores: NDArray[np.float64]
    passages: NDArray[np.int64]
    work: Work = NO_WORK

    def take(self, at: NDArray[np.int64] | slice) -> Found:
        """Some of them, in the order asked for."""
        return Found(self.parts[at], self.documents[at], self.seqs[at], self.scores[at], self.passages[at], self.work)

    def references(self) -> list[Reference]:
        """The documents as references, in order."""
        return [Reference(p, d) for p, d in zip(self.parts.tolist(), self.documents.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Condition:
    """Documents that have (``wanted``) or have not at least ``at_least`` of some terms.

    A document has ``terms[i]`` if the term's 8-bit impact is at least ``levels[i]`` in one of its passages.
    """

    field: str
    terms: tuple[int, ...]
    levels: tuple[int, ...]
    at_least: int = 1
    wanted: bool = True

    def mask(self, part: Part) -> BoolMask:
        """The documents of a part."""
        count = np.zeros(part.documents, np.uint16)
        for term, level in zip(self.terms, self.levels, strict=True):
            count[part.holders(self.field, term, level)] += 1
        return (count >= self.at_least) == self.wanted


def _found(position: int, part: Part, hits: LocalHits) -> Found:
    return Found(
        np.full(len(hits.documents), position, np.int64),
        hits.documents,
        part.seqs[hits.documents],
        hits.scores.astype(np.float64),
        hits.passages,
        hits.work,
    )


def _merge(found: Sequence[Found], k: int) -> Found:
    """The k best of several parts: higher score, then lower seq."""
    joined = Found(
        np.concatenate([one.parts for one in found]),
        np.concatenate([one.documents for one in found]),
        np.concatenate([one.seqs for one in found]),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.passages for one in found]),
        total_work([one.work for one in found]),
    )
    return joined.take(np.lexsort((joined.seqs, -joined.scores))[:k])


@dataclass(frozen=True)
class Generation:
    """One state of a collection.

    Attributes
    ----------
    number : int
        Grows with every published change in this process.
    version : int
        Number of committed writes; the same for every process that follows.
    parts : tuple of Part
        Segments, then the tail.
    lexicons : mapping
        ``{field: {term: term_id}}`` of BM25 fields; shared and append-only, so it may know newer terms,
        which no document of this generation holds.
    derived : mapping
        The models of derived fields that filled this generation's postings.
    profiles : mapping
        Steering profiles as they are kept: for each name its versions.
    labels : mapping
        What users call features, as it is kept, by field.
    """

    number: int
    version: int
    schema: CollectionSchema
    parts: tuple[Part, ...]
    lexicons: Mapping[str, Mapping[str, int]]
    average_lengths: Mapping[str, float]
    derived: Mapping[str, DerivedModel]
    profiles: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def field(self, name: str) -> FieldSchema:
        """The field of that name.

        Raises
        ------
        UnknownFieldError
            Naming those that exist.
        """
        found = self.schema.field(name)
        if found is None:
            names = ", ".join(field.name for field in self.schema.fields)
            raise UnknownFieldError(
                f"collection {self.schema.name!r} has no field {name!r:.80}; it has {names}", field="field"
            )
        return found

    @property
    def documents(self) -> int:
        """Living documents."""
        return sum(part.documents if part.alive is None else int(part.alive.sum()) for part in self.parts)

    @property
    def passages(self) -> int:
        """Passages, those of dead documents included until they are merged away."""
        return sum(part.passages for part in self.parts)

    # --- masks ---------------------------------------------------------------------------------------------

    def mask(self, node: Node | None, conditions: Sequence[Condition] = ()) -> Mask:
        """Documents that satisfy a filter and all conditions; None where nothing is asked."""
        masks = []
        for part in self.parts:
            allowed = None if node is None else part.evaluate(node)
            for condition in conditions:
                allowed = both(allowed, condition.mask(part))
            masks.append(allowed)
        return tuple(masks)

    def count(self, mask: Mask) -> int:
        """Living documents that a mask allows."""
        total = 0
        for part, allowed in zip(self.parts, mask, strict=True):
            flags = both(allowed, part.alive)
            total += part.documents if flags is None else int(flags.sum())
        return total

    def scan(self, mask: Mask, after_seq: int = 0) -> Iterator[tuple[int, Reference]]:
        """Living documents that a mask allows, as (seq, reference), by ascending seq above ``after_seq``."""
        seqs, parts, locals_ = [], [], []
        for position, (part, allowed) in enumerate(zip(self.parts, mask, strict=True)):
            flags = both(allowed, part.alive)
            chosen = np.flatnonzero(part.seqs > after_seq if flags is None else flags & (part.seqs > after_seq))
            seqs.append(part.seqs[chosen])
            parts.append(np.full(len(chosen), position))
            locals_.append(chosen)
        if not seqs:
            return
        all_seqs, all_parts, all_locals = np.concatenate(seqs), np.concatenate(parts), np.concatenate(locals_)
        for at in np.argsort(all_seqs):
            yield int(all_seqs[at]), Reference(int(all_parts[at]), int(all_locals[at]))

    # --- searches ------------------------------------------------------------------------------------------

    def search_impacts(
        self,
        field: str,
        queries: Sequence[ImpactQuery],
        k: int,
        masks: Sequence[Mask],
        min_scores: Sequence[float],
        cancel: CancelFlag | None = None,
        threads: int = 1,
        effort: Effort = _EXACT,
    ) -> list[Found]:
        """Top k documents of each quantised query, with the same effort for each; by default the exact ones.

        Scores are the exact 8-bit domain's integers times the query's unit. Only documents above 0 and above
        the query's ``min_scores`` entry are found. Ties: lower seq.
        """
        least = [
            min(2**31 - 1, max(0, int(np.floor(score / query.unit)))) if query.unit > 0 else 0
            for query, score in zip(queries, min_scores, strict=True)
        ]
        shares = shared_out(effort, k, [part.passages for part in self.parts])
        found = self._over_parts(
            len(queries),
            k,
            lambda at, part: part.search_impacts(
                field, queries, k, [mask[at] for mask in masks], least, cancel, threads, shares[at]
            ),
        )
        return [one._replace(scores=one.scores * query.unit) for query, one in zip(queries, found, strict=True)]

    def search_dense(
        self, field: str, queries: NDArray[np.float32], k: int, masks: Sequence[Mask], cancel: CancelFlag | None = None
    ) -> list[Found]:
        """Top k documents by inner product with each query (B, D); exact for flat fields. Ties: lower seq."""
        return self._over_parts(
            len(queries), k, lambda at, part: part.search_dense(field, queries, k, [mask[at] for mask in masks], cancel)
        )

    def _over_parts(self, queries: int, k: int, search: Callable[[int, Part], list[LocalHits]]) -> list[Found]:
        per_part = [
            [_found(at, part, hits) for hits in search(at, part)]
            for at, part in enumerate(self.parts)
            if part.documents
        ]
        if not per_part:
            nothing = np.empty(0, np.int64)
            return [Found(nothing, nothing, nothing, nothing.astype(np.float64), nothing)] * queries
        return [_merge(found, k) for found in zip(*per_part, strict=True)]

    def score(self, field: str, references: Sequence[Reference], query: ImpactQuery | NDArray[np.float32]) -> Found:
        """Scores of chosen documents in one field, in their order; NaN where a document has no dense vector."""
        n = len(references)
        parts = np.fromiter((r.part for r in references), np.int64, n)
        documents = np.fromiter((r.document for r in references), np.int64, n)
        seqs, scores, passages = np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.int64)
        for position in np.unique(parts):
            part, at = self.parts[position], np.flatnonzero(parts == position)
            if isinstance(query, ImpactQuery):
                hits = part.score_impacts(field, documents[at], query)
                scores[at] = hits.scores.astype(np.float64) * query.unit
            else:
                hits = part.score_dense(field, documents[at], query)
                scores[at] = hits.scores
            seqs[at], passages[at] = part.seqs[documents[at]], hits.passages
        return Found(parts, documents, seqs, scores, passages)

    # --- single documents ----------------------------------------------------------------------------------

    def passages_of(self, reference: Reference) -> int:
        """Passages of a document, without reading it."""
        return self.parts[reference.part].passages_of(reference.document)

    def document(self, reference: Reference) -> Row:
        """The stored parts of a document, without vectors."""
        return self.parts[reference.part].document(reference.document)

    # --- passages' vectors ---------------------------------------------------------------------------------

    def sparse_rows(self, field: str, places: Sequence[Place]) -> SparseRows:
        """Passages in an impact field, in their order."""
        rows = [self.parts[part].sparse_row(field, document, passage) for (part, document), passage in places]
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(ids) for ids, _, _ in rows], out=indptr[1:])
        nothing = np.zeros(0, np.uint32), np.zeros(0, np.uint8), np.zeros(0, np.float32)
        ids, impacts, weights = (np.concatenate(column) for column in zip(*(rows or [nothing]), strict=True))
        return SparseRows(indptr, ids, impacts, weights.astype(np.float32))

    def sparse_row(
        self, field: str, reference: Reference, passage: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.float32]]:
        """A passage's term ids, 8-bit impacts and weights in an impact field."""
        ids, impacts, weights = self.parts[reference.part].sparse_row(field, reference.document, passage)
        return ids, impacts, weights.astype(np.float32)

    def dense_rows(self, field: str, places: Sequence[Place]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Dense vectors (n, D) of passages, in their order, and which of them are there."""
        x = np.zeros((len(places), self.field(field).dimension), np.float32)
        there = np.zeros(len(places), bool)
        for at, ((part, document), passage) in enumerate(places):
            if (row := self.parts[part].dense_row(field, document, passage)) is not None:
                x[at], there[at] = row, True
        return x, there

    def dense_row(self, field: str, reference: Reference, passage: int) -> NDArray[np.float32] | None:
        """A passage's dense vector, or None."""
        return self.parts[reference.part].dense_row(field, reference.document, passage)

    # --- frequencies ---------------------------------------------------------------------------------------

    def document_frequency(self, field: str, terms: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Passages that hold each term."""
        total = np.zeros(len(terms), np.int64)
        for part in self.parts:
            total += part.document_frequency(field, terms)
        return total
