"""Rows of several ranges, one range after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ranges"]


def ranges(begins: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``begins[i], begins[i] + 1, ...`` (``lengths[i]`` of them) in one array, and where each range starts in it.

    The starts have the total behind them, (R + 1,), as a CSR matrix has it.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return np.repeat(begins.astype(np.int64) - starts[:-1], lengths.astype(np.int64)) + np.arange(starts[-1]), starts
