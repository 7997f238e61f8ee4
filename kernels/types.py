"""What the kernels take and give: postings, forward vectors, hits, and the flag that stops a search.

Constructors check what costs nothing (dtypes, layout, lengths, first and last offsets), so that one may be made for
every memory-mapped field of every segment. ``validate()`` is the full check, linear in the data.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsight.errors import CorruptIndexError, DeadlineError, SearchStoppedError, ShapeError
from sparsight.kernels.cpu import _native

__all__ = ["EXACT", "CancelFlag", "Effort", "Forward", "Postings", "TopK", "Work", "require_array"]

MAX_DOCUMENTS = 2**31 - 1  # document numbers travel as int32
PADDING = 64  # bytes after the last cell
UNKNOWN = 2**32 - 1  # most_terms where nothing is known


def require_array(array: Any, name: str, dtype: DTypeLike, shape: tuple[int | None, ...]) -> None:
    """Raise unless ``array`` is a C-contiguous, aligned numpy array of this dtype and shape.

    Parameters
    ----------
    array : object
        What the caller passed; nothing is converted, since a silent copy of a mapped file would be costly.
    name : str
        Place of the argument, for the error.
    dtype : dtype-like
        Exact dtype, native byte order.
    shape : tuple of int or None
        Expected length of each axis; None takes any.

    Raises
    ------
    ShapeError
        With ``expected`` and ``received`` among its details.
    """
    wanted = np.dtype(dtype)
    if (
        isinstance(array, np.ndarray)
        and array.dtype == wanted
        and array.ndim == len(shape)
        and array.flags.c_contiguous
        and array.flags.aligned
        and all(want is None or length == want for length, want in zip(array.shape, shape, strict=True))
    ):
        return
    sizes = ", ".join("any" if n is None else str(n) for n in shape)
    expected = f"C-contiguous aligned {wanted.name} array of shape ({sizes})"
    if isinstance(array, np.ndarray):
        layout = "" if array.flags.c_contiguous and array.flags.aligned else ", not contiguous or not aligned"
        received = f"{array.dtype} of shape {array.shape}{layout}"
    else:
        received = type(array).__name__
    raise ShapeError(
        f"{name}: expected {expected}, received {received}", field=name, expected=expected, received=received
    )


def _require_offsets(offsets: NDArray[Any], name: str) -> None:
    """There is at least one offset, and the first is 0."""
    if len(offsets) == 0:
        raise ShapeError(f"{name}: expected at least 1 offset, received 0", field=name, expected=">= 1", received=0)
    if offsets[0] != 0:
        raise ShapeError(f"{name}[0]: expected 0, received {offsets[0]}", field=name, expected=0, received=offsets[0])


def _require_end(offsets: NDArray[Any], name: str, total: int, of: str) -> None:
    """The last offset is the number of entries that the offsets cut up."""
    if offsets[-1] != total:
        raise ShapeError(
            f"{name}[-1]: expected {total}, the length of {of}, received {offsets[-1]}",
            field=name,
            expected=total,
            received=offsets[-1],
        )


def _corrupt(name: str, rule: str, at: int) -> CorruptIndexError:
    return CorruptIndexError(f"{name}: {rule} (position {at})", field=name, rule=rule, position=at)


def _require_all(good: NDArray[np.bool_], name: str, rule: str) -> None:
    if not good.all():
        raise _corrupt(name, rule, int(np.argmin(good)))


def _require_sorted_groups(values: NDArray[np.uint32], offsets: NDArray[np.uint64], name: str) -> None:
    """Strictly ascending within each group that ``offsets`` cuts out."""
    if len(values) < 2:
        return
    good = values[1:] > values[:-1]
    starts = offsets[(offsets > 0) & (offsets < len(values))].astype(np.int64)
    good[starts - 1] = True  # across the border of two groups anything goes
    _require_all(good, name, "expected strictly ascending values within a group")


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The inverted index of one field of one segment, in the form that the kernels scan.

    Passages are cut into blocks of 65,536 and these into windows of 8,192; a cell holds the postings of one term in one
    block: bitmaps with impacts for windows where at least one passage in 32 has the term, a list for the others.
    ``cpu/src/postings.hpp`` describes the bytes and says why. :meth:`from_rows` builds one, :meth:`decode` reads terms.

    Attributes
    ----------
    term_ids : uint32, shape (T,)
        Terms that occur, ascending, without repeats.
    frequencies : uint32, shape (T,)
        Passages that hold each term.
    max_impacts : uint8, shape (T,)
        Largest impact of each term.
    cell_offsets : uint32, shape (T + 1,)
        The cells of ``term_ids[t]`` are ``[cell_offsets[t], cell_offsets[t + 1])``.
    byte_offsets : uint64, shape (T + 1,)
        Their bytes within ``data``.
    cell_blocks : uint16, shape (C,)
        Block of each cell, ascending within a term.
    cell_bytes : uint32, shape (C,)
        First byte of each cell, counted from its term's first.
    data : uint8, shape (B,)
        All cells, then 64 bytes of zero: vector loads may reach that far.
    passage_offsets : uint32, shape (D + 1,)
        The passages of document d are ``[passage_offsets[d], passage_offsets[d + 1])``; none is allowed.
    most_terms : int
        No passage holds more terms than this, at least 0. It bounds the scan's rounding: a query of many more terms
        than a passage can hold, as those of SAE fields, is answered several times as fast where it is known.

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length, or when offsets do not start at 0 and end at the length they describe.
        What lies between is not looked at: that is :meth:`validate`.
    """

    term_ids: NDArray[np.uint32]
    frequencies: NDArray[np.uint32]
    max_impacts: NDArray[np.uint8]
    cell_offsets: NDArray[np.uint32]
    byte_offsets: NDArray[np.uint64]
    cell_blocks: NDArray[np.uint16]
    cell_bytes: NDArray[np.uint32]
    data: NDArray[np.uint8]
    passage_offsets: NDArray[np.uint32]
    most_terms: int = UNKNOWN
    native: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_array(self.term_ids, "postings.term_ids", np.uint32, (None,))
        terms = len(self.term_ids)
        require_array(self.frequencies, "postings.frequencies", np.uint32, (terms,))
        require_array(self.max_impacts, "postings.max_impacts", np.uint8, (terms,))
        require_array(self.cell_offsets, "postings.cell_offsets", np.uint32, (terms + 1,))
        require_array(self.byte_offsets, "postings.byte_offsets", np.uint64, (terms + 1,))
        require_array(self.cell_blocks, "postings.cell_blocks", np.uint16, (None,))
        require_array(self.cell_bytes, "postings.cell_bytes", np.uint32, (len(self.cell_blocks),))
        require_array(self.data, "postings.data", np.uint8, (None,))
        require_array(self.passage_offsets, "postings.passage_offsets", np.uint32, (None,))
        _require_offsets(self.passage_offsets, "postings.passage_offsets")
        _require_offsets(self.cell_offsets, "postings.cell_offsets")
        _require_offsets(self.byte_offsets, "postings.byte_offsets")
        _require_end(self.cell_offsets, "postings.cell_offsets", len(self.cell_blocks), "postings.cell_blocks")
        filled = len(self.data) - PADDING
        _require_end(self.byte_offsets, "postings.byte_offsets", filled, "postings.data less its padding")
        if self.n_documents > MAX_DOCUMENTS:
            raise ShapeError(
                f"postings: expected at most {MAX_DOCUMENTS} documents, received {self.n_documents}",
                field="postings.passage_offsets",
                expected=MAX_DOCUMENTS,
                received=self.n_documents,
            )
        single = self.n_documents == self.n_passages and bool((np.diff(self.passage_offsets) == 1).all())
        handle = _native.Postings(
            self.term_ids, self.frequencies, self.max_impacts, self.cell_offsets, self.byte_offsets, self.cell_blocks,
            self.cell_bytes, self.data, self.passage_offsets, single, self.most_terms,
        )  # fmt: skip
        object.__setattr__(self, "native", handle)

    @classmethod
    def from_rows(
        cls,
        indptr: NDArray[np.uint64],
        term_ids: NDArray[np.uint32],
        impacts: NDArray[np.uint8],
        passage_offsets: NDArray[np.uint32],
        threads: int = 0,
    ) -> Postings:
        """Build from rows: passage p has entries ``[indptr[p], indptr[p + 1])``; impacts of 0 are left out.

        Parameters
        ----------
        indptr : uint64, shape (P + 1,)
        term_ids : uint32, shape (nnz,)
            Without repeats within a row; any order.
        impacts : uint8, shape (nnz,)
        passage_offsets : uint32, shape (D + 1,)
        threads : int
            0 takes the processors this process may run on. Equal input gives equal bytes for any number.

        Raises
        ------
        ShapeError
            On a wrong dtype, layout or length.
        InvalidArgumentError
            If a row repeats a term.
        """
        Forward(indptr, term_ids, impacts)  # the same checks
        require_array(passage_offsets, "passage_offsets", np.uint32, (None,))
        _require_offsets(passage_offsets, "passage_offsets")
        _require_end(passage_offsets, "passage_offsets", len(indptr) - 1, "the rows")
        if len(indptr) > 1 and (indptr[1:] < indptr[:-1]).any():
            raise ShapeError("indptr: expected ascending offsets", field="indptr")
        made = _native.build_postings(indptr, term_ids, impacts, threads or len(os.sched_getaffinity(0)))
        return cls(*made, passage_offsets, int(np.diff(indptr).max(initial=0)))

    @property
    def n_documents(self) -> int:
        """Number of documents, D."""
        return len(self.passage_offsets) - 1

    @property
    def n_passages(self) -> int:
        """Number of passages of all documents."""
        return int(self.passage_offsets[-1])

    @property
    def n_postings(self) -> int:
        """Number of postings of all terms."""
        return int(self.frequencies.sum(dtype=np.int64))

    def decode(self, term_id: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Ascending passages that hold a term, and its impacts there; empty for a term that does not occur.

        Raises
        ------
        CorruptIndexError
            If the term's cells contradict each other.
        """
        at = int(np.searchsorted(self.term_ids, term_id))
        if at == len(self.term_ids) or self.term_ids[at] != term_id:
            return np.empty(0, np.uint32), np.empty(0, np.uint8)
        found: tuple[NDArray[np.uint32], NDArray[np.uint8]] = _native.decode_term(self.native, at)
        return found

    def validate(self) -> None:
        """Decode every term and check every invariant; O(P + D) time for P postings.

        Raises
        ------
        CorruptIndexError
            At the first array that breaks its rule, with the position of the first offence.
        """
        _require_all(self.term_ids[1:] > self.term_ids[:-1], "postings.term_ids", "expected strictly ascending terms")
        _require_all(
            self.passage_offsets[1:] >= self.passage_offsets[:-1],
            "postings.passage_offsets",
            "expected ascending offsets",
        )
        held = np.zeros(self.n_passages, np.uint32)
        for at, term in enumerate(self.term_ids.tolist()):
            passages, impacts = self.decode(term)
            if len(passages) == 0 or len(passages) != self.frequencies[at] or impacts.max() != self.max_impacts[at]:
                raise _corrupt("postings.frequencies", f"term {term} contradicts its frequency or largest impact", at)
            if passages[-1] >= self.n_passages or (passages[1:] <= passages[:-1]).any() or not impacts.all():
                raise _corrupt("postings.data", f"passages of term {term} do not ascend or are out of range", at)
            held[passages] += 1
        _require_all(held <= self.most_terms, "postings.most_terms", f"expected at most {self.most_terms} in a passage")


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """The impacts of each passage, for scoring chosen passages.

    Attributes
    ----------
    indptr : uint64, shape (R + 1,)
        Row r holds the entries ``[indptr[r], indptr[r + 1])``.
    term_ids : uint32, shape (nnz,)
        Strictly ascending within a row.
    impacts : uint8, shape (nnz,)

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length, or when ``indptr`` does not start at 0 and end at nnz.
    """

    indptr: NDArray[np.uint64]
    term_ids: NDArray[np.uint32]
    impacts: NDArray[np.uint8]

    def __post_init__(self) -> None:
        require_array(self.indptr, "forward.indptr", np.uint64, (None,))
        _require_offsets(self.indptr, "forward.indptr")
        require_array(self.term_ids, "forward.term_ids", np.uint32, (None,))
        require_array(self.impacts, "forward.impacts", np.uint8, (len(self.term_ids),))
        _require_end(self.indptr, "forward.indptr", len(self.term_ids), "forward.term_ids")

    @property
    def n_rows(self) -> int:
        """Number of rows (passages), R."""
        return len(self.indptr) - 1

    def validate(self) -> None:
        """Check every invariant; O(R + nnz) time.

        Raises
        ------
        CorruptIndexError
            At the first array that breaks its rule, with the position of the first offence.
        """
        _require_all(self.indptr[1:] >= self.indptr[:-1], "forward.indptr", "expected ascending offsets")
        _require_all(self.impacts > 0, "forward.impacts", "expected impacts above 0")
        _require_sorted_groups(self.term_ids, self.indptr, "forward.term_ids")


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries. The default is exact.

    An approximate search scans the terms that hold ``mass`` of the query's upper bound (the sum of weight times the
    term's largest impact), scores the ``pool`` best passages with all terms, and checks: it assumes that a passage
    outside the pool gains from the other terms at most what those inside gained on average plus ``deviations`` standard
    deviations. If that could lift it into the top k, the search starts again and is exact. It is exact at once where
    that is predicted to be quicker: small segments, few terms, large pools. Queries with negative weights are exact.

    Attributes
    ----------
    mass : float
        In (0, 1]; 1 scans all terms.
    pool : int
        Passages scored with all terms; at least k are. 0 is k.
    deviations : float
        Below 0: no check.
    budget_ns : int
        Nanoseconds for the scan: fewer terms are scanned when more would take longer, by a prediction, and windows that
        are not reached in time are left out. 0: none.
    """

    mass: float = 1.0
    pool: int = 0
    deviations: float = 0.0
    budget_ns: int = 0

    @classmethod
    def for_recall(cls, recall: float, k: int) -> Effort:
        """The cheapest effort that finds this share of the exact top k, on average over queries.

        Parameters
        ----------
        recall : float
            In (0, 1]; 1 is exact.
        k : int

        Notes
        -----
        ``benches/calibrate_effort.py`` measured the table on 1,000 titles as queries to 474,700 documents: SPLADE
        weights, inference-free queries and SAE codes; the least favourable of them counts.
        """
        if recall >= 1.0:
            return EXACT
        targets, masses, deviations = zip(*_CALIBRATED, strict=True)
        return cls(float(np.interp(recall, targets, masses)), 2 * k + 30, float(np.interp(recall, targets, deviations)))


EXACT = Effort()
# Recall, and the mass and deviations that reach it.
_CALIBRATED = ((0.90, 0.65, 1.0), (0.95, 0.72, 1.5), (0.97, 0.77, 2.0), (0.99, 0.82, 2.0), (0.999, 0.92, 3.0))


class Work(NamedTuple):
    """What a search did.

    Attributes
    ----------
    mode : str
        "exact" (fixed-point scan, then exact scores), "exact-32" (plain 32-bit scan), "chosen" (exact scores of the few
        passages that the mask allows), "approximate", or "cut" (approximate, and the budget ended before the scan).
    terms : int
        Terms scanned, of those the postings hold.
    postings : int
        Postings added up; those of a scan that had to be repeated count too.
    passages : int
        Passages in the windows visited, likewise.
    rescored : int
        Passages whose exact score was computed one by one.
    """

    mode: str
    terms: int
    postings: int
    passages: int
    rescored: int


MODES = ("exact", "chosen", "exact-32", "approximate", "cut")


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The best documents of one query, best first; equal scores by ascending document.

    Attributes
    ----------
    documents : int32, shape (n,)
        n <= k.
    scores : int32, shape (n,)
        Score of the document's best passage: the sum of query weight times impact, exact. (An approximate search may
        take another passage of the document for the best.)
    passages : uint32, shape (n,)
        That passage; among equals the lowest.
    path : str
        The implementation that ran: "avx512", "avx2", "portable" or "reference".
    work : Work
    """

    documents: NDArray[np.int32]
    scores: NDArray[np.int32]
    passages: NDArray[np.uint32]
    path: str
    work: Work

    def __len__(self) -> int:
        return len(self.documents)


class CancelFlag:
    """Stops searches that were given it, from any thread.

    Parameters
    ----------
    deadline_ns : int, optional
        Moment on the clock of ``time.monotonic_ns()`` after which searches stop; 0 is none. It may be changed
        between searches; a running one keeps the deadline it started with.

    Attributes
    ----------
    flag : uint8, shape (1,)
        Not 0 once set. The compiled kernels read this memory while they run.
    """

    __slots__ = ("deadline_ns", "flag")

    def __init__(self, deadline_ns: int = 0) -> None:
        self.deadline_ns = int(deadline_ns)
        self.flag: NDArray[np.uint8] = np.zeros(1, np.uint8)

    @classmethod
    def after(cls, seconds: float) -> CancelFlag:
        """A flag whose deadline is this many seconds from now."""
        return cls(time.monotonic_ns() + max(0, int(seconds * 1e9)))

    def set(self) -> None:
        """Stop every search that holds this flag, now and later."""
        self.flag[0] = 1

    @property
    def is_set(self) -> bool:
        """Whether :meth:`set` was called; a passed deadline does not count."""
        return bool(self.flag[0])

    def check(self) -> None:
        """Raise if searches with this flag must stop.

        Raises
        ------
        SearchStoppedError
            If it was set.
        DeadlineError
            If its deadline has passed.
        """
        if self.flag[0]:
            raise SearchStoppedError("the search was cancelled")
        if self.deadline_ns and time.monotonic_ns() >= self.deadline_ns:
            raise DeadlineError("the search's deadline passed before it finished")

    def __repr__(self) -> str:
        return f"CancelFlag(is_set={self.is_set}, deadline_ns={self.deadline_ns})"
