"""How hard a search tries, what it found and did, and the flag that stops it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import DeadlineError, SearchStoppedError

__all__ = ["EXACT", "MODES", "CancelFlag", "Effort", "TopK", "Work"]


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
