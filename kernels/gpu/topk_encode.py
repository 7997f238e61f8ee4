"""The k largest pre-activations of a sparse autoencoder's encoder, without their B x N matrix.

1. `_group_maxima_kernel` multiplies, and writes two numbers for a row and a group of 32 latents: the largest
   pre-activation, its latent's number in place of the last 5 bits, and the second largest, cut off to 16 bits.
2. `_candidates_kernel` finds the k-th largest of a row's group maxima by their upper 16 bits, a bound that the row's
   k-th largest pre-activation reaches. Of a group whose second reaches it too all latents are listed, of others the
   largest alone.
3. `_exact_kernel` computes these again in float32 and sorts them.

A group is what one thread holds of a row and a tile of 128 latents, so that its maxima need no exchange between
threads. On Hopper the first kernel is :mod:`sparsight.kernels.gpu.hopper_maxima`, where maxima are taken while the
tensor cores multiply the next tile.

Counting for all-MiniLM-L6-v2 (D 384), B = 8,192, N = 65,536 and k = 32: 412 GFLOP, 0.54 ms of an H100's 766 TFLOP/s.
Instead of the matrix's 1.07 GB in bfloat16 0.1 GB of maxima is written and read. Of independent latents 32^2 / 2 of
2,048 groups hold two of the largest, a group in four rows: 42 candidates a row, 0.26 GB of weights gathered.

Measured on an H100, and for N = 16,384, in ms: the three kernels 0.60, 0.11 and 0.10 (0.16, 0.04, 0.08), together 1.10
(1.5) times ``x @ W.T``, which takes 0.74 (0.19), and with torch.topk 6.04 (1.61). The last two kernels move a third of
a gigabyte, 0.12 ms: their instructions limit them. The host takes 0.3 ms a call, 0.2 to 0.4 before the first launch
where it waited before: that limits single calls, and many for small N.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
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
    found += row * ROOM
    counter = counts + row
    groups = tl.arange(0, BLOCK)
    keys = tl.load(largest + row * n_groups + groups, mask=groups < n_groups, other=0)
    # The k-th largest of the maxima of four groups each is a bound too, hardly lower where groups are many.
    most = tl.max(tl.reshape(keys, [BLOCK // 4, 4]), axis=1) if BLOCK >= 2048 else keys
    bound = kth_largest(most >> 16, tl.full([], 1, tl.int32), K)
    chosen = (keys >> 16) >= bound
    crowded = tl.load(second + row * n_groups + groups, mask=chosen, other=0).to(tl.int32) >= bound
    alone = chosen & (crowded == 0)
    total = tl.sum(tl.where(crowded, SIZE, alone.to(tl.int32)), axis=0)
    if total <= ROOM:
        # In any order: what comes of the list has an order of its own.
        place = tl.atomic_add(counter + tl.zeros([BLOCK], tl.int32), 1, mask=alone, sem="relaxed")
        tl.store(found + place, _latent(groups, keys & (SIZE - 1)), mask=alone)
        left = tl.where(crowded, groups, -1)
        group = tl.max(left, axis=0)
        while group >= 0:
            numbers = tl.arange(0, SIZE)
            tl.store(found + tl.atomic_add(counter, SIZE, sem="relaxed") + numbers, _latent(group, numbers))
            left = tl.where(left == group, -1, left)
            group = tl.max(left, axis=0)
    else:
        tl.store(counter, total)


@triton.jit
def _again(x, weight, bias, found, start, listed, count, n_latents, D: tl.constexpr, CHUNK: tl.constexpr,
           AT_ONCE: tl.constexpr):
    """A row's candidates from place ``start`` on: bits of values, then what makes the lower latent the larger."""
    places = start + tl.arange(0, AT_ONCE)
    columns = tl.arange(0, CHUNK)
    latents = tl.where(places < listed, tl.load(found + places, mask=places < listed, other=0), places)
    there = (places < count) & (latents < n_latents)
    sums = tl.zeros([AT_ONCE, CHUNK // 8], tl.float32)
    for first in tl.static_range(0, D, CHUNK):
        atoms = tl.load(weight + latents.to(tl.int64)[:, None] * D + first + columns[None, :], mask=there[:, None],
                        other=0.0).to(tl.float32)
        products = atoms * tl.load(x + first + columns).to(tl.float32)[None, :]
        sums += tl.sum(tl.reshape(products, [AT_ONCE, CHUNK // 8, 8]), axis=2)  # what a thread has
    total = tl.sum(sums, axis=1) + tl.load(bias + latents, mask=there, other=0.0).to(tl.float32)
    bits = tl.where(there & (total > 0), total, 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits > 0, (bits.to(tl.int64) << 32) | (0x7FFFFFFF - latents).to(tl.int64), 0)


@triton.jit(do_not_specialize=["K"])
def _exact_kernel(x, weight, bias, found, counts, latents_out, values_out, n_latents, K, D: tl.constexpr,
                  CHUNK: tl.constexpr, ROOM: tl.constexpr, AT_ONCE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * D
    found += row * ROOM
    listed = tl.load(counts + row)
    count = tl.where(listed <= ROOM, listed, n_latents)  # if they are too many to list, every latent is looked at
    listed = tl.where(listed <= ROOM, listed, 0)
    best = tl.zeros([AT_ONCE], tl.int64)
    for start in range(0, count, AT_ONCE):
        more = _again(x, weight, bias, found, start, listed, count, n_latents, D, CHUNK, AT_ONCE)
        if start > 0:
            best = tl.maximum(tl.sort(best, descending=True), tl.sort(more))  # the larger half, in no order
        else:
            best = more
    best = tl.sort(best, descending=True)
    bits = (best >> 32).to(tl.int32)
    lanes = tl.arange(0, AT_ONCE)
    tl.store(values_out + row * K + lanes, bits.to(tl.float32, bitcast=True), mask=lanes < K)
    tl.store(latents_out + row * K + lanes, tl.where(bits > 0, 0x7FFFFFFF - (best & 0x7FFFFFFF).to(tl.int32), -1),
             mask=lanes < K)


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
    if not rows:
        return room_for(rows, k, x.device, out)
    largest, second = _group_maxima(x, weight, bias, cut)
    latents, values = room_for(rows, k, x.device, out)  # and all that follows while the GPU is at the first kernel
    n_groups, room = largest.shape[1], max(16 * k, 8 * SIZE.value)
    found = torch.empty((rows, room), dtype=torch.int32, device=x.device)
    counts = torch.zeros(rows, dtype=torch.int32, device=x.device)
    block = _power_of_2(n_groups)
    _candidates_kernel[(rows,)](largest, second, found, counts, n_groups, k, ROOM=room, BLOCK=block,
                                num_warps=min(max(block // 512, 1), 8))
    _exact_kernel[(rows,)](x, weight, bias, found, counts, latents, values, len(weight), k, D=width,
                           CHUNK=_chunk(width, 64), ROOM=room, AT_ONCE=max(_power_of_2(k + 1 + k // 4), 32),
                           num_warps=2)
    return latents, values


def _group_maxima(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
                  cut: Cut | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest (int32) and second largest (int16) keys of each group, (B, groups)."""
    rows, width = x.shape
    tiles = -(-len(weight) // TILE.value)
    largest = torch.empty((rows, tiles * GROUPS.value), dtype=torch.int32, device=x.device)
    second = torch.empty((rows, tiles * GROUPS.value), dtype=torch.int16, device=x.device)
    hopper = None if cut else _hopper_kernel(x.device)
    if hopper and hopper.fits(x, weight):
        hopper.launch(x, weight, bias, largest, second)
        return largest, second
    cut = cut or Cut()
    blocks = -(-rows // cut.rows)
    _group_maxima_kernel[(blocks, runs_for(blocks, tiles, x.device))](
        x, weight, bias, largest, second, rows, len(weight), tiles, D=width, CHUNK=_chunk(width, cut.chunk),
        ROWS=cut.rows, STAGES=cut.stages, num_warps=cut.warps)
    return largest, second


def _chunk(width: int, most: int) -> int:
    return next(size for size in (128, 64, 32, 16) if size <= most and width % size == 0)


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


@lru_cache(maxsize=8)
def _hopper_kernel(device: torch.device) -> ModuleType | None:
    """The first kernel's other version, where the GPU and Triton have what it takes."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        return None
    try:
        from sparsight.kernels.gpu import hopper_maxima
    except ImportError:  # Gluon came with Triton 3.4 and grew
        return None
    return hopper_maxima


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
