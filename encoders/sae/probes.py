"""Do single latents, or a few, tell labels that people gave?

Sparse probes (Gurnee et al. 2023, "Finding Neurons in a Haystack"): of all latents take the k whose means differ most
between texts with a label and those without, and fit a logistic regression to these alone. Good features need few.
Beside them stand a regression on the embedding itself, which few latents can hardly beat, and one on its best single
dimension, which they should. Gao et al. 2024 ("Scaling and evaluating sparse autoencoders") probe with one latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.auroc import auroc
from sparsight.encoders.sae.checks import check_codes, check_rows, torch_device
from sparsight.errors import InvalidArgumentError, ShapeError

if TYPE_CHECKING:
    import torch

__all__ = ["Probes", "logistic_regression", "probe_labels"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
_NEWTON_STEPS = 50


@dataclass(frozen=True, eq=False)
class Probes:
    """Probes of L labels, measured on rows that they were neither chosen by nor fitted to.

    F1 is at the threshold that is best on the training rows.

    Attributes
    ----------
    ks : tuple of K ints
        Latents that a sparse probe sees.
    latents : int64, shape (L, max(ks))
        Those latents, by falling difference of means; a probe of k sees the first k.
    auroc, f1 : float64, shape (K, L)
        Of sparse probes.
    dense_auroc, dense_f1 : float64, shape (L,)
        Of probes that see the whole embedding.
    dimension : int64, shape (L,)
        The embedding's component with the AUROC furthest from 1/2 on the training rows.
    dimension_auroc, dimension_f1 : float64, shape (L,)
        Of probes that see it alone.
    """

    ks: tuple[int, ...]
    latents: NDArray[np.int64]
    auroc: F64
    f1: F64
    dense_auroc: F64
    dense_f1: F64
    dimension: NDArray[np.int64]
    dimension_auroc: F64
    dimension_f1: F64


def probe_labels(x: F32, codes: csr_matrix, labels: Mask, *, ks: Sequence[int] = (1, 2, 5, 10, 20),
                 train: Mask | None = None, penalty: float = 1.0, seed: int = 0, device: str = "cpu") -> Probes:
    """Fit and measure the probes of every label.

    Parameters
    ----------
    x : float32, shape (B, D)
        Embeddings.
    codes : csr_matrix, shape (B, N)
        Their codes.
    labels : bool, shape (B, L)
        Which row has which label; both kinds among the training rows and among the others. Fewer than about a hundred
        of a kind say little.
    ks : sequence of int
        In [1, N].
    train : bool, shape (B,), optional
        Rows to choose by and fit to; by default a random half.
    penalty : float
        Weight of the squared coefficients; see :func:`logistic_regression`.
    seed : int
        Of the half.
    device : str

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If arrays do not fit, a label lacks a kind of rows in a part, or an option is out of range.

    Notes
    -----
    The dense probes cost most: about ten times ``B D^2`` for each label.
    """
    check_rows("x", x)
    check_codes("codes", codes, rows=len(x))
    chosen = _checked(labels, train, len(x), seed)
    if not len(ks) or min(ks) < 1 or max(ks) > codes.shape[1] or penalty <= 0:
        raise InvalidArgumentError(f"expected ks in [1, {codes.shape[1]}] and penalty above 0, got {tuple(ks)} and "
                                   f"{penalty}", field="ks")
    latents = _largest_differences(codes[chosen], labels[chosen], max(ks))
    dimension = np.abs(auroc(x[chosen], labels[chosen]) - 0.5).argmax(0)
    columns, dense = codes.tocsc(), _standardised(x, chosen, device)
    scores = np.empty((len(ks) + 2, 2, labels.shape[1]))  # sparse ones, dense, dimension; AUROC, F1
    for i, own in enumerate(latents):
        sparse = _standardised(columns[:, own].toarray(), chosen, device)
        inputs = [sparse[:, :k] for k in ks] + [dense, dense[:, dimension[i], None]]
        for j, given in enumerate(inputs):
            scores[j, :, i] = _probe(given, labels[:, i], chosen, penalty)
    return Probes(ks=tuple(ks), latents=latents, auroc=scores[:-2, 0], f1=scores[:-2, 1], dense_auroc=scores[-2, 0],
                  dense_f1=scores[-2, 1], dimension=dimension, dimension_auroc=scores[-1, 0],
                  dimension_f1=scores[-1, 1])


def logistic_regression(x: torch.Tensor, y: torch.Tensor, penalty: float = 1.0) -> torch.Tensor:
    """Coefficients (K + 1,), the constant last, of a logistic regression by Newton's method.

    Parameters
    ----------
    x : float64 tensor, shape (B, K)
        Columns should be of like size, since all coefficients are penalised alike.
    y : float64 tensor, shape (B,)
        0 or 1.
    penalty : float
        > 0. The loss is ``sum log(1 + exp(z)) - y z + penalty / 2 |w|^2`` with ``z = x w + c``, the constant free: 1 is
        the usual default of other libraries (C = 1).

    Notes
    -----
    The loss is convex; a step that would raise it is halved. 5 to 10 steps of ``B K^2`` are usual.
    """
    import torch

    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    ridge = torch.full((x.shape[1],), penalty, dtype=x.dtype, device=x.device)
    ridge[-1] = 1e-9  # keeps the curvature from vanishing where all is certain

    def loss(weights: torch.Tensor) -> torch.Tensor:
        z = x @ weights
        return (torch.nn.functional.softplus(z) - y * z).sum() + (ridge * weights * weights).sum() / 2

    weights = torch.zeros_like(ridge)
    now = loss(weights)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(x @ weights)
        slope = x.T @ (p - y) + ridge * weights
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + torch.diag(ridge)
        step = torch.linalg.solve(curvature, slope)
        while (after := loss(weights - step)) > now and step.abs().max() > 1e-10:
            step = step / 2
        if after > now:
            break
        weights, now = weights - step, after
        if step.abs().max() < 1e-8:
            break
    return weights


def _checked(labels: Mask, train: Mask | None, rows: int, seed: int) -> Mask:
    """The training rows."""
    if labels.ndim != 2 or labels.dtype != bool or labels.shape[0] != rows:
        raise ShapeError(f"expected labels bool ({rows}, L), got {labels.dtype} {labels.shape}", field="labels")
    if train is None:
        train = np.random.default_rng(seed).permutation(rows) < (rows + 1) // 2
    if train.shape != (rows,) or train.dtype != bool:
        raise ShapeError(f"expected train bool ({rows},), got {train.dtype} {train.shape}", field="train")
    for name, part in (("training", labels[train]), ("other", labels[~train])):
        lacking = np.flatnonzero(~(part.any(0) & ~part.all(0)))
        if len(lacking):
            raise InvalidArgumentError(f"expected rows with and without label {lacking[0]} among the {name} rows, got "
                                       f"{int(part[:, lacking[0]].sum())} with it of {len(part)}", field="labels")
    return train


def _largest_differences(codes: csr_matrix, labels: Mask, count: int) -> NDArray[np.int64]:
    """Latents whose means differ most between rows with a label and without, (L, count), best first."""
    sums = np.asarray(codes.T @ labels.astype(np.float64))  # (N, L)
    whole = np.asarray(codes.sum(0, dtype=np.float64)).reshape(-1, 1)
    positive = labels.sum(0)
    difference = np.abs(sums / positive - (whole - sums) / (len(labels) - positive))
    return np.argsort(-difference, axis=0, kind="stable")[:count].T.astype(np.int64)


def _standardised(x: F32, train: Mask, device: str) -> torch.Tensor:
    """Columns with mean 0 and deviation 1 on the training rows, float64 on the device; 0 for one that is constant."""
    import torch

    columns = torch.from_numpy(np.ascontiguousarray(x)).to(torch_device(device)).double()
    fit = columns[torch.from_numpy(train).to(columns.device)]
    mean, deviation = fit.mean(0), fit.std(0, correction=0)
    return (columns - mean) / torch.where(deviation > 0, deviation, 1.0)


def _probe(x: torch.Tensor, has: Mask, train: Mask, penalty: float) -> tuple[float, float]:
    """AUROC and F1 on the other rows of a regression fitted to the training rows."""
    import torch

    fit = torch.from_numpy(train).to(x.device)
    weights = logistic_regression(x[fit], torch.from_numpy(has[train]).to(x), penalty)
    z = (x @ weights[:-1] + weights[-1]).cpu().numpy()
    said, true = z[~train] >= _best_threshold(z[train], has[train]), has[~train]
    f1 = 2 * (said & true).sum() / (said.sum() + true.sum())
    return float(auroc(z[~train, None], true[:, None])[0, 0]), float(f1)


def _best_threshold(scores: F64, has: Mask) -> float:
    """Least score to say yes at for the best F1."""
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    f1 = 2 * np.cumsum(has[order]) / (np.arange(1, len(has) + 1) + has.sum())
    f1[:-1][scores[:-1] == scores[1:]] = -1.0  # equal scores cannot be told apart
    return float(scores[f1.argmax()])
