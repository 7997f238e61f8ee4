"""What the kernels take and give: postings, forward vectors, hits, and the flag that stops a search.

Constructors check what costs nothing (dtypes, layout, lengths, first and last offsets), so that one may be made for
every memory-mapped field of every segment. ``validate()`` is the full check, linear in the data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsight.errors import CorruptIndexError, DeadlineError, SearchStoppedError, ShapeError

__all__ = ["CancelFlag", "Forward", "Postings", "TopK", "require_array"]

MAX_DOCUMENTS = 2**31 - 1  # document numbers travel as int32


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
    """The inverted index of one field of one segment.

    Attributes
    ----------
    term_ids : uint32, shape (T,)
        Terms that occur, ascending, without repeats.
    offsets : uint64, shape (T + 1,)
        The postings of ``term_ids[t]`` are ``[offsets[t], offsets[t + 1])``.
    passages : uint32, shape (P,)
        Passage of each posting; strictly ascending within a term.
    impacts : uint8, shape (P,)
        Stored weight of each posting, above 0.
    passage_offsets : uint32, shape (D + 1,)
        The passages of document d are ``[passage_offsets[d], passage_offsets[d + 1])``; none is allowed.

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length, or when offsets do not start at 0 and end at the length they describe.
        The passages' own order is not looked at: that is :meth:`validate`.
    """

    term_ids: NDArray[np.uint32]
    offsets: NDArray[np.uint64]
    passages: NDArray[np.uint32]
    impacts: NDArray[np.uint8]
    passage_offsets: NDArray[np.uint32]

    def __post_init__(self) -> None:
        require_array(self.term_ids, "postings.term_ids", np.uint32, (None,))
        require_array(self.offsets, "postings.offsets", np.uint64, (len(self.term_ids) + 1,))
        require_array(self.passages, "postings.passages", np.uint32, (None,))
        require_array(self.impacts, "postings.impacts", np.uint8, (len(self.passages),))
        require_array(self.passage_offsets, "postings.passage_offsets", np.uint32, (None,))
        _require_offsets(self.passage_offsets, "postings.passage_offsets")
        _require_offsets(self.offsets, "postings.offsets")
        _require_end(self.offsets, "postings.offsets", len(self.passages), "postings.passages")
        if self.n_documents > MAX_DOCUMENTS:
            raise ShapeError(
                f"postings: expected at most {MAX_DOCUMENTS} documents, received {self.n_documents}",
                field="postings.passage_offsets",
                expected=MAX_DOCUMENTS,
                received=self.n_documents,
            )

    @property
    def n_documents(self) -> int:
        """Number of documents, D."""
        return len(self.passage_offsets) - 1

    @property
    def n_passages(self) -> int:
        """Number of passages of all documents."""
        return int(self.passage_offsets[-1])

    def validate(self) -> None:
        """Check every invariant; O(T + P + D) time.

        Raises
        ------
        CorruptIndexError
            At the first array that breaks its rule, with the position of the first offence.
        """
        _require_all(self.term_ids[1:] > self.term_ids[:-1], "postings.term_ids", "expected strictly ascending terms")
        _require_all(self.offsets[1:] >= self.offsets[:-1], "postings.offsets", "expected ascending offsets")
        _require_all(
            self.passage_offsets[1:] >= self.passage_offsets[:-1],
            "postings.passage_offsets",
            "expected ascending offsets",
        )
        _require_all(
            self.passages < self.n_passages, "postings.passages", f"expected passages below {self.n_passages}"
        )
        _require_all(self.impacts > 0, "postings.impacts", "expected impacts above 0")
        _require_sorted_groups(self.passages, self.offsets, "postings.passages")


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


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The best documents of one query, best first; equal scores by ascending document.

    Attributes
    ----------
    documents : int32, shape (n,)
        n <= k.
    scores : int32, shape (n,)
        Score of the document's best passage: the sum of query weight times impact, exact.
    passages : uint32, shape (n,)
        That passage; among equals the lowest.
    path : str
        The implementation that ran: "avx512", "avx2", "portable" or "reference".
    """

    documents: NDArray[np.int32]
    scores: NDArray[np.int32]
    passages: NDArray[np.uint32]
    path: str

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
