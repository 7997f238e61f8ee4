from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.encoders.sae import matching
from sparsight.encoders.sae.matching import assignment, mutual_nearest, nearest
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
    return unit[0] @ unit[1].T


def rows(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(F32)


def test_by_hand() -> None:
    a = np.array([[1, 0], [3, 4], [0, 0]], F32)
    b = np.array([[0, 2], [5, 0]], F32)
    partner, cosine = nearest(a, b)
    assert partner.tolist() == [1, 0, 0] and partner.dtype == np.int64 and cosine.dtype == F32
    np.testing.assert_allclose(cosine, [1, 0.8, 0], atol=1e-6)
    partner, cosine = nearest(a[:2], a[:2], others=True)
    assert partner.tolist() == [1, 0]
    np.testing.assert_allclose(cosine, [0.6, 0.6], atol=1e-6)


def test_greedy_is_not_the_assignment() -> None:
    # Both rows of a like b0 best (cosines 1 and .8); the best sum is 1 + .6 all the same, or .8 + 0.
    a, b = np.array([[1, 0], [0.8, 0.6]], F32), np.array([[1, 0], [0, 1]], F32)
    partner, cosine = assignment(a, b)
    assert partner.tolist() == [0, 1]
    np.testing.assert_allclose(cosine, [1, 0.6], atol=1e-6)
    partner, cosine = mutual_nearest(a, b)
    assert partner.tolist() == [0, -1] and cosine.tolist() == [1, 0]  # b1's nearest is a1, but a1's is b0


@pytest.mark.parametrize("at_once", [5, 23, 1 << 20])
def test_nearest_against_the_whole_table(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(matching, "_ENTRIES", at_once)
    a, b = rows(13), rows(5, seed=1)
    table = cosines(a, b)
    partner, cosine = nearest(a, b)
    np.testing.assert_array_equal(partner, table.argmax(1))
    np.testing.assert_allclose(cosine, table.max(1), atol=1e-6)
    own = cosines(a, a)
    np.fill_diagonal(own, -2)
    np.testing.assert_array_equal(nearest(a, a, others=True)[0], own.argmax(1))
    back = table.argmax(0)
    mutual = [j if back[j] == i else -1 for i, j in enumerate(table.argmax(1))]
    np.testing.assert_array_equal(mutual_nearest(a, b)[0], mutual)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_assignment_is_the_best_of_all(n: int, m: int, seed: int) -> None:
    a, b = rows(n, seed=seed), rows(m, seed=seed + 1)
    table = cosines(a, b)
    partner, cosine = assignment(a, b)
    has = partner >= 0
    assert has.sum() == min(n, m) == len(set(partner[has])) and (cosine[~has] == 0).all()
    wide = table if n <= m else table.T
    best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in permutations(range(max(n, m)), min(n, m)))
    assert cosine.sum() == pytest.approx(best, abs=1e-5)
    np.testing.assert_allclose(cosine[has], table[has, partner[has]], atol=1e-6)


def test_a_reordered_dictionary_is_undone() -> None:
    a, order = rows(200, 20), np.random.default_rng(1).permutation(200)
    for pair in (nearest, mutual_nearest, assignment):
        partner, cosine = pair(a, 3 * a[order])
        np.testing.assert_array_equal(order[partner], np.arange(200))
        np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_wrong_arguments() -> None:
    for pair in (nearest, mutual_nearest, assignment):
        with pytest.raises(ShapeError):
            pair(rows(3), rows(3, 5))
    with pytest.raises(ShapeError):
        nearest(rows(3), rows(4), others=True)
    for b, others in ((rows(0), False), (rows(1), True)):
        with pytest.raises(InvalidArgumentError):
            nearest(rows(len(b)), b, others=others)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    a, b = rows(3000, 64), rows(2000, 64, seed=1)
    for pair in (nearest, mutual_nearest, assignment):
        partner, cosine = pair(a, b, device="cuda")
        expected, their_cosine = pair(a, b)
        assert (partner == expected).mean() > 0.995  # near ties
        np.testing.assert_allclose(cosine.mean(), their_cosine.mean(), atol=1e-4)
