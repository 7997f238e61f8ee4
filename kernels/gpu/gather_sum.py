"""Sparse matrices times dense ones, and the products back: what learning with few non-zeros needs of a GPU.

Every sum is float32 and in a fixed order, without atomic additions: equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sparsight.errors import ShapeError

__all__ = ["gather_sum", "gather_sum_sorted", "row_dots"]


@triton.jit
def _gather_sum_kernel(starts, index, scale, table, out, H, BLOCK_H: tl.constexpr, UNROLL: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK_H)
    lanes = tl.arange(0, UNROLL)
    total = tl.zeros([BLOCK_H], tl.float32)
    stop = tl.load(starts + row + 1)
    for at in range(tl.load(starts + row), stop, UNROLL):
        some = at + lanes < stop
        rows = tl.load(index + at + lanes, mask=some, other=0).to(tl.int64)
        scales = tl.load(scale + at + lanes, mask=some, other=0.0)
        lines = tl.load(table + rows[:, None] * H + columns[None, :], mask=some[:, None] & (columns < H)[None, :],
                        other=0.0)
        total += tl.sum(lines.to(tl.float32) * scales[:, None], axis=0)
    tl.store(out + row.to(tl.int64) * H + columns, total.to(out.dtype.element_ty), mask=columns < H)


@triton.jit
def _row_dots_kernel(vectors, index, table, out, H, K, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_H)
    lanes = tl.arange(0, BLOCK_K)
    vector = tl.load(vectors + row * H + columns, mask=columns < H, other=0.0).to(tl.float32)
    for first in range(0, K, BLOCK_K):
        some = first + lanes < K
        at = tl.load(index + row * K + first + lanes, mask=some, other=0).to(tl.int64)
        lines = tl.load(table + at[:, None] * H + columns[None, :], mask=some[:, None] & (columns < H)[None, :],
                        other=0.0)
        dots = tl.sum(lines.to(tl.float32) * vector[None, :], axis=1)
        tl.store(out + row * K + first + lanes, dots, mask=some)


def gather_sum(rows: torch.Tensor, index: torch.Tensor, scale: torch.Tensor, table: torch.Tensor,
               n_rows: int) -> torch.Tensor:
    """``out[r] = sum of scale[i] * table[index[i]] over the entries i with rows[i] = r``: sparse times dense.

    Parameters
    ----------
    rows, index : int64, shape (nnz,)
        Entries in any order.
    scale : float32, shape (nnz,)
    table : shape (N, H), contiguous
    n_rows : int

    Returns
    -------
    shape (n_rows, H), of ``table``'s dtype
        Sums in float32, in the order of the entries.
    """
    order = torch.sort(rows, stable=True).indices
    starts = torch.zeros(n_rows + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=n_rows).cumsum(0)
    return gather_sum_sorted(starts, index[order], scale[order], table)


def gather_sum_sorted(starts: torch.Tensor, index: torch.Tensor, scale: torch.Tensor,
                      table: torch.Tensor) -> torch.Tensor:
    """`gather_sum` of entries that lie row by row: those of row r are ``starts[r]:starts[r + 1]``, int64 (R + 1,).

    Returns
    -------
    shape (R, H), of ``table``'s dtype
    """
    out = torch.empty((len(starts) - 1, table.shape[1]), dtype=table.dtype, device=table.device)
    if len(out):
        _gather_sum_kernel[(len(out),)](starts, index, scale, table, out, table.shape[1],
                                        BLOCK_H=triton.next_power_of_2(table.shape[1]), UNROLL=8, num_warps=2)
    return out


def row_dots(vectors: torch.Tensor, index: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``out[b, j] = vectors[b] . table[index[b, j]]``.

    Parameters
    ----------
    vectors : shape (B, H), contiguous
    index : int64, shape (B, K), contiguous
    table : shape (N, H), contiguous

    Returns
    -------
    float32, shape (B, K)

    Raises
    ------
    ShapeError
        If shapes do not fit or something is not contiguous.
    """
    if vectors.ndim != 2 or index.ndim != 2 or len(index) != len(vectors) or table.shape[1:] != vectors.shape[1:]:
        raise ShapeError(f"expected (B, H), (B, K) and (N, H), got {tuple(vectors.shape)}, {tuple(index.shape)} and "
                         f"{tuple(table.shape)}", field="index")
    if not (vectors.is_contiguous() and index.is_contiguous() and table.is_contiguous()):
        raise ShapeError("expected contiguous vectors, index and table", field="table")
    out = torch.empty(index.shape, dtype=torch.float32, device=vectors.device)
    if out.numel():
        _row_dots_kernel[(len(vectors),)](vectors, index, table, out, vectors.shape[1], index.shape[1],
                                          BLOCK_H=triton.next_power_of_2(vectors.shape[1]), BLOCK_K=8, num_warps=2)
    return out
