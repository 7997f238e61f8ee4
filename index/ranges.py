"""Rows of several ranges, one range after another, and sparse rows that are kept in that way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseRows", "ranges"]


def ranges(begins: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``begins[i], begins[i] + 1, ...`` (``lengths[i]`` of them) in one array, and where each range starts in it.

    The starts have the total behind them, (R + 1,), as a CSR matrix has it.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return np.repeat(begins.astype(np.int64) - starts[:-1], lengths.astype(np.int64)) + np.arange(starts[-1]), starts


class SparseRows(NamedTuple):
    """Passages (n) in an impact field: where each begins, (n + 1,), then term ids, 8-bit impacts and weights."""

    indptr: NDArray[np.int64]
    ids: NDArray[np.uint32]
    impacts: NDArray[np.uint8]
    weights: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[SparseRows], at: Sequence[NDArray[np.int64]]) -> SparseRows:
        """Rows of parts in one order; ``at`` has the places in it that each part's rows take."""
        if not parts:
            return cls(np.zeros(1, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint8), np.zeros(0, np.float32))
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        order = np.argsort(np.concatenate(at))
        entries, indptr = ranges((np.cumsum(lengths) - lengths)[order], lengths[order])
        return cls(indptr, *(np.concatenate([part[column] for part in parts])[entries] for column in (1, 2, 3)))
