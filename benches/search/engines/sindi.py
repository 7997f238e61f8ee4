"""SINDI, the sparse index of VSAG (pyvsag): inverted lists with values, windows of documents, SIMD.

Builds: all weights kept, which is exact as long as the query is not pruned, in windows of the default 50,000 documents
and of the least allowed (faster where the windows' scores then stay in cache); and two with the lightest part of each
document's weight dropped, rescored from the whole vectors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_PRUNED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_CANDIDATES = (1, 2, 5, 10, 30, 100)  # times k


class Sindi(Engine):
    """``dim`` is the most weights of a vector; where fewer than k documents match, the rest of an answer is chance."""

    distribution = "pyvsag"
    builds: ClassVar[dict[str, Setting]] = {
        "whole": {"doc_prune_ratio": 0.0, "use_reorder": False, "window_size": 50_000},
        "whole-10000": {"doc_prune_ratio": 0.0, "use_reorder": False, "window_size": 10_000},
        "pruned20": {"doc_prune_ratio": 0.2, "use_reorder": True, "window_size": 10_000},
        "pruned40": {"doc_prune_ratio": 0.4, "use_reorder": True, "window_size": 10_000},
    }

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        if not self.builds[build]["use_reorder"]:
            pruned = [{"query_prune_ratio": ratio, "n_candidate": k} for ratio in _PRUNED]
            return {"exact": pruned[:1], "approximate": pruned[1:]}
        candidates = [k * times for times in _CANDIDATES if k * times <= 20_000]
        return {"approximate": [{"query_prune_ratio": r, "n_candidate": n} for r in _PRUNED for n in candidates]}

    def start(self) -> None:
        import pyvsag

        pyvsag.set_logger_off()
        self._class = pyvsag.Index

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        most = int(np.diff(documents.indptr).max(initial=1))
        (folder / "parameters.json").write_text(
            json.dumps({
                "dtype": "sparse", "metric_type": "ip", "dim": most,
                "index_param": {"term_id_limit": documents.shape[1], **parameters},
            })
        )  # fmt: skip
        index = self._class("sindi", (folder / "parameters.json").read_text())
        index.build(
            index_pointers=documents.indptr.astype(np.uint32), indices=documents.indices.astype(np.uint32),
            values=documents.data, ids=np.arange(documents.shape[0]),
        )  # fmt: skip
        index.save(str(folder / "index"))

    def open(self, folder: Path, parameters: Setting) -> None:
        self._index = self._class("sindi", (folder / "parameters.json").read_text())
        self._index.load(str(folder / "index"))
        self._settings: dict[tuple[Any, ...], str] = {}

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return np.array([0, len(terms)], np.uint32), terms, weights

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        key = tuple(setting.items())
        if key not in self._settings:
            self._settings[key] = json.dumps({"sindi": setting})
        numbers: Found = self._index.knn_search(*query, k, self._settings[key])[0][0]
        return numbers
