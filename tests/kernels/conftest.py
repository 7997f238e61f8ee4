"""Builders shared by the kernels' tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from sparsight.kernels import Postings

Rows = Sequence[Mapping[int, int]]


def build_postings(passages: Rows, passages_of_documents: Sequence[int]) -> Postings:
    """Postings of passages given as ``{term: impact}``, and how many of them each document has."""
    assert len(passages) == sum(passages_of_documents)
    by_term: dict[int, list[tuple[int, int]]] = {}
    for passage, row in enumerate(passages):
        for term, impact in row.items():
            by_term.setdefault(term, []).append((passage, impact))
    terms = sorted(by_term)
    entries = [entry for term in terms for entry in by_term[term]]
    postings = Postings(
        np.array(terms, np.uint32),
        np.cumsum([0] + [len(by_term[term]) for term in terms], dtype=np.uint64),
        np.array([passage for passage, _ in entries], np.uint32),
        np.array([impact for _, impact in entries], np.uint8),
        np.cumsum([0, *passages_of_documents], dtype=np.uint32),
    )
    postings.validate()
    return postings


@pytest.fixture(scope="session")
def postings_of() -> Callable[[Rows, Sequence[int]], Postings]:
    return build_postings


@pytest.fixture(scope="session")
def slow_search() -> tuple[Postings, np.ndarray, np.ndarray]:
    """Postings and a query that take seconds with windows of one passage, and little memory.

    Every window looks at each of 4,000 cursors, whose only posting lies at the far end.
    """
    n, terms = 1_000_000, 4_000
    postings = Postings(
        np.arange(terms, dtype=np.uint32),
        np.concatenate([[0], n + np.arange(terms)]).astype(np.uint64),
        np.concatenate([np.arange(n), np.full(terms - 1, n - 1)]).astype(np.uint32),
        np.ones(n + terms - 1, np.uint8),
        np.arange(n + 1, dtype=np.uint32),
    )
    return postings, np.arange(terms, dtype=np.uint32), np.ones(terms, np.int16)
