"""Which queries and documents a training step sees: decided by the seed and the step's number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import Dataset
from sparsight.errors import InvalidArgumentError

__all__ = ["Draw", "Draws"]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One step's batch: Q queries, D = Q x ``documents_per_query`` documents.

    Attributes
    ----------
    queries : int64, shape (Q,)
    documents : int64, shape (D,)
        Those of query i are ``i * documents_per_query`` and following, its positive first if it has one.
    positives : int64, shape (Q,)
        Column of the query's positive; -1 for none.
    allowed : bool, shape (Q, D)
        False for the text a sentence came from, for further relevant documents, and for repeats of a document.
    """

    queries: NDArray[np.int64]
    documents: NDArray[np.int64]
    positives: NDArray[np.int64]
    allowed: NDArray[np.bool_]


class Draws:
    """Draws batches. Queries come once an epoch, sources in proportion to their weights.

    Parameters
    ----------
    config : SpladeTrainingConfig
    data : Dataset
    rank, count : int
        Of ``count`` processes that share the steps, the one that this is: each has queries of its own.

    Raises
    ------
    InvalidArgumentError
        If there is no query to draw.
    """

    def __init__(self, config: SpladeTrainingConfig, data: Dataset, rank: int = 0, count: int = 1) -> None:
        self.config, self.texts, self.candidates = config, data.texts, data.candidates
        self.rank, self.count = rank, count
        self.n_documents = len(data.documents)
        weights = np.array([source.weight for source in config.sources])[self.texts.source]
        # A query of weight w stands w times in an epoch; a fraction stands for that chance.
        generator = np.random.default_rng([config.seed, 1])
        times = np.floor(weights + generator.random(len(weights))).astype(np.int64)
        self.deck = np.repeat(np.arange(len(weights)), times)
        if not len(self.deck):
            raise InvalidArgumentError(f"expected queries of a weight above 0, got none of {len(weights):,}",
                                       field="data.sources")
        self.also: dict[int, list[int]] = {}
        for query, document in self.texts.also_relevant.tolist():
            self.also.setdefault(query, []).append(document)
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.deck)

    def draw(self, step: int) -> Draw:
        """The batch of a step."""
        size, each = self.config.batch_queries, self.config.documents_per_query
        generator = np.random.default_rng([self.config.seed, 3, step, self.rank])
        queries = self._queries(step, size)
        documents = np.empty((size, each), np.int64)
        positives = np.full(size, -1, np.int64)
        for row, query in enumerate(queries.tolist()):
            found = self.candidates[query]
            found = found[found >= 0]
            positive = int(self.texts.positives[query])
            wanted = each - (positive >= 0)
            if len(found):  # a document that several teachers found is there several times
                found = np.unique(generator.choice(found, min(3 * wanted, len(found)), replace=False))
            chosen = generator.permutation(found)[:wanted]
            if len(chosen) < wanted:
                chosen = np.concatenate([chosen, generator.integers(0, self.n_documents, wanted - len(chosen))])
            if positive >= 0:
                documents[row, 0], positives[row] = positive, row * each
            documents[row, each - wanted:] = chosen
        flat = documents.ravel()
        return Draw(queries, flat, positives, self._allowed(queries, flat, positives))

    def _queries(self, step: int, size: int) -> NDArray[np.int64]:
        """The next ``size`` queries of the shuffled deck; a batch may run over into the next epoch."""
        at = (step * self.count + self.rank) * size + np.arange(size)
        epochs = at // len(self.deck)
        out = np.empty(size, np.int64)
        for epoch in np.unique(epochs).tolist():
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng([self.config.seed, 2, epoch]).permutation(self.deck)
            out[epochs == epoch] = self._order[1][at[epochs == epoch] % len(self.deck)]
        return out

    def _allowed(self, queries: NDArray[np.int64], documents: NDArray[np.int64],
                 positives: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed = np.ones((len(queries), len(documents)), bool)
        first = np.zeros(len(documents), bool)
        first[np.unique(documents, return_index=True)[1]] = True
        allowed[:, ~first] = False
        for row, query in enumerate(queries.tolist()):
            own = int(self.texts.own[query])
            for document in ([own] if own >= 0 else []) + self.also.get(query, []):
                allowed[row, documents == document] = False
            if positives[row] >= 0:  # its own column counts, whichever copy came first
                allowed[row, documents == documents[positives[row]]] = False
                allowed[row, positives[row]] = True
        return allowed
