"""Running plans over a generation: candidates from each leg, every candidate scored in every field, one order.

A leg that is re-ranked finds its candidates by one field and scores them by another (:attr:`Leg.scored_by`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparsight.index.generation import Found, Generation, Mask, Reference
from sparsight.index.parts import ImpactQuery
from sparsight.kernels import CancelFlag, Work
from sparsight.retrieval.fusion import convex, rrf
from sparsight.retrieval.legs import Leg
from sparsight.retrieval.planning import Plan
from sparsight.types import Effort

__all__ = ["Ranking", "rank_plans"]


@dataclass(slots=True)
class Ranking:
    """The candidates of one query, best first (C candidates, R legs).

    Attributes
    ----------
    references : list of Reference, length C
    seqs : int64 (C,)
    totals : float64 (C,)
        Final scores; ties are in order of seq.
    scores : float64 (C, R)
        Each leg's own score; NaN where a document has no value in that field.
    ranks : int64 (C, R)
        Rank within each leg's candidates, from 1; 0 where it is not among them.
    shares : float64 (C, R)
        Parts of the total; each row sums to it.
    passages : int64 (C, R)
        Best passage in each leg; -1 where the leg found nothing in the document.
    work : tuple of Work, length R
        What each leg's search did.
    reranked : tuple of int, length R
        Documents that each leg found and scored again by the field behind it.
    """

    references: list[Reference]
    seqs: NDArray[np.int64]
    totals: NDArray[np.float64]
    scores: NDArray[np.float64]
    ranks: NDArray[np.int64]
    shares: NDArray[np.float64]
    passages: NDArray[np.int64]
    work: tuple[Work, ...] = ()
    reranked: tuple[int, ...] = ()

    def best_passage(self, position: int) -> int:
        """The passage of the leg with the largest share, 0 when no leg has one."""
        if self.passages.shape[1] == 1:
            return max(int(self.passages[position, 0]), 0)
        usable = np.where(self.passages[position] >= 0, self.shares[position], -np.inf)
        passage = int(self.passages[position, int(np.argmax(usable))])
        return max(passage, 0)


def rank_plans(generation: Generation, plans: Sequence[Plan], cancel: CancelFlag | None, threads: int) -> list[Ranking]:
    """Rank every plan's candidates. Legs of one field are searched together, over ``threads`` threads.

    What an approximate search finds depends on how many documents it looks for and above which score, so only legs that
    agree in these go together, and each answer is what it would be alone.

    Raises
    ------
    SearchStoppedError, DeadlineError
        ``cancel`` was set or its deadline passed.
    """
    masks = _masks(generation, plans)
    found: dict[int, Found] = {}
    reranked: dict[int, int] = {}
    legs = [(plan, leg, mask) for plan, mask in zip(plans, masks, strict=True) for leg in plan.legs]
    groups: dict[object, list[tuple[Plan, Leg, Mask]]] = {}
    for plan, leg, mask in legs:
        groups.setdefault(_kind(plan, leg), []).append((plan, leg, mask))
    for group in groups.values():
        for (plan, leg, _), result in zip(group, _search(generation, group, cancel, threads), strict=True):
            candidates = result.take(slice(plan.depth_of(leg)))
            if leg.scored_again:
                candidates = _rerank(generation, leg, candidates, cancel)
                reranked[id(leg)] = len(candidates.seqs)
            found[id(leg)] = candidates.take(slice(plan.depth))
    rankings = []
    for plan in plans:
        ranking = _combine(generation, plan, [found[id(leg)] for leg in plan.legs])
        rankings.append(replace(ranking, reranked=tuple(reranked.get(id(leg), 0) for leg in plan.legs)))
    return rankings


def _rerank(generation: Generation, leg: Leg, found: Found, cancel: CancelFlag | None) -> Found:
    """The same documents, scored and ordered by what gives their scores."""
    if cancel is not None:
        cancel.check()
    field, query = leg.scored_by
    again = generation.score(field, found.references(), query)
    return again._replace(work=found.work).take(np.lexsort((again.seqs, -again.scores)))


def _masks(generation: Generation, plans: Sequence[Plan]) -> list[Mask]:
    """Each plan's mask; equal filters and conditions are evaluated once."""
    known: dict[object, Mask] = {}
    masks = []
    for plan in plans:
        key = (plan.node, conditions := plan.conditions + plan.overlaps)
        if key not in known:
            known[key] = generation.mask(plan.node, conditions)
        masks.append(known[key])
    return masks


def _kind(plan: Plan, leg: Leg) -> object:
    """Equal for legs that may be searched together."""
    if isinstance(leg.query, ImpactQuery) and plan.query.effort != Effort():
        return leg.field.name, plan.query.effort, plan.depth_of(leg), _least(plan, leg)
    return leg.field.name


def _least(plan: Plan, leg: Leg) -> float:
    """The score that a leg's documents must exceed: that of the query, unless final scores have other units."""
    return (plan.query.min_score or 0.0) if len(plan.legs) == 1 and not leg.scored_again else 0.0


def _search(
    generation: Generation, group: Sequence[tuple[Plan, Leg, Mask]], cancel: CancelFlag | None, threads: int
) -> list[Found]:
    name, effort = group[0][1].field.name, group[0][0].query.effort
    depth = max(plan.depth_of(leg) for plan, leg, _ in group)
    masks = [mask for _, _, mask in group]
    impacts = [leg.query for _, leg, _ in group if isinstance(leg.query, ImpactQuery)]
    if len(impacts) == len(group):
        least = [_least(plan, leg) for plan, leg, _ in group]
        return generation.search_impacts(name, impacts, depth, masks, least, cancel, min(threads, len(group)), effort)
    vectors = np.stack([leg.query for _, leg, _ in group if isinstance(leg.query, np.ndarray)])
    return generation.search_dense(name, vectors, depth, masks, cancel)


def _combine(generation: Generation, plan: Plan, found: Sequence[Found]) -> Ranking:
    work = tuple(one.work for one in found)
    if len(plan.legs) == 1:
        only = found[0]
        kept = np.arange(len(only.scores))
        if plan.query.min_score is not None:
            kept = np.flatnonzero(only.scores > plan.query.min_score)
        only = only.take(kept)
        scores, ranks = only.scores[:, None], (kept + 1)[:, None]
        return Ranking(only.references(), only.seqs, only.scores, scores, ranks, scores, only.passages[:, None], work)
    references = list(dict.fromkeys(reference for one in found for reference in one.references()))
    row_of = {reference: row for row, reference in enumerate(references)}
    shape = (len(references), len(plan.legs))
    ranks = np.zeros(shape, np.int64)
    for column, one in enumerate(found):
        for rank, reference in enumerate(one.references(), 1):
            ranks[row_of[reference], column] = rank
    return order_candidates(generation, plan, references, ranks, work)


def order_candidates(
    generation: Generation, plan: Plan, references: list[Reference], ranks: NDArray[np.int64], work: tuple[Work, ...]
) -> Ranking:
    """Score candidates in every field of a plan, fuse, and put them in order."""
    scores, passages, seqs = score_matrix(generation, plan, references)
    weights = np.array([leg.weight for leg in plan.legs])
    if len(references) == 0:
        totals, shares = np.empty(0), np.empty(ranks.shape)
    elif plan.query.fusion.method == "rrf":
        totals, shares = rrf(ranks, weights, plan.query.fusion.rank_constant)
    else:
        totals, shares = convex(scores, weights)
    order = np.lexsort((seqs, -totals))
    if plan.query.min_score is not None:
        order = order[totals[order] > plan.query.min_score]
    return Ranking(
        [references[at] for at in order],
        seqs[order],
        totals[order],
        scores[order],
        ranks[order],
        shares[order],
        passages[order],
        work,
    )


def score_matrix(
    generation: Generation, plan: Plan, references: Sequence[Reference]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Every candidate in every field: scores (C, R), best passages (C, R), seqs (C,)."""
    shape = (len(references), len(plan.legs))
    scores, passages, seqs = np.empty(shape), np.empty(shape, np.int64), np.empty(shape[0], np.int64)
    for column, leg in enumerate(plan.legs):
        field, query = leg.scored_by
        one = generation.score(field, references, query)
        scores[:, column], seqs = one.scores, one.seqs
        nothing = (one.scores == 0) if isinstance(query, ImpactQuery) else np.isnan(one.scores)
        passages[:, column] = np.where(nothing, -1, one.passages)
    return scores, passages, seqs
