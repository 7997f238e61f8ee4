"""Seismic (pyseismic-lsr): clustered inverted lists with summaries, forward index; approximate.

Build settings: the project's defaults with 1,500 postings a term, and its tuned ones for MS MARCO (8.8 M documents),
plain and with the DotVByte forward index; the smaller one suits smaller collections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_CUTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 40)
_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6)


class Seismic(Engine):
    """Its index is typed: the file says nothing of the class that must load it, so the build's parameters do."""

    distribution = "pyseismic-lsr"
    builds: ClassVar[dict[str, Setting]] = {
        "1500": {"n_postings": 1500, "centroid_fraction": 0.1, "summary_energy": 0.4},
        "4000": {"n_postings": 4000, "centroid_fraction": 0.2, "summary_energy": 0.5, "max_fraction": 3.0},
        "4000-dotvbyte": {
            "n_postings": 4000, "centroid_fraction": 0.2, "summary_energy": 0.5, "max_fraction": 3.0,
            "class": "SeismicIndexDotVByte",
        },
    }  # fmt: skip

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"approximate": [{"query_cut": cut, "heap_factor": factor} for cut in _CUTS for factor in _FACTORS]}

    def start(self) -> None:
        import seismic

        self._module = seismic
        self._string = seismic.get_seismic_string()

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        rows = self._module.SeismicDataset(dim=documents.shape[1])
        names = [str(row) for row in range(documents.shape[0])]
        rows.add_documents_by_id(
            names, documents.indices.astype(np.int64), documents.data, documents.indptr.astype(np.int64)
        )
        given = {name: value for name, value in parameters.items() if name != "class"}
        index = self._class(parameters).build_from_dataset(rows, nknn=0, num_threads=threads, **given)
        index.save(str(folder / "index"))

    def open(self, folder: Path, parameters: Setting) -> None:
        self._index = self._class(parameters).load(str(next(folder.iterdir())))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return np.array([str(term) for term in terms], self._string), weights

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        return [int(name) for _, _, name in self._index.search("q", *query, k, **setting)]

    def _class(self, parameters: Setting) -> Any:
        return getattr(self._module, parameters.get("class", "SeismicIndex"))
