"""Made-up vectors with the statistics of real ones, for sizes that no corpus here has.

A document mixes a topic, one aspect of it, a neighbouring topic and background terms. Terms of a topic share their
importance and an aspect lifts a tenth of them, so heavy weights come together, as they do in learned sparse vectors;
every document draws part of it anew. Document frequencies fall like Zipf's law with a bounded head (the commonest terms
are in 30 to 50 % of the documents). The constants were set once, by those statistics alone (about 150 weights a
document, 32 a query, 1 to 2 postings a document and query); real vectors are heavier to scan and cluster less, so
figures on generated ones say how a search grows, not how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "Shape", "generate"]

_SEED = 20_260_701
_CHUNK = 20_000
_ASPECTS = 6

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Plan: TypeAlias = tuple[I64, I64, I64]  # main topic, neighbouring topic and aspect of each document
Rows: TypeAlias = tuple[I32, F32, I64]  # terms, weights, and the rows' lengths


def _saturated(spread: F32) -> F32:
    """Log-saturated weights in 0.01..3, as pooling with log(1 + relu) gives them."""
    weights = np.exp(spread - 1.5)
    return np.minimum(weights, 1.2 + 0.45 * np.log1p(weights)).clip(0.01, 3.0).astype(np.float32)


def _activations(spread: F32) -> F32:
    """Log-normal activations."""
    return np.exp(0.2 + 0.6 * spread).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """The constants of a kind of vectors.

    Attributes
    ----------
    vocab, topic_terms : int
    background, topic : (exponent, shift) of Zipf's law over all terms, and over those of a topic
    commonness : float
        How much a topic prefers terms that are common everywhere.
    shares : parts of a document's draws from the topic's aspect, the topic, its neighbour; the rest is background
    size, query_size : (least, most + 1) weights of a document, of a query
    draws : int
        Draws a document, before repeats are dropped.
    query_scale : float
        What a query's expansion terms weigh less than a document's, as a logarithm.
    weigh : callable
        Weights of spreads (importance plus noise).
    """

    vocab: int
    topic_terms: int
    background: tuple[float, float]
    topic: tuple[float, float]
    commonness: float
    shares: tuple[float, float, float]
    size: tuple[int, int]
    query_size: tuple[int, int]
    draws: int
    query_scale: float
    weigh: Callable[[F32], F32]


SHAPES = {
    "splade": Shape(30_522, 600, (0.95, 10), (0.75, 12), 0.95, (0.14, 0.38, 0.14), (118, 182), (20, 46), 236, 0.6,
                    _saturated),
    "sae": Shape(16_384, 160, (0.7, 30), (0.9, 5), 0.9, (0.2, 0.4, 0.2), (32, 33), (32, 33), 96, 0.1, _activations),
}  # fmt: skip


def _zipf(n: int, exponent: float, shift: float) -> NDArray[np.float64]:
    """Cumulative probabilities of n ranks."""
    share = 1.0 / (np.arange(n) + shift) ** exponent
    return np.cumsum(share / share.sum())


class _Topics:
    """Topics in areas: which terms each has, how important they are, and documents drawn from them."""

    def __init__(self, shape: Shape, n_documents: int, rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        self.n = int(np.clip(n_documents // 200, 200, 3_000))
        self.per_area = 40
        self.everywhere = _zipf(shape.vocab, *shape.background)
        self.within = _zipf(shape.topic_terms, *shape.topic)
        self.popularity = _zipf(self.n, 0.7, 20)
        self.by_rank = rng.permutation(shape.vocab).astype(np.int32)
        self.background = (0.45 * rng.standard_normal(shape.vocab) - 0.7).astype(np.float32)
        self.terms = self._terms()
        lead = np.linspace(0.6, -0.6, shape.topic_terms)
        self.importance = (lead + 0.8 * rng.standard_normal(self.terms.shape)).astype(np.float32)
        tenth = shape.topic_terms // 10
        self.aspects = np.stack([rng.choice(shape.topic_terms, tenth, replace=False) for _ in range(_ASPECTS)])
        self.lift = np.zeros((_ASPECTS, shape.topic_terms), np.float32)
        np.put_along_axis(self.lift, self.aspects, 1.3, axis=1)

    def _terms(self) -> I32:
        """Terms of each topic, most frequent first; nine tenths of the candidates are shared within an area."""
        m, vocab = self.shape.topic_terms, self.shape.vocab
        likely = self.shape.commonness * np.log(np.diff(self.everywhere, prepend=0.0))
        terms = np.empty((self.n, m), np.int32)
        for topic in range(self.n):
            if topic % self.per_area == 0:
                area = np.argpartition(-(likely + self.rng.gumbel(size=vocab)), 3 * m)[: 3 * m]
            own = np.argpartition(-(likely + self.rng.gumbel(size=vocab)), m)[:m]
            both = np.unique(np.concatenate([self.rng.choice(area, m * 9 // 10, replace=False), own]))
            terms[topic] = self.by_rank[self.rng.permutation(both)[:m]]
        return terms

    def plan(self, n: int) -> Plan:
        """Main topic, neighbouring topic and aspect of n documents."""
        main = np.searchsorted(self.popularity, self.rng.random(n)) * 7919 % self.n  # popular topics in every area
        first = main // self.per_area * self.per_area
        span = np.minimum(self.per_area, self.n - first)
        return main, first + (self.rng.random(n) * span).astype(np.int64), self.rng.integers(0, _ASPECTS, n)

    def draw(self, plan: Plan, width: int, shares: tuple[float, float, float]) -> tuple[I32, F32]:
        """Terms and importances, shape (n, width) each, with repeats."""
        main, side, aspect = plan
        n, m = len(main), self.shape.topic_terms
        a, b, c = (int(width * share) for share in np.cumsum(shares))
        shift = 37 * main[:, None]  # an aspect is other terms in each topic
        rank = np.minimum(np.searchsorted(self.within, self.rng.random((n, c))), m - 1)
        rank[:, :a] = self.aspects[aspect[:, None], self.rng.integers(0, self.aspects.shape[1], (n, a))]
        rank[:, :a] = (rank[:, :a] + shift) % m
        topic = np.repeat(main[:, None], c, axis=1)
        topic[:, b:] = side[:, None]
        common = np.minimum(np.searchsorted(self.everywhere, self.rng.random((n, width - c))), self.shape.vocab - 1)
        terms = np.concatenate([self.terms[topic, rank], self.by_rank[common]], axis=1)
        importance = np.concatenate([self.importance[topic, rank], self.background[common]], axis=1)
        importance[:, :b] += self.lift[aspect[:, None], (rank[:, :b] - shift) % m] - 0.1
        importance[:, b:c] -= 0.5
        return terms, importance


def _heaviest(terms: I32, weights: F32, want: I64) -> Rows:
    """Of each row, repeats dropped, the ``want`` heaviest, terms ascending."""
    order = np.lexsort((weights, terms))
    terms, weights = np.take_along_axis(terms, order, 1), np.take_along_axis(weights, order, 1)
    last = np.ones(terms.shape, bool)  # of equal terms the last is the heaviest
    last[:, :-1] = terms[:, :-1] != terms[:, 1:]
    weights = np.where(last, weights, np.float32(0))
    falling = -np.sort(-weights, axis=1)
    kept = weights > falling[np.arange(len(terms)), np.minimum(want, terms.shape[1] - 1)][:, None]
    return terms[kept], weights[kept], kept.sum(1)


def generate(kind: str, n_documents: int, path: Path, n_queries: int = 3_000, seed: int = _SEED) -> None:
    """Write a workload file; the same arguments give the same file.

    Parameters
    ----------
    kind : str
        "splade" or "sae".
    n_documents, n_queries : int
        Every third query is for tuning. Each is about some document: a quarter of its terms are that document's.
    path : Path
        ``.npz``, replaced whole.
    """
    shape, rng = SHAPES[kind], np.random.default_rng(seed)
    topics = _Topics(shape, n_documents, rng)
    sources = np.sort(rng.choice(n_documents, n_queries, replace=n_queries > n_documents))
    documents: list[Rows] = []
    queries: list[Rows] = []
    for start in range(0, n_documents, _CHUNK):
        n = min(_CHUNK, n_documents - start)
        main, side, aspect = plan = topics.plan(n)
        terms, importance = topics.draw(plan, shape.draws, shape.shares)
        noise = rng.standard_normal(importance.shape, dtype=np.float32)
        weights = shape.weigh(0.75 * importance + 0.55 * noise)
        documents.append(_heaviest(terms, weights, rng.integers(*shape.size, n)))
        ends = np.cumsum(documents[-1][2])
        for row in sources[(sources >= start) & (sources < start + n)] - start:
            part = slice(ends[row] - documents[-1][2][row], ends[row])
            about = main[row : row + 1], side[row : row + 1], aspect[row : row + 1]
            queries.append(_query(topics, about, documents[-1][0][part], documents[-1][1][part]))
    shuffled = [queries[i] for i in rng.permutation(len(queries))]
    parts = {}
    for letter, rows in (("d", documents), ("q", shuffled)):
        parts[f"{letter}_indptr"] = np.concatenate([[0], np.cumsum(np.concatenate([row[2] for row in rows]))])
        parts[f"{letter}_indices"] = np.concatenate([row[0] for row in rows]).astype(np.int32)
        parts[f"{letter}_data"] = np.concatenate([row[1] for row in rows]).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **parts, vocab=shape.vocab, split=(np.arange(n_queries) % 3 > 0).astype(np.int8))
    unfinished.rename(path)


def _query(topics: _Topics, about: Plan, terms: I32, weights: F32) -> Rows:
    """A query about a document: some of its heavy terms, the first few of them lifted, and expansion terms."""
    shape, rng = topics.shape, topics.rng
    want = int(rng.integers(*shape.query_size))
    own = np.argsort(-weights * np.exp(0.4 * rng.standard_normal(len(weights))))[: want // 4]
    literal = np.where(np.arange(len(own)) < 5, 1.2, 0.6) * np.exp(0.25 * rng.standard_normal(len(own)))
    more, importance = topics.draw(about, 3 * want, (0.10, 0.22, 0.04))
    noise = rng.standard_normal(importance.shape, dtype=np.float32)
    expansion = shape.weigh(0.6 * importance + 0.7 * noise - np.float32(shape.query_scale))
    all_terms = np.concatenate([terms[own], more[0]])[None]
    all_weights = np.concatenate([weights[own] * literal, expansion[0]]).clip(0.01).astype(np.float32)[None]
    return _heaviest(all_terms, all_weights, np.array([want]))
