"""A training step of a k-sparse autoencoder: the specification, with matrices of all latents, in float64.

The loss of a batch x (B, D), centred, with codes ``z = relu(topk_k(x W_enc^T + b_enc))`` and ``r = x - z W_dec``, is

    sum_b weight_b |r_b|^2 / (B variance)  +  aux_weight min(dead / aux_k, 1) sum_b |r_b - a_b W_dec|^2 / sum_b |r_b|^2

where a is the same as z with the ``aux_k`` largest of the dead latents, and r in the second term is no variable (AuxK).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsight.kernels.reference.topk_encode import topk_positive

__all__ = ["Autoencoder", "adam", "codes", "gradients", "sae_step"]

F64 = NDArray[np.float64]
BETA1, BETA2, EPS = 0.9, 0.999, 6.25e-10  # epsilon: Gao et al. 2024


@dataclass
class Autoencoder:
    """Weights and what the optimiser remembers; :func:`sae_step` replaces the arrays.

    Attributes
    ----------
    w_enc, w_dec : float64, shape (N, D)
        Rows of ``w_dec`` have length 1.
    b_enc : float64, shape (N,)
    means, squares : tuples of float64
        Adam's moments of ``w_enc``, ``b_enc`` and ``w_dec``.
    silent : int64, shape (N,)
        Samples since a latent was last active.
    """

    w_enc: F64
    b_enc: F64
    w_dec: F64
    means: tuple[F64, ...]
    squares: tuple[F64, ...]
    silent: NDArray[np.int64]

    @classmethod
    def start(cls, w_dec: NDArray[np.floating]) -> Autoencoder:
        """Before the first step: the encoder is the decoder, biases and moments are 0."""
        rows: F64 = w_dec / np.linalg.norm(w_dec.astype(np.float64), axis=1, keepdims=True)
        nothing = (np.zeros_like(rows), np.zeros(len(rows)), np.zeros_like(rows))
        return cls(rows, np.zeros(len(rows)), rows, nothing, nothing, np.zeros(len(rows), np.int64))


def codes(model: Autoencoder, x: F64, k: int, among: NDArray[np.bool_] | None = None) -> F64:
    """``relu(topk_k(x W_enc^T + b_enc))`` as a matrix (B, N), the k chosen among some latents only."""
    pre_acts = x @ model.w_enc.T + model.b_enc
    if among is not None:
        pre_acts = np.where(among, pre_acts, -np.inf)
    latents, values = topk_positive(pre_acts.astype(np.float32), k)
    out = np.zeros(pre_acts.shape)
    rows, places = np.nonzero(latents >= 0)
    out[rows, latents[rows, places]] = values[rows, places]
    return out


def gradients(model: Autoencoder, x: F64, z: F64, residual: F64, scale: F64) -> tuple[F64, ...]:
    """Of ``sum_b scale_b |residual_b|^2`` for ``w_enc``, ``b_enc``, ``w_dec``; the residual is ``target - z w_dec``."""
    slope = -2 * scale[:, None] * residual  # of the loss for z w_dec
    to_z = np.where(z > 0, slope @ model.w_dec.T, 0.0)
    return to_z.T @ x, to_z.sum(0), z.T @ slope


def adam(weight: F64, gradient: F64, mean: F64, square: F64, learning_rate: float, step: int) -> tuple[F64, F64, F64]:
    """Weight and moments after a step, the first being step 0 (Kingma and Ba 2015)."""
    mean = BETA1 * mean + (1 - BETA1) * gradient
    square = BETA2 * square + (1 - BETA2) * gradient**2
    mean_hat, square_hat = mean / (1 - BETA1 ** (step + 1)), square / (1 - BETA2 ** (step + 1))
    return weight - learning_rate * mean_hat / (np.sqrt(square_hat) + EPS), mean, square


def sae_step(model: Autoencoder, rows: NDArray[np.floating], k: int, *, variance: float, learning_rate: float,
             step: int, row_weight: NDArray[np.floating] | None = None, aux_k: int = 0, aux_weight: float = 0.0,
             dead_after: int = 0, candidates: int = 1024) -> F64:
    """One step; changes ``model``.

    Parameters
    ----------
    model : Autoencoder
    rows : shape (B, D)
        A batch, centred.
    k : int
    variance : float
        Mean of ``|x|^2`` over the data.
    learning_rate : float
    step : int
        From 0.
    row_weight : shape (B,), optional
        Ones if not given.
    aux_k : int
        Dead latents that rebuild the residual; 0 is none.
    aux_weight : float
    dead_after : int
        Latents that were silent for so many samples before this step are dead.
    candidates : int
        Only so many of the dead, the longest silent and then the lowest, are looked at.

    Returns
    -------
    float64, shape (B,)
        Squared errors of the rows before the step.

    References
    ----------
    Gao et al. 2024, "Scaling and evaluating sparse autoencoders": AuxK, unit decoder rows, no gradient along them.
    """
    x: F64 = rows.astype(np.float64)
    z = codes(model, x, k)
    residual = x - z @ model.w_dec
    weights = np.ones(len(x)) if row_weight is None else np.asarray(row_weight, np.float64)
    made = gradients(model, x, z, residual, weights / (len(x) * variance))
    squared = np.square(residual).sum(1)
    dead = model.silent >= dead_after
    if aux_k and dead.any():
        among = np.zeros(len(dead), bool)
        among[np.argsort(-model.silent, kind="stable")[:candidates]] = True
        a = codes(model, x, aux_k, among & dead)
        scale = aux_weight * min(dead.sum() / aux_k, 1.0) / max(squared.sum(), 1e-12)
        more = gradients(model, x, a, residual - a @ model.w_dec, np.full(len(x), scale))
        made = tuple(one + other for one, other in zip(made, more, strict=True))
    _update(model, made, learning_rate, step)
    model.silent = np.where((z > 0).any(0), 0, model.silent + len(x))
    return squared


def _update(model: Autoencoder, made: tuple[F64, ...], learning_rate: float, step: int) -> None:
    to_enc, to_bias, to_dec = made
    to_dec = to_dec - (to_dec * model.w_dec).sum(1, keepdims=True) * model.w_dec
    weights = (model.w_enc, model.b_enc, model.w_dec)
    done = [adam(*each, learning_rate, step)
            for each in zip(weights, (to_enc, to_bias, to_dec), model.means, model.squares, strict=True)]
    (model.w_enc, model.b_enc, w_dec), model.means, model.squares = zip(*done, strict=True)
    model.w_dec = w_dec / np.maximum(np.linalg.norm(w_dec, axis=1, keepdims=True), 1e-12)
