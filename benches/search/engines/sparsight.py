"""This project's engine, through the two functions of :mod:`benches.search.ours`; rounding the query is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting


class Sparsight(Engine):
    """Exact in its 8-bit domain, or approximate."""

    distribution = "sparsight"
    peer = False
    integers = "own"

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        from benches.search import ours

        return ours.settings(k)

    def start(self) -> None:
        from benches.search import ours

        self._ours = ours

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        self._ours.build(documents.indptr, documents.indices, documents.data, documents.shape[1], folder, threads)

    def open(self, folder: Path, parameters: Setting) -> None:
        self._searcher = self._ours.open(folder)

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        terms, weights = query
        return self._searcher.search(terms, weights, k, **setting)

    def size(self, folder: Path) -> int:
        from benches.search import ours

        return ours.open(folder).bytes

    def rounded(self, documents: csr_matrix, queries: csr_matrix) -> tuple[csr_matrix, csr_matrix]:
        from benches.search import ours

        return ours.rounded(documents, queries)
