"""Postings beside the plain rows they were built from; what a search should find is worked out from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from sparsight.kernels import Postings, Work, topk_documents

Rows = Sequence[Mapping[int, int]]
Hits = list[tuple[int, int, int]]  # document, score, passage

WINDOW, BLOCK = 8_192, 65_536


@dataclass(frozen=True)
class Corpus:
    """A matrix of impacts (passages by terms), its terms' ids, the passages of each document, and their postings."""

    rows: sparse.csr_matrix
    term_ids: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    postings: Postings

    @classmethod
    def of(cls, rows: Any, term_ids: Any, lengths: Any, threads: int = 1) -> Corpus:
        rows, term_ids = sparse.csr_matrix(rows, dtype=np.int64), np.asarray(term_ids, np.uint32)
        assert rows.shape == (sum(lengths), len(term_ids))
        postings = Postings.from_rows(
            rows.indptr.astype(np.uint64), term_ids[rows.indices], rows.data.astype(np.uint8),
            np.cumsum([0, *lengths]).astype(np.uint32), threads,
        )  # fmt: skip
        return cls(rows, term_ids, np.asarray(lengths, np.int64), postings)

    def arrays(self, weights: Mapping[int, int]) -> tuple[NDArray[np.uint32], NDArray[np.int16]]:
        """A query as the kernels take it."""
        terms = sorted(weights)
        return np.array(terms, np.uint32), np.array([weights[term] for term in terms], np.int16)

    def mask(self, documents: Collection[int]) -> NDArray[np.uint64]:
        allowed = np.zeros(-(-len(self.lengths) // 64) * 64, bool)
        allowed[list(documents)] = True
        return np.packbits(allowed, bitorder="little").view(np.uint64)

    def search(
        self, weights: Mapping[int, int], k: int, *, path: str, allowed: Collection[int] | None = None, **options: Any
    ) -> tuple[Hits, Work]:
        """What the kernel of this path finds, and what it did."""
        mask = None if allowed is None else self.mask(allowed)
        found = topk_documents(self.postings, *self.arrays(weights), k, mask=mask, path=path, **options)
        assert found.path == path
        arrays = (found.documents, found.scores, found.passages)
        return list(zip(*(array.tolist() for array in arrays), strict=True)), found.work

    def scores(self, weights: Mapping[int, int]) -> NDArray[np.int64]:
        """Score of every passage: a product of scipy's."""
        return self.rows @ np.array([weights.get(term, 0) for term in self.term_ids.tolist()], np.int64)

    def best(
        self, weights: Mapping[int, int], k: int, *, allowed: Collection[int] | None = None, min_score: int = 0
    ) -> Hits:
        """The whole answer: every passage scored, grouped and sorted by plain Python."""
        scores = self.scores(weights)
        passages = np.flatnonzero(scores > max(0, min_score))
        documents = np.repeat(np.arange(len(self.lengths)), self.lengths)[passages]
        permitted = range(len(self.lengths)) if allowed is None else frozenset(allowed)
        best: dict[int, tuple[int, int]] = {}
        columns = (documents, scores[passages], passages)
        for document, score, passage in zip(*(column.tolist() for column in columns), strict=True):
            if document in permitted and score > best.get(document, (0, 0))[0]:
                best[document] = score, passage
        hits = ((document, score, passage) for document, (score, passage) in best.items())
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


def corpus_of_dicts(passages: Rows, lengths: Sequence[int]) -> Corpus:
    term_ids = sorted({term for row in passages for term in row})
    column_of = {term: column for column, term in enumerate(term_ids)}
    columns = [column_of[term] for row in passages for term in row]
    indptr = np.cumsum([0, *map(len, passages)])
    impacts = [impact for row in passages for impact in row.values()]
    return Corpus.of(sparse.csr_matrix((impacts, columns, indptr), (len(passages), len(term_ids))), term_ids, lengths)


def make_random_corpus(
    seed: int, n_passages: int, densities: Any, *, grouped: bool, top: int = 255, largest_id: int = 200_000
) -> Corpus:
    """Random impacts from 1 to ``top``.

    ``densities``, shape (windows, terms) or (terms,), is the share of each window's passages that hold a term, so that
    a test decides where there are bitmaps, lists, or nothing. Grouped documents have 0, 1, 2 or 7 passages.
    """
    rng = np.random.default_rng(seed)
    windows = max(1, -(-n_passages // WINDOW))
    densities = np.atleast_2d(np.asarray(densities, float))
    densities = np.resize(densities, (windows, densities.shape[1]))
    columns = []
    for term in range(densities.shape[1]):
        holds = rng.random(n_passages) < np.repeat(densities[:, term], WINDOW)[:n_passages]
        columns.append(np.where(holds, rng.integers(1, top + 1, n_passages), 0))
    rows = sparse.csr_matrix(np.array(columns).reshape(densities.shape[1], n_passages).T)
    lengths = np.ones(n_passages, np.int64)
    if grouped:
        ends = np.cumsum(rng.choice([0, 1, 2, 7], n_passages + 10, p=[0.1, 0.6, 0.2, 0.1]))
        ends = np.concatenate([[0], ends[ends < n_passages], [n_passages]])
        lengths = np.diff(ends)
    term_ids = np.sort(rng.choice(largest_id, densities.shape[1], replace=False))
    return Corpus.of(rows, term_ids, lengths)


@pytest.fixture(scope="session")
def corpus_of() -> Callable[[Rows, Sequence[int]], Corpus]:
    """From passages as ``{term: impact}`` and the number of them that each document has."""
    return corpus_of_dicts


@pytest.fixture(scope="session")
def corpus_of_matrix() -> Callable[..., Corpus]:
    return Corpus.of


@pytest.fixture(scope="session")
def random_corpus() -> Callable[..., Corpus]:
    return make_random_corpus


@pytest.fixture(scope="session")
def postings_of() -> Callable[[Rows, Sequence[int]], Postings]:
    return lambda passages, lengths: corpus_of_dicts(passages, lengths).postings


@pytest.fixture(scope="session")
def slow_search() -> tuple[Postings, NDArray[np.uint32], NDArray[np.int16]]:
    """Postings and a query that take seconds, and little memory: 320 windows look at each of 800,000 terms.

    One term has a posting in each block, so that none is passed over; the others have theirs in the last passage.
    """
    blocks, terms = 40, 800_000
    n = blocks * BLOCK
    indptr = np.minimum(np.arange(n + 1) + BLOCK - 1, n).astype(np.uint64) // BLOCK
    indptr[-1] += terms - 1
    term_ids = np.concatenate([np.zeros(blocks), np.arange(1, terms)]).astype(np.uint32)
    postings = Postings.from_rows(
        indptr, term_ids, np.ones(len(term_ids), np.uint8), np.arange(n + 1, dtype=np.uint32), 1
    )
    return postings, np.arange(terms, dtype=np.uint32), np.ones(terms, np.int16)
