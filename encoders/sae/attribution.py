"""Which words of a text fired a latent, and which raised a term of SPLADE.

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

Measured with all-MiniLM-L6-v2 and sparsight-minilm-sae on 20 arXiv abstracts of about 170 words, the four strongest
latents of each (standard errors over texts about 0.03): the share of ``a_i`` that goes when the words with the largest
shares are deleted and the text is encoded again.

==============================================  ======  =======  =======  =====  =====================
shares                                          1 word  3 words  5 words  20 %   passes of the model
==============================================  ======  =======  =======  =====  =====================
"pull" (default)                                0.154   0.357    0.460    0.759  1
"split"                                         0.140   0.319    0.434    0.797  1
"split" with rows of the encoder                0.135   0.317    0.413    0.731  1
"occlusion"                                     0.166   0.332    0.401    0.592  a word
each word's own vector, ``w_i . x(word)``       0.123   0.330    0.456    0.845  1 of the words alone
gradient x input                                0.004   -0.013   -0.015   -0.07  2 a latent
gradient x input, attention, norms, GELU fixed  0.157   0.366    0.480    0.812  2 a latent
random                                          0.000   0.000    0.005    0.045
==============================================  ======  =======  =======  =====  =====================

Occlusion is best for one word and worse for more: of a word that occurs again, or has a synonym, little is missed. The
gradient of the linearised model (Ali et al. 2022) is little better than "pull" for many times its cost, and needs hooks
in the model. A word's own vector knows no context: every "state" of a text is the same to it. For ten such abstracts
with eight latents each "pull" takes as long as encoding them, and 8 % more.

References
----------
DeYoung, Jain, Rajani, Lehman, Xiong, Socher, Wallace 2020, "ERASER", ACL (comprehensiveness, here
:func:`deletion_effect`). Ali, Schnake, Eberle, Montavon, Müller, Wolf 2022, "XAI for Transformers: Better Explanations
through Conservative Propagation", ICML.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode, TransformerEncoder
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.splade import SpladeEncoder
from sparsight.errors import IncompatibleModelError, InvalidArgumentError, ShapeError
from sparsight.kernels.reference.max_logits import activate
from sparsight.types import WordShare

if TYPE_CHECKING:
    import torch

    from sparsight.encoders.batching import Batch

__all__ = ["By", "WordShares", "attribute", "attribute_term", "deletion_effect", "word_spans"]

By: TypeAlias = Literal["pull", "split", "occlusion"]
F64 = NDArray[np.float64]

# A text is spelled in classes of characters (w: letter or number, m: mark, i: ideograph, d: decimal digit, j: what may
# join parts of a word, p: point or comma, space: all else), on which this finds words.
_WORD = re.compile(r"im*|[wd][wdm]*(?:(?:j|(?<=d)p(?=d))[wd][wdm]*)*")
_JOINERS = frozenset("-'’_\u00ad\u200c\u200d\u2010\u2011")


@dataclass(frozen=True, eq=False)
class WordShares:
    """What the W words of a text did to L latents, or terms.

    Attributes
    ----------
    text : str
    spans : int64, shape (W, 2)
        Words by first character and the one after the last, as :func:`word_spans`.
    seen : bool, shape (W,)
        Whether any of a word's pieces is among those that the encoder takes; others have shares of 0.
    units : int64, shape (L,)
        Latents, or terms.
    shares : float32, shape (W, L)
        Signed.
    rest : float32, shape (L,)
        What is no word's: special tokens, punctuation, a prompt, and biases.
    total : float32, shape (L,)
        What is explained.
    """

    text: str
    spans: NDArray[np.int64]
    seen: NDArray[np.bool_]
    units: NDArray[np.int64]
    shares: NDArray[np.float32]
    rest: NDArray[np.float32]
    total: NDArray[np.float32]

    @property
    def words(self) -> list[str]:
        """The W words as the text has them."""
        return [self.text[start:end] for start, end in self.spans.tolist()]

    def top(self, column: int, count: int = 5) -> list[WordShare]:
        """The words with the largest shares above 0 in a column, best first, equal ones in the text's order."""
        column_shares = self.shares[:, column]
        order = np.argsort(-column_shares, kind="stable")[:count]
        return [WordShare(self.text[start:end], start, end, share)
                for (start, end), share in zip(self.spans[order].tolist(), column_shares[order].tolist(), strict=True)
                if share > 0]


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
        owners = _owners(embedder, text, spans, mode, max_tokens)
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
        found.append(_word_shares(text, spans, seen, of, shares, total - shares.sum(0), total))
    return found


def attribute_term(texts: Sequence[str], terms: Sequence[Sequence[int]], *, encoder: SpladeEncoder,
                   mode: Mode = "document", max_tokens: int = 0) -> list[WordShares]:
    """What words raise terms of a text's SPLADE vector to.

    Parameters
    ----------
    texts : sequence of str, length B
    terms : sequence of B sequences of int
    encoder : SpladeEncoder
        With max pooling and expansion.
    mode, max_tokens
        As for :meth:`SparseEncoder.encode`, for queries too by the model.

    Returns
    -------
    list of WordShares, length B
        A share is the largest weight at one of the word's pieces, at least 0, and ``rest`` that at other pieces. The
        maximum over pieces makes this exact: ``total``, the term's weight, is the largest of the shares and the rest,
        and the word that has it raised the term, alone.

    Raises
    ------
    InvalidArgumentError
        If there is no term of a number, or the encoder adds weights up or does not expand, or as
        :meth:`SparseEncoder.encode`.
    ShapeError
        If there are not as many lists of terms as texts.
    """
    wanted = _numbers("terms", texts, terms, encoder.dimension)
    if encoder.settings.pooling != "max" or not encoder._expands(mode):
        raise InvalidArgumentError("expected an encoder with max pooling and expansion", field="encoder")

    def finish(batch: Batch, hidden: torch.Tensor) -> list[F64]:
        return [_term_weights(encoder, hidden[row, :length], wanted[at])
                for row, (at, length) in enumerate(zip(batch.rows.tolist(), batch.lengths.tolist(), strict=True))]

    found: dict[int, WordShares] = {}
    for batch, made in encoder._run(texts, mode, max_tokens, None, finish):
        for at, weights in zip(batch.rows.tolist(), made, strict=True):
            spans = word_spans(texts[at])
            owners = _owners(encoder, texts[at], spans, mode, max_tokens)
            if len(weights) <= encoder._tokens.special:
                weights[:] = 0.0  # as the encoder: special tokens alone say nothing about a text
            shares = np.zeros((len(spans), weights.shape[1]))
            np.maximum.at(shares, owners[owners >= 0], weights[owners >= 0])
            found[at] = _word_shares(texts[at], spans, np.isin(np.arange(len(spans)), owners), wanted[at], shares,
                                     weights[owners < 0].max(0, initial=0.0), weights.max(0, initial=0.0))
    return [found[at] for at in range(len(texts))]


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


def word_spans(text: str) -> NDArray[np.int64]:
    """Words of a text, int64 (W, 2): first character and the one after the last.

    Letters, marks and numbers in a row, also across single hyphens, apostrophes, underscores and invisible joiners, and
    points and commas between digits. An ideograph is a word by itself, as BERT has it; other scripts without blanks are
    not taken apart.

    Examples
    --------
    >>> [("state-of-the-art (0.95)"[a:b]) for a, b in word_spans("state-of-the-art (0.95)")]
    ['state-of-the-art', '0.95']
    """
    spans = [found.span() for found in _WORD.finditer("".join(map(_class_of, text)))]
    return np.asarray(spans, np.int64).reshape(-1, 2)


@lru_cache(maxsize=4096)
def _class_of(character: str) -> str:
    if character in _JOINERS:
        return "j"
    if character in ".,":
        return "p"
    if character.isdecimal():
        return "d"
    if unicodedata.name(character, "").startswith("CJK ") and character.isalpha():
        return "i"
    return {"L": "w", "N": "w", "M": "m"}.get(unicodedata.category(character)[0], " ")


def _owners(encoder: TransformerEncoder, text: str, spans: NDArray[np.int64], mode: Mode, max_tokens: int,
            ) -> NDArray[np.int64]:
    """The word that each of a text's T word pieces belongs to (special tokens included), or -1: int64 (T,)."""
    shown = encoder._shown([text], mode)[0]
    pieces: Any = encoder.tokenizer.encode(shown, add_special_tokens=False)
    limit = min(max_tokens or encoder.max_tokens, encoder.max_tokens)
    pieces.truncate(max(limit - encoder._tokens.special, 0))
    whole = encoder.tokenizer.post_process(pieces)
    offsets = np.asarray(whole.offsets, np.int64).reshape(-1, 2)
    # Where the text's characters are in what the tokenizer saw: behind a prompt, and a small letter may be two.
    lengths = [len(c.lower()) for c in text] if encoder.settings.lower_case else np.ones(len(text), np.int64)
    places = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    placed = (places + len(shown) - places[-1])[spans]
    if not len(spans):
        return np.full(len(offsets), -1)
    word = np.searchsorted(placed[:, 1], offsets[:, 0], side="right")  # the first that ends behind the piece's start
    inside = (word < len(spans)) & (placed[np.minimum(word, len(spans) - 1), 0] < offsets[:, 1])
    return np.where(inside & (np.asarray(whole.special_tokens_mask) == 0), word, -1)


def _parts(states: F64, rows: F64, by: By) -> tuple[F64, F64]:
    """Parts (T, L) of word pieces' states (T, D) in the products of directions (L, D) with their pooled vector (D,)."""
    mean = states.mean(0)
    length = np.linalg.norm(mean)
    x = mean / length
    if by == "pull":
        rows = rows - np.outer(rows @ x, x)
    return states @ rows.T / (len(states) * length), x


def _term_weights(encoder: SpladeEncoder, hidden: torch.Tensor, terms: NDArray[np.int64]) -> F64:
    """Weights (T, K) of K terms at each of a text's word pieces (T, H)."""
    import torch

    with torch.inference_mode():
        at = torch.from_numpy(terms).to(hidden.device)
        logits = (hidden @ encoder._decoder.weight[at].T).float()
        if encoder._decoder.bias is not None:
            logits = logits + encoder._decoder.bias[at]
        weights: F64 = activate(logits, encoder.settings.activation).cpu().numpy().astype(np.float64)
        return weights


def _word_shares(text: str, spans: NDArray[np.int64], seen: NDArray[np.bool_], units: NDArray[np.int64], shares: F64,
                 rest: F64, total: F64) -> WordShares:
    return WordShares(text, spans, seen, units, shares.astype(np.float32), rest.astype(np.float32),
                      total.astype(np.float32))


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
    return _numbers("latents", texts, latents, sae.n_latents)


def _numbers(name: str, texts: Sequence[str], given: Sequence[Sequence[int]], below: int) -> list[NDArray[np.int64]]:
    if isinstance(texts, str):
        raise InvalidArgumentError("expected a sequence of texts, got one string", field="texts")
    if len(given) != len(texts):
        raise ShapeError(f"expected {name} of {len(texts)} texts, got {len(given)}", field=name)
    out = []
    for at, numbers in enumerate(given):
        array = np.asarray(numbers)
        whole = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
        if not whole or ((array < 0) | (array >= below)).any():
            raise InvalidArgumentError(f"expected {name}[{at}] in [0, {below}), got {numbers!r}", field=f"{name}[{at}]")
        out.append(array.astype(np.int64))
    return out
