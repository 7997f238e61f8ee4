"""How well labels of latents say which texts they fire on, judged by a sparse encoder in place of a reader.

The encoder weighs a label as it does a query, and a text as a document; the product is how much the text is about the
label. It was never trained with the autoencoder nor sees its embeddings, and expands words, so that a label about cars
fits a text about vehicles. What a person would be asked is asked of it (Bills et al. 2023, "Language models can explain
neurons in language models", for activations; Paulo et al. 2024 for detection; Chang et al. 2009, "Reading Tea Leaves",
for intruders). A text must not be one that labels were made from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.encoders.sae.latent_notes import SCORES
from sparsight.errors import ShapeError

__all__ = ["LabelScores", "score_labels"]

F64 = NDArray[np.float64]
_AT_ONCE = 256  # labels
_SHOWN, _STRONGEST, _DRAWS = 4, 20, 16  # texts beside an intruder, texts they are drawn from, draws


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Figures of N labels; NaN for latents that fire on none of the texts, or too few.

    Attributes
    ----------
    detection : float64, shape (N,)
        Chance that a text which the latent fires on suits the label better than one that it is silent on (area under
        the ROC curve): 0.5 says nothing.
    strong_detection : float64, shape (N,)
        The same of the texts with activations above half of the latent's strongest here.
    correlation : float64, shape (N,)
        Pearson's, of activations with how much the texts suit the label.
    intruder : float64, shape (N,)
        Share of draws in which, of four of its 20 strongest texts and one that it is silent on, the latter suits the
        label least: 0.2 says nothing.
    """

    detection: F64
    strong_detection: F64
    correlation: F64
    intruder: F64

    def table(self) -> NDArray[np.float32]:
        """All figures, float32 (N, 4), in the order above: as :class:`~sparsight.encoders.sae.latent_notes.LatentNotes`
        keeps them."""
        return np.stack([getattr(self, name) for name in SCORES], axis=1).astype(np.float32)


def score_labels(labels: csr_matrix, vectors: csr_matrix, codes: csr_matrix, seed: int = 0) -> LabelScores:
    """Judge the labels of latents by texts.

    Parameters
    ----------
    labels : csr_matrix, shape (N, V)
        Query weights of labels; empty rows are labels that say nothing.
    vectors : csr_matrix, shape (B, V)
        Document weights of the texts.
    codes : csr_matrix, shape (B, N)
        What latents do on them.
    seed : int
        Of the draws.

    Returns
    -------
    LabelScores
        Of ties each side counts half.

    Raises
    ------
    ShapeError, InvalidVectorError
        If shapes do not fit.
    """
    check_codes("codes", codes, rows=vectors.shape[0], latents=labels.shape[0])
    if labels.shape[1] != vectors.shape[1]:
        raise ShapeError(f"expected as many terms as texts have, {vectors.shape[1]}, got {labels.shape[1]}",
                         field="labels")
    rng, columns = np.random.default_rng(seed), codes.tocsc()
    out = np.full((4, labels.shape[0]), np.nan)
    texts = vectors.tocsr()
    for start in range(0, labels.shape[0], _AT_ONCE):
        suits = (texts @ labels[start:start + _AT_ONCE].T).toarray()  # (B, labels)
        for at in range(suits.shape[1]):
            part = slice(columns.indptr[start + at], columns.indptr[start + at + 1])
            out[:, start + at] = _scores(suits[:, at].astype(np.float64), columns.indices[part],
                                         columns.data[part].astype(np.float64), rng)
    return LabelScores(*out)


def _scores(suits: F64, fired: NDArray[np.integer], values: F64, rng: np.random.Generator) -> tuple[float, ...]:
    """The four figures of one label from how much it suits each text, and the texts that the latent fires on."""
    if not 0 < len(fired) < len(suits):
        return (np.nan,) * 4
    silent = np.delete(suits, fired)
    strong = fired[values > 0.5 * values.max()]
    return (_detection(suits[fired], np.sort(silent)), _detection(suits[strong], np.sort(silent)),
            _correlation(suits, fired, values), _intruder(suits[fired[np.argsort(-values)[:_STRONGEST]]], silent, rng))


def _detection(firing: F64, silent: F64) -> float:
    below = np.searchsorted(silent, firing, "left") + np.searchsorted(silent, firing, "right")
    return float(below.mean()) / (2 * len(silent))


def _correlation(suits: F64, fired: NDArray[np.integer], values: F64) -> float:
    n = len(suits)
    centred = suits - suits.mean()
    spread = np.sqrt((centred**2).sum() * (values @ values - values.sum() ** 2 / n))
    return float(values @ centred[fired] / spread) if spread > 0 else 0.0


def _intruder(strongest: F64, silent: F64, rng: np.random.Generator) -> float:
    if len(strongest) < _SHOWN:
        return np.nan
    shown = strongest[rng.random((_DRAWS, len(strongest))).argpartition(_SHOWN - 1, axis=1)[:, :_SHOWN]]
    intruder = rng.choice(silent, (_DRAWS, 1))
    # Of several that suit the label least one is taken at random.
    won = (intruder <= shown.min(1, keepdims=True)) / (1 + (shown == intruder).sum(1, keepdims=True))
    return float(won.mean())
