"""Which words of a text fired a latent.

What is explained of a latent is its product with the text's vector, ``a_i = w_i . (x - b_dec)``, w_i being its row of
the decoder: pursuit, which codes documents, starts from it, and queries weigh latents by it. The encoder's
pre-activation says nothing of codes that were pursued; the words that its rows name are worse ones (below).

The vector is the mean of the states h_t of T word pieces, scaled to length 1: ``x = m / |m|``, ``m = sum_t h_t / T``.
So ``w . x = sum_t (w . h_t) / (T |m|)`` splits exactly ("split"). But all states of a text are much alike, and a word
with long states gets much of everything. "pull" takes away what a piece only has of the text's own direction, ``(w . x)
(x . h_t) / (T |m|)``. What is left sums to 0 over all pieces: it is how fast the product grows with a piece's weight in
the mean. Both take one pass of the model for all of a text's latents. "occlusion" deletes one word after the other and
encodes what is left: a pass for every word (Zeiler, Fergus 2014, "Visualizing and Understanding Convolutional
Networks", ECCV).

With all-MiniLM-L6-v2 and sparsight-minilm-sae on 20 arXiv abstracts, the four strongest latents of each: the share of
``a_i`` that goes when the words with the largest shares are deleted and the text is encoded again
(``python -m benches.steering --sections words``).

================  ======  =======  =======  =====  ===================
shares            1 word  3 words  5 words  20 %   passes of the model
================  ======  =======  =======  =====  ===================
"pull" (default)  0.235   0.478    0.610    0.841  1
"split"           0.226   0.446    0.567    0.905  1
"occlusion"       0.242   0.443    0.529    0.732  a word
random            0.015   0.012    0.015    0.047
================  ======  =======  =======  =====  ===================

Occlusion is best for one word and worse for more: of a word that occurs again, or has a synonym, little is missed.
Tried and dropped: gradient times input, which named no better words than chance; the same with attention, norms and
GELU held fixed (Ali et al. 2022), little better than "pull" for a backward pass a latent and hooks in the model; a
word's own vector, which knows no context.

References
----------
DeYoung, Jain, Rajani, Lehman, Xiong, Socher, Wallace 2020, "ERASER", ACL (comprehensiveness, here
:func:`deletion_effect`). Ali, Schnake, Eberle, Montavon, Müller, Wolf 2022, "XAI for Transformers: Better Explanations
through Conservative Propagation", ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.word_shares import WordShares, check_units, word_of_pieces, word_shares, word_spans
from sparsight.errors import IncompatibleModelError, InvalidArgumentError

__all__ = ["By", "attribute", "deletion_effect"]

By: TypeAlias = Literal["pull", "split", "occlusion"]
F64 = NDArray[np.float64]

def attribute(texts: Sequence[str], latents: Sequence[Sequence[int]], *, embedder: DenseEncoder, sae: SAE,
              by: By = "pull", mode: Mode = "document", max_tokens: int = 0) -> list[WordShares]:
    """Shares of words in latents' products with a text's vector.

    Parameters
    ----------
    texts : sequence of str, length B
        As they are encoded: for a passage with its title before it.
    latents : sequence of B sequences of int
        Which latents to explain in each text.
    embedder : DenseEncoder
        The one whose vectors the autoencoder reads; for "pull" and "split" one that takes the mean of its states.
    sae : SAE
    by : "pull", "split" or "occlusion"
        See above.
    mode, max_tokens
        As for :meth:`DenseEncoder.encode`.

    Returns
    -------
    list of WordShares, length B
        ``total = w_i . (x - b_dec)``, and ``shares.sum(0) + rest = total`` up to rounding (1e-6). For "split", ``rest``
        is what pieces outside words give, less ``w_i . b_dec``. The other shares are differences, what a word adds to
        the product that the text has anyhow; there ``rest`` is mostly ``total`` itself.

    Raises
    ------
    InvalidArgumentError
        If there is no latent of a number, ``by`` is unknown or the encoder does not take the mean, or as
        :meth:`DenseEncoder.encode`.
    ShapeError
        If there are not as many lists of latents as texts.
    IncompatibleModelError
        If the autoencoder reads the vectors of another encoder.

    Notes
    -----
    A piece is one word's; a word's share is the sum of its pieces'. "occlusion" deletes from the part of the text that
    the encoder sees, so that no words from beyond come in.
    """
    wanted = _check(texts, latents, embedder, sae)
    if by not in get_args(By):
        raise InvalidArgumentError(f"expected one of {get_args(By)}, got {by!r}", field="by")
    if by != "occlusion" and embedder.settings.pooling != "mean":
        raise InvalidArgumentError(f"expected an encoder that takes the mean of its states, got pooling "
                                   f"{embedder.settings.pooling!r}: by 'occlusion' it can be explained", field="by")
    states = embedder.token_states(texts, mode=mode, max_tokens=max_tokens)
    found = []
    for text, own, of in zip(texts, states, wanted, strict=True):
        spans = word_spans(text)
        owners = word_of_pieces(embedder, text, spans, mode, max_tokens)
        seen = np.isin(np.arange(len(spans)), owners)
        rows = sae.W_dec[of].astype(np.float64)
        shares = np.zeros((len(spans), len(of)))
        if by == "occlusion":
            kept = np.flatnonzero(seen)
            short = _seen_part(text, spans, seen)
            shorter = [short, *(_without(short, spans[[word]]) for word in kept)]
            vectors = embedder.encode(shorter, mode=mode, max_tokens=max_tokens).astype(np.float64)
            shares[kept] = (vectors[0] - vectors[1:]) @ rows.T
            x = vectors[0]
        else:
            parts, x = _parts(own.astype(np.float64), rows, by)
            np.add.at(shares, owners[owners >= 0], parts[owners >= 0])
        total = rows @ (x - sae.b_dec)
        found.append(word_shares(text, spans, seen, of, shares, total - shares.sum(0), total))
    return found


def deletion_effect(found: Sequence[WordShares], *, embedder: DenseEncoder, sae: SAE,
                    counts: Sequence[int | float] = (1, 3, 5, 0.2), mode: Mode = "document",
                    max_tokens: int = 0) -> F64:
    """How much of the latents' products goes when the words with the largest shares are deleted.

    Parameters
    ----------
    found : sequence of WordShares
        Of :func:`attribute`, or with other shares put in to judge them: random ones are what to compare with.
    embedder, sae, mode, max_tokens
        As for :func:`attribute`.
    counts : sequence of int or float
        Words that are deleted; a float is a share of the words that the encoder sees, rounded up.

    Returns
    -------
    float64, shape (P, len(counts))
        For all P pairs of a text and a latent, in order: ``(a - a') / a`` with ``a = w_i . (x - b_dec)``, a' that of
        the text without the words (only the part that the encoder sees). 1: all of it; NaN where a is not above 0.

    Raises
    ------
    InvalidArgumentError
        If a count is no int of at least 1 or float in (0, 1], or as :func:`attribute`.
    IncompatibleModelError
        As :func:`attribute`.
    """
    for count in counts:
        if not (0 < count <= 1 if isinstance(count, float) else count >= 1):
            raise InvalidArgumentError(f"expected counts of at least 1, or floats in (0, 1], got {count}",
                                       field="counts")
    _check([one.text for one in found], [one.units.tolist() for one in found], embedder, sae)
    pairs: list[tuple[int, str, list[str]]] = []
    for one in found:
        text = _seen_part(one.text, one.spans, one.seen)
        for unit, shares in zip(one.units.tolist(), one.shares.T, strict=True):
            order = np.argsort(np.where(one.seen, -shares, np.inf), kind="stable")[:one.seen.sum()]
            most = [int(np.ceil(n * len(order))) if isinstance(n, float) else n for n in counts]
            pairs.append((unit, text, [_without(text, one.spans[order[:n]]) for n in most]))
    different = sorted({text for _, whole, less in pairs for text in (whole, *less)})
    vectors = embedder.encode(different, mode=mode, max_tokens=max_tokens).astype(np.float64) - sae.b_dec
    at = {text: row for row, text in enumerate(different)}
    out = np.full((len(pairs), len(counts)), np.nan)
    for row, (unit, whole, less) in enumerate(pairs):
        before = vectors[at[whole]] @ sae.W_dec[unit]
        if before > 0:
            out[row] = 1 - vectors[[at[text] for text in less]] @ sae.W_dec[unit] / before
    return out


def _parts(states: F64, rows: F64, by: By) -> tuple[F64, F64]:
    """Parts (T, L) of word pieces' states (T, D) in the products of directions (L, D) with their pooled vector (D,)."""
    mean = states.mean(0)
    length = np.linalg.norm(mean)
    x = mean / length
    if by == "pull":
        rows = rows - np.outer(rows @ x, x)
    return states @ rows.T / (len(states) * length), x


def _seen_part(text: str, spans: NDArray[np.int64], seen: NDArray[np.bool_]) -> str:
    """The text up to the first word behind all that the encoder sees."""
    words = int(np.flatnonzero(seen).max(initial=-1)) + 1
    return text if words == len(spans) else text[:int(spans[words, 0])]


def _without(text: str, spans: NDArray[np.int64]) -> str:
    kept, at = [], 0
    for start, end in sorted(spans.tolist()):
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])


def _check(texts: Sequence[str], latents: Sequence[Sequence[int]], embedder: DenseEncoder, sae: SAE,
           ) -> list[NDArray[np.int64]]:
    """Latents as arrays, after all that two functions ask of their arguments."""
    if sae.embedder not in ("", embedder.fingerprint) or sae.d_in != embedder.dimension:
        raise IncompatibleModelError(
            f"expected the encoder {sae.embedder[:12] or '(any)'} of {sae.d_in} components that the autoencoder reads, "
            f"got {embedder.fingerprint[:12]} of {embedder.dimension}", field="embedder")
    return check_units("latents", texts, latents, sae.n_latents)
