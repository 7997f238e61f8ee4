"""Sparse codes by greedy pursuit, with values that are not negative: the specification."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["pursue"]

_PICKS = 4  # atoms added after a look at all of them
_SWEEPS = 4  # of coordinate descent after each, at most
_LAST_SWEEPS = 30  # at the end, at most
_STILL = 1e-6  # a sweep that moves no value by more than this share of the largest is the last
_NOTHING = 1e-6  # products with the residual below this share of the row's length are rounding

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_TINY = np.finfo(np.float32).tiny


def pursue(y: F32, w_dec: F32, k: int, candidates: int, once: bool = False) -> tuple[NDArray[np.int32], F32]:
    """Latents and values of each row's code; see :func:`sparsight.kernels.pursue`.

    Sums in float64, but for the scores of a look, which are exact in float32.

    References
    ----------
    Pati, Rezaiifar and Krishnaprasad 1993, "Orthogonal Matching Pursuit"; Bruckstein, Elad and Zibulevsky 2008, "On the
    Uniqueness of Nonnegative Sparse Solutions to Underdetermined Systems of Equations", for values that are not
    negative.
    """
    idx = np.full((len(y), k), -1, np.int32)
    val = np.zeros((len(y), k), np.float32)
    whole, units = _rounded(w_dec)
    for row, target in enumerate(y):
        if not np.isfinite(target).all():
            continue
        code = _Code(target, w_dec)
        while len(code.chosen) < min(k, len(w_dec)):
            if 0 < candidates < len(w_dec):
                left = k - len(code.chosen)
                picked = code.add_best(_look(code, whole, units, candidates), left if once else min(_PICKS, left))
            else:
                picked = code.add_best(np.setdiff1d(np.arange(len(w_dec)), code.chosen), k - len(code.chosen))
            if not picked or once:
                break
        code.fit(_LAST_SWEEPS)
        latents, values = np.array(code.chosen, np.int32), code.values.astype(np.float32)
        latents, values = latents[values > 0], values[values > 0]
        order = np.lexsort((latents, -values))
        idx[row, :len(order)], val[row, :len(order)] = latents[order], values[order]
    return idx, val


class _Code:
    """A row's atoms, their values, and what they leave."""

    def __init__(self, target: F32, w_dec: F32) -> None:
        self.target, self.w_dec = target.astype(np.float64), w_dec
        self.chosen: list[int] = []
        self.values: F64 = np.zeros(0)
        self.residual: F64 = self.target
        self.floor = _NOTHING * np.linalg.norm(self.target)

    def add_best(self, candidates: NDArray[np.intp], picks: int) -> int:
        """Add so many of the ascending candidates, one by one, while one's product is above the floor: how many."""
        for picked in range(picks):
            products = self.w_dec[candidates].astype(np.float64) @ self.residual
            products = np.where(products > self.floor, products, 0)  # NaN is not
            if not products.any():
                return picked
            best = int(products.argmax())
            self.chosen.append(int(candidates[best]))
            self.values = np.append(self.values, 0.0)
            candidates = np.delete(candidates, best)
            self.fit(_SWEEPS)
        return picks

    def fit(self, sweeps: int) -> None:
        """``z_i <- max(0, z_i + r . w_i)`` for one atom after the other, in the order in which they were added."""
        atoms = self.w_dec[self.chosen].astype(np.float64)
        gram, products = atoms @ atoms.T, atoms @ self.residual
        for _ in range(sweeps):
            moved = 0.0
            for i in range(len(atoms)):
                step = max(0.0, self.values[i] + products[i]) - self.values[i]
                self.values[i] += step
                products -= step * gram[i]
                moved = max(moved, abs(step))
            if moved <= _STILL * self.values.max(initial=0.0):
                break
        self.residual = self.target - self.values @ atoms


def _look(code: _Code, whole: F64, units: F32, candidates: int) -> NDArray[np.intp]:
    """The atoms, ascending, with the largest scores above 0; of equal ones the lower, and none that is chosen."""
    rounded, _ = _rounded(code.residual.astype(np.float32)[None])
    scores = (whole @ rounded[0]).astype(np.float32) * units
    scores[code.chosen] = 0
    best = np.argsort(-scores, kind="stable")[:candidates]
    return np.sort(best[scores[best] > 0])


def _rounded(x: F32) -> tuple[F64, F32]:
    """``rint(x / unit)`` and each row's unit, such that the largest is a number of 8 bits.

    That is 127, or less where a sum of products of such numbers could reach 2^24. Zeros, with unit 0, for a row that is
    not finite or has only components near the smallest float.
    """
    levels = np.float32(min(127, isqrt((2**24 - 1) // max(x.shape[1], 1))))
    units = np.abs(x).max(axis=1, initial=0) / levels
    usable = np.isfinite(units) & (units >= _TINY)
    whole = np.rint(x / np.where(usable, units, 1)[:, None])
    return np.where(usable[:, None], whole, 0).astype(np.float64), np.where(usable, units, 0).astype(np.float32)
