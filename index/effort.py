"""A search's effort, given out to the parts of a generation, and their work, put together again."""

from __future__ import annotations

from collections.abc import Sequence

from sparsight.kernels import EXACT, Work
from sparsight.kernels import Effort as KernelEffort
from sparsight.types import Effort

__all__ = ["NO_WORK", "shared_out", "total_work"]

NO_WORK = Work("exact", 0, 0, 0, 0)

_BUDGET_MASS = 0.7
"""Share of the query's upper bound whose terms choose the documents of a ``documents`` budget."""


def shared_out(effort: Effort, k: int, sizes: Sequence[int]) -> list[KernelEffort]:
    """What each part may do for the k best documents of all.

    Parameters
    ----------
    effort : Effort
    k : int
        Every part finds its own k best, so the share of them to be found is the same for all.
    sizes : sequence of int
        Passages of each part; budgets are cut in proportion.

    Notes
    -----
    The kernel checks a result against the recall and may start again, exactly. A budget alone asks for no recall, and
    one of documents leaves nothing to start again with: then it does not check.

    Examples
    --------
    >>> [share.budget_ns for share in shared_out(Effort(seconds=1e-6), 10, [300, 100])]
    [750, 250]
    """
    wanted = KernelEffort.for_recall(effort.recall, k)
    if not effort.seconds and not effort.documents:
        return [wanted] * len(sizes)
    if wanted == EXACT:  # of terms; the scan's sums are rounded, so that a few more than k are scored
        wanted = KernelEffort(_BUDGET_MASS if effort.documents else 1.0, 2 * k + 30, -1.0)
    total = max(1, sum(sizes))
    return [
        KernelEffort(
            wanted.mass,
            effort.documents * size // total if effort.documents else wanted.pool,
            -1.0 if effort.documents else wanted.deviations,
            max(1, int(effort.seconds * 1e9 * size / total)) if effort.seconds else 0,
        )
        for size in sizes
    ]


def total_work(parts: Sequence[Work]) -> Work:
    """Work of all parts: counts are summed, of the terms the most are taken, and the mode is the least exact one.

    The kernel's three ways to an exact answer are all "exact" here.
    """
    modes = {work.mode for work in parts}
    mode = next((worse for worse in ("cut", "approximate") if worse in modes), "exact")
    return Work(
        mode,
        max((work.terms for work in parts), default=0),
        sum(work.postings for work in parts),
        sum(work.passages for work in parts),
        sum(work.rescored for work in parts),
    )
