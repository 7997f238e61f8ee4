"""BM25 as an impact field: the term-frequency part is stored, the inverse document frequency goes into the query.

``score(q, d) = sum over t in q of idf(t) * impact(tf(t, d), |d|)``, so documents are sparse vectors of
impacts like those of a learned sparse encoder, and the same kernels search them.

References
----------
Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and Trends
in Information Retrieval 3(4). The idf with ``1 +`` inside the logarithm is Lucene's (``BM25Similarity``):
never negative.

Notes
-----
The factor ``k1 + 1`` is kept, as in the paper; Lucene has left it out since version 8. It multiplies every score
by the same number, so no ranking depends on it.

On BEIR's SciFact (test; title and text as one field, k1 1.2, b 0.75, English) nDCG@10 is 0.6791, and 0.6795 with
impacts rounded to 8 bits (``max_impact`` as 255). Anserini reports 0.679 for Lucene in the same setting.
"""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsight.errors import InvalidArgumentError

__all__ = ["BM25", "STOP_WORDS", "Analyzer"]

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET.
STOP_WORDS: Final = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
     "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with"}
)  # fmt: skip
_WORD = re.compile(r"(?u)\b\w\w+\b")
_local = threading.local()  # a Snowball stemmer has state: one per thread


def _stemmer() -> Any:
    if not hasattr(_local, "stemmer"):
        import Stemmer

        _local.stemmer = Stemmer.Stemmer("english")
    return _local.stemmer


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Text to terms. ``language`` "english" drops Lucene's 33 stop words and stems (Snowball English, also known as
    Porter 2); "none" keeps every word as it is.

    Safe to share by threads and to send to other processes.

    Raises
    ------
    InvalidArgumentError
        If the language is another.
    """

    language: str = "english"

    def __post_init__(self) -> None:
        if self.language not in ("english", "none"):
            raise InvalidArgumentError(f'expected the language "english" or "none", got "{self.language}"',
                                       field="language", received=self.language)  # fmt: skip

    def terms(self, text: str) -> list[str]:
        """Terms of a text in its order, repeats included.

        Words are runs of two or more letters, digits and underscores of the lower-cased text.

        Examples
        --------
        >>> Analyzer("english").terms("The cats are running: a 2-fold gain")
        ['cat', 'run', 'fold', 'gain']
        """
        words = _WORD.findall(text.lower())
        if self.language == "none":
            return words
        stems: list[str] = _stemmer().stemWords([word for word in words if word not in STOP_WORDS])
        return stems


@dataclass(frozen=True, slots=True)
class BM25:
    """BM25's formula with its two parameters.

    Attributes
    ----------
    k1 : float
        Saturation of the term frequency, >= 0; 0 scores presence only.
    b : float
        Length normalisation in [0, 1]; 0 is none.

    Raises
    ------
    InvalidArgumentError
        If a parameter is out of its range.
    """

    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise InvalidArgumentError(f"expected k1 >= 0, got {self.k1}", field="k1", received=self.k1)
        if not 0 <= self.b <= 1:
            raise InvalidArgumentError(f"expected b in [0, 1], got {self.b}", field="b", received=self.b)

    @property
    def max_impact(self) -> float:
        """Upper bound of every impact, ``k1 + 1``: what 8 bits must be able to hold."""
        return self.k1 + 1.0

    def impact(self, tf: ArrayLike, length: ArrayLike, average_length: float) -> NDArray[np.float32]:
        """Stored weight of a term in a passage: ``tf (k1 + 1) / (tf + k1 (1 - b + b length / average_length))``.

        Parameters
        ----------
        tf : array, counts >= 0
            How often the term occurs; 0 gives 0.
        length : array, broadcast with ``tf``
            Terms in the passage.
        average_length : float
            Mean of the lengths in the collection; where it is not positive, every length counts as average.

        Returns
        -------
        float32, the broadcast shape
            In ``[0, max_impact]``.
        """
        frequency = np.asarray(tf, np.float64)
        ratio = np.asarray(length, np.float64) / average_length if average_length > 0 else np.float64(1.0)
        denominator = frequency + self.k1 * (1.0 - self.b + self.b * ratio)
        impact = frequency * (self.k1 + 1.0) / np.where(denominator > 0, denominator, 1.0)
        return np.asarray(impact, np.float32)

    @staticmethod
    def idf(df: ArrayLike, n: int) -> NDArray[np.float32]:
        """Query weight of a term that ``df`` of ``n`` passages hold: ``log(1 + (n - df + 0.5) / (df + 0.5))``.

        float32 in the shape of ``df``; positive for ``0 <= df <= n``.

        Examples
        --------
        >>> round(float(BM25.idf(1, 1)), 4)
        0.2877
        """
        frequency = np.asarray(df, np.float64)
        return np.asarray(np.log1p((n - frequency + 0.5) / (frequency + 0.5)), np.float32)
