"""Qdrant in process (qdrant-edge-py): its sparse inverted index in memory; exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting, folder_bytes

_BATCH = 2_000


class Qdrant(Engine):
    """A shard with one sparse vector a point; never a full scan, and optimised until there is nothing to do."""

    distribution = "qdrant-edge-py"

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"exact": [{}]}

    def start(self) -> None:
        import qdrant_edge

        self._module = qdrant_edge

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        qdrant = self._module
        config = qdrant.EdgeConfig(sparse_vectors={"s": qdrant.EdgeSparseVectorParams(full_scan_threshold=0)})
        (folder / "shard").mkdir()
        shard = qdrant.EdgeShard.create(str(folder / "shard"), config)
        cuts = documents.indptr.tolist()
        for first in range(0, documents.shape[0], _BATCH):
            points = [
                qdrant.Point(row, {"s": qdrant.SparseVector(
                    documents.indices[cuts[row] : cuts[row + 1]].tolist(),
                    documents.data[cuts[row] : cuts[row + 1]].tolist(),
                )})
                for row in range(first, min(first + _BATCH, documents.shape[0]))
                if cuts[row] < cuts[row + 1]
            ]  # fmt: skip
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        while shard.optimize():
            pass
        shard.flush()

    def open(self, folder: Path, parameters: Setting) -> None:
        self._shard = self._module.EdgeShard.load(str(folder / "shard"))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return self._module.SparseVector(terms.tolist(), weights.tolist())

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        nearest = self._module.Query.Nearest(query, using="s")
        return [point.id for point in self._shard.query(self._module.QueryRequest(limit=k, query=nearest))]

    def size(self, folder: Path) -> int:
        """Without the write-ahead log, which a search does not read."""
        logs = sum(folder_bytes(path) for path in folder.rglob("wal") if path.is_dir())
        return folder_bytes(folder) - logs
