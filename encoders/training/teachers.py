"""Each teacher's best documents for the training queries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.kernels import Postings, topk_documents_batch

__all__ = ["Say", "best_by_product", "best_by_search"]

Say = Callable[[str], None]
_QUERIES_AT_ONCE = 256


def best_by_product(queries: NDArray[np.float16], documents: NDArray[np.float16], k: int,
                    device: str) -> NDArray[np.int32]:
    """Documents of the k largest inner products (Q, k), best first."""
    kind = torch.float32 if device == "cpu" else torch.float16
    matrix = torch.from_numpy(documents).to(device, kind)
    k = min(k, len(documents))
    out = np.empty((len(queries), k), np.int32)
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        part = torch.from_numpy(queries[first:first + _QUERIES_AT_ONCE]).to(device, kind)
        out[first:first + len(part)] = torch.topk(part @ matrix.T, k).indices.int().cpu().numpy()
    return out


def best_by_search(queries: csr_matrix, documents: csr_matrix, k: int) -> NDArray[np.int32]:
    """Documents of the k largest sparse products (Q, k) by our own exact index; -1 where fewer match.

    Weights of documents are cut to 8 bits and those of queries to 12, as the index does.
    """
    top = float(documents.data.max(initial=1e-9))
    impacts = np.maximum(np.round(documents.data * (255 / top)), 1).astype(np.uint8)
    postings = Postings.from_rows(documents.indptr.astype(np.uint64), documents.indices.astype(np.uint32), impacts,
                                  np.arange(documents.shape[0] + 1, dtype=np.uint32))
    out = np.full((queries.shape[0], k), -1, np.int32)
    for first in range(0, queries.shape[0], 8192):
        part = queries[first:first + 8192]
        asked = []
        for start, stop in zip(part.indptr[:-1], part.indptr[1:], strict=True):
            weights = part.data[start:stop]
            levels = np.round(weights * (4095 / max(float(weights.max(initial=0)), 1e-9)))
            asked.append((part.indices[start:stop].astype(np.uint32), np.maximum(levels, 1).astype(np.int16)))
        for row, found in enumerate(topk_documents_batch(postings, asked, k)):
            out[first + row, :len(found)] = found.documents
    return out
