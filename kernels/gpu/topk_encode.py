"""The k largest pre-activations of a sparse autoencoder's encoder, without their B x N matrix.

1. `_group_maxima_kernel` multiplies, and writes two numbers for a row and a group of 32 latents: the largest
   pre-activation, its latent's number in place of the last 5 bits, and the second largest, cut off to 16 bits.
2. `_candidates_kernel` finds the k-th largest of a row's group maxima by their upper 16 bits, a bound that the row's
   k-th largest pre-activation reaches. Of a group whose second reaches it too all latents are looked at, of others the
   largest alone.
3. `_exact_kernel` computes these again in float32 and sorts them.

A group is what one thread holds of a row and a tile of 128 latents, so that its maxima need no exchange between
threads. On Hopper the first kernel is :mod:`sparsight.kernels.gpu.hopper_maxima`, where maxima are taken while the
tensor cores multiply the next tile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.gpu.top_positive import kth_largest, room_for

__all__ = ["Cut", "runs_for", "topk_encode", "two_largest"]

TILE = tl.constexpr(128)  # latents whose pre-activations a program has at once
GROUPS = tl.constexpr(4)  # of a tile: pairs of neighbours, every fourth pair in one group
SIZE = tl.constexpr(32)  # of a group


class Cut(NamedTuple):
    """How the portable kernel cuts the work: rows a program, components read at once, tiles in flight, warps."""

    rows: int = 128
    chunk: int = 128
    stages: int = 1
    warps: int = 8


@triton.jit
def two_largest(acts, lanes, ROWS: tl.constexpr):
    """Of each group of a tile's pre-activations (ROWS, TILE), as whole numbers, the latents' numbers in the last bits.

    As whole numbers positive floats keep their order, and negative ones are below them. ``lanes`` is ``arange(TILE)``.
    """
    keys = acts.to(tl.int32, bitcast=True) & -SIZE | (lanes // 8 * 2 + lanes % 2)[None, :]
    grouped = tl.permute(tl.reshape(keys, [ROWS, TILE // 8, GROUPS, 2]), [0, 2, 1, 3])
    a, b = tl.split(grouped)
    largest, second = tl.maximum(a, b), tl.minimum(a, b)
    for level in tl.static_range(1, 5):  # a tournament; tl.reduce compiles to as much, but is slow where interpreted
        a, b = tl.split(tl.reshape(largest, [ROWS, GROUPS, SIZE // (2 << level), 2]))
        c, d = tl.split(tl.reshape(second, [ROWS, GROUPS, SIZE // (2 << level), 2]))
        largest, second = tl.maximum(a, b), tl.maximum(tl.minimum(a, b), tl.maximum(c, d))
    return tl.reshape(largest, [ROWS, GROUPS]), tl.reshape(second, [ROWS, GROUPS])


@triton.jit
def _latent(group, number):
    """The latent with a number in a group."""
    return group // GROUPS * TILE + group % GROUPS * 2 + number // 2 * 8 + number % 2


@triton.jit
def _group_maxima_kernel(x, weight, bias, largest, second, n_rows, n_latents, n_tiles, D: tl.constexpr,
                         CHUNK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, CHUNK)
    own = tl.minimum(rows, n_rows - 1)
    kept = ()
    for first in tl.static_range(0, D, CHUNK):
        kept = kept + (tl.load(x + own[:, None] * D + first + columns[None, :]),)  # type: ignore[assignment] # noqa: RUF005
    lanes = tl.arange(0, TILE)
    share = tl.cdiv(n_tiles, tl.num_programs(1))
    for tile in tl.range(tl.program_id(1) * share, tl.minimum((tl.program_id(1) + 1) * share, n_tiles),
                         num_stages=STAGES):
        latents = tile * TILE + lanes
        there = tl.minimum(latents, n_latents - 1)
        acts = tl.zeros([ROWS, TILE], tl.float32)
        for part in tl.static_range(0, D // CHUNK):
            atoms = tl.load(weight + there[:, None] * D + part * CHUNK + columns[None, :])
            acts = tl.dot(kept[part], tl.trans(atoms), acts, input_precision="ieee")
        acts += tl.load(bias + latents, mask=latents < n_latents, other=-float("inf")).to(tl.float32)[None, :]
        first_keys, second_keys = two_largest(acts, lanes, ROWS)
        where = (rows.to(tl.int64)[:, None] * n_tiles + tile) * GROUPS + tl.arange(0, GROUPS)[None, :]
        tl.store(largest + where, first_keys, mask=(rows < n_rows)[:, None])
        tl.store(second + where, (second_keys >> 16).to(tl.int16), mask=(rows < n_rows)[:, None])


@triton.jit(do_not_specialize=["K"])
def _candidates_kernel(largest, second, found, counts, n_groups, K, ROOM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK)
    keys = tl.load(largest + row * n_groups + groups, mask=groups < n_groups, other=0)
    bound = kth_largest(keys >> 16, tl.full([], 1, tl.int32), K)
    chosen = (keys >> 16) >= bound
    crowded = tl.load(second + row * n_groups + groups, mask=chosen, other=0).to(tl.int32) >= bound
    alone = chosen & (crowded == 0)
    n_alone, n_crowded = tl.sum(alone.to(tl.int32), axis=0), tl.sum(crowded.to(tl.int32), axis=0)
    count = n_alone + n_crowded * SIZE
    tl.store(counts + row, count)
    if count <= ROOM:
        place = found + row * ROOM + tl.cumsum(alone.to(tl.int32), axis=0) - 1
        tl.store(place, _latent(groups, keys & (SIZE - 1)), mask=alone)
        if n_crowded > 0:
            place = found + row * ROOM + n_alone + (tl.cumsum(crowded.to(tl.int32), axis=0) - 1) * SIZE
            for number in range(SIZE):
                tl.store(place + number, _latent(groups, number), mask=crowded)


@triton.jit(do_not_specialize=["K"])
def _exact_kernel(x, weight, bias, found, counts, latents_out, values_out, n_latents, K, D: tl.constexpr,
                  CHUNK: tl.constexpr, ROOM: tl.constexpr, AT_ONCE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, AT_ONCE)
    columns = tl.arange(0, CHUNK)
    listed = tl.load(counts + row)
    count = tl.where(listed <= ROOM, listed, n_latents)  # if they are too many to list, every latent is looked at
    listed = tl.where(listed <= ROOM, listed, 0)
    best = tl.zeros([AT_ONCE], tl.int64)  # bits of values, then what makes the lower latent the larger
    for start in range(0, count, AT_ONCE):
        places = start + lanes
        latents = tl.where(places < listed, tl.load(found + row * ROOM + places, mask=places < listed, other=0), places)
        there = (places < count) & (latents < n_latents)
        parts = tl.zeros([AT_ONCE, CHUNK // 8], tl.float32)
        for first in tl.static_range(0, D, CHUNK):
            atoms = tl.load(weight + latents.to(tl.int64)[:, None] * D + first + columns[None, :], mask=there[:, None],
                            other=0.0).to(tl.float32)
            products = atoms * tl.load(x + row * D + first + columns).to(tl.float32)[None, :]
            parts += tl.sum(tl.reshape(products, [AT_ONCE, CHUNK // 8, 8]), axis=2)
        total = tl.sum(parts, axis=1) + tl.load(bias + latents, mask=there, other=0.0).to(tl.float32)
        bits = tl.where(there & (total > 0), total, 0.0).to(tl.int32, bitcast=True)
        order = (bits.to(tl.int64) << 32) | (0x7FFFFFFF - latents).to(tl.int64)
        best = tl.sort(tl.maximum(best, tl.sort(tl.where(bits > 0, order, 0))), descending=True)
    bits = (best >> 32).to(tl.int32)
    some = lanes < K
    tl.store(values_out + row * K + lanes, bits.to(tl.float32, bitcast=True), mask=some)
    tl.store(latents_out + row * K + lanes, tl.where(bits > 0, 0x7FFFFFFF - (best & 0x7FFFFFFF).to(tl.int32), -1),
             mask=some)


def topk_encode(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int, *, cut: Cut | None = None,
                out: tuple[torch.Tensor, torch.Tensor] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """``relu(topk(x @ weight.T + bias))`` as latents and values; no gradient. The host waits for nothing.

    Parameters
    ----------
    x : bfloat16, float16 or float32, shape (B, D), contiguous
    weight : of ``x``'s dtype, shape (N, D), contiguous
    bias : shape (N,)
    k : int
        At most 128.
    cut : Cut, optional
        How the portable kernel cuts the work. If not given, the kernel for Hopper is taken where it runs.
    out : (int32, float32), both of shape (B, k), contiguous, optional
        Where to write what is returned.

    Returns
    -------
    latents : int32, shape (B, k)
        By value descending, then latent ascending; -1 where fewer than k are positive.
    values : float32, shape (B, k)
        Sums in float32; 0 where there is no latent.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If shapes or dtypes do not fit, D is no multiple of 16, or k is out of range.

    Notes
    -----
    Positive values below 2^-133 count as zero. k is no constant of the kernels: a training whose k falls from 128 to 32
    compiles three versions of them. A row with very many equal values, more than ``16 k`` candidates, computes all of
    its pre-activations a second time.

    References
    ----------
    Makhzani and Frey 2013, "k-Sparse Autoencoders". Reference: :func:`sparsight.kernels.reference.topk_encode`.
    """
    rows, width = _checked(x, weight, bias, k)
    latents, values = room_for(rows, k, x.device, out)
    if not rows:
        return latents, values
    largest, second = _group_maxima(x, weight, bias, cut)
    n_groups, room = largest.shape[1], max(16 * k, 8 * SIZE.value)
    found = torch.empty((rows, room), dtype=torch.int32, device=x.device)
    counts = torch.empty(rows, dtype=torch.int32, device=x.device)
    block = triton.next_power_of_2(n_groups)
    _candidates_kernel[(rows,)](largest, second, found, counts, n_groups, k, ROOM=room, BLOCK=block,
                                num_warps=min(max(block // 1024, 1), 8))
    _exact_kernel[(rows,)](x, weight, bias, found, counts, latents, values, len(weight), k, D=width,
                           CHUNK=_chunk(width, 128), ROOM=room, AT_ONCE=triton.next_power_of_2(k + 1 + k // 4),
                           num_warps=2)
    return latents, values


def _group_maxima(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
                  cut: Cut | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest (int32) and second largest (int16) keys of each group, (B, groups)."""
    rows, width = x.shape
    tiles = triton.cdiv(len(weight), TILE.value)
    largest = torch.empty((rows, tiles * GROUPS.value), dtype=torch.int32, device=x.device)
    second = torch.empty_like(largest, dtype=torch.int16)
    if cut is None and x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9:
        from sparsight.kernels.gpu import hopper_maxima

        if hopper_maxima.fits(x, weight):
            hopper_maxima.launch(x, weight, bias, largest, second)
            return largest, second
    cut = cut or Cut()
    blocks = triton.cdiv(rows, cut.rows)
    _group_maxima_kernel[(blocks, runs_for(blocks, tiles, x.device))](
        x, weight, bias, largest, second, rows, len(weight), tiles, D=width, CHUNK=_chunk(width, cut.chunk),
        ROWS=cut.rows, STAGES=cut.stages, num_warps=cut.warps)
    return largest, second


def _chunk(width: int, most: int) -> int:
    return next(size for size in (128, 64, 32, 16) if size <= most and width % size == 0)


@lru_cache(maxsize=64)  # asked for at every step of a training
def runs_for(blocks: int, tiles: int, device: torch.device) -> int:
    """Into how many runs the tiles are cut, so that the last wave of programs is nearly full."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    most = max(1, min(32, tiles // 16))
    waste = [-(-blocks * count // processors) * processors / (blocks * count) + 0.01 * count
             for count in range(1, most + 1)]
    return 1 + waste.index(min(waste))


def _checked(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[int, int]:
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or bias.shape != weight.shape[:1]:
        raise ShapeError(f"expected x (B, D), weight (N, D) and bias (N,), got {tuple(x.shape)}, "
                         f"{tuple(weight.shape)} and {tuple(bias.shape)}", field="weight")
    if x.dtype != weight.dtype or not x.is_contiguous() or not weight.is_contiguous():
        raise ShapeError(f"expected contiguous x and weight of one dtype, got {x.dtype} and {weight.dtype}",
                         field="weight")
    if x.shape[1] % 16 or not 16 <= x.shape[1] <= 1024:
        raise ShapeError(f"expected rows of a multiple of 16 and at most 1024 components, got {x.shape[1]}", field="x")
    if max(x.numel(), weight.numel()) >= 2**31:
        raise ShapeError("expected fewer than 2^31 numbers", field="weight")
    if not 1 <= k <= 128:
        raise InvalidArgumentError(f"expected k in [1, 128], got {k}", field="k")
    return len(x), x.shape[1]
