"""The best codes that a dictionary has for some rows, found greedily, on any device.

Gradient pursuit (Blumensath and Davies 2008, "Gradient Pursuits", IEEE Trans. Signal Processing 56) with values that
are not negative: k times the atom with the largest product with the residual, and a step for all values along their
gradient, exact in length unless a value would fall below 0. Then ``polish`` projected gradient steps with momentum
(FISTA, Beck and Teboulle 2009) on the chosen atoms. :mod:`sparsight.encoders.sae.refinement` does the same to arrays.
"""

from __future__ import annotations

import torch

__all__ = ["best_codes"]

_POLISH = 12


def best_codes(target: torch.Tensor, atoms: torch.Tensor, k: int, *, pool: int = 0, polish: int = _POLISH,
               ) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of k atoms, by value descending.

    Parameters
    ----------
    target : float32, shape (B, D)
        What is to be rebuilt, without the bias.
    atoms : float32, shape (N, D)
        Rows of length 1.
    k : int
        At most N.
    pool : int
        Choose among that many atoms, and at least k, those with the largest products with the target; 0, or N or
        more: all.
    polish : int
        Steps of the last values.

    Returns
    -------
    latents : int64, shape (B, k)
        All different in a row.
    values : float32, shape (B, k)
        At least 0.

    Notes
    -----
    k products of the residuals with all atoms, in bfloat16 on a GPU: that is what it costs.
    """
    chosen = torch.zeros(len(target), k, dtype=torch.int64, device=target.device)
    values, own = target.new_zeros(len(target), k), target.new_zeros(len(target), k, target.shape[1])
    among = (atoms.bfloat16() if target.is_cuda else atoms).T
    residual, outside = target, None
    for j in range(k):
        gains = residual.to(among.dtype) @ among
        if j == 0 and pool and max(pool, k) < len(atoms):
            outside = torch.ones_like(gains, dtype=torch.bool).scatter_(1, gains.topk(max(pool, k), 1).indices, False)
        if outside is not None:
            gains.masked_fill_(outside, -torch.inf)
        if j:
            gains.scatter_(1, chosen[:, :j], -torch.inf)
        chosen[:, j] = gains.argmax(1)
        own[:, j] = atoms[chosen[:, j]]
        values[:, :j + 1] = _step(values[:, :j + 1], own[:, :j + 1], residual)
        residual = target - (values[:, None, :j + 1] @ own[:, :j + 1])[:, 0]
    values = _polished(values, own, target, polish)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return chosen.gather(1, order), values


def _step(values: torch.Tensor, own: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    gradient = (own @ residual[:, :, None])[:, :, 0]
    gradient = gradient.where((values > 0) | (gradient > 0), 0)
    along = (gradient[:, None] @ own)[:, 0]
    best = gradient.square().sum(1) / along.square().sum(1).clamp_min(1e-30)
    possible = torch.where(gradient < 0, values / -gradient, torch.inf).amin(1)
    return (values + torch.minimum(best, possible)[:, None] * gradient).clamp_min(0)


def _polished(values: torch.Tensor, own: torch.Tensor, target: torch.Tensor, steps: int) -> torch.Tensor:
    gram = own @ own.mT
    products = (own @ target[:, :, None])[:, :, 0]
    length = gram.abs().sum(2).amax(1)[:, None].clamp_min(1e-6)  # bounds the largest eigenvalue
    ahead, pace = values, 1.0
    for _ in range(steps):
        new = (ahead + (products - (gram @ ahead[:, :, None])[:, :, 0]) / length).clamp_min(0)
        next_pace = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead = new + (pace - 1) / next_pace * (new - values)
        values, pace = new, next_pace
    return values
