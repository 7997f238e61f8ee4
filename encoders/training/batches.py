"""Rows that go with packed texts, on a device; statistics of such texts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.packed import PackedTexts, take
from sparsight.encoders.training.bm25 import idf_of

__all__ = ["RaggedRows", "document_idf"]


class RaggedRows:
    """Sparse rows on a device, from which dense matrices of some rows are made.

    Parameters
    ----------
    starts : int64, shape (N + 1,)
    terms : int32, shape (nnz,)
    values : float, shape (nnz,)
    width : int
        Columns.
    device : torch.device
    """

    def __init__(self, starts: NDArray[np.int64], terms: NDArray[np.int32], values: NDArray[np.floating],
                 width: int, device: torch.device | str) -> None:
        self.starts, self.width = np.asarray(starts, np.int64), width
        self.terms = torch.from_numpy(np.ascontiguousarray(terms, np.int32)).to(device)
        self.values = torch.from_numpy(np.ascontiguousarray(values, np.float16)).to(device)

    def dense(self, rows: NDArray[np.int64], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The rows (B, width)."""
        at, starts = take(self.starts, rows)
        device = self.terms.device
        where = torch.from_numpy(at).to(device, non_blocking=True)
        row = torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(starts))).to(device, non_blocking=True)
        out = torch.zeros((len(rows), self.width), dtype=dtype, device=device)
        out[row, self.terms[where].long()] = self.values[where].to(dtype)
        return out


def document_idf(documents: PackedTexts, size: int) -> NDArray[np.float32]:
    """:func:`idf_of` every word piece: float32 (``size``,)."""
    n = np.zeros(size, np.int64)
    count, per_chunk = len(documents), 32_768
    for first in range(0, count, per_chunk):
        starts = documents.starts[first:first + per_chunk + 1]
        ids = documents.ids[starts[0]:starts[-1]].astype(np.int32)
        rows = csr_matrix((np.ones(len(ids), np.int8), ids, (starts - starts[0]).astype(np.int32)),
                          shape=(len(starts) - 1, size))
        # By word pieces: a document that has one twice stands there twice in a row. Linear, where unique() sorts.
        columns = rows.tocsc()
        new = np.ones(len(ids) + 1, np.int64)
        new[1:-1] = columns.indices[1:] != columns.indices[:-1]
        new[columns.indptr] = 1
        before = np.concatenate([[0], np.cumsum(new)])
        n += before[columns.indptr[1:]] - before[columns.indptr[:-1]]
    return idf_of(n, count)
