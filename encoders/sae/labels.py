"""Name the latents of an autoencoder by the words that tell their texts from the rest.

Weighted log-odds with an informative Dirichlet prior (Monroe, Colaresi, Quinn 2008, "Fightin' Words", Political
Analysis 16): words of the texts a latent fires on, counted by how strongly it fires, against the words of all others,
shrunk towards the corpus' own frequencies, as z-scores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.errors import ShapeError

__all__ = ["check_same", "contrast_words", "first_words", "label_features", "same_stem", "shares_of", "strongest_codes",
           "top_examples", "word_counts"]

F64 = NDArray[np.float64]
_WORD = re.compile(r"[^\W\d_](?:[\w'’-]*[^\W_])?")
_SHORTEST = 3  # letters; shorter words are mostly grammar, and abbreviations explain little
_PRIOR_WORDS = 500.0  # pseudo-words per group: alpha_0 of Monroe et al., between one text's length and a group's
_WEIGHT_FLOOR = 0.05  # activations below this share of a latent's largest do not vouch for words
_LEAST_Z = 1.0  # words below are as frequent elsewhere
_LATENTS_AT_ONCE = 256
_LOOKED_AT = 5  # best words, in multiples of those that are taken


def label_features(codes: csr_matrix, texts: Sequence[str], *, top: int = 4, max_words: int = 20_000,
                   min_texts: int = 3) -> list[str]:
    """Labels of latents.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
        Activations (>= 0) of N latents on B texts.
    texts : sequence of str, length B
    top : int
        Most words in a label.
    max_words : int
        Size of the vocabulary: the words that occur in most texts.
    min_texts : int
        Texts that a word must occur in (fewer for fewer than 10 texts: 1).

    Returns
    -------
    list of str, length N
        Words by falling z-score, joined by ", ", leaving out words with the stem of a better one; "" for a latent that
        never fires or has no word with a score of at least 1.

    Raises
    ------
    ShapeError
        If the numbers of texts and rows differ.

    Notes
    -----
    A word counts once per text: repeating it is a trait of a text, not of a feature. With y the weighted number of the
    latent's texts that hold word w, n of all its texts' words, and y', n' unweighted those of the texts it is
    silent on,
    ``delta = log((y + a) / (n + a0 - y - a)) - log((y' + a) / (n' + a0 - y' - a))``,
    ``z = delta / sqrt(1 / (y + a) + 1 / (y' + a))``, where ``a = a0 p_w`` and p_w is the word's share in the corpus.
    """
    if codes.shape[0] != len(texts):
        raise ShapeError(f"expected one text per row of codes, got {len(texts)} texts and {codes.shape[0]} rows",
                         field="texts")
    counts, words = word_counts(texts, max_words=max_words, min_texts=min_texts if len(texts) >= 10 else 1)
    if not words:
        return [""] * codes.shape[1]
    return [", ".join(of) for of in contrast_words(codes, counts, words, top=top)]


def contrast_words(codes: csr_matrix, counts: csr_matrix, words: Sequence[str], misses: csc_matrix | None = None,
                   top: int = 4) -> list[list[str]]:
    """Words of the texts that a latent fires on, against those of others.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
    misses : csc_matrix, shape (B, N), optional
        The others, as :func:`sparsight.encoders.sae.labellers.near_misses`; all texts that it is silent on if not
        given.
    counts, words
        As :func:`word_counts`: 0/1 float32 (B, V), and the V words.
    top : int

    Returns
    -------
    list of lists of str, length N
        Best first; none for a latent that never fires, or whose texts have no words of their own.

    Notes
    -----
    By the z-scores of :func:`label_features`.
    """
    check_same(codes, counts, words, misses)
    total, shares = np.asarray(counts.sum(0), np.float64).ravel(), shares_of(codes)
    prior = _PRIOR_WORDS * total / max(total.sum(), 1.0)
    found: list[list[str]] = []
    for start in range(0, codes.shape[1], _LATENTS_AT_ONCE):
        part = slice(start, start + _LATENTS_AT_ONCE)
        inside = (shares[:, part].T @ counts).tocsr()
        others = shares[:, part] > 0 if misses is None else misses[:, part]
        outside = (others.astype(np.float32).T @ counts).toarray().astype(np.float64)
        if misses is None:
            outside = total - outside
        for row, rest in enumerate(outside):
            here = slice(inside.indptr[row], inside.indptr[row + 1])
            there, y = inside.indices[here], inside.data[here].astype(np.float64)
            # A word that none of the texts holds scores below 0, so only those that are there are looked at.
            z = _z_scores(y, rest[there], prior[there], (y.sum() + prior.sum(), rest.sum() + prior.sum()))
            found.append(first_words(z, words, top, _LEAST_Z, there))
    return found


def top_examples(codes: csr_matrix, count: int = 5) -> list[list[int]]:
    """Rows on which each latent is strongest, best first, equal ones by lower row; N lists of at most ``count``."""
    columns = codes.tocsc()
    columns.sort_indices()
    out: list[list[int]] = []
    for latent in range(codes.shape[1]):
        part = slice(columns.indptr[latent], columns.indptr[latent + 1])
        best = np.argsort(-columns.data[part], kind="stable")[:count]
        out.append([int(row) for row in columns.indices[part][best]])
    return out


def strongest_codes(codes: csr_matrix, count: int) -> csr_matrix:
    """Codes (B, N) of which each row keeps its ``count`` largest, equal ones by lower latent.

    A latent that no row would keep is kept wherever it fires.
    """
    rows = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    order = np.lexsort((codes.indices, -codes.data, rows))
    rank = np.empty(codes.nnz, np.int64)
    rank[order] = np.arange(codes.nnz) - codes.indptr[rows]
    kept = rank < count
    seen = np.bincount(codes.indices[kept], minlength=codes.shape[1]) > 0
    kept |= ~seen[codes.indices]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=codes.shape[0]))])
    return csr_matrix((codes.data[kept], codes.indices[kept], indptr), shape=codes.shape)


def word_counts(texts: Sequence[str], *, max_words: int, min_texts: int) -> tuple[csr_matrix, list[str]]:
    """Which text holds which word: 0/1 float32 (B, V), and the V words, by falling number of texts, then alphabet.

    Words are lower-cased, begin with a letter and have at least three characters.
    """
    sets = [{word for match in _WORD.finditer(text) if len(word := match.group().lower()) >= _SHORTEST}
            for text in texts]
    in_texts: Counter[str] = Counter()
    for held in sets:
        in_texts.update(held)
    often = [(word, number) for word, number in in_texts.items() if number >= min_texts]
    words = [word for word, _ in sorted(often, key=lambda pair: (-pair[1], pair[0]))[:max_words]]
    number_of = {word: i for i, word in enumerate(words)}
    rows = [sorted(number_of[word] for word in held if word in number_of) for held in sets]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.fromiter((i for row in rows for i in row), np.int32, int(indptr[-1]))
    return csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(texts), len(words))), words


def shares_of(codes: csr_matrix) -> csc_matrix:
    """Activations as shares of each latent's largest, small ones dropped."""
    columns = codes.tocsc().astype(np.float32)
    largest = np.zeros(codes.shape[1], np.float32)
    filled = np.flatnonzero(np.diff(columns.indptr))
    if len(filled):
        largest[filled] = np.maximum.reduceat(columns.data, columns.indptr[filled])
    columns.data /= np.repeat(np.maximum(largest, 1e-30), np.diff(columns.indptr))
    columns.data[columns.data < _WEIGHT_FLOOR] = 0.0
    columns.eliminate_zeros()
    return columns


def _z_scores(inside: F64, outside: F64, prior: F64, sums: tuple[float, float]) -> F64:
    """z-scores of some words: their weighted counts in a latent's texts against those in the texts it is silent on.

    ``sums`` are the counts of all words, inside and outside, each with all of the prior.
    """
    y, rest = inside + prior, outside + prior
    delta = np.log(y / (sums[0] - y)) - np.log(rest / (sums[1] - rest))
    return delta / np.sqrt(1 / y + 1 / rest)


def first_words(scores: F64, words: Sequence[str], top: int, least: float, places: NDArray[np.integer] | None = None
                ) -> list[str]:  # fmt: skip
    """Words with the largest scores, of at least that much, without those that share a better one's stem.

    Scores are of all words, or of those at ``places``, in ascending order.
    """
    looked_at = min(_LOOKED_AT * top, len(scores))
    best = np.argpartition(-scores, looked_at - 1)[:looked_at] if looked_at else np.zeros(0, np.int64)
    chosen: list[str] = []
    for i in best[np.lexsort((best, -scores[best]))]:
        if scores[i] < least or len(chosen) == top:
            break
        word = words[i if places is None else places[i]]
        if not any(same_stem(word, other) for other in chosen):
            chosen.append(word)
    return chosen


def same_stem(a: str, b: str) -> bool:
    """Whether two words share all but a short ending: "cell" and "cells", "inhibition" and "inhibitor"."""
    shared = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        shared += 1
    return shared >= 3 and max(len(a), len(b)) - shared <= (3 if shared >= 5 else 1)


def check_same(codes: csr_matrix, other: csr_matrix, names: Sequence[str], misses: csc_matrix | None) -> None:
    """Raise a ShapeError unless codes (B, N), rows (B, V) of named columns and near misses (B, N) fit."""
    check_codes("codes", codes)
    if other.shape != (codes.shape[0], len(names)):
        raise ShapeError(f"expected rows {(codes.shape[0], len(names))}, got {other.shape}", field="counts")
    if misses is not None and misses.shape != codes.shape:
        raise ShapeError(f"expected near misses {codes.shape}, got {misses.shape}", field="misses")
