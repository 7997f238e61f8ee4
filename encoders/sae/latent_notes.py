"""What is known of latents beside their weights: where a label is from and how good it is, and how a latent fires.

Nothing of it decides a code, so it may be written anew, with the labels, for a dictionary that stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from sparsight.errors import InvalidVectorError, ShapeError

__all__ = ["BINS", "SCORES", "LatentNotes", "activation_histogram"]

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]

BINS = 10
"""Of a histogram."""
SCORES = ("detection", "strong_detection", "correlation", "intruder")
"""Columns of label scores: the figures of :class:`sparsight.encoders.sae.label_scores.LabelScores`."""


@dataclass(frozen=True, eq=False)
class LatentNotes:
    """Notes on N latents. What is not known is empty.

    Attributes
    ----------
    sources : tuple of str, length N or 0
        What each label is from: one of :data:`sparsight.encoders.sae.naming.LABELLERS`, "model" for a language model,
        or "".
    scores : float32, shape (N, 4) or (0, 4)
        Of the labels, on texts that they were not made from: :data:`SCORES`. NaN: too few texts to tell.
    histogram : uint32, shape (N, 10) or (0, 10)
        How many texts a latent's document weight was in each tenth of what lies between 0 and its largest.
    stability : float32, shape (N,) or (0,)
        Share of other trainings, of other seeds, that found the latent again.
    """

    sources: tuple[str, ...] = ()
    scores: F32 = field(default_factory=lambda: np.zeros((0, len(SCORES)), np.float32))
    histogram: U32 = field(default_factory=lambda: np.zeros((0, BINS), np.uint32))
    stability: F32 = field(default_factory=lambda: np.zeros(0, np.float32))

    def check(self, n_latents: int) -> None:
        """Raise ShapeError or InvalidVectorError unless all that is known is known of N latents."""
        for name, (dtype, width) in {"scores": (np.float32, (len(SCORES),)), "histogram": (np.uint32, (BINS,)),
                                     "stability": (np.float32, ())}.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape not in ((n_latents, *width), (0, *width)):
                raise ShapeError(f"expected {name} {np.dtype(dtype)} {(n_latents, *width)} or none, got {array.dtype} "
                                 f"{array.shape}", field=f"notes.{name}")
        if len(self.sources) not in (0, n_latents):
            raise ShapeError(f"expected {n_latents} sources of labels or none, got {len(self.sources)}",
                             field="notes.sources")
        if np.isinf(self.scores).any() or not np.isfinite(self.stability).all():
            raise InvalidVectorError("expected finite stability, and scores that are finite or NaN", field="notes")


def activation_histogram(weights: csc_matrix) -> U32:
    """How often the weights of each column lie in each tenth of (0, the column's largest].

    Parameters
    ----------
    weights : csc_matrix, shape (B, N)
        All stored values > 0.

    Returns
    -------
    uint32, shape (N, 10)
    """
    counts = np.diff(weights.indptr)
    column = np.repeat(np.arange(weights.shape[1]), counts)
    largest = np.zeros(weights.shape[1], np.float32)
    filled = np.flatnonzero(counts)
    if len(filled):
        largest[filled] = np.maximum.reduceat(weights.data, weights.indptr[filled])
    tenth = np.clip(np.ceil(BINS * (weights.data / largest[column])) - 1, 0, BINS - 1).astype(np.int64)
    return np.bincount(column * BINS + tenth, minlength=weights.shape[1] * BINS).astype(np.uint32).reshape(-1, BINS)
