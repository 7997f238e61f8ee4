"""The k largest pre-activations of a sparse autoencoder's encoder, without their B x N matrix.

A program keeps a block of rows, as attention keeps its queries, and runs over the latents. Of each group of 32
pre-activations it writes the three largest: a tenth of what the matrix would be in bfloat16 is written once and read
once. The k-th largest of these is a bound on the row's k-th largest; whatever reaches it is computed again in float32,
exactly, and sorted. A row in which a group's third largest reaches the bound may hide a fourth: such rows (about one in
a thousand for k = 32 of 65,536) are done again in full.

A group's pre-activations are those that one thread holds anyway, so that its maxima need no exchange; the number of the
latent in its tile takes the place of the last 7 of the 23 bits behind the point, which is why candidates one step of
what remains below the bound are looked at too.

Counting for all-MiniLM-L6-v2 (D 384) and 65,536 latents: 50.3 MFLOP a row, 412 GFLOP for 8,192 rows, which is 0.52 ms
of an H200's 790 TFLOP/s; the matrix in bfloat16 would be 1.07 GB, 0.25 ms to write and more to read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["Cut", "topk_encode"]

_TILE = 128  # latents a program looks at together; their numbers take 7 bits
_GROUPS = 4  # of a tile: pairs of neighbours, every fourth pair in one group
_NOTHING = tl.constexpr(-(2**31))  # below every pre-activation


class Cut(NamedTuple):
    """How the work is cut: rows a program, components read at once, tiles in flight, warps."""

    rows: int = 128
    chunk: int = 64
    stages: int = 1
    warps: int = 8


@triton.jit
def _three_largest(a1, a2, a3, b1, b2, b3):
    """Of two descending triples."""
    lower, middle = tl.minimum(a1, b1), tl.maximum(a2, b2)
    rest = tl.maximum(tl.minimum(a2, b2), tl.maximum(a3, b3))
    return tl.maximum(a1, b1), tl.maximum(lower, middle), tl.maximum(tl.minimum(lower, middle), rest)


@triton.jit
def _group_maxima_kernel(x, weight, bias, out, n_rows, n_latents, n_tiles, D: tl.constexpr, CHUNK: tl.constexpr,
                         ROWS: tl.constexpr, TILE: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    columns = tl.arange(0, CHUNK)
    own = tl.minimum(rows, n_rows - 1)
    kept = ()
    for first in tl.static_range(0, D, CHUNK):
        kept = kept + (tl.load(x + own[:, None] * D + first + columns[None, :]),)  # type: ignore[assignment] # noqa: RUF005
    lanes = tl.arange(0, TILE)
    groups = tl.arange(0, GROUPS)
    share = tl.cdiv(n_tiles, tl.num_programs(1))
    for tile in tl.range(tl.program_id(1) * share, tl.minimum((tl.program_id(1) + 1) * share, n_tiles),
                         num_stages=STAGES):
        latents = tile * TILE + lanes
        there = tl.minimum(latents, n_latents - 1)
        acts = tl.zeros([ROWS, TILE], tl.float32)
        for part in tl.static_range(0, D // CHUNK):
            atoms = tl.load(weight + there[:, None] * D + part * CHUNK + columns[None, :])
            acts = tl.dot(kept[part], tl.trans(atoms), acts, input_precision="ieee")
        acts += tl.load(bias + there).to(tl.float32)[None, :]
        # As whole numbers positive floats keep their order, and negative ones are below them. Of equal ones the lower
        # latent wins.
        keys = (acts.to(tl.int32, bitcast=True) & -TILE) | (TILE - 1 - lanes)[None, :]
        keys = tl.where((latents < n_latents)[None, :], keys, _NOTHING)
        grouped = tl.reshape(keys, [ROWS, TILE // (2 * GROUPS), GROUPS, 2])
        grouped = tl.reshape(tl.permute(grouped, [0, 2, 1, 3]), [ROWS, GROUPS, TILE // GROUPS])
        nothing = tl.full([ROWS, GROUPS, TILE // GROUPS], _NOTHING, tl.int32)
        largest, second, third = tl.reduce((grouped, nothing, nothing), 2, _three_largest)
        where = out + (rows.to(tl.int64)[:, None] * n_tiles + tile) * (3 * GROUPS) + groups[None, :]
        tl.store(where, largest, mask=inside[:, None])
        tl.store(where + GROUPS, second, mask=inside[:, None])
        tl.store(where + 2 * GROUPS, third, mask=inside[:, None])


@triton.jit
def _candidates_kernel(maxima, found, hidden, n_keys, K: tl.constexpr, ROOM: tl.constexpr, TILE: tl.constexpr,
                       GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    keys = tl.load(maxima + row * n_keys + lanes, mask=lanes < n_keys, other=_NOTHING)
    # The largest bound that K keys reach, among the positive ones (those of at least TILE).
    low, high = tl.full([], TILE, tl.int32), tl.max(keys, axis=0)
    while low < high:
        middle = low + (high - low + 1) // 2
        enough = tl.sum((keys >= middle).to(tl.int32), axis=0) >= K
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    bound = tl.maximum((low & -TILE) - TILE, TILE)
    chosen = keys >= bound
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    latents = lanes // (3 * GROUPS) * TILE + (TILE - 1 - (keys & (TILE - 1)))
    tl.store(found + row * ROOM + place, latents, mask=chosen & (place < ROOM))
    third = lanes % (3 * GROUPS) >= 2 * GROUPS
    unsure = (tl.sum(chosen.to(tl.int32), axis=0) > ROOM) | (tl.max((chosen & third).to(tl.int32), axis=0) > 0)
    tl.store(hidden + row, unsure.to(tl.int8))


@triton.jit
def _exact_kernel(x, weight, bias, found, latents_out, values_out, D, K: tl.constexpr, ROOM: tl.constexpr,
                  BLOCK_K: tl.constexpr, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, ROOM)
    columns = tl.arange(0, CHUNK)
    latents = tl.load(found + row * ROOM + lanes)
    there = latents >= 0
    total = tl.load(bias + latents, mask=there, other=0.0).to(tl.float32)
    for first in range(0, D, CHUNK):
        atoms = tl.load(weight + latents.to(tl.int64)[:, None] * D + first + columns[None, :], mask=there[:, None],
                        other=0.0).to(tl.float32)
        total += tl.sum(atoms * tl.load(x + row * D + first + columns).to(tl.float32)[None, :], axis=1)
    bits = tl.where(there & (total > 0), total, 0.0).to(tl.int32, bitcast=True)
    order = (bits.to(tl.int64) << 32) | (0x7FFFFFFF - latents).to(tl.int64)
    order = tl.sort(tl.where(bits > 0, order, 0), descending=True)
    bits = (order >> 32).to(tl.int32)
    some = lanes < K
    tl.store(values_out + row * K + lanes, bits.to(tl.float32, bitcast=True), mask=some)
    tl.store(latents_out + row * K + lanes, tl.where(bits > 0, 0x7FFFFFFF - (order & 0x7FFFFFFF).to(tl.int32), -1),
             mask=some)


def topk_encode(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int, *,
                cut: Cut | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """``relu(topk(x @ weight.T + bias))`` as latents and values; no gradient.

    Parameters
    ----------
    x : bfloat16, float16 or float32, shape (B, D), contiguous
    weight : of ``x``'s dtype, shape (N, D), contiguous
    bias : shape (N,)
    k : int
        At most 128.
    cut : Cut, optional
        How the work is cut.

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

    References
    ----------
    Makhzani and Frey 2013, "k-Sparse Autoencoders". Reference: :func:`sparsight.kernels.reference.topk_encode`.
    """
    rows, width = _checked(x, weight, bias, k)
    n_latents = len(weight)
    cut = cut or Cut()
    chunk = next(size for size in (128, 64, 32, 16) if size <= cut.chunk and width % size == 0)
    tiles = triton.cdiv(n_latents, _TILE)
    latents = torch.empty((rows, k), dtype=torch.int32, device=x.device)
    values = torch.empty((rows, k), dtype=torch.float32, device=x.device)
    if not rows:
        return latents, values
    maxima = torch.empty((rows, tiles * 3 * _GROUPS), dtype=torch.int32, device=x.device)
    blocks = triton.cdiv(rows, cut.rows)
    _group_maxima_kernel[(blocks, _runs(blocks, tiles, x.device))](
        x, weight, bias, maxima, rows, n_latents, tiles, D=width, CHUNK=chunk, ROWS=cut.rows, TILE=_TILE,
        GROUPS=_GROUPS, STAGES=cut.stages, num_warps=cut.warps)
    room = triton.next_power_of_2(k + 1 + k // 4)
    found = torch.full((rows, room), -1, dtype=torch.int32, device=x.device)
    hidden = torch.empty(rows, dtype=torch.int8, device=x.device)
    block = triton.next_power_of_2(maxima.shape[1])
    _candidates_kernel[(rows,)](maxima, found, hidden, maxima.shape[1], K=k, ROOM=room, TILE=_TILE, GROUPS=_GROUPS,
                                BLOCK=block, num_warps=4 if block <= 8192 else 8)
    _exact_kernel[(rows,)](x, weight, bias, found, latents, values, width, K=k, ROOM=room,
                           BLOCK_K=triton.next_power_of_2(k), CHUNK=chunk, num_warps=4)
    again = hidden.nonzero()[:, 0]
    if len(again):
        latents[again], values[again] = _in_full(x[again], weight, bias, k)
    return latents, values


def _in_full(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
             k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through the matrix of all pre-activations, for a few rows."""
    pre_acts = x.float() @ weight.float().T + bias.float()
    found = torch.sort(pre_acts, dim=1, descending=True, stable=True)
    values, latents = found.values[:, :k].relu(), found.indices[:, :k].int()
    missing = k - values.shape[1]
    if missing:
        values = torch.nn.functional.pad(values, (0, missing))
        latents = torch.nn.functional.pad(latents, (0, missing), value=-1)
    return torch.where(values > 0, latents, -1), values


def _runs(blocks: int, tiles: int, device: torch.device) -> int:
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
