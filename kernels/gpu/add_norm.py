"""``layer_norm(x + y)`` in one pass over memory; forward only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sparsight.errors import ShapeError

__all__ = ["add_norm"]


@triton.jit
def _add_norm_kernel(x, y, weight, bias, out, n_rows, H, eps, BLOCK_H: tl.constexpr, ROWS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK_H)
    there = (columns < H)[None, :] & (rows < n_rows)[:, None]
    at = rows.to(tl.int64)[:, None] * H + columns[None, :]
    total = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    total += tl.load(y + at, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=1) / H
    centred = tl.where(there, total - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, axis=1) / H + eps)
    scale = tl.load(weight + columns, mask=columns < H, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=columns < H, other=0.0).to(tl.float32)
    made = centred * spread[:, None] * scale[None, :] + shift[None, :]
    tl.store(out + at, made.to(out.dtype.element_ty), mask=there)


def add_norm(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """``torch.nn.functional.layer_norm(x + y, (H,), weight, bias, eps)``, sums in float32, no gradient.

    Parameters
    ----------
    x, y : shape (T, H), contiguous, of one dtype
    weight, bias : shape (H,)
    eps : float

    Returns
    -------
    shape (T, H), of their dtype

    Raises
    ------
    ShapeError
        If shapes differ or a matrix is not contiguous.

    References
    ----------
    Ba, Kiros, Hinton 2016, "Layer Normalization", arXiv 1607.06450.
    """
    if x.shape != y.shape or x.ndim != 2 or not x.is_contiguous() or not y.is_contiguous():
        raise ShapeError(f"expected two contiguous (T, H), got {tuple(x.shape)} and {tuple(y.shape)}", field="x")
    if x.dtype != y.dtype or weight.shape != x.shape[1:] or bias.shape != x.shape[1:]:
        raise ShapeError(f"expected one dtype and a weight and bias ({x.shape[1]},), got {x.dtype}, {y.dtype}, "
                         f"{tuple(weight.shape)} and {tuple(bias.shape)}", field="weight")
    out = torch.empty_like(x)
    rows = 4
    _add_norm_kernel[(triton.cdiv(len(x), rows),)](x, y, weight, bias, out, len(x), x.shape[1], eps,
                                                   BLOCK_H=triton.next_power_of_2(x.shape[1]), ROWS=rows, num_warps=4)
    return out
