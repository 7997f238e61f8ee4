"""splade-index, its numba back end: every posting of the query's terms added up; exact.

Its own indexing wants an encoder's model, so the arrays that it would make are handed to its search.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_ARRAYS = ("data", "indices", "indptr")


class SpladeIndex(Engine):
    """Float32 weights, a column a term; compiles at its first search."""

    distribution = "splade-index"

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"exact": [{}]}

    def start(self) -> None:
        from splade_index.numba.retrieve_utils import _retrieve_numba_functional

        self._retrieve = _retrieve_numba_functional

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        columns = documents.tocsc()
        columns.indptr = columns.indptr.astype(np.int64)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(columns, name))
        np.save(folder / "num_docs.npy", np.int64(documents.shape[0]))

    def open(self, folder: Path, parameters: Setting) -> None:
        self._scores = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
        self._scores["num_docs"] = int(np.load(folder / "num_docs.npy"))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return [terms.astype(np.int32)], [weights]

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        numbers: Found = self._retrieve(*query, self._scores, k=k, show_progress=False, n_threads=1)[0][0]
        return numbers
