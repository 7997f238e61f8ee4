"""What is compared, and how each scores every document of a set for every query."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.quality.sets import JudgedSet
from benches.quality.vectors import Encoder, Vectors, document_vectors, query_vectors
from sparsight.encoders.loading import load_encoder, split_name
from sparsight.encoders.resolver import resolve
from sparsight.encoders.settings import read_settings
from sparsight.encoders.training.bm25 import bm25_impacts
from sparsight.errors import InvalidArgumentError

__all__ = ["BM25", "Scorer", "System", "make_scorer", "models_of", "parse_model"]

F32 = NDArray[np.float32]
BM25 = "bm25"
K1, B = 0.9, 0.4  # Anserini's, which the sets' published figures are of
_ALL_TERMS = 1 << 31
_BLOCK_SCORES = 1 << 24  # of a block of queries: 64 MB


@dataclass(frozen=True, slots=True)
class System:
    """One way of searching with one field.

    Attributes
    ----------
    name : str
        As the tables say it: the model's label, with ``#siamese`` or ``#table`` where a folder offers both.
    kind : "bm25", "sparse" or "dense"
    model : str
        The label alone.
    source : str
        What `load_encoder` takes; "" for BM25.
    """

    name: str
    kind: str
    model: str
    source: str = ""

    def encoder(self) -> Encoder:
        """Its encoder, loaded once a process."""
        return load_encoder(self.source)


def parse_model(given: str) -> tuple[str, str]:
    """Label and name of a model from ``LABEL=NAME`` or ``NAME``; a folder called "model" is known by its parent's name.

    Raises
    ------
    InvalidArgumentError
        If a part is empty.
    """
    label, mark, name = re.fullmatch(r"(?:([\w.-]+)(=)(?!=))?(.*)", given).groups()  # type: ignore[union-attr]
    if not name or (mark and not label):
        raise InvalidArgumentError(f"expected NAME or LABEL=NAME, got {given!r}", field="models")
    if label:
        return label, name
    if Path(name).is_dir():
        path = Path(name).resolve()
        return path.parent.name if path.name == "model" else path.name, name
    return name, name


def models_of(label: str, name: str) -> list[System]:
    """The systems that a model offers: two where it has a table for queries, else one.

    A name that ends in ``#siamese``, ``#table`` or ``#bow`` is that alone.
    """
    plain, suffix = split_name(name)
    settings = read_settings(resolve(plain))
    if settings.kind == "dense":
        return [System(label, "dense", label, name)]
    if suffix or settings.query_table is None:
        return [System(label, "sparse", label, name)]
    return [System(f"{label}#{way}", "sparse", label, f"{name}#{way}") for way in ("siamese", "table")]


class Scorer:
    """Exact scores of every document.

    Parameters
    ----------
    documents : (N, D)
    queries : (Q, D)
        Both sparse or both arrays.
    """

    def __init__(self, documents: Vectors, queries: Vectors) -> None:
        self.sparse = not isinstance(documents, np.ndarray)
        self.document_nonzeros, self.query_nonzeros = _mean_nonzeros(documents), _mean_nonzeros(queries)
        self._queries = queries
        self._documents = csr_matrix(documents.T) if self.sparse else documents.T
        self.shape = queries.shape[0], documents.shape[0]

    def scores(self, start: int, stop: int) -> F32:
        """Scores (stop - start, N) of these queries; of sparse vectors, 0 says that nothing matched."""
        product = self._queries[start:stop] @ self._documents
        return np.asarray(product if isinstance(product, np.ndarray) else product.toarray(), np.float32)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Bounds of blocks of queries whose scores fit into memory."""
        queries, documents = self.shape
        step = max(_BLOCK_SCORES // max(documents, 1), 1)
        for start in range(0, queries, step):
            yield start, min(start + step, queries)


def make_scorer(system: System, judged: JudgedSet, max_tokens: int, cache: Path) -> Scorer:
    """Vectors of a set by a system. BM25 reads documents to their end: the cut is one of models."""
    if system.kind == BM25:
        impacts = bm25_impacts(judged.texts, judged.questions, k1=K1, b=B, terms=_ALL_TERMS, buckets=0)
        return Scorer(impacts.documents, impacts.queries)
    encoder = system.encoder()
    return Scorer(document_vectors(encoder, judged, max_tokens, cache), query_vectors(encoder, judged, cache))



def _mean_nonzeros(vectors: Vectors) -> float:
    if isinstance(vectors, np.ndarray):
        return float(vectors.shape[1])
    return vectors.nnz / max(vectors.shape[0], 1)
