"""The first kernel of :mod:`sparsight.kernels.gpu.topk_encode` for Hopper (H100, H200), in Gluon, Triton's lower level.

A program keeps a block of rows in shared memory and runs over tiles of latents. Its warps have three roles: one loads
tiles by the copy engine into a ring of chunks, and two groups of four take every other tile each, so that one takes
maxima while the other multiplies.
"""

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from sparsight.kernels.gpu.topk_encode import GROUPS, TILE, runs_for, two_largest

__all__ = ["fits", "launch"]

CHUNK = gl.constexpr(64)  # components of a row that a swizzled tile of shared memory holds: 128 bytes
_SHARED_BYTES = 227 * 1024 - 512  # what a program may have, less its barriers
# Registers a thread: 128 are accumulators. The first four warps get what is left of 504, and spill below 256.
_MULTIPLIER_REGISTERS, _LOADER_REGISTERS = 208, 24
_LAYOUT = gl.NVMMASharedLayout(128, 16, 2)

_copy = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # its name in Triton 3.6


@gluon.jit
def _load(x, weight, kept, rings, there, filled, free, first_row, first, stop, PARTS: gl.constexpr,
          STAGES: gl.constexpr):
    mbarrier.expect(there, x.block_type.nbytes * PARTS)
    for part in gl.static_range(PARTS):
        _copy(x, [first_row, part * CHUNK], there, kept.index(part))
    for count in range((stop - first) * PARTS):
        turn = count // PARTS
        use = turn // 2 * PARTS + count % PARTS
        slot = turn % 2 * STAGES + use % STAGES
        mbarrier.wait(free.index(slot), use // STAGES & 1 ^ 1)
        mbarrier.expect(filled.index(slot), weight.block_type.nbytes)
        _copy(weight, [(first + turn) * TILE, count % PARTS * CHUNK], filled.index(slot), rings.index(slot))


@gluon.jit
def _multiply(bias, largest, second, kept, rings, there, filled, free, first_row, first, stop, n_rows, n_latents,
              n_tiles, WHICH: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr):
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    lanes = gl.arange(0, TILE, layout=gl.SliceLayout(0, layout))
    mbarrier.wait(there, 0)
    for tile in range(first + WHICH, stop, 2):
        latents = tile * TILE + lanes
        own = gl.load(bias + latents, mask=latents < n_latents, other=-float("inf")).to(gl.float32)
        acts = gl.zeros([ROWS, TILE], gl.float32, layout)
        for part in gl.static_range(PARTS):
            use = (tile - first) // 2 * PARTS + part
            slot = WHICH * STAGES + use % STAGES
            mbarrier.wait(filled.index(slot), use // STAGES & 1)
            acts = warpgroup_mma(kept.index(part), rings.index(slot).permute((1, 0)), acts, use_acc=part > 0,
                                 is_async=True)
            if part > 0:  # the chunk before has been read
                acts = warpgroup_mma_wait(1, deps=[acts])
                mbarrier.arrive(free.index(WHICH * STAGES + (use - 1) % STAGES))
        acts = warpgroup_mma_wait(0, deps=[acts])
        mbarrier.arrive(free.index(WHICH * STAGES + ((tile - first) // 2 * PARTS + PARTS - 1) % STAGES))
        first_keys, second_keys = two_largest(acts + own[None, :], lanes, ROWS)
        rows = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, first_keys.type.layout))
        groups = gl.arange(0, GROUPS, layout=gl.SliceLayout(0, first_keys.type.layout))
        where = (rows.to(gl.int64) * n_tiles + tile)[:, None] * GROUPS + groups[None, :]
        gl.store(largest + where, first_keys, mask=(rows < n_rows)[:, None])
        gl.store(second + where, (second_keys >> 16).to(gl.int16), mask=(rows < n_rows)[:, None])


@gluon.jit
def _hopper_maxima_kernel(x, weight, bias, largest, second, n_rows, n_latents, n_tiles, PARTS: gl.constexpr,
                          ROWS: gl.constexpr, STAGES: gl.constexpr, MULTIPLIER: gl.constexpr, LOADER: gl.constexpr):
    kept = gl.allocate_shared_memory(x.dtype, [PARTS, ROWS, CHUNK], x.layout)
    rings = gl.allocate_shared_memory(weight.dtype, [2 * STAGES, TILE, CHUNK], weight.layout)
    there = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    filled = gl.allocate_shared_memory(gl.int64, [2 * STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [2 * STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(there, count=1)
    for slot in gl.static_range(2 * STAGES):
        mbarrier.init(filled.index(slot), count=1)
        mbarrier.init(free.index(slot), count=1)
    share = gl.cdiv(n_tiles, gl.num_programs(1))
    first = gl.program_id(1) * share
    stop = gl.minimum(first + share, n_tiles)
    first_row = gl.program_id(0) * ROWS
    gl.warp_specialize([
        (_multiply, (bias, largest, second, kept, rings, there, filled, free, first_row, first, stop, n_rows, n_latents,
                     n_tiles, 0, PARTS, STAGES, ROWS)),
        (_multiply, (bias, largest, second, kept, rings, there, filled, free, first_row, first, stop, n_rows, n_latents,
                     n_tiles, 1, PARTS, STAGES, ROWS)),
        (_load, (x, weight, kept, rings, there, filled, free, first_row, first, stop, PARTS, STAGES)),
    ], [4, 1], [MULTIPLIER, LOADER])


def fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel takes these: 16-bit floats in rows of a multiple of 64, at addresses of a multiple of 16."""
    return (x.dtype in (torch.bfloat16, torch.float16) and x.shape[1] % CHUNK.value == 0
            and x.data_ptr() % 16 == 0 and weight.data_ptr() % 16 == 0)


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, largest: torch.Tensor,
           second: torch.Tensor) -> None:
    """Fills ``largest``, int32 (B, groups), and ``second``, int16, as :mod:`sparsight.kernels.gpu.topk_encode` says."""
    (n_rows, width), n_latents = x.shape, len(weight)
    rows = 128 if width <= 512 else 64
    tiles, blocks = -(-n_latents // TILE.value), -(-n_rows // rows)
    stages = (_SHARED_BYTES // 2 - rows * width) // (2 * TILE.value * CHUNK.value)  # of each ring
    _hopper_maxima_kernel[(blocks, runs_for(blocks, tiles, x.device))](
        TensorDescriptor.from_tensor(x, [rows, CHUNK.value], _LAYOUT),
        TensorDescriptor.from_tensor(weight, [TILE.value, CHUNK.value], _LAYOUT),
        bias, largest, second, n_rows, n_latents, tiles, PARTS=width // CHUNK.value, ROWS=rows, STAGES=min(stages, 4),
        MULTIPLIER=_MULTIPLIER_REGISTERS, LOADER=_LOADER_REGISTERS, num_warps=4)
