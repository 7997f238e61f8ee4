"""The head of a learned sparse encoder without its B x L x V tensor: the largest logit of every term, fused.

``m[b, v] = max_t hidden[t] . weight[v] + bias[v]`` over the tokens t of text b, texts packed without padding. A program
keeps a block of terms' weights in shared memory, as attention keeps its queries, and runs over the tokens of many
texts; what leaves it is one number for a text and a term. Memory is therefore independent of the texts' length.

The gradient reaches one token for a text and a term, and none where the activation is flat: a few hundred entries a
text. So the backward pass is two sparse products (:mod:`sparsight.kernels.gpu.gather_sum`) and no dense one. Both
passes are deterministic: no atomic additions, every sum in a fixed order.

Counting for all-MiniLM-L6-v2 (H 384, V 30,522): 23.4 MFLOP a token, so 797 TFLOP/s (an H200's measured bf16 product)
would be 266,000 texts/s of 128 tokens; each block of 128 terms reads all tokens once, 184 KB a token through the L2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.gpu.gather_sum import gather_sum

__all__ = ["MAX_TOKENS", "Blocks", "MaxLogits", "TokenTiles", "blocks_for", "max_logits"]

MAX_TOKENS = 512  # of a text, when gradients are wanted: the winning token's number lies in 9 bits of the logit
_TOKEN_BITS = 9
_SPEED = {32: 293, 64: 453, 128: 499}  # TFLOP/s by the tokens of a tile, full tiles, width 384
ACTIVATIONS = {"": 0, "log1p_relu": 1, "log1p_log1p_relu": 2}


class Blocks(NamedTuple):
    """How the work is cut: components read at once, terms a program, tokens a tile, tiles in flight, warps."""

    chunk: int
    terms: int
    tokens: int
    stages: int
    warps: int


def blocks_for(width: int, lengths: NDArray[np.int64], gradients: bool = False) -> Blocks:
    """The cut for vectors of ``width`` components and texts of ``lengths`` (B,) tokens.

    The fastest of ``benches/bench_max_logits.py --sweep`` on an H200. A program's terms and its tiles in flight share a
    multiprocessor's 227 KB of shared memory; a text's last tile is filled up with repeats, so which size of tile is
    best depends on the lengths.

    Raises
    ------
    ShapeError
        If ``width`` is no multiple of 16 or not in [16, 1024].
    """
    chunk = next((size for size in (128, 64, 32, 16) if width % size == 0), 0)
    if not chunk or not 16 <= width <= 1024:
        raise ShapeError(f"expected vectors of a multiple of 16 and at most 1024 components, got {width}",
                         field="hidden")
    if width > 384:
        return Blocks(chunk, 64, 64 if width <= 512 else 32, 2, 4)
    size = min(_SPEED, key=lambda tokens: float((-(-lengths // tokens) * tokens).sum()) / _SPEED[tokens])
    if size == 128 and width > 128:
        return Blocks(chunk if gradients else min(chunk, 64), 128, size, 1, 8)
    return Blocks(chunk, 128, size, 3 if width <= 128 or size == 32 else 2, 8)


def _of_float32(cut: Blocks, width: int) -> Blocks:
    """A cut for numbers twice as long, which need as much shared memory: fewer terms a program, a tile at a time.

    Of 227 KB it takes 164 KB at 384 components, and 197 KB at most, at 1024.
    """
    if width <= 128:
        return cut
    return cut._replace(terms=64 if width <= 384 else 16, stages=1)


class TokenTiles:
    """Which tokens a program reads together: tiles of tokens of one text each, in the texts' order.

    Parameters
    ----------
    starts : int64, shape (B + 1,)
        On the host. Text b has the tokens ``starts[b]:starts[b + 1]``, at least one.
    width : int
        Components of a token's vector.
    device : torch.device
    gradients : bool
        They are for :class:`MaxLogits`.
    cut : Blocks, optional
        How the work is cut, in place of :func:`blocks_for`.

    Attributes
    ----------
    table : int32, shape (tiles, 4)
        First token, the text's last token, the text, and in one number whether it is the text's first (bit 0) and last
        (bit 1) tile and which token of the text it begins with (from bit 2).
    texts, tokens : int
    """

    def __init__(self, starts: NDArray[np.int64], width: int, device: torch.device | str,
                 gradients: bool = False, cut: Blocks | None = None) -> None:
        lengths = np.diff(starts)
        if len(starts) < 2 or lengths.min() < 1:
            raise ShapeError("expected texts of at least one token", field="starts")
        if gradients and lengths.max() > MAX_TOKENS:
            raise ShapeError(f"expected texts of at most {MAX_TOKENS} tokens, got {lengths.max()}", field="starts")
        self.cut = cut or blocks_for(width, lengths, gradients)
        self.width, self.gradients, size = width, gradients, self.cut.tokens
        counts = -(-lengths // size)
        text = np.repeat(np.arange(len(lengths)), counts)
        part = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = starts[:-1][text] + part * size
        flags = (part == 0) + 2 * (part == counts[text] - 1) + 4 * (part * size)
        table = np.stack([first, starts[1:][text] - 1, text, flags], axis=1).astype(np.int32)
        self.texts, self.tokens = len(lengths), int(starts[-1])
        self.ends = np.flatnonzero(flags & 2) + 1  # a split between programs falls between texts
        self._starts = starts
        self.table = torch.from_numpy(table).to(device, non_blocking=True)

    def first_tokens(self) -> torch.Tensor:
        """int64 (B,): where each text begins."""
        return torch.from_numpy(self._starts[:-1]).to(self.table.device, non_blocking=True)

    def splits(self, count: int) -> torch.Tensor:
        """Bounds (count + 1,) of ``count`` runs of tiles of about equal work, each of whole texts."""
        wanted = np.linspace(0, len(self.ends), count + 1).round().astype(np.int64)
        bounds = np.concatenate([[0], self.ends])[wanted]
        return torch.from_numpy(bounds.astype(np.int32)).to(self.table.device, non_blocking=True)


@triton.jit
def _max_logits_kernel(hidden, weight, bias, tiles, splits, out, n_terms,
                       H: tl.constexpr, CHUNK: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_T: tl.constexpr,
                       TOKEN_BITS: tl.constexpr, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
                       STAGES: tl.constexpr):
    terms = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = terms < n_terms
    columns = tl.arange(0, CHUNK)
    own = tl.minimum(terms, n_terms - 1)  # past the end: the last term again, never stored
    kept = ()
    for first in tl.static_range(0, H, CHUNK):
        kept = kept + (tl.load(weight + own[:, None] * H + first + columns[None, :]),)  # type: ignore[assignment] # noqa: RUF005
    shift = tl.zeros([BLOCK_V], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + own).to(tl.float32)
    lanes = tl.arange(0, BLOCK_T)
    best = tl.full([BLOCK_V], float("-inf"), tl.float32)
    for tile in tl.range(tl.load(splits + tl.program_id(1)), tl.load(splits + tl.program_id(1) + 1), num_stages=STAGES):
        start = tl.load(tiles + tile * 4)
        last = tl.load(tiles + tile * 4 + 1)
        text = tl.load(tiles + tile * 4 + 2)
        flags = tl.load(tiles + tile * 4 + 3)
        # Lanes past the text's end read its last token again, which leaves the maximum alone.
        rows = tl.minimum(start + lanes, last)
        logits = tl.zeros([BLOCK_V, BLOCK_T], tl.float32)
        for part in tl.static_range(0, H // CHUNK):
            tokens = tl.load(hidden + rows[:, None] * H + part * CHUNK + columns[None, :])
            logits = tl.dot(kept[part], tl.trans(tokens), logits, input_precision="ieee")
        if TOKEN_BITS:
            # The lowest bits of a logit give way to its token's number, counted down: of equal logits above 0 the
            # earlier token wins, of those below the later.
            token = ((1 << TOKEN_BITS) - 1) - ((flags >> 2) + rows - start)
            bits = (logits.to(tl.int32, bitcast=True) >> TOKEN_BITS) << TOKEN_BITS
            logits = (bits | token[None, :]).to(tl.float32, bitcast=True)
        found = tl.max(logits, axis=1)
        best = tl.where((flags & 1) != 0, found, tl.maximum(best, found))
        values = best
        if TOKEN_BITS == 0:
            values = best + shift
            if ACTIVATION >= 1:
                values = tl.log(1.0 + tl.maximum(values, 0.0))
            if ACTIVATION == 2:
                values = tl.log(1.0 + values)
        where = out + text.to(tl.int64) * n_terms + terms
        tl.store(where, values.to(out.dtype.element_ty), mask=inside & (tl.full([BLOCK_V], 2, tl.int32) == (flags & 2)))


def _launch(hidden: torch.Tensor, tiles: TokenTiles, weight: torch.Tensor, bias: torch.Tensor | None,
            out: torch.Tensor, *, token_bits: int, activation: int) -> None:
    cut = tiles.cut if hidden.element_size() == 2 else _of_float32(tiles.cut, tiles.width)
    programs = triton.cdiv(len(weight), cut.terms)
    splits = _even_splits(programs, tiles, hidden.device)
    _max_logits_kernel[(programs, splits)](
        hidden, weight, weight if bias is None else bias, tiles.table, tiles.splits(splits), out, len(weight),
        H=hidden.shape[1], CHUNK=cut.chunk, BLOCK_V=cut.terms, BLOCK_T=cut.tokens, TOKEN_BITS=token_bits,
        HAS_BIAS=bias is not None, ACTIVATION=activation, STAGES=cut.stages, num_warps=cut.warps)


def _even_splits(programs: int, tiles: TokenTiles, device: torch.device) -> int:
    """Into how many runs the texts are cut, so that the last wave of programs is nearly full."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    most = max(1, min(32, tiles.texts, len(tiles.table) // 16))
    waves = [programs * count / processors for count in range(1, most + 1)]
    waste = [-(-wave // 1) / wave + 0.002 * wave for wave in waves]  # a new program costs its weights' load
    return int(np.argmin(waste)) + 1


def _checked(hidden: torch.Tensor, tiles: TokenTiles, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ShapeError(f"expected hidden (T, H) and weight (V, H), got {tuple(hidden.shape)} and "
                         f"{tuple(weight.shape)}", field="hidden")
    if hidden.dtype != weight.dtype or not hidden.is_contiguous() or not weight.is_contiguous():
        raise ShapeError(f"expected contiguous hidden and weight of one dtype, got {hidden.dtype} and {weight.dtype}",
                         field="weight")
    if hidden.shape[1] != tiles.width:
        raise ShapeError(f"expected tiles of width {hidden.shape[1]}, got {tiles.width}", field="tiles")
    if len(hidden) != tiles.tokens or max(hidden.numel(), weight.numel()) >= 2**31:
        raise ShapeError(f"expected {tiles.tokens} tokens, fewer than 2^31 numbers, got {tuple(hidden.shape)}",
                         field="hidden")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"expected bias ({len(weight)},), got {tuple(bias.shape)}", field="bias")


def max_logits(hidden: torch.Tensor, tiles: TokenTiles, weight: torch.Tensor, bias: torch.Tensor | None = None, *,
               activation: str = "", dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Largest logit, or weight, of every term in every text; no gradient (see :class:`MaxLogits`).

    Parameters
    ----------
    hidden : bfloat16, float16 or float32, shape (T, H), contiguous
        Token vectors of all texts, one after another.
    tiles : TokenTiles
        Which tokens are whose.
    weight, bias : shapes (V, H), of ``hidden``'s dtype, and (V,)
    activation : "", "log1p_relu" or "log1p_log1p_relu"
        What follows the maximum.
    dtype : torch.dtype
        Of what is returned. Sums are float32.

    Returns
    -------
    shape (B, V)

    Raises
    ------
    ShapeError
        If shapes or dtypes do not fit, or H is no multiple of 16 up to 1024.

    References
    ----------
    Formal et al. 2021, "SPLADE v2", arXiv 2109.10086. Reference: :func:`sparsight.kernels.reference.max_logits`.
    """
    _checked(hidden, tiles, weight, bias)
    if activation not in ACTIVATIONS:
        raise InvalidArgumentError(f"expected an activation of {list(ACTIVATIONS)}, got {activation!r}",
                                   field="activation")
    out = torch.empty((tiles.texts, len(weight)), dtype=dtype, device=hidden.device)
    _launch(hidden, tiles, weight, bias, out, token_bits=0, activation=ACTIVATIONS[activation])
    return out


class MaxLogits(torch.autograd.Function):
    """:func:`max_logits` with a gradient: ``MaxLogits.apply(hidden, tiles, weight, bias)`` is float32 (B, V).

    The tiles are made with ``gradients=True``: texts have at most ``MAX_TOKENS`` tokens. The logits lose their last 9
    bits (a relative 6e-5) to the number of the token that won, which costs one instruction instead of a second maximum.

    Notes
    -----
    Only entries with a gradient other than 0 are visited in the backward pass: those where the activation that follows
    is not flat. It copies their number to the host.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, tiles: TokenTiles, weight: torch.Tensor, bias: torch.Tensor,
                ) -> torch.Tensor:
        _checked(hidden, tiles, weight, bias)
        if not tiles.gradients:
            raise ShapeError("expected tiles made with gradients=True", field="tiles")
        packed = torch.empty((tiles.texts, len(weight)), dtype=torch.float32, device=hidden.device)
        _launch(hidden, tiles, weight, None, packed, token_bits=_TOKEN_BITS, activation=0)
        ctx.tiles = tiles
        ctx.save_for_backward(hidden, weight, packed)
        return packed + bias.float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, packed = ctx.saved_tensors
        texts, terms = gradient.nonzero(as_tuple=True)
        values = gradient[texts, terms].float()
        last = (1 << _TOKEN_BITS) - 1
        tokens = ctx.tiles.first_tokens()[texts] + last - (packed[texts, terms].view(torch.int32) & last)
        to_hidden = gather_sum(tokens, terms, values, weight, len(hidden))
        to_weight = gather_sum(terms, tokens, values, hidden, len(weight))
        return to_hidden, None, to_weight, gradient.sum(0)
