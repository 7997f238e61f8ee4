"""The products of a sparse autoencoder, with gradients that touch the chosen latents only.

A step of training needs the pre-activations of all latents to choose from, and then of the k chosen ones alone: their
values, the reconstruction, and the gradients, which are sparse times dense. Beside the one dense product that chooses,
all of it costs k / N of what dense gradients would. On a GPU the sparse products are kernels
(:mod:`sparsight.kernels.gpu.gather_sum`); everywhere they are summed in a fixed order: equal inputs give equal bits.

Shapes: B rows of D components, N latents, K of them chosen for a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

__all__ = ["LatentOrder", "chosen_pre_acts", "decode", "row_products", "taken"]


class LatentOrder:
    """The entries of codes, latent by latent: the order of both weight gradients.

    Parameters
    ----------
    latents : int64, shape (B, K)
    n_latents : int
    """

    def __init__(self, latents: torch.Tensor, n_latents: int) -> None:
        self.n_latents = n_latents
        entries = torch.sort(latents.reshape(-1), stable=True)
        self.latents, self.order = entries.values, entries.indices
        self.rows = torch.div(self.order, latents.shape[1], rounding_mode="floor")
        self.starts = torch.searchsorted(self.latents, torch.arange(n_latents + 1, device=latents.device))

    def spread(self, scale: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """``out[i] = sum of scale[b, j] * table[b]`` over the entries with latent i: float32 (N, D)."""
        scale = scale.reshape(-1)[self.order].float()
        if table.is_cuda:
            from sparsight.kernels.gpu.gather_sum import gather_sum_sorted

            return gather_sum_sorted(self.starts, self.rows, scale, table.contiguous()).float()
        return functional.embedding_bag(self.rows, table.float(), self.starts, per_sample_weights=scale, mode="sum",
                                        include_last_offset=True)

    def sums(self, scale: torch.Tensor) -> torch.Tensor:
        """``out[i] = sum of scale[b, j]`` over the entries with latent i: float32 (N,)."""
        scale = scale.reshape(-1)[self.order].float()
        return torch.segment_reduce(scale, "sum", offsets=self.starts, axis=0, initial=0.0)


def chosen_pre_acts(pre_acts: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
                    latents: torch.Tensor, order: LatentOrder) -> torch.Tensor:
    """Pre-activations of chosen latents, with gradients for ``x``, ``weight`` and ``bias``.

    Parameters
    ----------
    pre_acts : float32, shape (B, K)
        ``x . weight[latents] + bias[latents]``, known from the choice; no gradient goes into it.
    x : float32, shape (B, D)
    weight : float32, shape (N, D)
    bias : float32, shape (N,)
    latents : int64, shape (B, K)
    order : LatentOrder

    Returns
    -------
    float32, shape (B, K)
    """
    made: torch.Tensor = _ChosenPreActs.apply(pre_acts.detach(), x, weight, bias, latents, order)
    return made


def decode(values: torch.Tensor, weight: torch.Tensor, latents: torch.Tensor, order: LatentOrder) -> torch.Tensor:
    """``out[b] = sum over j of values[b, j] * weight[latents[b, j]]``, with gradients for both.

    Parameters
    ----------
    values : float32, shape (B, K)
    weight : float32, shape (N, D)
    latents : int64, shape (B, K)
    order : LatentOrder

    Returns
    -------
    float32, shape (B, D)
    """
    made: torch.Tensor = _Decode.apply(values, weight, latents, order)
    return made


def taken(values: torch.Tensor, latents: torch.Tensor, order: LatentOrder) -> torch.Tensor:
    """``values[latents]``, (B, K) of (N,), with a gradient: torch's own is summed in any order by several threads."""
    made: torch.Tensor = _Taken.apply(values, latents, order)
    return made


class _ChosenPreActs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_acts: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
                latents: torch.Tensor, order: LatentOrder) -> torch.Tensor:
        ctx.order = order
        ctx.save_for_backward(x, weight, latents)
        return pre_acts.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, latents = ctx.saved_tensors
        to_x = _combine(gradient, weight, latents) if ctx.needs_input_grad[1] else None
        to_weight = ctx.order.spread(gradient, x) if ctx.needs_input_grad[2] else None
        to_bias = ctx.order.sums(gradient) if ctx.needs_input_grad[3] else None
        return None, to_x, to_weight, to_bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, latents: torch.Tensor,
                order: LatentOrder) -> torch.Tensor:
        ctx.order = order
        ctx.save_for_backward(values, weight, latents)
        return _combine(values, weight, latents)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        values, weight, latents = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_values = row_products(gradient, weight, latents) if ctx.needs_input_grad[0] else None
        to_weight = ctx.order.spread(values, gradient) if ctx.needs_input_grad[1] else None
        return to_values, to_weight, None, None


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, latents: torch.Tensor, order: LatentOrder) -> torch.Tensor:
        ctx.order = order
        return values[latents]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        return ctx.order.sums(gradient), None, None


def _combine(scale: torch.Tensor, weight: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """``sum over j of scale[b, j] * weight[latents[b, j]]``, (B, D)."""
    rows, k = latents.shape
    if weight.is_cuda:
        from sparsight.kernels.gpu.gather_sum import gather_sum_sorted

        starts = torch.arange(0, rows * k + 1, k, device=latents.device)
        return gather_sum_sorted(starts, latents.reshape(-1), scale.reshape(-1).float(), weight)
    return functional.embedding_bag(latents, weight, per_sample_weights=scale, mode="sum")


def row_products(vectors: torch.Tensor, weight: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """``vectors[b] . weight[latents[b, j]]``, (B, K)."""
    if weight.is_cuda:
        from sparsight.kernels.gpu.gather_sum import row_dots

        return row_dots(vectors, latents, weight)
    return torch.bmm(weight[latents], vectors[:, :, None])[:, :, 0]
