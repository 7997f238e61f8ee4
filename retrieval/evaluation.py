"""How good runs are: measures per query and on average, and whether one run beats another by more than chance.

Measures are those of `ir-measures`, named as there: ``nDCG@10`` (Jarvelin and Kekalainen 2002, gains as trec_eval
has them), ``R@100``, ``RR@10``, ``AP``, ``P@5``, ... They are computed from scores, ties broken as trec_eval does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError

__all__ = ["DEFAULT_MEASURES", "Comparison", "Evaluation", "compare", "evaluate"]

DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10")
_DRAWS = 10_000
_DRAWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measures of one run.

    Attributes
    ----------
    mean : mapping
        Average over the judged queries, by measure.
    per_query : mapping
        ``per_query[measure][query]``; every judged query is there, in the order of the judgements.
    """

    mean: Mapping[str, float] = field(default_factory=dict)
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs over the same queries by one measure; see `compare`."""

    measure: str
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    losses: int
    ties: int


def evaluate(
    run: Mapping[str, Sequence[tuple[str, float]]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> Evaluation:
    """Measures of a run against judgements.

    Parameters
    ----------
    run : mapping
        ``(document, score)`` pairs by query. A judged query without any counts as 0; queries without judgements
        are left out.
    qrels : mapping
        Grade by document by query; above 0 is relevant.
    measures : sequence of str
        Names as in `ir-measures`.

    Raises
    ------
    InvalidArgumentError
        If there are no judgements, a measure is unknown, or a query's documents repeat or have scores that are not
        finite.
    """
    import ir_measures

    if not qrels:
        raise InvalidArgumentError("there are no judgements to evaluate against", field="qrels")
    parsed = {}
    for name in measures:
        try:
            parsed[ir_measures.parse_measure(name)] = name
        except (ValueError, NameError, SyntaxError):
            raise InvalidArgumentError(f"unknown measure {name!r}", field="measures", measure=name) from None
    scores = {query: _scores(query, run.get(query, ())) for query in qrels}
    per_query: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    given = {query: dict(grades) for query, grades in qrels.items()}
    for metric in ir_measures.iter_calc(list(parsed), given, scores):
        per_query[parsed[metric.measure]][metric.query_id] = float(metric.value)
    mean = {name: float(np.mean(list(values.values()))) for name, values in per_query.items()}
    return Evaluation(mean, per_query)


def _scores(query: str, found: Sequence[tuple[str, float]]) -> dict[str, float]:
    scores = {document: float(score) for document, score in found}
    if len(scores) != len(found) or not np.isfinite(list(scores.values())).all():
        raise InvalidArgumentError(
            f"query {query!r}: documents must be unique and their scores finite", field=f'run["{query}"]', query=query
        )
    return scores


def compare(a: Evaluation, b: Evaluation, measure: str = "nDCG@10", *, seed: int = 0) -> Comparison:
    """Whether run ``b`` differs from run ``a`` by more than chance, query by query.

    Parameters
    ----------
    a, b : Evaluation
        Of the same queries.
    measure : str
        One that both have.
    seed : int
        Of the random draws; the same seed gives the same numbers.

    Returns
    -------
    Comparison
        ``difference`` is ``mean_b - mean_a``; ``interval`` its 95 % bootstrap interval (percentiles); ``p_value``
        is two-sided, of the paired randomisation test; ``wins`` are queries where b is better.

    Raises
    ------
    InvalidArgumentError
        If the measure is missing or the queries are not the same.

    Notes
    -----
    The randomisation test swaps the runs of every query with probability one half and asks how often the mean
    difference comes out at least as large; 10,000 draws, so p-values stop at 0.0001.

    References
    ----------
    Smucker, Allan, Carterette 2007, "A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation", CIKM.
    """
    if measure not in a.per_query or measure not in b.per_query:
        raise InvalidArgumentError(f"measure {measure!r} is not in both evaluations", field="measure", measure=measure)
    first, second = a.per_query[measure], b.per_query[measure]
    if first.keys() != second.keys():
        raise InvalidArgumentError(
            "the evaluations are over different queries", field="b", first=len(first), second=len(second)
        )
    differences = np.array([second[query] - first[query] for query in first])
    observed = float(differences.mean())
    rng = np.random.default_rng(seed)
    # Sums of floats in another order differ in the last bits; without the allowance a draw equal to what was
    # observed would count as smaller by chance.
    limit = abs(observed) - 1e-12
    extreme = 0
    resampled: list[NDArray[np.float64]] = []
    for _ in range(_DRAWS // _DRAWS_AT_ONCE):
        signs = rng.integers(0, 2, (_DRAWS_AT_ONCE, differences.size)) * 2 - 1
        extreme += int((np.abs((signs * differences).mean(axis=1)) >= limit).sum())
        resampled.append(differences[rng.integers(0, differences.size, signs.shape)].mean(axis=1))
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    return Comparison(
        measure,
        float(np.mean(list(first.values()))),
        float(np.mean(list(second.values()))),
        observed,
        (float(low), float(high)),
        (extreme + 1) / (_DRAWS + 1),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        int((differences == 0).sum()),
    )
