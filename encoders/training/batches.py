"""Texts as packed word pieces, and batches of them that waste nothing on padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparsight.encoders.packed import Packing

__all__ = ["PackedTexts", "RaggedRows", "take"]


def take(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the entries of ``rows`` lie in a ragged array, one row after another, and the starts of what that makes.

    Examples
    --------
    >>> take(np.array([0, 2, 5]), np.array([1, 0]))
    (array([2, 3, 4, 0, 1]), array([0, 3, 5]))
    """
    lengths = starts[rows + 1] - starts[rows]
    made = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=made[1:])
    return np.arange(made[-1]) + np.repeat(starts[rows] - made[:-1], lengths), made


@dataclass(frozen=True, slots=True, eq=False)
class PackedTexts:
    """Word pieces of N texts, one text after another.

    Attributes
    ----------
    ids : uint16 or int32, shape (T,)
    starts : int64, shape (N + 1,)
    """

    ids: NDArray[np.uint16] | NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, rows: NDArray[np.int64]) -> PackedTexts:
        """The texts ``rows``, in that order."""
        at, starts = take(self.starts, rows)
        return PackedTexts(self.ids[at], starts)

    def joined(self, other: PackedTexts) -> PackedTexts:
        """These texts, then the other's."""
        return PackedTexts(np.concatenate([self.ids, other.ids]),
                           np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]))

    def on(self, device: torch.device | str) -> tuple[torch.Tensor, Packing]:
        """What :class:`PackedBert` takes."""
        ids = torch.from_numpy(self.ids.astype(np.int64))
        return ids.to(device, non_blocking=True), Packing(self.starts, device)

    def batches(self, tokens: int) -> Iterator[NDArray[np.int64]]:
        """Rows in batches of about ``tokens`` word pieces, long texts first."""
        order = np.argsort(-np.diff(self.starts), kind="stable")
        ends = np.cumsum(np.diff(self.starts)[order])
        first = 0
        while first < len(order):
            done = ends[first - 1] if first else 0
            last = max(int(np.searchsorted(ends, done + tokens, "right")), first + 1)
            yield order[first:last]
            first = last


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
