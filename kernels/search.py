"""The top-k search over postings: checks of the arguments, and the choice of who runs it."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import reference
from sparsight.kernels.arrays import require_array
from sparsight.kernels.cpu import _native
from sparsight.kernels.effort import EXACT, MODES, CancelFlag, Effort, TopK, Work
from sparsight.kernels.paths import resolve_path
from sparsight.kernels.postings import Postings

__all__ = ["SparseQuery", "check_query", "quantise_weights", "score_postings", "topk_documents", "topk_documents_batch"]

SparseQuery: TypeAlias = tuple[NDArray[np.uint32], NDArray[np.int16]]
Mask: TypeAlias = NDArray[np.uint64]

_MAX_IMPACT = 255
_I32 = np.iinfo(np.int32)
_NOT_STOPPABLE = CancelFlag()


def topk_documents(
    postings: Postings,
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    k: int,
    *,
    mask: Mask | None = None,
    min_score: int = 0,
    effort: Effort = EXACT,
    cancel: CancelFlag | None = None,
    path: str = "auto",
) -> TopK:
    """The k documents whose best passage scores highest; by default identical to scoring every passage.

    Parameters
    ----------
    postings : Postings
    terms : uint32, shape (Q,)
        Ascending, without repeats. Terms that the postings do not hold add nothing.
    weights : int16, shape (Q,)
        Signed weight of each term.
    k : int
        Documents wanted, at least 1.
    mask : uint64, shape (ceil(D / 64),), optional
        Document d may be returned if bit ``d % 64`` of word ``d // 64`` is set; None allows all.
    min_score : int
        Documents must score more than this, and more than 0.
    effort : Effort
        Exact, or how approximate.
    cancel : CancelFlag, optional
        Looked at once per window of passages.
    path : str
        "auto", "avx512", "avx2", "portable" or "reference" (always exact).

    Returns
    -------
    TopK
        Higher scores first, equal ones by ascending document. Scores are exact int32 sums of weight times impact, in
        approximate searches too: these may miss documents, not misjudge them.

    Raises
    ------
    ShapeError
        If an array has the wrong dtype, layout or length.
    InvalidQueryError
        If the terms are not strictly ascending, or a score could leave int32: ``sum(|w|) * 255 >= 2**31``.
    InvalidArgumentError
        If ``k``, ``effort`` or ``path`` is out of range.
    SearchStoppedError, DeadlineError
        If ``cancel`` was set, or its deadline passed, before the search had finished.
    CorruptIndexError
        If the postings that the query touches contradict each other.

    Notes
    -----
    O(Q * P / 64) vector operations for dense terms, O(postings) for rare ones; see ``cpu/src/topk_documents.hpp``.
    """
    check_query(terms, weights)
    if mask is not None:
        _check_mask(mask, postings, "mask")
    starts = np.array([0, len(terms)], np.uint64)
    return _search(postings, terms, weights, starts, k, mask, min_score, effort, cancel, 1, path)[0]


def topk_documents_batch(
    postings: Postings,
    queries: Sequence[SparseQuery],
    k: int,
    *,
    masks: Mask | Sequence[Mask | None] | None = None,
    min_score: int = 0,
    effort: Effort = EXACT,
    cancel: CancelFlag | None = None,
    threads: int = 0,
    path: str = "auto",
) -> list[TopK]:
    """:func:`topk_documents` for many queries, spread over threads; the answers do not depend on their number.

    Parameters
    ----------
    queries : sequence of (terms, weights)
    masks : mask, or sequence of masks or None, optional
        One for all queries, or one for each.
    threads : int
        Threads to use, the caller's among them; 0 takes the processors this process may run on.

    Returns
    -------
    list of TopK
        In the order of the queries.

    Raises
    ------
    As :func:`topk_documents`; one failed query fails the batch.
    """
    for position, (terms, weights) in enumerate(queries):
        check_query(terms, weights, f"queries[{position}].")
    lengths = [len(terms) for terms, _ in queries]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype(np.uint64)
    all_terms = np.concatenate([np.empty(0, np.uint32), *(terms for terms, _ in queries)])
    all_weights = np.concatenate([np.empty(0, np.int16), *(weights for _, weights in queries)])
    return _search(postings, all_terms, all_weights, starts, k, masks, min_score, effort, cancel, threads, path)


def _search(
    postings: Postings,
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    starts: NDArray[np.uint64],
    k: int,
    masks: Mask | Sequence[Mask | None] | None,
    min_score: int,
    effort: Effort,
    cancel: CancelFlag | None,
    threads: int,
    path: str,
) -> list[TopK]:
    chosen = resolve_path(path)
    k, min_score = check_k(k), _clip(_whole(min_score, "min_score"))
    mask_list = _check_masks(masks, len(starts) - 1, postings)
    _check_effort(effort)
    threads = check_threads(threads)
    if chosen == "reference":
        each = mask_list * (len(starts) - 1) if len(mask_list) == 1 else mask_list
        return [
            reference.topk_documents(postings, terms[start:stop], weights[start:stop], k, mask, min_score, cancel)
            for start, stop, mask in zip(starts[:-1].tolist(), starts[1:].tolist(), each, strict=True)
        ]
    flag, deadline_ns = (_NOT_STOPPABLE.flag, 0) if cancel is None else (cancel.flag, cancel.deadline_ns)
    documents, scores, passages, ends, work = _native.topk_documents(
        postings.native, terms, weights, starts, mask_list, min(k, postings.n_documents), min_score, flag, deadline_ns,
        threads, chosen, effort.mass, min(effort.pool, postings.n_passages), effort.deviations, effort.budget_ns,
    )  # fmt: skip
    return [
        TopK(documents[start:stop], scores[start:stop], passages[start:stop], chosen, Work(MODES[mode], *counts))
        for (start, stop), (mode, *counts) in zip(pairwise(ends.tolist()), work.tolist(), strict=True)
    ]


def quantise_weights(
    terms: NDArray[np.uint32], weights: NDArray[np.float64]
) -> tuple[NDArray[np.uint32], NDArray[np.int16], float]:
    """Signed 16-bit levels of finite query weights, and the unit that turns integer scores back.

    Parameters
    ----------
    terms : uint32, shape (Q,)
    weights : float64, shape (Q,)
        What one impact level of each term is worth.

    Returns
    -------
    terms, levels, unit
        Without the terms whose level is 0. ``level = round_half_even(weight / unit)``; the largest becomes 32,767, less
        where a score could otherwise leave int32 (:func:`check_query`). All weights 0: empty, and unit 0.

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length.
    """
    require_array(terms, "terms", np.uint32, (None,))
    require_array(weights, "weights", np.float64, (len(terms),))
    made: tuple[NDArray[np.uint32], NDArray[np.int16], float] = _native.quantise_weights(terms, weights)
    return made


def score_postings(
    postings: Postings, terms: NDArray[np.uint32], weights: NDArray[np.int16], passages: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """Exact scores of chosen passages, by random access to the postings.

    Parameters
    ----------
    terms, weights : uint32 and int16, shape (Q,)
        As in :func:`topk_documents`.
    passages : uint32, shape (n,)
        Ascending, each below ``n_passages``; repeats are allowed.

    Returns
    -------
    int32, shape (n,)

    Raises
    ------
    ShapeError, InvalidQueryError, CorruptIndexError
        As :func:`topk_documents`.
    InvalidArgumentError
        If passages do not ascend or are out of range.
    """
    check_query(terms, weights)
    require_array(passages, "passages", np.uint32, (None,))
    if len(passages) and (passages[-1] >= postings.n_passages or (passages[1:] < passages[:-1]).any()):
        raise InvalidArgumentError(
            f"passages: expected ascending numbers below {postings.n_passages}", field="passages"
        )
    scores: NDArray[np.int32] = _native.score_postings(postings.native, terms, weights, passages)
    return scores


def _check_effort(effort: Effort) -> None:
    if effort is EXACT:
        return
    for name, good in (("mass", 0 < effort.mass <= 1), ("pool", effort.pool >= 0), ("budget_ns", effort.budget_ns >= 0),
                       ("deviations", effort.deviations == effort.deviations)):  # fmt: skip
        if not good:
            raise InvalidArgumentError(f"effort.{name}: out of range: {getattr(effort, name)}", field=f"effort.{name}")


def check_query(terms: Any, weights: Any, prefix: str = "") -> None:
    """Raise unless this is a query that no score can overflow; see :func:`topk_documents`."""
    require_array(terms, f"{prefix}terms", np.uint32, (None,))
    require_array(weights, f"{prefix}weights", np.int16, (len(terms),))
    if _native.is_sound(terms, weights):
        return
    falls = terms[1:] <= terms[:-1]
    if falls.any():
        at = int(np.argmax(falls)) + 1
        raise InvalidQueryError(
            f"{prefix}terms: expected strictly ascending terms, received {terms[at]} after {terms[at - 1]} "
            f"(position {at})",
            field=f"{prefix}terms",
            position=at,
        )
    total = int(np.abs(weights.astype(np.int32)).sum()) * _MAX_IMPACT
    if total > _I32.max:
        raise InvalidQueryError(
            f"{prefix}weights: expected sum(|w|) * 255 of at most {_I32.max}, received {total}",
            field=f"{prefix}weights",
            expected=_I32.max,
            received=total,
        )


def check_k(k: int) -> int:
    """``k`` as an int, at least 1."""
    k = _whole(k, "k")
    if k < 1:
        raise InvalidArgumentError(f"k: expected at least 1, received {k}", field="k", received=k)
    return k


def check_threads(threads: int) -> int:
    """The number of threads that a caller's ``threads=`` stands for, at least 1."""
    threads = _whole(threads, "threads")
    if threads < 0:
        raise InvalidArgumentError(
            f"threads: expected at least 0, received {threads}", field="threads", received=threads
        )
    return threads or len(os.sched_getaffinity(0))


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidArgumentError(
            f"{name}: expected a whole number, received {type(value).__name__}", field=name, received=value
        ) from None


def _clip(score: int) -> int:
    """A threshold outside int32 means the same as one at its edge."""
    return min(max(score, _I32.min), _I32.max)


def _check_mask(mask: Any, postings: Postings, name: str) -> None:
    require_array(mask, name, np.uint64, (-(-postings.n_documents // 64),))


def _check_masks(masks: Any, n_queries: int, postings: Postings) -> list[Mask | None]:
    """One mask for all queries, or one for each."""
    if masks is None:
        return [None]
    if isinstance(masks, np.ndarray):
        _check_mask(masks, postings, "masks")
        return [masks]
    if len(masks) != n_queries:
        raise ShapeError(
            f"masks: expected one for each of {n_queries} queries, received {len(masks)}",
            field="masks",
            expected=n_queries,
            received=len(masks),
        )
    for position, mask in enumerate(masks):
        if mask is not None:
            _check_mask(mask, postings, f"masks[{position}]")
    return list(masks)
