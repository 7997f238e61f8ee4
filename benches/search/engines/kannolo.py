"""kANNolo: an HNSW graph over sparse vectors; approximate. Builds: m 16 and the package's defaults, m 32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_EFFORTS = (10, 15, 20, 30, 45, 70, 100, 150, 250, 400, 700, 1200, 2000, 3500, 6000)


class Kannolo(Engine):
    """It builds with every core it may use; ``ef_search`` below k would lose documents, so k is the least."""

    distribution = "kannolo"
    builds: ClassVar[dict[str, Setting]] = {
        "m16": {"m": 16, "ef_construction": 150},
        "m32": {"m": 32, "ef_construction": 200},
    }

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"approximate": [{"ef_search": effort} for effort in sorted({max(k, e) for e in _EFFORTS})]}

    def start(self) -> None:
        import kannolo

        self._class = kannolo.SparsePlainHNSW

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        parts = documents.indices.astype(np.int32), documents.data, documents.indptr.astype(np.int64)
        self._class.build_from_arrays(*parts, **parameters).save(str(folder / "index"))

    def open(self, folder: Path, parameters: Setting) -> None:
        self._index = self._class.load(str(folder / "index"))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return terms.astype(np.int32), weights

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        numbers: Found = self._index.search(*query, k, **setting)[1]
        return numbers
