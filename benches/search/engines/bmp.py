"""BMP, block-max pruning over 8-bit impacts; approximate, since it rounds the query even with nothing pruned.

Documents are in cluster order, which it needs. Blocks of 32 and 64 documents, the paper's two best; raw, not
compressed, as in its fastest figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_ALPHAS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_BETAS = (1.0, 0.7, 0.5)


class Bmp(Engine):
    """Its documents have names, so the order needs no table when it answers."""

    distribution = "bmp"
    integers = "levels"
    ordered = True
    builds: ClassVar[dict[str, Setting]] = {"block32": {"bsize": 32}, "block64": {"bsize": 64}}

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"approximate": [{"alpha": alpha, "beta": beta} for alpha in _ALPHAS for beta in _BETAS]}

    def start(self) -> None:
        import bmp

        self._module = bmp

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        assert order is not None
        indexer = self._module.Indexer(str(folder / "index"), parameters["bsize"], False)
        names = [str(term) for term in range(documents.shape[1])]
        for row in order.tolist():
            part = slice(documents.indptr[row], documents.indptr[row + 1])
            terms, levels = documents.indices[part].tolist(), documents.data[part].tolist()
            indexer.add_document(str(row), dict(zip([names[term] for term in terms], levels, strict=True)))
        indexer.finish()

    def open(self, folder: Path, parameters: Setting) -> None:
        self._index = self._module.Searcher(str(folder / "index"))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return {str(term): float(weight) for term, weight in zip(terms, weights, strict=True)}

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        return [int(name) for name in self._index.search(query, k, setting["alpha"], setting["beta"])[0]]
