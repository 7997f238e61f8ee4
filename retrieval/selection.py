"""A part of a corpus that is about what some seeds are about, found by the corpus' own search.

Rare concepts have few documents, and an autoencoder of the whole corpus spends few latents on them. Muhamed, Diab and
Smith 2024, "Decoding Dark Matter: Specialized Sparse Autoencoders for Interpreting Rare Concepts in Foundation Models",
train one on what dense retrieval finds for a few seeds in place of all data. A document counts here by the seed that it
is nearest to, not by their mean: seeds of different corners of a field all bring theirs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.types import Query, Retriever, SearchResult

__all__ = ["Searcher", "merge_best", "select"]

T = TypeVar("T", bound=Hashable)
_MOST = 10_000  # documents that a search gives
_QUERIES = 1024  # of one call
_HITS = 100_000  # held at once


class Searcher(Protocol):
    """What is asked of a collection, embedded or of a server."""

    def batch_search(self, queries: Sequence[Query | str], /, **overrides: Any) -> list[SearchResult]:
        """Answers of all queries."""


def select(searcher: Searcher, seeds: Sequence[str | NDArray[np.float32]], count: int, *, field: str = "dense",
           filter: str = "") -> list[tuple[str, float]]:
    """The documents that are nearest to any of some seeds.

    Parameters
    ----------
    searcher : Collection
    seeds : sequence of str or float32 arrays
        Texts, or for a dense field embeddings of shape (D,) too. At least one.
    count : int
        Documents wanted, 1 to 10,000.
    field : str
        The field that is searched. Scores of different seeds are compared: those of a dense field, or of an SAE field
        with decoded queries, are on one scale, while those of BM25 and learned sparse fields grow with a seed's length.
    filter : str
        As a query's: only documents that satisfy it are looked at.

    Returns
    -------
    list of (str, float)
        Ids and scores, best first, each document once with the score of its best seed; of equal scores the one that
        an earlier seed found, or found first. Fewer than ``count`` where the seeds match fewer.

    Raises
    ------
    InvalidArgumentError
        If there is no seed, or ``count`` is out of range.
    UnknownFieldError, InvalidQueryError, InvalidFilterError, ...
        As the collection's search does.

    Notes
    -----
    Each seed is a search for ``count`` documents, which is enough: one that is among the ``count`` best of all is among
    as many of its best seed. Beyond 100,000 hits seeds are searched in several calls, and a write between two of
    them may be seen by the later one alone.
    """
    if isinstance(seeds, str) or not len(seeds):
        raise InvalidArgumentError(f"expected a sequence of at least one seed, got {seeds!r:.80}", field="seeds")
    if not 1 <= count <= _MOST:
        raise InvalidArgumentError(f"expected count in [1, {_MOST:,}], got {count}", field="count")
    found: list[tuple[str, float]] = []
    step = min(max(_HITS // count, 1), _QUERIES)
    for start in range(0, len(seeds), step):
        queries = [Query(retrievers=[_retriever(field, seed)], filter=filter, k=count, include=())
                   for seed in seeds[start:start + step]]
        answers = searcher.batch_search(queries)
        found = merge_best([found, *([(hit.id, hit.score) for hit in answer] for answer in answers)], count)
    return found


def merge_best(rankings: Iterable[Iterable[tuple[T, float]]], count: int) -> list[tuple[T, float]]:
    """One ranking of several: every item once, with its best score.

    Parameters
    ----------
    rankings : iterable of iterables of (item, score)
        In any order.
    count : int
        Most items that are kept.

    Returns
    -------
    list of (item, score)
        By score descending; of equal scores the item that came first.

    Examples
    --------
    >>> merge_best([[("a", 0.9), ("b", 0.2)], [("c", 0.5), ("b", 0.4)]], 3)
    [('a', 0.9), ('c', 0.5), ('b', 0.4)]
    """
    best: dict[T, float] = {}
    for ranking in rankings:
        for item, score in ranking:
            if item not in best or score > best[item]:
                best[item] = score
    return sorted(best.items(), key=lambda pair: -pair[1])[:count]


def _retriever(field: str, seed: str | NDArray[np.float32]) -> Retriever:
    return Retriever(field, text=seed) if isinstance(seed, str) else Retriever(field, dense=seed)
