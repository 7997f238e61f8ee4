"""The k largest positive entries of each row of a narrow matrix, in one program a row.

What chooses among few latents: those of a small dictionary, or the dead ones that AuxK trains. A binary search over the
bits of positive floats, which order as the floats do, finds the k-th largest; nothing is sorted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sparsight.errors import ShapeError

__all__ = ["kth_largest", "room_for", "top_positive"]


@triton.jit
def kth_largest(keys, low, K):
    """The largest bound in [low, max(keys)] that K keys reach, or ``low``: a binary search, each step a count."""
    high = tl.max(keys, axis=0)
    while low < high:
        middle = low + (high - low + 1) // 2
        enough = tl.sum((keys >= middle).to(tl.int32), axis=0) >= K
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit(do_not_specialize=["K"])
def _top_positive_kernel(pre_acts, names, latents, values, n, K, EMPTY: tl.constexpr, BLOCK: tl.constexpr,
                         BLOCK_K: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    acts = tl.load(pre_acts + row * n + lanes, mask=lanes < n, other=0.0).to(tl.float32)
    keys = tl.where(acts > 0, acts, 0.0).to(tl.int32, bitcast=True) >> EMPTY  # positive floats keep their order
    bound = kth_largest(keys, tl.full([], 1, tl.int32), K)
    above, equal = (keys > bound).to(tl.int32), (keys == bound).to(tl.int32)
    kept = (above > 0) | ((equal > 0) & (tl.cumsum(equal, axis=0) <= K - tl.sum(above, axis=0)))
    place = row * K + tl.cumsum(kept.to(tl.int32), axis=0) - 1
    tl.store(latents + place, tl.load(names + lanes, mask=kept, other=0), mask=kept)
    tl.store(values + place, acts, mask=kept)
    slots = tl.arange(0, BLOCK_K)
    spare = (slots >= tl.sum(kept.to(tl.int32), axis=0)) & (slots < K)
    tl.store(latents + row * K + slots, tl.full([BLOCK_K], -1, tl.int32), mask=spare)
    tl.store(values + row * K + slots, tl.zeros([BLOCK_K], tl.float32), mask=spare)


def top_positive(pre_acts: torch.Tensor, names: torch.Tensor, k: int, *,
                 out: tuple[torch.Tensor, torch.Tensor] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest positive entries of each row of a matrix that fits a program: the dead latents' for AuxK.

    Parameters
    ----------
    pre_acts : shape (B, M), contiguous
        M up to 4096 or so; a program holds a row.
    names : int32, shape (M,)
        The latents that the columns belong to.
    k : int
    out : (int32, float32), both of shape (B, k), contiguous, optional
        Where to write what is returned.

    Returns
    -------
    latents : int32, shape (B, k)
        By column ascending; of equal ones the lower columns. -1 where fewer than k are positive.
    values : float32, shape (B, k)
        0 where there is no latent.

    Raises
    ------
    ShapeError
        If shapes do not fit.
    """
    rows, columns = pre_acts.shape
    if names.shape != (columns,) or names.dtype != torch.int32 or not pre_acts.is_contiguous():
        raise ShapeError(f"expected contiguous (B, M) and int32 (M,), got {tuple(pre_acts.shape)} and {names.dtype} "
                         f"{tuple(names.shape)}", field="names")
    latents, values = room_for(rows, k, pre_acts.device, out)
    block = triton.next_power_of_2(columns)
    empty = 16 if pre_acts.dtype == torch.bfloat16 else 0  # bits that need no search
    _top_positive_kernel[(rows,)](pre_acts, names, latents, values, columns, k, EMPTY=empty, BLOCK=block,
                                  BLOCK_K=triton.next_power_of_2(k), num_warps=min(max(block // 256, 1), 8))
    return latents, values


def room_for(rows: int, k: int, device: torch.device,
             out: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``out`` if it is latents and values of k a row, or new ones."""
    if out is None:
        return (torch.empty((rows, k), dtype=torch.int32, device=device),
                torch.empty((rows, k), dtype=torch.float32, device=device))
    for part, dtype in zip(out, (torch.int32, torch.float32), strict=True):
        if part.shape != (rows, k) or part.dtype != dtype or not part.is_contiguous():
            raise ShapeError(f"expected contiguous {dtype} ({rows}, {k}), got {part.dtype} {tuple(part.shape)}",
                             field="out")
    return out
