"""What an autoencoder leaves over, and how much of that a linear map of its input foretells.

Engels, Smith, Tegmark 2024, "Decomposing the Dark Matter of Sparse Autoencoders", found about half of the error vector
and over nine tenths of its squared norm to be linear in the input, for language models. The linear part looks like
features that were not learned; the rest does not, and larger dictionaries hardly shrink it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows, torch_device
from sparsight.encoders.sae.reconstruction import fvu
from sparsight.encoders.sae.scaling import r_squared
from sparsight.errors import InvalidArgumentError

__all__ = ["ErrorSplit", "linear_map", "split_error"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorSplit:
    """The error ``e = x - xhat`` and its best linear guess ``e' = c + M x``, on rows that M was not fitted to.

    Attributes
    ----------
    vector_r2 : float
        Share of the error's variance that is linear: ``1 - sum |e - e'|^2 / sum |e - mean e|^2``. Below 0 if there are
        too few rows for the guess to hold.
    norm_r2 : float
        The same share for the one number ``|e|^2``, guessed from x by a linear map of its own (as Engels et al. do).
    log_norm_r2 : float
        The same for ``log |e|``, which a few large errors do not rule.
    fvu : float
        ``sum |e|^2 / sum |x - mean x|^2``.
    linear_fvu, nonlinear_fvu : float
        Its two parts: ``nonlinear_fvu`` is that of ``e - e'``, the linear one the rest.
    rows, held_out_rows : int
        Fitted to, and measured on.
    weight : float64, shape (D, D)
        Transposed M: ``e' = offset + x weight``.
    offset : float64, shape (D,)
    """

    vector_r2: float
    norm_r2: float
    log_norm_r2: float
    fvu: float
    linear_fvu: float
    nonlinear_fvu: float
    rows: int
    held_out_rows: int
    weight: F64 = field(repr=False)
    offset: F64 = field(repr=False)

    def linear(self, x: F32) -> F32:
        """The linear part of the errors of any embeddings, float32 (B, D); what is left of them is the non-linear."""
        check_rows("x", x, columns=len(self.weight))
        return (x @ self.weight + self.offset).astype(np.float32)


def split_error(x: F32, error: F32, *, held_out: float = 0.5, seed: int = 0, device: str = "cpu") -> ErrorSplit:
    """Split the errors of an autoencoder.

    Parameters
    ----------
    x, error : float32, shape (B, D)
        Embeddings and their errors (:func:`sparsight.encoders.sae.blocks.errors`), some of them not 0.
    held_out : float
        Share of the rows, drawn at random, that everything is measured on.
    seed : int
        Of that draw.
    device : str

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the arrays do not fit, there are not more than D + 1 rows to fit to or fewer than two to measure on, rows or
        sizes of errors are all equal, or an option is out of range.

    Notes
    -----
    Rows without any error have no logarithm and are left out of ``log_norm_r2``.
    """
    check_rows("x", x)
    check_rows("error", error, rows=x.shape[0], columns=x.shape[1])
    test = int(len(x) * held_out)
    if not 0 < held_out < 1 or test < 2 or len(x) - test <= x.shape[1] + 1:
        raise InvalidArgumentError(f"expected held_out in (0, 1) that leaves more than {x.shape[1] + 1} rows to fit to "
                                   f"and 2 to measure on, got {held_out} of {len(x)} rows", field="held_out")
    order = np.random.default_rng(seed).permutation(len(x))
    out, fit = np.sort(order[:test]), np.sort(order[test:])
    squared = np.einsum("ij,ij->i", error, error, dtype=np.float64)
    weight, offset = linear_map(x[fit], error[fit], device=device)
    left = error[out] - (x[out] @ weight + offset)
    whole, nonlinear = fvu(x[out], error[out]), fvu(x[out], left)
    wrong = squared > 0
    return ErrorSplit(
        vector_r2=r_squared(error[out], error[out] - left),
        norm_r2=_guessed(x, squared, fit, out, device),
        log_norm_r2=_guessed(x, np.log(np.where(wrong, squared, 1.0)) / 2, fit[wrong[fit]], out[wrong[out]], device),
        fvu=whole, linear_fvu=whole - nonlinear, nonlinear_fvu=nonlinear, rows=len(fit), held_out_rows=len(out),
        weight=weight, offset=offset)


def linear_map(x: F32, y: NDArray[np.floating], *, device: str = "cpu") -> tuple[F64, F64]:
    """Weight (D, E) and offset (E,) with the least ``sum |y - (offset + x weight)|^2``, float64.

    Parameters
    ----------
    x : float, shape (B, D)
    y : float, shape (B, E)

    Notes
    -----
    By the normal equations of centred data in float64: one product of B D^2 that suits a GPU. Directions of x with less
    than 1e-10 of the variance of the widest get weight 0, so that embeddings that do not fill their space are fine.
    """
    import torch

    where = torch_device(device)
    given, wanted = (torch.from_numpy(np.ascontiguousarray(part, np.float64)).to(where) for part in (x, y))
    mean, target = given.mean(0), wanted.mean(0)
    given = given - mean
    values, vectors = torch.linalg.eigh(given.T @ given)  # rising
    kept = values > 1e-10 * values[-1].clamp_min(1e-300)
    basis = vectors[:, kept]
    weight = basis @ ((basis.T @ (given.T @ (wanted - target))) / values[kept, None])
    return weight.cpu().numpy(), (target - mean @ weight).cpu().numpy()


def _guessed(x: F32, y: F64, fit: NDArray[np.int64], out: NDArray[np.int64], device: str) -> float:
    """R2 on some rows of a linear guess of one number fitted to others."""
    weight, offset = linear_map(x[fit], y[fit, None], device=device)
    return r_squared(y[out], (x[out] @ weight + offset)[:, 0])
