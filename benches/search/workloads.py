"""What is searched: documents and queries of one measurement, as sparse matrices, and the ways engines round them.

A workload is named by its file (``splade``), by a random sample of its documents (``splade@100000``) or by the
generator (``generated_splade_1000000``); a generated one is made when it is first asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["DOCUMENT_LEVELS", "QUERY_LEVELS", "TEST", "TUNING", "Workload", "terms_and_weights", "to_levels"]

DOCUMENT_LEVELS = 255  # what integer peers take: one byte a posting
QUERY_LEVELS = 100  # PISA repeats a term once a level, so more levels would only slow it down
TUNING, TEST = 0, 1

_SEED = 20_260_701
_GENERATED = re.compile(r"generated_(splade|sae)_(\d+)$")


def to_levels(matrix: csr_matrix, levels: int) -> csr_matrix:
    """Weights as whole numbers 1..levels in int32: the largest weight of the matrix becomes ``levels``."""
    scaled = np.rint(matrix.data.astype(np.float64) * (levels / max(float(matrix.data.max(initial=0.0)), 1e-30)))
    return csr_matrix((np.maximum(1, scaled).astype(np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)


def terms_and_weights(matrix: csr_matrix, row: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Terms (ascending) and weights of a row."""
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[part].astype(np.uint32), matrix.data[part].astype(np.float32)


@dataclass(frozen=True)
class Workload:
    """A named workload in a folder of ``.npz`` files; arrays are read when they are first used.

    The file holds the documents' CSR parts ``d_indptr``, ``d_indices``, ``d_data``, the queries' as ``q_*``, ``vocab``,
    and of each query ``split`` (0 tuning, 1 test) and optionally ``kind``.

    Attributes
    ----------
    folder : Path
    name : str
    """

    folder: Path
    name: str

    @property
    def family(self) -> str:
        """The name without the number of documents: workloads of a family show how an engine grows."""
        whole = self.name.split("@")[0]
        return re.sub(r"_\d+$", "", whole) if _GENERATED.match(whole) else whole

    @cached_property
    def documents(self) -> csr_matrix:
        """float32, shape (N, vocab), sorted int32 indices."""
        with np.load(self.file) as arrays:
            n = len(arrays["d_indptr"]) - 1
            parts = arrays["d_data"], arrays["d_indices"], arrays["d_indptr"]
            whole = csr_matrix(parts, shape=(n, int(arrays["vocab"])))
        whole.sort_indices()
        sample = re.search(r"@(\d+)$", self.name)
        if not sample:
            return whole
        if int(sample[1]) > n:
            raise ValueError(f"{self.name}: expected at most {n} documents")
        # Samples of growing size contain each other, so that growth is not the luck of the draw.
        chosen = np.random.default_rng(_SEED).permutation(n)[: int(sample[1])]
        return whole[np.sort(chosen)]

    @cached_property
    def queries(self) -> csr_matrix:
        """float32, shape (Q, vocab), sorted int32 indices."""
        with np.load(self.file) as arrays:
            parts = arrays["q_data"], arrays["q_indices"], arrays["q_indptr"]
            matrix = csr_matrix(parts, shape=(len(arrays["q_indptr"]) - 1, int(arrays["vocab"])))
        matrix.sort_indices()
        return matrix

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        """Where each query is from, shape (Q,)."""
        with np.load(self.file) as arrays:
            return arrays["kind"].astype(str) if "kind" in arrays else np.full(self.queries.shape[0], "all")

    def choose(self, split: int, n: int) -> NDArray[np.int64]:
        """Up to n queries of a split, at random but always the same; queries without weights are left out.

        Returns
        -------
        int64, shape (at most n,)
            Rows of :attr:`queries`, ascending.

        Raises
        ------
        ValueError
            If the split has none.
        """
        with np.load(self.file) as arrays:
            splits = arrays["split"]
        able = np.flatnonzero((splits == split) & (np.diff(self.queries.indptr) > 0))
        if len(able) == 0:
            raise ValueError(f"{self.name}: no queries with split = {split}")
        return np.sort(np.random.default_rng(_SEED + split).permutation(able)[:n])

    @cached_property
    def file(self) -> Path:
        """The workload's file, made first if it is a generated one.

        Raises
        ------
        FileNotFoundError
            If it is not there and is not a generated one.
        """
        whole = self.name.split("@")[0]
        path, made = self.folder / f"{whole}.npz", _GENERATED.match(whole)
        if made and not path.exists():
            from benches.search.generate import generate

            generate(made[1], int(made[2]), path)
        if not path.exists():
            raise FileNotFoundError(f"no workload {path}: make bench-vectors makes it; --vectors names another folder")
        return path
