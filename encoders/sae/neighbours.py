"""Queries with their nearest documents: what an autoencoder learns rankings from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

__all__ = ["Neighbours", "nearest"]

_SCORES_AT_ONCE = 1 << 28  # 1 GB of float32


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Queries, and the rows of the training data that are nearest to each.

    Attributes
    ----------
    queries : float32, shape (Q, D)
        Unit rows.
    rows : int64, shape (Q, m)
        Numbers of training rows, nearest first.

    Raises
    ------
    ShapeError, InvalidVectorError
        If they are no such arrays, of different lengths, or a query is not finite.
    """

    queries: NDArray[np.float32]
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        found = [(array.ndim, str(array.dtype)) for array in (self.queries, self.rows)]
        if found != [(2, "float32"), (2, "int64")] or len(self.queries) != len(self.rows):
            raise ShapeError("expected float32 queries (Q, D) and int64 rows (Q, m), got "
                             f"{self.queries.dtype} {self.queries.shape} and {self.rows.dtype} {self.rows.shape}",
                             field="neighbours")
        if not np.isfinite(self.queries).all():
            raise InvalidVectorError("expected finite queries", field="neighbours")


def nearest(queries: NDArray[np.float32], x: NDArray[np.float32], count: int, device: str = "cpu") -> Neighbours:
    """The ``count`` rows of ``x`` with the largest inner products with each query, equal ones in any order.

    Parameters
    ----------
    queries : float32, shape (Q, D)
    x : float32, shape (B, D)
    count : int
        At most B.
    device : str
        Where it is computed; on a GPU, choosing is in bfloat16.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If an array is no finite matrix, the widths differ, or ``count`` is not in [1, B].
    """
    check_rows("x", x)
    check_rows("queries", queries, columns=x.shape[1])
    if not 1 <= count <= len(x):
        raise InvalidArgumentError(f"expected count in [1, {len(x)}], got {count}", field="count")
    found = np.empty((len(queries), count), np.int64)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    rows = torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype)
    step = max(_SCORES_AT_ONCE // max(len(x), 1), 1)
    for first in range(0, len(queries), step):
        part = torch.from_numpy(np.ascontiguousarray(queries[first:first + step])).to(device, dtype)
        found[first:first + step] = (part @ rows.T).topk(count, dim=1).indices.cpu().numpy()
    return Neighbours(np.ascontiguousarray(queries, np.float32), found)
