"""How the loss of autoencoders falls with the number of latents N and of active latents k.

The joint law of Gao et al. 2024 ("Scaling and evaluating sparse autoencoders"):

``L(N, k) = exp(alpha + beta_k log k + beta_n log N + gamma log k log N) + exp(zeta + eta log k)``.

The first term is what more latents remove, and with gamma < 0 faster where more are active; the second is what no
dictionary removes at that k. Logarithms are natural; L is any loss of which 0 is perfect, FVU for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["ScalingFit", "ScalingLaw", "fit_scaling", "r_squared"]

F64 = NDArray[np.float64]
_FREE = 6  # parameters
# Limits of level and slopes of both terms, in centred logarithms: a term that the data do not need runs off to nothing
# otherwise, slowly. Published exponents are below 1.
_LIMITS = np.array([50.0, 5.0, 5.0, 5.0, 50.0, 5.0])


@dataclass(frozen=True)
class ScalingLaw:
    """Parameters of the law; see the module."""

    alpha: float
    beta_k: float
    beta_n: float
    gamma: float
    zeta: float
    eta: float

    def log_loss(self, n_latents: ArrayLike, k: ArrayLike) -> F64:
        """Natural logarithm of the predicted loss, float64, shape of the arguments broadcast."""
        log_n, log_k = np.log(np.asarray(n_latents, np.float64)), np.log(np.asarray(k, np.float64))
        removed = self.alpha + self.beta_k * log_k + self.beta_n * log_n + self.gamma * log_k * log_n
        return np.asarray(np.logaddexp(removed, self.zeta + self.eta * log_k))

    def loss(self, n_latents: ArrayLike, k: ArrayLike) -> F64:
        """Predicted loss, float64."""
        return np.exp(self.log_loss(n_latents, k))


@dataclass(frozen=True, eq=False)
class ScalingFit:
    """A law fitted to C cells of a grid.

    Attributes
    ----------
    law : ScalingLaw
        Fitted to all cells.
    r2 : float
        R2 of the log losses of the cells it was fitted to.
    held_out_r2 : float
        R2 of the log losses where every cell is predicted by a law fitted without its fold.
    residuals : float64, shape (C,)
        Observed minus predicted log loss; about the relative error.
    held_out_residuals : float64, shape (C,)
        The same for the predictions behind ``held_out_r2``.
    """

    law: ScalingLaw
    r2: float
    held_out_r2: float
    residuals: F64
    held_out_residuals: F64


def fit_scaling(n_latents: ArrayLike, k: ArrayLike, loss: ArrayLike, *, folds: int = 5, starts: int = 12,
                seed: int = 0) -> ScalingFit:
    """Fit the law by least squares on log losses, and measure it on cells that it was not fitted to.

    Parameters
    ----------
    n_latents, k, loss : shape (C,)
        All > 0; losses that differ. A cell is a training, or the mean of some.
    folds : int
        Into how many parts cells are dealt at random for ``held_out_r2``; C leaves out one at a time.
    starts : int
        Starting points of each fit; the best end counts. With two sums of exponentials the error has several minima.
    seed : int
        Of folds and starts. Equal seeds give equal results.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If shapes differ, a value is not > 0 and finite, there are fewer than 7 cells outside a fold, fewer than two
        different N or three different k, or an option is out of range.

    Notes
    -----
    Where one term is small everywhere its parameters are not determined; the predictions still are. Exponents are
    sought in [-5, 5]. All of it takes a second or so.
    """
    log_n, log_k, log_loss = (np.log(column) for column in _checked(n_latents, k, loss, folds, starts))
    law = _fit(log_n, log_k, log_loss, starts, seed)
    held_out = np.empty_like(log_loss)
    fold = np.random.default_rng(seed).permutation(len(log_loss)) % folds
    for part in range(folds):
        out = fold == part
        without = _fit(log_n[~out], log_k[~out], log_loss[~out], starts, seed)
        held_out[out] = without.log_loss(np.exp(log_n[out]), np.exp(log_k[out]))
    predicted = law.log_loss(np.exp(log_n), np.exp(log_k))
    return ScalingFit(law=law, r2=r_squared(log_loss, predicted), held_out_r2=r_squared(log_loss, held_out),
                      residuals=log_loss - predicted, held_out_residuals=log_loss - held_out)


def r_squared(observed: ArrayLike, predicted: ArrayLike) -> float:
    """``1 - sum (y - p)^2 / sum (y - mean y)^2`` of numbers or rows, the mean taken over rows.

    Raises InvalidArgumentError if all observed ones are equal.
    """
    y, p = np.asarray(observed, np.float64), np.asarray(predicted, np.float64)
    if not np.ptp(y, axis=0).any():
        raise InvalidArgumentError(f"expected observed values that differ, got {len(y)} equal ones", field="observed")
    return float(1 - np.square(y - p).sum() / np.square(y - y.mean(0)).sum())


def _checked(n_latents: ArrayLike, k: ArrayLike, loss: ArrayLike, folds: int, starts: int) -> tuple[F64, F64, F64]:
    n, active, losses = (np.asarray(column, np.float64) for column in (n_latents, k, loss))
    if not n.shape == active.shape == losses.shape == (losses.size,):
        raise ShapeError(f"expected three columns of one length, got {n.shape}, {active.shape} and {losses.shape}",
                         field="loss")
    for name, column in (("n_latents", n), ("k", active), ("loss", losses)):
        if not (np.isfinite(column).all() and (column > 0).all()):
            raise InvalidArgumentError(f"expected finite {name} above 0", field=name)
    if not 2 <= folds <= len(losses) or starts < 1:
        raise InvalidArgumentError(f"expected folds in [2, {len(losses)}] and starts of at least 1, got {folds} and "
                                   f"{starts}", field="folds")
    left = len(losses) - -(-len(losses) // folds)
    if left <= _FREE or len(np.unique(n)) < 2 or len(np.unique(active)) < 3:
        raise InvalidArgumentError(f"expected at least {_FREE + 1} cells outside a fold, 2 different n_latents and 3 "
                                   f"different k, got {left}, {len(np.unique(n))} and {len(np.unique(active))}",
                                   field="loss")
    return n, active, losses


def _fit(log_n: F64, log_k: F64, log_loss: F64, starts: int, seed: int) -> ScalingLaw:
    """Best of several descents, in logarithms around their means: there the parameters barely pull at each other."""
    from scipy.optimize import least_squares

    mean_n, mean_k = log_n.mean(), log_k.mean()
    n, k = log_n - mean_n, log_k - mean_k
    design = np.stack([np.ones_like(n), k, n, k * n], axis=1)  # (C, 4)

    def residuals(p: F64) -> F64:
        return np.logaddexp(design @ p[:4], p[4] + p[5] * k) - log_loss

    def jacobian(p: F64) -> F64:
        first, second = design @ p[:4], p[4] + p[5] * k
        share = np.exp(first - np.logaddexp(first, second))[:, None]
        return np.hstack([share * design, (1 - share) * design[:, :2]])

    ends = [least_squares(residuals, start, jacobian, bounds=(-_LIMITS, _LIMITS))
            for start in _starts(design, log_loss, starts, seed)]
    a, b_k, b_n, gamma, zeta, eta = min(ends, key=lambda end: float(end.cost)).x
    return ScalingLaw(alpha=float(a - b_k * mean_k - b_n * mean_n + gamma * mean_k * mean_n),
                      beta_k=float(b_k - gamma * mean_n), beta_n=float(b_n - gamma * mean_k), gamma=float(gamma),
                      zeta=float(zeta - eta * mean_k), eta=float(eta))


def _starts(design: F64, log_loss: F64, count: int, seed: int) -> list[F64]:
    """Starting points: a share u of the smallest loss for the second term, and what is left for the first."""
    rng = np.random.default_rng(seed)
    smallest = np.exp(log_loss.min())
    starts = []
    for i in range(count):
        share, slope = (0.5, 0.0) if i == 0 else (rng.uniform(0.02, 0.98), rng.normal(0.0, 0.3))
        rest = np.log(np.exp(log_loss) - share * smallest)
        first = np.linalg.lstsq(design, rest, rcond=None)[0]
        starts.append(np.clip(np.append(first, [np.log(share * smallest), slope]), -0.9 * _LIMITS, 0.9 * _LIMITS))
    return starts
