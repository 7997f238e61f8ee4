"""A training step of a k-sparse autoencoder after its latents are chosen: decode, loss, gradients, Adam, unit rows.

No gradient is ever a matrix of all latents, and there are no float atomics: entries are sorted by latent, and a program
a latent sums its entries' rows in their order and updates the latent's two rows at once. Equal inputs give equal bits.

1. `decode_loss`, a program a row of the batch, has the row's k decoder rows in registers: what is missed of the row,
   and the factors that its entries have in both weight gradients.
2. `latent_order` sorts the entries. Popular latents have thousands, so each 128 entries that are all one latent's are
   summed by a program of their own first.
3. `adam_rows` sums the rest, removes the part of the decoder's gradient along its row, and does Adam, the row's length
   and the latent's silence.

AuxK (Gao et al. 2024) is a second `decode_loss`, of what the first one missed, whose entries join the first's.

Bytes for D = 384, N = 16,384, a batch of 8,192 and k = 32 (262,144 entries), in bfloat16: 0.2 GB of decoder rows and
0.4 GB of rows of the batch are gathered, from matrices that an H100's level-2 cache holds (12.6 and 6.3 MB); weights
and moments are 0.15 GB to read and as much to write, two thirds of it moments, for every latent has its moments decayed
in every step, as in dense Adam. A latent of all rows costs its program 254 entries and 64 sums. Measured on an H100:
0.11 ms for 1., 0.10 for 2. and 0.34 for 3., where the most popular latent had 1,905 entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from sparsight.errors import ShapeError

__all__ = ["Decoded", "Entries", "TrainedRows", "adam_rows", "decode_loss", "latent_order"]

_CHUNK = 128  # entries of one latent that are summed beside each other
_UNROLL = 8  # entries whose rows are on their way at once
_BETA1, _BETA2 = tl.constexpr(0.9), tl.constexpr(0.999)
_EPS = tl.constexpr(6.25e-10)  # Gao et al. 2024


class Decoded(NamedTuple):
    """What :func:`decode_loss` returns.

    Attributes
    ----------
    residual : shape (B, D), of ``target``'s dtype
        ``target - decoded``.
    to_dec, to_enc : float32, shape (B, k)
        The gradients are ``dW_dec[i] = sum of to_dec * residual[b]`` and ``dW_enc[i] = sum of to_enc * x[b]`` over the
        entries of latent i, and ``db_enc[i]`` the sum of ``to_enc``. 0 where there is no latent.
    squared : float32, shape (B,)
        Squared length of the residual, before it is rounded.
    """

    residual: torch.Tensor
    to_dec: torch.Tensor
    to_enc: torch.Tensor
    squared: torch.Tensor


class Entries(NamedTuple):
    """Entries of codes, latent by latent.

    Attributes
    ----------
    latents : int16 or int32, shape (E,)
        Ascending; -1 for no latent.
    order : int64, shape (E,)
        Where each was; ascending among equal latents.
    starts : int32, shape (N + 1,)
        Latent i has the places ``starts[i]:starts[i + 1]``.
    """

    latents: torch.Tensor
    order: torch.Tensor
    starts: torch.Tensor


@dataclass(frozen=True)
class TrainedRows:
    """All that a training changes, on one device; updated in place.

    Attributes
    ----------
    w_enc, w_dec : float32, shape (N, D)
    b_enc : float32, shape (N,)
    short_enc, short_dec : shape (N, D)
        Copies of the weights in the dtype that products are of.
    moments : float32, shape (4, N, D)
        Adam's: mean and mean square of ``w_enc``'s gradients, and of ``w_dec``'s.
    bias_moments : float32, shape (2, N)
    silent : int64, shape (N,)
        Samples since a latent was last active.
    """

    w_enc: torch.Tensor
    b_enc: torch.Tensor
    w_dec: torch.Tensor
    short_enc: torch.Tensor
    short_dec: torch.Tensor
    moments: torch.Tensor
    bias_moments: torch.Tensor
    silent: torch.Tensor

    @classmethod
    def start(cls, w_dec: torch.Tensor, dtype: torch.dtype) -> TrainedRows:
        """Before the first step: decoder rows scaled to length 1, the encoder equal to them, biases of zero."""
        w_dec = torch.nn.functional.normalize(w_dec.float(), dim=1).contiguous()
        n, device = len(w_dec), w_dec.device
        return cls(w_dec.clone(), torch.zeros(n, device=device), w_dec, w_dec.to(dtype, copy=True),
                   w_dec.to(dtype, copy=True), torch.zeros((4, *w_dec.shape), device=device),
                   torch.zeros((2, n), device=device), torch.zeros(n, dtype=torch.int64, device=device))


@triton.jit(do_not_specialize=["K"])  # it may change while training
def _decode_loss_kernel(latents, values, weight, target, row_weight, scale, residual, to_dec, to_enc, squared, K, D,
                        BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes, columns = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    some, wide = lanes < K, columns < D
    at = tl.load(latents + row * K + lanes, mask=some, other=-1).to(tl.int64)
    acts = tl.load(values + row * K + lanes, mask=some, other=0.0)
    atoms = tl.load(weight + at[:, None] * D + columns[None, :], mask=(at >= 0)[:, None] & wide[None, :],
                    other=0.0).to(tl.float32)
    missed = tl.load(target + row * D + columns, mask=wide, other=0.0).to(tl.float32)
    missed -= tl.sum(atoms * acts[:, None], axis=0)
    tl.store(residual + row * D + columns, missed.to(residual.dtype.element_ty), mask=wide)
    tl.store(squared + row, tl.sum(missed * missed, axis=0))
    slope = -2.0 * tl.load(scale)
    if row_weight is not None:
        slope *= tl.load(row_weight + row)
    dots = tl.sum(atoms * missed[None, :], axis=1)
    tl.store(to_dec + row * K + lanes, slope * acts, mask=some)
    tl.store(to_enc + row * K + lanes, tl.where(acts > 0, slope * dots, 0.0), mask=some)


@triton.jit
def _add_entries(order, to_dec, to_enc, residual, x, first, stop, own, k, aux_k, n_rows, D, dec, enc, bias,
                 BLOCK_D: tl.constexpr, UNROLL: tl.constexpr):
    """Adds the entries at places ``first:stop`` to the three sums. Those from ``own`` on are AuxK's."""
    lanes, columns = tl.arange(0, UNROLL), tl.arange(0, BLOCK_D)
    for at in range(first, stop, UNROLL):
        some = at + lanes < stop
        entry = tl.load(order + at + lanes, mask=some, other=0).to(tl.int32)
        row = tl.where(entry < own, entry // k, (entry - own) // aux_k).to(tl.int64)
        missed_row = tl.where(entry < own, row, row + n_rows)
        there = some[:, None] & (columns < D)[None, :]
        missed = tl.load(residual + missed_row[:, None] * D + columns[None, :], mask=there, other=0.0).to(tl.float32)
        inputs = tl.load(x + row[:, None] * D + columns[None, :], mask=there, other=0.0).to(tl.float32)
        forth = tl.load(to_enc + entry, mask=some, other=0.0)
        dec += tl.sum(missed * tl.load(to_dec + entry, mask=some, other=0.0)[:, None], axis=0)
        enc += tl.sum(inputs * forth[:, None], axis=0)
        bias += tl.sum(forth, axis=0)
    return dec, enc, bias


@triton.jit(do_not_specialize=["own", "k", "aux_k"])
def _chunk_sums_kernel(latents, order, to_dec, to_enc, residual, x, sums, bias_sums, own, k, aux_k, n_rows, D,
                       CHUNK: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr):
    chunk = tl.program_id(0)
    latent = tl.load(latents + chunk * CHUNK)
    if (latent >= 0) & (latent == tl.load(latents + chunk * CHUNK + CHUNK - 1)):
        columns = tl.arange(0, BLOCK_D)
        nothing = tl.zeros([BLOCK_D], tl.float32)
        dec, enc, bias = _add_entries(order, to_dec, to_enc, residual, x, chunk * CHUNK, chunk * CHUNK + CHUNK, own, k,
                                      aux_k, n_rows, D, nothing, nothing, tl.zeros([], tl.float32), BLOCK_D, UNROLL)
        where = sums + chunk.to(tl.int64) * 2 * D + columns
        tl.store(where, dec, mask=columns < D)
        tl.store(where + D, enc, mask=columns < D)
        tl.store(bias_sums + chunk, bias)


@triton.jit
def _adam(weight, gradient, mean, square, mask, rate, correction):
    """The weight after a step; ``mean`` and ``square`` point at its moments."""
    first = _BETA1 * tl.load(mean, mask=mask, other=0.0) + (1 - _BETA1) * gradient
    second = _BETA2 * tl.load(square, mask=mask, other=0.0) + (1 - _BETA2) * gradient * gradient
    tl.store(mean, first, mask=mask)
    tl.store(square, second, mask=mask)
    return weight - rate * first / (tl.sqrt(second) * correction + _EPS)


@triton.jit(do_not_specialize=["own", "k", "aux_k"])
def _adam_rows_kernel(starts, order, to_dec, to_enc, residual, x, sums, bias_sums, w_enc, b_enc, w_dec, short_enc,
                      short_dec, moments, bias_moments, silent, rate, correction, own, k, aux_k, n_rows, D,
                      CHUNK: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr):
    latent, n_latents = tl.program_id(0), tl.num_programs(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    wide = columns < D
    first, stop = tl.load(starts + latent), tl.load(starts + latent + 1)
    # Entries up to the first chunk that is all its own, the sums of such chunks, and the entries after them.
    chunk, chunks = tl.cdiv(first, CHUNK), stop // CHUNK
    until = tl.where(chunk < chunks, chunk * CHUNK, stop)
    nothing = tl.zeros([BLOCK_D], tl.float32)
    dec, enc, bias = _add_entries(order, to_dec, to_enc, residual, x, first, until, own, k, aux_k, n_rows, D, nothing,
                                  nothing, tl.zeros([], tl.float32), BLOCK_D, UNROLL)
    where = sums + chunk.to(tl.int64) * 2 * D + columns
    for one in range(chunk, chunks):
        dec += tl.load(where, mask=wide, other=0.0)
        enc += tl.load(where + D, mask=wide, other=0.0)
        bias += tl.load(bias_sums + one)
        where += 2 * D
    after = tl.where(chunk < chunks, chunks * CHUNK, stop)
    dec, enc, bias = _add_entries(order, to_dec, to_enc, residual, x, after, stop, own, k, aux_k, n_rows, D, dec, enc,
                                  bias, BLOCK_D, UNROLL)
    at = latent.to(tl.int64) * D + columns
    size = n_latents * D
    atom = tl.load(w_dec + at, mask=wide, other=0.0)
    dec -= tl.sum(dec * atom, axis=0) * atom  # the row's length undoes it, but it would stay in the moments
    atom = _adam(atom, dec, moments + 2 * size + at, moments + 3 * size + at, wide, rate, correction)
    atom /= tl.maximum(tl.sqrt(tl.sum(atom * atom, axis=0)), 1e-12)
    tl.store(w_dec + at, atom, mask=wide)
    tl.store(short_dec + at, atom.to(short_dec.dtype.element_ty), mask=wide)
    weight = _adam(tl.load(w_enc + at, mask=wide, other=0.0), enc, moments + at, moments + size + at, wide, rate,
                   correction)
    tl.store(w_enc + at, weight, mask=wide)
    tl.store(short_enc + at, weight.to(short_enc.dtype.element_ty), mask=wide)
    tl.store(b_enc + latent, _adam(tl.load(b_enc + latent), bias, bias_moments + latent,
                                   bias_moments + n_latents + latent, latent >= 0, rate, correction))
    # AuxK's entries come after the batch's own, and are no activity.
    active = tl.load(order + first, mask=first < stop, other=own) < own
    tl.store(silent + latent, tl.where(active, 0, tl.load(silent + latent) + n_rows))


def decode_loss(latents: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, target: torch.Tensor,
                scale: torch.Tensor, *, row_weight: torch.Tensor | None = None,
                out: Decoded | None = None) -> Decoded:
    """The loss ``scale * sum over b of row_weight[b] |target[b] - sum of values[b, j] weight[latents[b, j]]|^2``.

    Parameters
    ----------
    latents : int32, shape (B, k), contiguous
        -1 is none.
    values : float32, shape (B, k), contiguous
        Not negative. Values that are 0 get no gradient, as of relu.
    weight : shape (N, D), contiguous
    target : shape (B, D), contiguous
    scale : float32, shape (1,)
        On the device, so that it may follow from what was computed there.
    row_weight : float32, shape (B,), optional
    out : Decoded, optional
        Where to write what is returned.

    Returns
    -------
    Decoded
        Sums in float32.

    Raises
    ------
    ShapeError
        If shapes do not fit or something is not contiguous.

    Notes
    -----
    A program keeps k rows of D numbers in registers: past k D of about 32,768 they spill.
    Reference: :mod:`sparsight.kernels.reference.sae_step`.
    """
    (rows, k), width = latents.shape, weight.shape[1]
    if values.shape != (rows, k) or target.shape != (rows, width) or scale.numel() != 1:
        raise ShapeError(f"expected (B, k) twice, (N, D), (B, D) and one number, got {tuple(latents.shape)}, "
                         f"{tuple(values.shape)}, {tuple(weight.shape)}, {tuple(target.shape)} and "
                         f"{tuple(scale.shape)}", field="latents")
    if not all(part.is_contiguous() for part in (latents, values, weight, target)):
        raise ShapeError("expected contiguous latents, values, weight and target", field="latents")
    if row_weight is not None and row_weight.shape != (rows,):
        raise ShapeError(f"expected one weight a row, ({rows},), got {tuple(row_weight.shape)}", field="row_weight")
    if out is None:
        out = Decoded(torch.empty_like(target), torch.empty_like(values), torch.empty_like(values),
                      torch.empty(rows, dtype=torch.float32, device=target.device))
    block_k, block_d = triton.next_power_of_2(k), triton.next_power_of_2(width)
    _decode_loss_kernel[(rows,)](latents, values, weight, target, row_weight, scale, *out, k, width, BLOCK_K=block_k,
                                 BLOCK_D=block_d, num_warps=min(max(block_k * block_d // 4096, 1), 16))
    return out


def latent_order(latents: torch.Tensor, n_latents: int) -> Entries:
    """Entries sorted by latent, those of one latent in their own order.

    Parameters
    ----------
    latents : int32, shape (E,)
        -1 is none.
    n_latents : int

    Returns
    -------
    Entries

    Notes
    -----
    A radix sort, whose passes are fewer for 16 bits: up to 32,767 latents keys are int16.
    """
    dtype = torch.int16 if n_latents < 1 << 15 else torch.int32
    found = torch.sort(latents.to(dtype), stable=True)
    bounds = _numbers(n_latents + 1, dtype, latents.device)
    return Entries(found.values, found.indices, torch.searchsorted(found.values, bounds, out_int32=True))


@lru_cache(maxsize=4)  # one launch less in each step
def _numbers(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=dtype, device=device)


def adam_rows(rows: TrainedRows, entries: Entries, to_dec: torch.Tensor, to_enc: torch.Tensor,
              residual: torch.Tensor, x: torch.Tensor, k: int, *, step: int, learning_rate: float,
              aux_k: int = 1) -> None:
    """Both weight gradients from sorted entries, and Adam's step with them.

    Parameters
    ----------
    rows : TrainedRows
        Updated in place: weights, copies, moments; ``silent`` is 0 for latents of the first B k entries and B more for
        others.
    entries : Entries
        Of all latents of B rows with k entries each, and after them, with AuxK, of the same rows with ``aux_k`` each.
    to_dec, to_enc : float32, shape (E,)
        Of the entries as they were before sorting.
    residual : shape (B, D), or with AuxK (2 B, D), contiguous
        Of the batch, then AuxK's.
    x : shape (B, D), contiguous
    k, aux_k : int
    step : int
        Of Adam's bias correction, from 0.
    learning_rate : float

    Raises
    ------
    ShapeError
        If shapes do not fit or something is not contiguous.

    Notes
    -----
    Per latent: ``g -= (g . w) w`` for the decoder's row, Adam (beta 0.9 and 0.999, epsilon 6.25e-10, bias-corrected),
    and ``w / |w|``. Latents without entries have a gradient of 0, which decays their moments and moves them still.

    References
    ----------
    Kingma and Ba 2015, "Adam"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (epsilon, unit rows).
    Reference: :mod:`sparsight.kernels.reference.sae_step`.
    """
    (batch, width), (n_latents, _) = x.shape, rows.w_enc.shape
    own, count = batch * k, len(entries.order)
    with_aux = count > own
    if count != own + with_aux * batch * aux_k or to_dec.shape != (count,) or to_enc.shape != (count,):
        raise ShapeError(f"expected {own} entries, or {own + batch * aux_k} with AuxK, and a factor of each twice, got "
                         f"{count}, {tuple(to_dec.shape)} and {tuple(to_enc.shape)}", field="entries")
    if residual.shape != (batch * (1 + with_aux), width) or len(entries.starts) != n_latents + 1:
        raise ShapeError(f"expected residual ({batch * (1 + with_aux)}, {width}) and {n_latents + 1} starts, got "
                         f"{tuple(residual.shape)} and {len(entries.starts)}", field="residual")
    if not all(part.is_contiguous() for part in (to_dec, to_enc, residual, x)):
        raise ShapeError("expected contiguous to_dec, to_enc, residual and x", field="residual")
    chunks = count // _CHUNK
    sums = torch.empty((chunks, 2, width), dtype=torch.float32, device=x.device)
    bias_sums = torch.empty(chunks, dtype=torch.float32, device=x.device)
    given = (entries.order, to_dec, to_enc, residual, x, sums, bias_sums)
    block = triton.next_power_of_2(width)
    # A thread has eight neighbouring columns, and of all rows: sums over rows need no exchange.
    cut = {"CHUNK": _CHUNK, "BLOCK_D": block, "UNROLL": _UNROLL, "num_warps": min(max(block // 256, 1), 4)}
    if chunks:
        _chunk_sums_kernel[(chunks,)](entries.latents, *given, own, k, aux_k, batch, width, **cut)
    _adam_rows_kernel[(n_latents,)](
        entries.starts, *given, rows.w_enc, rows.b_enc, rows.w_dec, rows.short_enc, rows.short_dec, rows.moments,
        rows.bias_moments, rows.silent, learning_rate / (1 - _BETA1.value ** (step + 1)),
        (1 - _BETA2.value ** (step + 1)) ** -0.5, own, k, aux_k, batch, width, **cut)
