"""Which latents are active in a row, while training.

=============  ====================================================================================================
activation     active are
=============  ====================================================================================================
``topk``       the k largest pre-activations of a row (Makhzani and Frey 2013; Gao et al. 2024)
``batchtopk``  the B k largest of the batch (Bussmann et al. 2024, "BatchTopK Sparse Autoencoders"), at most 4 k a row
``jumprelu``   those above a threshold of the latent's own, which is learnt (Rajamanoharan et al. 2024, "Jumping
               Ahead"), at most 4 k a row
=============  ====================================================================================================

The last two are used with thresholds afterwards: a row's code then depends on that row alone.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["SPREAD", "jump", "keep_batch", "largest"]

SPREAD = 4  # most active latents of a row, in multiples of k, where k is a mean: its tail is shorter than that
_WIDTH = 0.05  # of the window in which a pre-activation pulls at its threshold; inputs have a variance of one


def largest(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int,
            bonus: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of ``x @ weight.T + bias`` in each row, by value descending.

    Parameters
    ----------
    x : float32, shape (B, D)
    weight : float32, shape (N, D)
    bias : float32, shape (N,)
    k : int
    bonus : float32, shape (B, N), optional
        Factors by which pre-activations count more where the choice is made.

    Returns
    -------
    latents : int64, shape (B, k)
        Where fewer than k are positive, others with pre-activations that are not.
    pre_acts : float32, shape (B, k)
        Without the bonus. On a GPU latents are chosen by bfloat16 inputs, and these are float32.
    """
    k = min(k, len(weight))
    if bonus is not None:
        pre_acts = torch.addmm(bias, x, weight.T)
        latents = (pre_acts * bonus).topk(k, dim=1).indices
        return latents, pre_acts.gather(1, latents)
    if x.is_cuda and k <= 128 and x.shape[1] % 16 == 0 and x.shape[1] <= 1024:
        from sparsight.kernels.gpu.gather_sum import row_dots
        from sparsight.kernels.gpu.topk_encode import topk_encode

        chosen, _ = topk_encode(x.bfloat16().contiguous(), weight.bfloat16().contiguous(), bias, k)
        latents = chosen.long()
        there = latents >= 0  # the kernel leaves out what is not positive
        latents = latents.clamp_min(0)
        exact = row_dots(x.contiguous(), latents, weight.contiguous()) + bias[latents]
        return latents, torch.where(there, exact, -1.0)
    found = torch.addmm(bias, x, weight.T).topk(k, dim=1)
    return found.indices, found.values


def keep_batch(pre_acts: torch.Tensor, count: int) -> torch.Tensor:
    """The same with all but the ``count`` largest of the batch at -1."""
    bound = pre_acts.reshape(-1).topk(min(count, pre_acts.numel())).values[-1]
    return torch.where(pre_acts >= bound, pre_acts, -1.0)


def jump(pre_acts: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """JumpReLU ``a [a > threshold]`` and its step ``[a > threshold]``, which counts active latents.

    Gradients for the threshold are those of a window around it (straight-through, Rajamanoharan et al. 2024).
    """
    values, steps = _Jump.apply(pre_acts, threshold)
    return values, steps


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_acts: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        active = (pre_acts > threshold).to(pre_acts.dtype)
        ctx.save_for_backward(pre_acts, threshold, active)
        return pre_acts * active, active

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        to_values, to_steps = gradients
        pre_acts, threshold, active = ctx.saved_tensors
        window = ((pre_acts - threshold).abs() < _WIDTH / 2).to(pre_acts.dtype) / _WIDTH
        return to_values * active, -window * (threshold * to_values + to_steps)
