"""Why a hit has its score: contributions that sum to it, and how an edit moved it.

Sparse legs are explained in the 8-bit domain that ranked them: ``query_weight * document_weight`` of the common terms,
each the exact integer product times the query's unit. Dense legs are split over the features of an SAE on the
field where there is one: ``x . d = x . b + sum_i z_i (x . w_i) + x . error``; what no feature carries is ``rest``. A
re-ranked SAE leg has the dense score and so is split in that way, by its own SAE; what no feature carries is ``dense``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sparsight.index.generation import Generation, Place, Reference
from sparsight.index.parts import ImpactQuery
from sparsight.index.schema import DerivedModel
from sparsight.kernels import CancelFlag
from sparsight.retrieval.legs import Leg, level_values
from sparsight.retrieval.models import SAEModel
from sparsight.retrieval.planning import Plan
from sparsight.retrieval.ranking import Ranking, rank_plans, score_matrix
from sparsight.retrieval.renaming import label_of
from sparsight.retrieval.steering import Steering
from sparsight.types import Contribution, Explanation, Movement, RetrieverScore, SAEField

__all__ = ["MOVEMENT_DEPTH", "explain_hits"]

MOVEMENT_DEPTH = 1_000
"""Ranks of the unsteered query that are looked at to say where a hit stood before."""


def explain_hits(
    generation: Generation,
    models: Mapping[str, DerivedModel],
    plan: Plan,
    ranking: Ranking,
    count: int,
    cancel: CancelFlag | None,
) -> list[Explanation]:
    """Explanations of the first ``count`` candidates."""
    movements: Sequence[Movement | None] = [None] * count
    if plan.steered:
        movements = _movements(generation, plan, ranking, count, cancel)
    columns = [_retriever_scores(generation, models, leg, ranking, count, column)
               for column, leg in enumerate(plan.legs)]
    return [Explanation(parts, movement) for parts, movement in zip(zip(*columns, strict=True), movements, strict=True)]


def _retriever_scores(
    generation: Generation, models: Mapping[str, DerivedModel], leg: Leg, ranking: Ranking, count: int, column: int
) -> list[RetrieverScore]:
    """What one leg gave the first ``count`` candidates."""
    scores, passages = ranking.scores[:count, column].tolist(), ranking.passages[:count, column].tolist()
    ranks, shares = ranking.ranks[:count, column].tolist(), ranking.shares[:count, column].tolist()
    found = [at for at, passage in enumerate(passages) if passage >= 0]
    places = [(ranking.references[at], passages[at]) for at in found]
    field, query = leg.scored_by
    name = leg.field.name if leg.rerank or isinstance(query, ImpactQuery) else _sae_on(generation, field)
    contributions: Sequence[tuple[Contribution, ...]] = [()] * len(found)
    if isinstance(query, ImpactQuery):
        if places:
            contributions = _impact_contributions(generation, models.get(name), leg, query, places)
    elif places and name:
        contributions = _dense_contributions(generation, models[name], name, field, query, places)
    parts = dict(zip(found, contributions, strict=True))
    explained = []
    for at, (score, rank, share, passage) in enumerate(zip(scores, ranks, shares, passages, strict=True)):
        own, rest, dense = parts.get(at, ()), 0.0, 0.0
        if passage >= 0 and not isinstance(query, ImpactQuery):
            left = score - sum(item.score for item in own)
            rest, dense = (0.0, left) if leg.rerank else (left, 0.0)
        explained.append(RetrieverScore(leg.field.name, score, rank, share, passage, own, rest, dense))
    return explained


def _stored(generation: Generation, field: str, places: Sequence[Place]
            ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]:  # fmt: skip
    """Which passage each is of, then terms, impacts and weights of passages one after another."""
    rows = generation.sparse_rows(field, places)
    of = np.repeat(np.arange(len(places)), np.diff(rows.indptr))
    return of, rows.ids.astype(np.int64), rows.impacts, rows.weights.astype(np.float64)


def _in_order(of: NDArray[np.int64], count: int, terms: NDArray[np.int64], label: Callable[[int], str],
              query: NDArray[np.float64], document: NDArray[np.float64], scores: NDArray[np.float64]
              ) -> list[tuple[Contribution, ...]]:  # fmt: skip
    """Contributions of each passage, the largest first, equal ones by lower term."""
    order = np.lexsort((terms, -np.abs(scores), of))
    indices = terms[order].tolist()
    parts = (part[order].tolist() for part in (query, document, scores))
    made = list(map(Contribution._make, zip(indices, map(label, indices), *parts, strict=True)))
    ends = np.cumsum(np.bincount(of, minlength=count)).tolist()
    return [tuple(made[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _impact_contributions(
    generation: Generation, model: DerivedModel | None, leg: Leg, query: ImpactQuery,
    places: Sequence[Place],
) -> list[tuple[Contribution, ...]]:
    """The terms' parts in exact products of 8-bit weights."""
    of, ids, impacts, _ = _stored(generation, leg.field.name, places)
    at = np.minimum(np.searchsorted(query.terms, ids), max(len(query.terms) - 1, 0))
    common = (query.terms[at] == ids) & (impacts > 0) if len(query.terms) else np.zeros(len(ids), bool)
    of, ids, levels = of[common], ids[common], impacts[common].astype(np.float64)
    values = level_values(leg.field, ids, model)
    weights = query.weights[at[common]].astype(np.float64) * query.unit  # what one impact level adds to the score
    return _in_order(of, len(places), ids, leg.label, weights / values, levels * values, levels * weights)


def _dense_contributions(
    generation: Generation, model: DerivedModel, name: str, source: str, query: NDArray[np.float32],
    places: Sequence[Place],
) -> list[tuple[Contribution, ...]]:
    """The features' parts in dense products of passages, vectors in ``source`` and codes in the SAE field ``name``.

    Postings have ``z / |xhat|`` in float16. A code by pursuit has the values that rebuild the vector best, so the
    length is the one that does, and pursuit, the dearest part of indexing, need not be repeated.
    """
    assert isinstance(model, SAEModel)
    sae = model.sae
    x, there = generation.dense_rows(source, places)
    if model.posts_codes and sae.document_mode == "pursuit":
        of, latents, _, codes = _stored(generation, name, places)
        rows = sae.W_dec[latents]
        ends = np.searchsorted(of, np.arange(len(places) + 1)).tolist()
        single = codes.astype(np.float32)  # so that the rows need no copy in double precision
        rebuilt = np.stack([single[start:end] @ rows[start:end] for start, end in pairwise(ends)])
        lengths = (rebuilt * (x - sae.b_dec)).sum(1) / np.maximum((rebuilt * rebuilt).sum(1), 1e-30)
        codes = codes * lengths[of]
    else:
        coded = sae.document_codes(x)
        of = np.repeat(np.arange(len(places)), np.diff(coded.indptr))
        latents, codes = coded.indices.astype(np.int64), coded.data.astype(np.float64)
        rows = sae.W_dec[latents]
    along = (rows @ query).astype(np.float64)
    if not there.all():
        kept = there[of]
        of, latents, codes, along = of[kept], latents[kept], codes[kept], along[kept]
    return _in_order(of, len(places), latents, label_of(generation, name, model), along, codes, along * codes)


def _sae_on(generation: Generation, source: str) -> str:
    """The first SAE field over a dense field; "" if there is none."""
    return next((item.name for item in generation.schema.fields
                 if isinstance(item.spec, SAEField) and item.spec.source == source), "")


# --- steering: before and after ---------------------------------------------------------------------------


def _movements(
    generation: Generation, plan: Plan, ranking: Ranking, count: int, cancel: CancelFlag | None
) -> list[Movement]:
    """Where each hit stood in the same search without edits."""
    base = plan.unsteered()
    before = _ranking_before(generation, base, cancel)
    rank_of = {reference: rank for rank, reference in enumerate(before.references, 1)}
    if len(base.legs) == 1 and base.legs[0].whole is not None:
        # With more candidates to score with all weights it is another search: what it alone finds stood below.
        (deep,) = rank_plans(generation, [_deep(base)], cancel, 1)
        for rank, reference in enumerate(deep.references, 1):
            rank_of.setdefault(reference, max(rank, len(before.references) + 1))
    hits = ranking.references[:count]
    outside, passages, _ = score_matrix(generation, base, hits)
    moves = []
    for position, reference in enumerate(hits):
        rank = rank_of.get(reference, 0)
        if len(plan.legs) == 1:
            score = float(outside[position, 0])
        else:
            score = float(before.totals[rank - 1]) if rank else 0.0
        moves.append(
            Movement(
                rank,
                position + 1,
                score,
                float(ranking.totals[position]),
                _by_feature(generation, plan, ranking, position),
                _other_passage(generation, plan, base, reference, ranking.passages[position], passages[position],
                               outside[position]),
            )
        )
    return moves


def _other_passage(
    generation: Generation, plan: Plan, base: Plan, reference: Reference, now: NDArray[np.int64],
    was: NDArray[np.int64], scores: NDArray[np.float64]
) -> float:
    """What the passages that are best now lacked before of those that were, over the legs that edits moved."""
    moved = [leg.query is not unmoved.query for leg, unmoved in zip(plan.legs, base.legs, strict=True)]
    changed = np.flatnonzero(moved & (now >= 0) & (now != was)).tolist()
    return sum((_passage_score(generation, base.legs[at], reference, int(now[at])) - float(scores[at])
                for at in changed), 0.0)


def _passage_score(generation: Generation, leg: Leg, reference: Reference, passage: int) -> float:
    """What one passage of a document has for a leg's query."""
    field, query = leg.scored_by
    if not isinstance(query, ImpactQuery):
        row = generation.dense_row(field, reference, passage)
        return 0.0 if row is None else float(row @ query)
    ids, impacts, _ = generation.sparse_row(field, reference, passage)
    _, in_query, in_document = np.intersect1d(query.terms, ids, assume_unique=True, return_indices=True)
    return float(query.weights[in_query].astype(np.float64) @ impacts[in_document]) * query.unit


def _ranking_before(generation: Generation, base: Plan, cancel: CancelFlag | None) -> Ranking:
    again = len(base.legs) > 1 or base.legs[0].scored_again
    (before,) = rank_plans(generation, [base if again else _deep(base)], cancel, 1)
    return before


def _deep(plan: Plan) -> Plan:
    return replace(plan, query=replace(plan.query, k=max(plan.depth, MOVEMENT_DEPTH), min_score=None))


def _by_feature(generation: Generation, plan: Plan, ranking: Ranking, position: int) -> tuple[Contribution, ...]:
    """Each edited feature's part in the change of the leg scores, in the legs' own units, largest first."""
    total: dict[int, Contribution] = {}
    for column, leg in enumerate(plan.legs):
        steering, passage = leg.steering, int(ranking.passages[position, column])
        if steering is None or passage < 0 or not leg.changes:
            continue
        label = label_of(generation, steering.field.name, steering.model)
        for f, delta, weight in _edit_parts(generation, leg, steering, ranking.references[position], passage):
            known = total.get(f)
            score = delta * weight + (known.score if known else 0.0)
            total[f] = Contribution(f, label(f), delta, weight, score)
    return tuple(sorted(total.values(), key=lambda item: (-abs(item.score), item.index)))


def _edit_parts(
    generation: Generation, leg: Leg, steering: Steering, reference: Reference, passage: int
) -> list[tuple[int, float, float]]:
    """(feature, change of the query, what a change of 1 does to this document's score)."""
    latents = np.array(list(leg.changes), np.int64)
    effects = _effects(generation, leg, steering.model, reference, passage, latents)
    return [(f, delta, effect) for (f, delta), effect in zip(leg.changes.items(), effects.tolist(), strict=True)]


def _effects(
    generation: Generation, leg: Leg, model: SAEModel, reference: Reference, passage: int, latents: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What a change of 1 in each of these activations of the query does to a document's score."""
    field, query = leg.scored_by
    w_dec = model.sae.W_dec
    if not isinstance(query, ImpactQuery):
        row = generation.dense_row(field, reference, passage)
        return np.zeros(len(latents)) if row is None else w_dec[latents].astype(np.float64) @ row
    assert isinstance(leg.field.spec, SAEField)
    ids, impacts, _ = generation.sparse_row(field, reference, passage)
    weights = impacts * model.impact_scale[ids].astype(np.float64) / 255.0
    if leg.base_vector is not None and (factors := model.factors(leg.field.spec)) is not None:
        weights = weights * factors[ids]
    if leg.base_vector is not None and leg.scorer == "decode":  # the document is what its posted code decodes to
        return w_dec[latents].astype(np.float64) @ (weights @ w_dec[ids])
    held = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    return np.array([held.get(latent, 0.0) for latent in latents.tolist()])
