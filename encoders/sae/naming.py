"""Names for the latents of an autoencoder: labellers compete, and held-out texts judge the winner.

Texts are split three ways. Labellers (:mod:`sparsight.encoders.sae.labellers`) see the first part, the second decides
which of them names a latent, and the figures of the names (:mod:`sparsight.encoders.sae.label_scores`) are those of
the third, which neither has seen.

A name says what a latent stands for where it is one of a text's strongest. The last of 32 latents of a text mend what
the others leave of its embedding, and words hardly tell on which texts they do: of the labels that the shipped
dictionary comes with the median detection is 0.68 if every activation counts, and 0.94 if a text's eight strongest do
(``python -m benches.steering --sections names``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae.label_scores import LabelScores, score_labels
from sparsight.encoders.sae.labellers import expansion_words, near_misses, nearest_words
from sparsight.encoders.sae.labels import contrast_words, strongest_codes, word_counts
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, ShapeError

if TYPE_CHECKING:
    from sparsight.encoders.dense import DenseEncoder
    from sparsight.encoders.sparse import SparseEncoder

__all__ = ["LABELLERS", "STRONGEST", "Names", "Writer", "name_latents"]

F32 = NDArray[np.float32]
Progress = Callable[[float, str], None]
Writer = Callable[[csr_matrix, csc_matrix, Sequence[str]], Sequence[str]]
"""A labeller from outside: codes (B, N), near misses (B, N) and B texts to N labels, "" for none."""

LABELLERS = ("present", "model", "contrast", "matched", "expansion", "nearest")
"""In the order in which they win where held-out texts cannot tell. "present" are the labels that there are, "model" the
labeller from outside."""
STRONGEST = 8
"""Latents of a text that count as firing on it."""
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


def name_latents(sae: SAE, x: F32, texts: Sequence[str], *, embedder: DenseEncoder | None, judge: SparseEncoder,
                 codes: csr_matrix | None = None, vectors: csr_matrix | None = None, present: Sequence[str] = (),
                 writer: Writer | None = None, strongest: int = STRONGEST, top: int = 7, seed: int = 0,
                 progress: Progress | None = None) -> Names:
    """Name every latent of an autoencoder.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
        Embeddings of the texts, at least 30.
    texts : sequence of str, length B
    embedder : DenseEncoder or None
        What made ``x``; embeds single words. Without it no label is by "nearest".
    judge : SparseEncoder
        Weighs texts, and labels as queries. Its terms are also a labeller's.
    codes : csr_matrix, shape (B, N), optional
        Codes of ``x``; otherwise :meth:`SAE.document_codes`.
    strongest : int
        Only so many latents of a text count as firing, its largest activations; 0: all. A latent that is never among
        them counts wherever it fires.
    vectors : csr_matrix, shape (B, V), optional
        The judge's weights of the texts, where they are known.
    present : sequence of str, length N, optional
        Labels that compete, too: made from other texts, they may be better than what few texts say.
    writer : callable, optional
        One more labeller, such as :class:`sparsight.encoders.sae.language_model.LanguageModel`.
    top : int
        Most words of a name: with 6 the median detection is .900 and with 7 .907, on features of arXiv abstracts of
        which each text has 8; with 4 it is .02 lower than with 6, with 8 .01 higher.
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
        If the numbers of texts and rows differ or are too few, ``top`` is below 1 or ``strongest`` below 0.
    """
    tell = progress or (lambda share, what: None)
    if len(texts) != len(x) or len(x) < _LEAST_TEXTS:
        raise ShapeError(f"expected a text a row, at least {_LEAST_TEXTS}, got {len(texts)} and {len(x)}",
                         field="texts")
    if len(present) not in (0, sae.n_latents):
        raise ShapeError(f"expected {sae.n_latents} present labels or none, got {len(present)}", field="present")
    for name, given, least in (("top", top, 1), ("strongest", strongest, 0)):
        if given < least:
            raise InvalidArgumentError(f"expected {name} of at least {least}, got {given}", field=name)
    tell(0.0, "coding texts")
    codes = sae.document_codes(x) if codes is None else codes
    if strongest:
        codes = strongest_codes(codes, strongest)
    tell(0.1, "weighing texts")
    vectors = judge.encode(texts) if vectors is None else vectors
    order = np.random.default_rng(seed).permutation(len(x))
    seen, chosen_by, held = (np.sort(part) for part in np.split(order, [int(share * len(x)) for share in _SPLIT]))
    tell(0.5, "finding words")
    labels: dict[str, Sequence[str]] = {"present": present} if any(present) else {}
    labels |= _labels(sae, x[seen], [texts[row] for row in seen], codes[seen], vectors[seen], embedder, judge, writer,
                      top, tell)
    tell(0.7, "judging names")
    asked = {name: judge.encode(of, mode="query") for name, of in labels.items()}
    validated = {name: score_labels(of, vectors[chosen_by], codes[chosen_by], seed) for name, of in asked.items()}
    best = _best(labels, validated, np.diff(codes[chosen_by].tocsc().indptr))
    tell(0.85, "judging names on held-out texts")
    by_labeller = {name: score_labels(of, vectors[held], codes[held], seed) for name, of in asked.items()}
    scores = LabelScores(*(np.choose(best, [getattr(of, figure) for of in by_labeller.values()])
                           for figure in LabelScores.__dataclass_fields__))
    tell(1.0, "done")
    names = [list(labels)[at] for at in best.tolist()]
    return Names(tuple(labels[name][latent] for latent, name in enumerate(names)), tuple(names), scores, by_labeller)


def _labels(sae: SAE, x: F32, texts: Sequence[str], codes: csr_matrix, vectors: csr_matrix,
            embedder: DenseEncoder | None, judge: SparseEncoder, writer: Writer | None, top: int, tell: Progress
            ) -> dict[str, Sequence[str]]:  # fmt: skip
    """What each labeller says, in the order of :data:`LABELLERS`."""
    counts, words = word_counts(texts, max_words=_MOST_WORDS, min_texts=_LEAST_WORD_TEXTS)
    misses = near_misses(sae, x, codes)
    found: dict[str, list[list[str]]] = {
        "contrast": contrast_words(codes, counts, words, top=top),
        "matched": contrast_words(codes, counts, words, misses, top),
        "expansion": expansion_words(codes, misses, vectors, judge.term, top)}
    if embedder is not None:
        tell(0.6, "embedding words")
        found["nearest"] = nearest_words(sae, words, embedder.encode(words), top)
    labels: dict[str, Sequence[str]] = {}
    if writer is not None:
        tell(0.65, "asking the language model")
        labels["model"] = writer(codes, misses, texts)
    return labels | {name: [", ".join(of_latent) for of_latent in of] for name, of in found.items()}


def _best(labels: Mapping[str, Sequence[str]], scores: Mapping[str, LabelScores],
          fired: NDArray[np.integer]) -> NDArray[np.int64]:
    """By latent the labeller, as a number, whose label detects best, of those that have one; the first in doubt.

    From few texts, ``fired`` by latent, a label's detection is known badly: it is drawn towards the mean of its
    labeller (shrinkage: Efron and Morris 1975).
    """
    detection = np.stack([of.detection for of in scores.values()])
    known = ~np.isnan(detection)
    usual = np.where(known, detection, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    drawn = (np.where(known, detection, usual) * fired + usual * _TRUST) / (fired + _TRUST)
    empty = np.array([[not label for label in of] for of in labels.values()])
    best: NDArray[np.int64] = np.where(empty, -1.0, drawn).argmax(0)
    return best
