"""BM25 as a teacher: impacts of documents and queries as sparse matrices, made by several processes.

The product of a query's row and a document's is Lucene's BM25 score. Columns are terms by falling document frequency,
so that a matrix cut after any number of columns keeps its most frequent terms; rare ones share buckets at the end,
because the vocabulary of half a million texts has more words that occur once than anything else.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.errors import InvalidArgumentError

__all__ = ["STOP_WORDS", "BM25Impacts", "bm25_impacts", "idf_of"]

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET. These words, the pattern and the stemmer (Snowball English) are those
# of a BM25 field of the index, whose analyser this package may not import; a test holds the two together.
STOP_WORDS: Final = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
     "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with"}
)  # fmt: skip
_WORD = re.compile(r"(?u)\b\w\w+\b")
_TEXTS_AT_ONCE = 4096

_Counts: TypeAlias = "tuple[list[str], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]"


@dataclass(frozen=True, slots=True, eq=False)
class BM25Impacts:
    """What `bm25_impacts` gives. N documents, Q queries, V columns.

    Attributes
    ----------
    documents : csr_matrix of float32, shape (N, V)
        ``tf / (tf + k1 (1 - b + b length / average length))``, in (0, 1). Sorted int32 indices, no repeats.
    queries : csr_matrix of float32, shape (Q, V)
        How often the term occurs in the query times its idf. Terms that no document has are left out.
    terms : list of str
        Of the first columns, in their order; the columns after them are buckets.
    """

    documents: csr_matrix
    queries: csr_matrix
    terms: list[str]


def bm25_impacts(documents: Sequence[str], queries: Sequence[str], *, k1: float = 0.9, b: float = 0.4,
                 terms: int = 131_072, buckets: int = 32_768, processes: int = 1) -> BM25Impacts:
    """Impacts of documents and queries over columns of their own.

    Parameters
    ----------
    documents, queries : sequences of str
    k1, b : float
        Saturation of the term frequency, >= 0, and length normalisation in [0, 1]. 0.9 and 0.4 are Anserini's.
    terms : int
        Most frequent terms that have a column each; equal frequencies in alphabetical order.
    buckets : int
        Columns after those, shared by the other terms: term t is in ``crc32(t) mod buckets``. A bucket is one term:
        frequencies add up, and its document frequency is that of all its terms together. 0 drops these terms.
    processes : int
        That analyse texts. They are forked, so that a script needs no guard against importing itself; start before
        the GPU is used. The result does not depend on their number.

    Raises
    ------
    InvalidArgumentError
        If a parameter is out of its range.

    Notes
    -----
    ``idf = log(1 + (N - df + 0.5) / (df + 0.5))``. Lucene's formula without its coarse rounding of lengths; the factor
    ``k1 + 1`` of the paper, which changes no order, is left out as in Lucene since version 8. Empty texts have empty
    rows. Time is that of splitting and looking up words: stems are found once per word and process.

    References
    ----------
    Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and Trends in
    Information Retrieval 3(4).
    """
    if not (math.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
        raise InvalidArgumentError(f"expected k1 >= 0 and b in [0, 1], got {k1} and {b}", field="k1")
    if terms < 1 or buckets < 0 or processes < 1:
        raise InvalidArgumentError(f"expected terms and processes above 0 and buckets >= 0, got {terms}, {processes} "
                                   f"and {buckets}", field="terms")
    vocabulary: dict[str, int] = {}
    counts = _joined(_counted([*documents, *queries], processes), vocabulary)
    n = len(documents)
    inside = counts[:n]
    frequency = np.bincount(inside.indices, minlength=len(vocabulary))
    columns, names = _columns(list(vocabulary), frequency, terms, buckets)
    counts = _renumbered(counts, columns, len(names) + buckets)
    lengths = np.asarray(inside.sum(1), np.float64).ravel()  # of all terms, those without a column too
    inside, asked = counts[:n], counts[n:]
    return BM25Impacts(_impacts(inside, lengths, k1, b), _weighted(asked, _idf(inside)), names)


# --- counting, in the workers ---------------------------------------------------------------------------------


def idf_of(frequencies: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """``log(1 + (N - n + 0.5) / (n + 0.5))`` for terms that n of N = ``count`` documents have.

    Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", with the 1 that Lucene adds.
    """
    idf: NDArray[np.float32] = np.log1p((count - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    return idf


def _counted(texts: Sequence[str], processes: int) -> Iterator[_Counts]:
    parts = (texts[start:start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
    if processes == 1 or len(texts) <= _TEXTS_AT_ONCE:
        counter = _Counter()
        yield from map(counter.count, parts)
        return
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(processes, _start) as pool:
        yield from pool.imap(_count, parts)


class _Counter:
    """Counts terms. Remembers the stem of every word it has met, as a number of its own."""

    def __init__(self) -> None:
        import Stemmer

        self._stem = Stemmer.Stemmer("english", 0).stemWord  # 0: no cache in the stemmer, it is here
        self._of_word: dict[str, int] = dict.fromkeys(STOP_WORDS, -1)
        self._of_stem: dict[str, int] = {}

    def count(self, texts: Sequence[str]) -> _Counts:
        """Terms of these texts, and rows as indptr, positions among the terms and frequencies."""
        of_word, known = self._of_word, self._of_word.get
        ends, numbers = [0], []
        for text in texts:
            words = _WORD.findall(text.lower())
            try:
                found = [of_word[word] for word in words]
            except KeyError:
                found = [self._learn(word) if (number := known(word)) is None else number for word in words]
            numbers.append(np.asarray(found, np.int32))
            ends.append(ends[-1] + len(found))
        return self._rows(np.concatenate([*numbers, np.empty(0, np.int32)]), np.asarray(ends, np.int64))

    def _learn(self, word: str) -> int:
        number = self._of_stem.setdefault(self._stem(word), len(self._of_stem))
        self._of_word[word] = number
        return number

    def _rows(self, numbers: NDArray[np.int32], ends: NDArray[np.int64]) -> _Counts:
        rows = np.repeat(np.arange(len(ends) - 1, dtype=np.int64), np.diff(ends))
        rows, numbers = rows[numbers >= 0], numbers[numbers >= 0]
        size = max(len(self._of_stem), 1)
        keys, frequencies = np.unique(rows * size + numbers, return_counts=True)
        used, positions = np.unique(keys % size, return_inverse=True)
        names = list(self._of_stem)
        indptr = np.searchsorted(keys, np.arange(len(ends), dtype=np.int64) * size)
        return ([names[number] for number in used.tolist()], indptr.astype(np.int64), positions.astype(np.int32),
                frequencies.astype(np.int32))


_counter: _Counter | None = None  # of a worker process


def _start() -> None:
    global _counter
    _counter = _Counter()


def _count(texts: Sequence[str]) -> _Counts:
    assert _counter is not None
    return _counter.count(texts)


# --- from counts to impacts -----------------------------------------------------------------------------------


def _joined(parts: Iterable[_Counts], vocabulary: dict[str, int]) -> csr_matrix:
    """One matrix of counts; fills the vocabulary with the number of each term."""
    indptrs, indices, data, size = [np.zeros(1, np.int64)], [], [], 0
    for names, indptr, positions, frequencies in parts:
        numbers = np.asarray([vocabulary.setdefault(name, len(vocabulary)) for name in names], np.int32)
        indptrs.append(indptr[1:] + size)
        indices.append(numbers[positions])
        data.append(frequencies)
        size += len(positions)
    indptr = np.concatenate(indptrs)
    return csr_matrix((np.concatenate([*data, np.empty(0, np.int32)]),
                       np.concatenate([*indices, np.empty(0, np.int32)]), indptr),
                      shape=(len(indptr) - 1, max(len(vocabulary), 1)))  # fmt: skip


def _columns(names: list[str], frequency: NDArray[np.int64], terms: int,
             buckets: int) -> tuple[NDArray[np.int32], list[str]]:
    """Column of each term (-1: none), and the names of the columns that are one term's."""
    alphabetical = sorted(range(len(names)), key=names.__getitem__)
    order = np.asarray(alphabetical, np.int64)
    order = order[np.argsort(-frequency[order], kind="stable")]
    order = order[frequency[order] > 0]  # no column for what only queries say
    columns = np.full(max(len(names), 1), -1, np.int32)
    own, others = order[:terms], order[terms:]
    columns[own] = np.arange(len(own))
    if buckets:
        columns[others] = [len(own) + zlib.crc32(names[number].encode()) % buckets for number in others.tolist()]
    return columns, [names[number] for number in own.tolist()]


def _renumbered(counts: csr_matrix, columns: NDArray[np.int32], width: int) -> csr_matrix:
    """The counts in the final columns, terms of one bucket added up, indices sorted."""
    moved = columns[counts.indices]
    kept = moved >= 0
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[counts.indptr]
    matrix = csr_matrix((counts.data[kept].astype(np.float32), moved[kept], indptr), shape=(counts.shape[0], width))
    matrix.sum_duplicates()
    return matrix


def _idf(counts: csr_matrix) -> NDArray[np.float32]:
    return idf_of(np.bincount(counts.indices, minlength=counts.shape[1]), counts.shape[0])


def _impacts(counts: csr_matrix, lengths: NDArray[np.float64], k1: float, b: float) -> csr_matrix:
    average = lengths.mean() if lengths.any() else 1.0
    norm = (k1 * (1 - b + b * lengths / average)).astype(np.float32)
    data = counts.data / (counts.data + np.repeat(norm, np.diff(counts.indptr)))
    return csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def _weighted(counts: csr_matrix, idf: NDArray[np.float32]) -> csr_matrix:
    return csr_matrix((counts.data * idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape)
