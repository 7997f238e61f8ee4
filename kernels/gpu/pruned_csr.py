"""Weights (B, V) to compressed rows, both on the device: entries above a threshold, the largest of them if asked.

Two passes over the weights, which are float16 and not negative, so that their bits order as they do. The first finds
for each row the smallest weight that stays (a binary search over 15 bits, each step a count) and how many stay; the
second writes them. Ids are uint16 where the vocabulary allows it and weights may be bytes, so that little crosses to
the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["DeviceRows", "pruned_csr"]

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """Compressed rows on a device.

    Attributes
    ----------
    starts : int64, shape (B + 1,)
    terms : uint16 (V up to 65,536) or int32, shape (nnz,)
        Ascending in each row.
    values : float16 or uint8, shape (nnz,)
        uint8 are levels of ``scale``.
    scale : float
        One level of uint8 values; 1 for float16.
    n_terms : int
    """

    starts: torch.Tensor
    terms: torch.Tensor
    values: torch.Tensor
    scale: float
    n_terms: int

    def to_host(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """``indptr``, ``indices`` and ``data`` of a csr_matrix."""
        values = self.values.cpu().numpy().astype(np.float32) * np.float32(self.scale)
        return self.starts.cpu().numpy(), self.terms.cpu().numpy().astype(np.int32), values


@triton.jit
def _count(keys, row, n_terms, least, BLOCK: tl.constexpr):
    total = 0
    for first in range(0, n_terms, BLOCK):
        at = first + tl.arange(0, BLOCK)
        key = tl.load(keys + row * n_terms + at, mask=at < n_terms, other=-1).to(tl.int32)
        total += tl.sum((key >= least).to(tl.int32))
    return total


@triton.jit
def _cut_kernel(keys, cuts, extras, counts, n_terms, lowest, max_terms, BLOCK: tl.constexpr):
    """Per row: keys above ``cut`` stay, and the first ``extra`` of those equal to it."""
    row = tl.program_id(0).to(tl.int64)
    count = _count(keys, row, n_terms, lowest, BLOCK)
    cut = lowest - 1
    extra = 0
    if (max_terms > 0) & (count > max_terms):
        # The largest key that max_terms entries reach: built from its highest bit down.
        cut = 0
        for bit in range(14, -1, -1):
            tried = cut + (1 << bit)
            if _count(keys, row, n_terms, tried, BLOCK) >= max_terms:
                cut = tried
        extra = max_terms - _count(keys, row, n_terms, cut + 1, BLOCK)
        count = max_terms
    tl.store(cuts + row, cut)
    tl.store(extras + row, extra)
    tl.store(counts + row, count.to(tl.int64))


@triton.jit
def _write_kernel(keys, weights, cuts, extras, starts, terms, values, n_terms, levels, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cut = tl.load(cuts + row)
    extra = tl.load(extras + row)
    place = tl.load(starts + row)
    seen = 0
    for first in range(0, n_terms, BLOCK):
        at = first + tl.arange(0, BLOCK)
        key = tl.load(keys + row * n_terms + at, mask=at < n_terms, other=-1).to(tl.int32)
        equal = (key == cut).to(tl.int32)
        kept = (key > cut) | ((equal != 0) & (seen + tl.cumsum(equal, 0) <= extra))
        where = place + tl.cumsum(kept.to(tl.int32), 0) - 1
        weight = tl.load(weights + row * n_terms + at, mask=kept, other=0.0).to(tl.float32)
        tl.store(terms + where, at.to(terms.dtype.element_ty), mask=kept)
        if values.dtype.element_ty == tl.uint8:
            # At least one level: what is stored is not 0.
            level = tl.minimum(tl.maximum(tl.floor(weight * levels + 0.5), 1.0), 255.0)
            tl.store(values + where, level.to(tl.uint8), mask=kept)
        else:
            tl.store(values + where, weight.to(values.dtype.element_ty), mask=kept)
        seen += tl.sum(equal)
        place += tl.sum(kept.to(tl.int64))


def pruned_csr(weights: torch.Tensor, *, max_terms: int = 0, threshold: float = 0.0,
               max_weight: float = 0.0) -> DeviceRows:
    """Compressed rows of dense weights.

    Parameters
    ----------
    weights : float16, shape (B, V), contiguous
        Not negative; NaN counts as larger than everything.
    max_terms : int
        Largest entries kept in a row, equal ones by lower term; 0 keeps all.
    threshold : float
        Entries must be larger; at least 0.
    max_weight : float
        Above 0: values become bytes, 255 of them reach up to this (larger weights saturate). 0: values stay float16.

    Returns
    -------
    DeviceRows

    Raises
    ------
    ShapeError, InvalidArgumentError
        If the weights are no such matrix or a number is negative.

    Notes
    -----
    Reference: :func:`sparsight.kernels.reference.pruned_csr`. One number, the entries in all, is read on the host.
    """
    if weights.ndim != 2 or weights.dtype != torch.float16 or not weights.is_contiguous():
        raise ShapeError(f"expected contiguous float16 weights (B, V), got {weights.dtype} {tuple(weights.shape)}",
                         field="weights")
    for name, value in (("max_terms", max_terms), ("threshold", threshold), ("max_weight", max_weight)):
        if not 0 <= value < np.inf:
            raise InvalidArgumentError(f"expected {name} of at least 0, got {value}", field=name)
    rows, n_terms = weights.shape
    device = weights.device
    # The smallest key above the threshold: a threshold between two float16 numbers is rounded down to the lower.
    rounded = np.float16(min(threshold, 65504.0))
    lowest = int(rounded.view(np.int16)) + (1 if float(rounded) <= threshold else 0)
    keys = weights.view(torch.int16)
    cuts = torch.empty(rows, dtype=torch.int32, device=device)
    extras = torch.empty_like(cuts)
    starts = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    wide = n_terms > 1 << 16
    if rows:
        _cut_kernel[(rows,)](keys, cuts, extras, starts[1:], n_terms, lowest, max_terms, BLOCK=_BLOCK, num_warps=8)
        starts[1:] = starts[1:].cumsum(0)
    total = int(starts[-1])
    terms = torch.empty(total, dtype=torch.int32 if wide else torch.uint16, device=device)
    values = torch.empty(total, dtype=torch.uint8 if max_weight else torch.float16, device=device)
    if total:
        _write_kernel[(rows,)](keys, weights, cuts, extras, starts, terms, values, n_terms,
                               255.0 / max_weight if max_weight else 0.0, BLOCK=_BLOCK, num_warps=8)
    return DeviceRows(starts, terms, values, max_weight / 255.0 if max_weight else 1.0, n_terms)
