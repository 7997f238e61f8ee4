"""Names for the latents of an autoencoder: four labellers compete, and held-out texts judge the winner.

Texts are split three ways. Labellers (:mod:`sparsight.encoders.sae.labellers`) see the first part, the second decides
which of them names a latent, and the figures of the names (:mod:`sparsight.encoders.sae.label_scores`) are those of
the third, which neither has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.label_scores import LabelScores, score_labels
from sparsight.encoders.sae.labellers import expansion_words, near_misses, nearest_words
from sparsight.encoders.sae.labels import contrast_words, word_counts
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, ShapeError

if TYPE_CHECKING:
    from sparsight.encoders.dense import DenseEncoder
    from sparsight.encoders.sparse import SparseEncoder

__all__ = ["LABELLERS", "Names", "name_latents"]

F32 = NDArray[np.float32]
Progress = Callable[[float, str], None]

LABELLERS = ("contrast", "matched", "expansion", "nearest")
"""In the order in which they win where held-out texts cannot tell."""
_SPLIT = (0.6, 0.8)
_LEAST_TEXTS = 30
_LEAST_WORD_TEXTS = 3
_MOST_WORDS = 20_000
_TRUST = 20  # texts that count as much as what a labeller's other names are worth


@dataclass(frozen=True, eq=False)
class Names:
    """What latents are called, and how good the names are.

    Attributes
    ----------
    labels : tuple of str, length N
        Words joined by ", ". None is empty.
    labellers : tuple of str, length N
        Which of `LABELLERS` each comes from.
    scores : LabelScores
        Of these names, on held-out texts.
    by_labeller : mapping
        The same of every labeller's names.
    """

    labels: tuple[str, ...]
    labellers: tuple[str, ...]
    scores: LabelScores
    by_labeller: Mapping[str, LabelScores]


def name_latents(sae: SAE, x: F32, texts: Sequence[str], *, embedder: DenseEncoder, judge: SparseEncoder,
                 codes: csr_matrix | None = None, vectors: csr_matrix | None = None, top: int = 4, seed: int = 0,
                 progress: Progress | None = None) -> Names:
    """Name every latent of an autoencoder.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
        Embeddings of the texts, at least 30.
    texts : sequence of str, length B
    embedder : DenseEncoder
        What made ``x``; embeds single words.
    judge : SparseEncoder
        Weighs texts, and labels as queries. Its terms are also a labeller's.
    codes : csr_matrix, shape (B, N), optional
        Codes of ``x``; otherwise :meth:`SAE.document_codes`.
    vectors : csr_matrix, shape (B, V), optional
        The judge's weights of the texts, where they are known.
    top : int
        Most words of a name.
    seed : int
        Of the split and the draws.
    progress : callable, optional
        Called with (share done, what is being done).

    Returns
    -------
    Names

    Raises
    ------
    ShapeError, InvalidArgumentError
        If the numbers of texts and rows differ or are too few, or ``top`` is below 1.
    """
    tell = progress or (lambda share, what: None)
    if len(texts) != len(x) or len(x) < _LEAST_TEXTS:
        raise ShapeError(f"expected a text a row, at least {_LEAST_TEXTS}, got {len(texts)} and {len(x)}",
                         field="texts")
    if top < 1:
        raise InvalidArgumentError(f"expected top of at least 1, got {top}", field="top")
    tell(0.0, "coding texts")
    codes = sae.document_codes(x) if codes is None else codes
    tell(0.1, "weighing texts")
    vectors = judge.encode(texts) if vectors is None else vectors
    order = np.random.default_rng(seed).permutation(len(x))
    seen, chosen_by, held = (np.sort(part) for part in np.split(order, [int(share * len(x)) for share in _SPLIT]))
    tell(0.5, "finding words")
    words_of = _words(sae, x[seen], [texts[row] for row in seen], codes[seen], vectors[seen], embedder, judge, top)
    labels = {name: [", ".join(words) for words in of] for name, of in words_of.items()}
    tell(0.7, "judging names")
    asked = {name: judge.encode(of, mode="query") for name, of in labels.items()}
    validated = {name: score_labels(of, vectors[chosen_by], codes[chosen_by], seed) for name, of in asked.items()}
    best = _best(labels, validated, np.diff(codes[chosen_by].tocsc().indptr))
    tell(0.85, "judging names on held-out texts")
    by_labeller = {name: score_labels(of, vectors[held], codes[held], seed) for name, of in asked.items()}
    scores = LabelScores(*(np.choose(best, [getattr(by_labeller[name], figure) for name in LABELLERS])
                           for figure in LabelScores.__dataclass_fields__))
    tell(1.0, "done")
    names = [LABELLERS[at] for at in best.tolist()]
    return Names(tuple(labels[name][latent] for latent, name in enumerate(names)), tuple(names), scores, by_labeller)


def _words(sae: SAE, x: F32, texts: Sequence[str], codes: csr_matrix, vectors: csr_matrix, embedder: DenseEncoder,
           judge: SparseEncoder, top: int) -> dict[str, list[list[str]]]:
    counts, words = word_counts(texts, max_words=_MOST_WORDS, min_texts=_LEAST_WORD_TEXTS)
    misses = near_misses(sae, x, codes)
    return {"contrast": contrast_words(codes, counts, words, top=top),
            "matched": contrast_words(codes, counts, words, misses, top),
            "expansion": expansion_words(codes, misses, vectors, judge.term, top),
            "nearest": nearest_words(sae, words, embedder.encode(words), top)}


def _best(labels: Mapping[str, Sequence[str]], scores: Mapping[str, LabelScores],
          fired: NDArray[np.integer]) -> NDArray[np.int64]:
    """By latent the labeller whose label detects best, of those that have one; the first where none can be told.

    From few texts, ``fired`` by latent, a label's detection is known badly: it is drawn towards the mean of its
    labeller (shrinkage: Efron and Morris 1975).
    """
    detection = np.stack([scores[name].detection for name in LABELLERS])
    known = ~np.isnan(detection)
    usual = np.where(known, detection, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    drawn = (np.where(known, detection, usual) * fired + usual * _TRUST) / (fired + _TRUST)
    empty = np.array([[not label for label in labels[name]] for name in LABELLERS])
    best: NDArray[np.int64] = np.where(empty, -1.0, drawn).argmax(0)
    return best
