"""Ways to find words for the latents of an autoencoder, none of which asks a language model.

=============  =====================================================================================================
labeller       a latent's words are
=============  =====================================================================================================
``contrast``   those of the texts it fires on, against those of all others
``matched``    the same against texts that come near to firing it
``expansion``  terms of a sparse encoder that weigh more in texts it fires on than in those that come near
``nearest``    those whose own embeddings look most the way of its decoder row
=============  =====================================================================================================

Texts that nearly fire a latent share its subject at large, so what tells them apart is the latent's own (hard
negatives, as Paulo et al. 2024 take them for "Automatically Interpreting Millions of Features in Large Language
Models").
The first two are :func:`sparsight.encoders.sae.labels.contrast_words`. :mod:`sparsight.encoders.sae.naming` has all
compete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae.checks import check_codes, check_rows
from sparsight.encoders.sae.labels import check_same, first_words, shares_of
from sparsight.encoders.sae.model import SAE
from sparsight.errors import ShapeError

__all__ = ["expansion_words", "near_misses", "nearest_words"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_AT_ONCE = 256  # latents
_FEWEST, _MOST = 20, 200  # near misses of a latent
_SMOOTH = 5.0  # texts without a term that are added to both sides


def near_misses(sae: SAE, x: F32, codes: csr_matrix) -> csc_matrix:
    """For each latent the texts that it is silent on and that look most the way of its decoder row.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
    codes : csr_matrix, shape (B, N)
        Codes of ``x``.

    Returns
    -------
    csc_matrix, bool, shape (B, N)
        As many as it fires on, within 20 and 200, or all it is silent on; none for a latent that never fires.

    Raises
    ------
    ShapeError, InvalidVectorError
        If ``x`` or ``codes`` do not fit the autoencoder or each other.
    """
    check_rows("x", x, columns=sae.d_in)
    check_codes("codes", codes, rows=len(x), latents=sae.n_latents)
    columns = codes.tocsc()
    fired = np.diff(columns.indptr)
    wanted = np.where(fired > 0, np.minimum(np.clip(fired, _FEWEST, _MOST), len(x) - fired), 0)
    centred = x - sae.b_dec
    rows: list[NDArray[np.int64]] = []
    for start in range(0, sae.n_latents, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, sae.n_latents))
        products = sae.W_dec[part] @ centred.T  # (latents, B)
        for at, latent in enumerate(range(part.start, part.stop)):
            products[at, columns.indices[columns.indptr[latent]:columns.indptr[latent + 1]]] = -np.inf
            count = int(wanted[latent])
            rows.append(np.sort(np.argpartition(-products[at], count - 1)[:count]) if count else np.zeros(0, np.int64))
    indptr = np.concatenate([[0], np.cumsum(wanted)])
    return csc_matrix((np.ones(indptr[-1], bool), np.concatenate(rows), indptr), shape=codes.shape)


def expansion_words(codes: csr_matrix, misses: csc_matrix, vectors: csr_matrix, term: Callable[[int], str],
                    top: int = 4) -> list[list[str]]:
    """Terms of a sparse encoder that weigh more in the texts that a latent fires on than in its near misses.

    Parameters
    ----------
    codes, misses
        As :func:`contrast_words`.
    vectors : csr_matrix, shape (B, V)
        The encoder's weights of the same texts, at least 0.
    term : callable
        The name of a term; pieces of words, which begin with "#", and names without letters are left out.
    top : int

    Returns
    -------
    list of lists of str, length N
        Best first, by ``d / (s + s_0)``: d is the difference of the mean weights, s its standard error and s_0 the
        median of the s of terms that are there at all, which holds back rare terms (Tusher, Tibshirani and Chu 2001).
    """
    names = [term(index) for index in range(vectors.shape[1])]
    check_same(codes, vectors, names, misses)
    usable = np.array([len(name) > 2 and name[0] != "#" and any(map(str.isalpha, name)) for name in names])
    shares, squared = shares_of(codes), vectors.multiply(vectors).tocsr()
    found: list[list[str]] = []
    for start in range(0, codes.shape[1], _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        inside, near = shares[:, part], misses[:, part].astype(np.float32)
        totals, squares, near_totals, near_squares = (
            (weights.T @ of).toarray() for weights in (inside, near) for of in (vectors, squared))
        n, near_n = (np.asarray(weights.sum(0), np.float64).ravel() + _SMOOTH for weights in (inside, near))
        for row in range(inside.shape[1]):
            there = np.flatnonzero(totals[row])
            if not len(there):
                found.append([])
                continue
            mean, noise = _mean_and_noise(totals[row, there], squares[row, there], n[row])
            other, other_noise = _mean_and_noise(near_totals[row, there], near_squares[row, there], near_n[row])
            error = np.sqrt(noise + other_noise)
            scores = (mean - other) / (error + np.median(error))
            found.append(first_words(np.where(usable[there] & (scores > 0), scores, -np.inf), names, top, 0.0, there))
    return found


def _mean_and_noise(total: NDArray[np.float32], squares: NDArray[np.float32], n: float) -> tuple[F64, F64]:
    """Means, and squares of their standard errors, of terms by sums of n weights and of their squares."""
    mean = total.astype(np.float64) / n
    return mean, np.maximum(squares / n - mean**2, 0.0) / n


def nearest_words(sae: SAE, words: Sequence[str], embeddings: F32, top: int = 4) -> list[list[str]]:
    """Words whose embeddings look most the way of each decoder row.

    Parameters
    ----------
    sae : SAE
    words : sequence of str, length V
    embeddings : float32, shape (V, D)
        Of the words, each a text of its own. Their mean is what all single words have in common, and is taken off.
    top : int

    Returns
    -------
    list of lists of str, length N
        Best first, for every latent whether it fires or not.
    """
    check_rows("embeddings", embeddings, columns=sae.d_in)
    if len(words) != len(embeddings):
        raise ShapeError(f"expected an embedding a word, got {len(embeddings)} and {len(words)}", field="embeddings")
    centred = embeddings - embeddings.mean(0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    found: list[list[str]] = []
    for start in range(0, sae.n_latents, _AT_ONCE):
        products = sae.W_dec[start:start + _AT_ONCE] @ centred.T
        found += [first_words(row.astype(np.float64), words, top, 0.0) for row in products]
    return found
