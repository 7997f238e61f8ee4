"""What a search answers: hits, and why each has its score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sparsight.types.documents import Vector

__all__ = ["Contribution", "Explanation", "Hit", "Movement", "RetrieverScore", "RetrieverWork", "SearchResult",
           "Timings"]


class Contribution(NamedTuple):
    """One term's or feature's part in a retriever's score: ``query_weight * document_weight = score``."""

    # Not a dataclass: an explained list has hundreds of these, and a frozen one takes four times as long to make.
    index: int  # type: ignore[assignment]
    label: str
    query_weight: float
    document_weight: float
    score: float


@dataclass(frozen=True, slots=True)
class RetrieverScore:
    """One retriever's part in a hit.

    ``score`` is in the retriever's own units, ``rank`` its rank there (from 1; 0 when it was not among that
    retriever's candidates), ``share`` its part of the hit's final score (the shares sum to it), ``passage``
    the passage that scored best there (-1: none), ``contributions`` sum to ``score``; ``rest`` is what is left
    when only the largest are listed (0 when all are). Of a re-ranked retriever the contributions are the features' in
    the dense product, and ``dense`` is what no feature carries of it (the SAE's bias and error): contributions,
    ``dense`` and ``rest`` sum to ``score``. It is 0 for all others.
    """

    field: str
    score: float
    rank: int
    share: float
    passage: int
    contributions: tuple[Contribution, ...] = ()
    rest: float = 0.0
    dense: float = 0.0


@dataclass(frozen=True, slots=True)
class Movement:
    """Where a steered hit stood without the edits.

    Attributes
    ----------
    rank_before : int
        0: beyond the candidates looked at.
    by_feature : tuple of Contribution
        What each edited feature changed in the score of the passage that is best now.
    other_passage : float
        Where another passage was best before: that one's score then, subtracted from the present one's then; else 0.
        With one retriever, and unless weights of the query were left out, it and ``by_feature`` add up to the change of
        the score.
    """

    rank_before: int
    rank_after: int
    score_before: float
    score_after: float
    by_feature: tuple[Contribution, ...] = ()
    other_passage: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a hit has its score: the retrievers' shares sum to it; ``movement`` is there for steered queries."""

    retrievers: tuple[RetrieverScore, ...]
    movement: Movement | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One found document. ``passage`` is the index of its best passage, ``passage_text`` that passage."""

    id: str
    score: float
    rank: int
    passage: int = 0
    title: str = ""
    text: str = ""
    passage_text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    explanation: Explanation | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a search's time went, in milliseconds. ``server_ms`` covers all of them; ``total_ms`` is the caller's
    view (over gRPC: with the network)."""

    encode_ms: float = 0.0
    search_ms: float = 0.0
    fetch_ms: float = 0.0
    server_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class RetrieverWork:
    """What one retriever did, over all segments and the tail.

    Attributes
    ----------
    field : str
    mode : str
        "exact": the same documents as scoring all of them, in every segment. "approximate": some may have been missed.
        "cut": the time budget ended before everything was looked at.
    terms : int
        Query terms that were scanned, in the segment with the most of them; 0 for dense fields and the tail.
    postings : int
        Postings added up, those of a scan that was repeated too; 0 for dense fields.
    passages : int
        Passages in the windows visited, likewise; of a dense field all that are there.
    rescored : int
        Passages that were scored one by one with all terms: finalists of a scan, those of a narrow filter, the tail's.
    reranked : int
        Documents found by their codes that were scored again: by their dense vectors (``rerank``), or with all weights
        of the query (``rescore``). ``mode`` and the other counts are those of the search that found them.
    """

    field: str
    mode: Literal["exact", "approximate", "cut"] = "exact"
    terms: int = 0
    postings: int = 0
    passages: int = 0
    rescored: int = 0
    reranked: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and how they were found.

    ``generation`` is the state of the collection that answered. ``exact`` is true when every retriever was
    rank-safe. ``warnings`` are things worth knowing that are no error (an empty query vector, say). ``work`` has an
    entry for each retriever, in order.
    """

    hits: tuple[Hit, ...]
    generation: int = 0
    exact: bool = True
    timings: Timings = Timings()
    warnings: tuple[str, ...] = ()
    work: tuple[RetrieverWork, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    @property
    def ids(self) -> list[str]:
        """The hits' document ids, best first."""
        return [hit.id for hit in self.hits]
