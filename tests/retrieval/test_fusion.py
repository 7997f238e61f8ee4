from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsight.errors import InvalidQueryError, ShapeError
from sparsight.retrieval.fusion import convex, minmax, rrf

NAN = math.nan


def test_minmax_by_hand():
    scores = np.array([[2.0, -1.0], [4.0, 0.0], [3.0, 3.0]], np.float32)
    assert minmax(scores).tolist() == [[0.0, 0.0], [1.0, 0.25], [0.5, 1.0]]


def test_minmax_of_one_column():
    assert minmax([1.0, 5.0, 2.0]).tolist() == [0.0, 1.0, 0.25]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([7.0, 7.0], [1.0, 1.0]),  # all equally good
        ([7.0], [1.0]),
        ([0.0, 0.0], [0.0, 0.0]),  # nothing matched
        ([-2.0, -2.0], [0.0, 0.0]),
        ([7.0, NAN], [1.0, 0.0]),  # a value beats none
        ([NAN, NAN], [0.0, 0.0]),
        ([NAN, 1.0, 3.0], [0.0, 0.0, 1.0]),
        ([], []),
    ],
)
def test_minmax_edges(column, expected):
    assert minmax(column).tolist() == expected


def test_convex_by_hand():
    # Column 0 stretches to 0, 1, 0.5; column 1 to 1, 0, (NaN) 0; weights 1:3 are 0.25 and 0.75.
    total, shares = convex([[2.0, 0.9], [4.0, 0.1], [3.0, NAN]], [1.0, 3.0])
    assert shares.tolist() == [[0.0, 0.75], [0.25, 0.0], [0.125, 0.0]]
    assert total.tolist() == [0.75, 0.25, 0.125]


def test_convex_takes_only_the_proportions_of_weights():
    scores = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 9.0]])
    np.testing.assert_allclose(convex(scores, [1, 2])[0], convex(scores, [10, 20])[0], rtol=1e-15)


def test_convex_of_one_retriever_keeps_its_order():
    scores = np.array([[0.3], [0.9], [0.1]])
    assert np.argsort(-convex(scores, [5.0])[0]).tolist() == [1, 0, 2]


def test_rrf_by_hand():
    total, shares = rrf([[1, 3], [2, 0], [0, 0]], [1.0, 2.0], rank_constant=60)
    assert shares.tolist() == [[1 / 61, 2 / 63], [1 / 62, 0.0], [0.0, 0.0]]
    assert total.tolist() == [1 / 61 + 2 / 63, 1 / 62, 0.0]


def test_no_candidates():
    for total, shares in (convex(np.zeros((0, 2)), [1, 1]), rrf(np.zeros((0, 2), int), [1, 1])):
        assert total.shape == (0,)
        assert shares.shape == (0, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: convex([1.0, 2.0], [1.0]),
        lambda: convex([[1.0, 2.0]], [1.0]),
        lambda: rrf([[1, 2, 3]], [1.0, 1.0]),
        lambda: minmax(np.zeros((1, 1, 1))),
    ],
)
def test_shapes_are_checked(call):
    with pytest.raises(ShapeError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: convex([[1.0, math.inf]], [1.0, 1.0]),
        lambda: convex([[1.0, 2.0]], [1.0, -1.0]),
        lambda: convex([[1.0, 2.0]], [NAN, 1.0]),
        lambda: convex([[1.0, 2.0]], [0.0, 0.0]),
        lambda: rrf([[-1]], [1.0]),
        lambda: rrf([[1]], [math.inf]),
        lambda: rrf([[1]], [1.0], rank_constant=0),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(InvalidQueryError):
        call()


def test_a_bad_weight_is_named():
    with pytest.raises(InvalidQueryError) as caught:
        rrf([[1, 1]], [1.0, -2.0])
    assert caught.value.field == "retrievers[1].weight"


SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 30), st.integers(1, 5)),
    elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(NAN)),
)


@given(SCORES, st.data())
def test_shares_add_up_bit_for_bit_and_stay_in_range(scores, data):
    weights = data.draw(
        st.lists(st.floats(0.0, 10.0), min_size=scores.shape[1], max_size=scores.shape[1]).filter(
            lambda drawn: sum(drawn) > 0
        )
    )
    total, shares = convex(scores, weights)
    assert [sum(row) for row in shares.tolist()] == total.tolist()
    assert (shares >= 0).all()
    assert (total <= 1 + 1e-12).all()


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.integers(0, 1000)))
def test_rrf_equals_the_formula(ranks):
    weights = [0.5 + r for r in range(ranks.shape[1])]
    total, shares = rrf(ranks, weights, 60)
    for row, got, parts in zip(ranks.tolist(), total.tolist(), shares.tolist(), strict=True):
        assert got == sum(parts)
        assert got == pytest.approx(sum(w / (60 + r) for w, r in zip(weights, row, strict=True) if r))
