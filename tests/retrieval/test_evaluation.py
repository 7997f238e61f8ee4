from __future__ import annotations

import itertools
import math

import pytest

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.evaluation import Evaluation, compare, evaluate

QRELS = {"a": {"d1": 1, "d2": 2}, "b": {"d9": 1, "d8": 1}, "c": {"d1": 1}}
RUN = {"a": [("d1", 2.0), ("d3", 1.5), ("d2", 1.0)], "b": [("d7", 3.0), ("d9", 2.0)], "unjudged": [("d1", 1.0)]}


def test_measures_by_hand():
    found = evaluate(RUN, QRELS)
    # a: gains 1, 0, 2 at ranks 1, 2, 3 against the ideal 2, 1.
    ndcg_a = (1 / math.log2(2) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    # b: one of two relevant documents, at rank 2.
    ndcg_b = (1 / math.log2(3)) / (1 / math.log2(2) + 1 / math.log2(3))
    assert found.per_query["nDCG@10"] == pytest.approx({"a": ndcg_a, "b": ndcg_b, "c": 0.0})
    assert found.per_query["R@100"] == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert found.per_query["RR@10"] == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert found.mean == pytest.approx({"nDCG@10": (ndcg_a + ndcg_b) / 3, "R@100": 0.5, "RR@10": 0.5})


def test_the_cut_is_kept():
    run = {"q": [(f"d{n}", 100.0 - n) for n in range(100)]}
    found = evaluate(run, {"q": {"d10": 1}}, ["nDCG@10", "R@11", "RR@10", "AP"])
    assert found.mean == pytest.approx({"nDCG@10": 0.0, "R@11": 1.0, "RR@10": 0.0, "AP": 1 / 11})


def test_an_empty_run_is_zero():
    assert evaluate({}, QRELS).mean == {"nDCG@10": 0.0, "R@100": 0.0, "RR@10": 0.0}


@pytest.mark.parametrize(
    ("run", "qrels", "measures", "problem"),
    [
        (RUN, {}, ["AP"], "no judgements"),
        (RUN, QRELS, ["nonsense"], "unknown measure 'nonsense'"),
        (RUN, QRELS, ["a b"], "unknown measure"),
        ({"a": [("d1", 1.0), ("d1", 0.5)]}, QRELS, ["AP"], "unique"),
        ({"a": [("d1", math.nan)]}, QRELS, ["AP"], "finite"),
    ],
)
def test_bad_input_is_refused(run, qrels, measures, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        evaluate(run, qrels, measures)


def _evaluation(values):
    return Evaluation({}, {"nDCG@10": {str(n): value for n, value in enumerate(values)}})


def test_comparison_by_enumeration():
    a, b = [0.1, 0.5, 0.3, 0.9, 0.2, 0.0, 0.4, 0.4], [0.4, 0.6, 0.2, 0.9, 0.7, 0.3, 0.9, 0.5]
    found = compare(_evaluation(a), _evaluation(b))
    differences = [y - x for x, y in zip(a, b, strict=True)]
    observed = sum(differences) / 8
    exact = (
        sum(
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)) / 8) >= observed - 1e-12
            for signs in itertools.product([-1, 1], repeat=8)
        )
        / 2**8
    )
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.difference == pytest.approx(observed)
    assert (found.wins, found.losses, found.ties) == (6, 1, 1)
    assert found.interval[0] < observed < found.interval[1]
    assert found == compare(_evaluation(a), _evaluation(b))


def test_a_run_does_not_differ_from_itself():
    same = _evaluation([0.3, 0.7])
    found = compare(same, same)
    assert (found.difference, found.p_value, found.interval, found.ties) == (0.0, 1.0, (0.0, 0.0), 2)


def test_a_clear_difference_is_seen():
    worse, better = _evaluation([0.1] * 50), _evaluation([0.2] * 50)
    assert compare(worse, better).p_value < 0.001
    assert compare(better, worse).difference == pytest.approx(-0.1)


def test_what_cannot_be_compared():
    with pytest.raises(InvalidArgumentError, match="not in both"):
        compare(_evaluation([1.0]), Evaluation({}, {"AP": {"0": 1.0}}))
    with pytest.raises(InvalidArgumentError, match="different queries"):
        compare(_evaluation([1.0]), _evaluation([1.0, 0.0]))
