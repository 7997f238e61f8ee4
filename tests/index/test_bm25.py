from __future__ import annotations

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError
from sparsight.index.bm25 import BM25, STOP_WORDS, Analyzer


def test_english() -> None:
    assert Analyzer("english").terms("The cats are RUNNING: a 2-fold gain") == ["cat", "run", "fold", "gain"]
    assert Analyzer().terms("") == []
    assert Analyzer().terms("generously general x y z") == ["generous", "general"]  # Porter 2, not Porter
    assert len(STOP_WORDS) == 33


def test_no_language() -> None:
    assert Analyzer("none").terms("The cats, the Größe_2 a") == ["the", "cats", "the", "größe_2"]


def test_unknown_language() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Analyzer("klingon")
    assert caught.value.field == "language"


def test_analyzer_in_threads_and_pickled() -> None:
    analyzer = pickle.loads(pickle.dumps(Analyzer("english")))
    texts = [f"studies of {w} relations running connected" for w in ("cells", "mice", "genes", "proteins")] * 200
    expected = [analyzer.terms(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(analyzer.terms, texts)) == expected


def test_impact_by_hand() -> None:
    bm25 = BM25(k1=1.2, b=0.75)
    # tf 3, length 150 of 100: 3 * 2.2 / (3 + 1.2 * (0.25 + 0.75 * 1.5)) = 6.6 / 4.65
    got = bm25.impact(np.array([3, 1, 0]), np.array([150, 100, 100]), 100.0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [6.6 / 4.65, 1.0, 0.0], rtol=1e-6)
    assert bm25.max_impact == pytest.approx(2.2)


def test_impact_at_the_edges() -> None:
    np.testing.assert_array_equal(BM25(k1=0.0).impact([0, 1, 9], 5, 5.0), [0, 1, 1])
    np.testing.assert_array_equal(BM25(k1=1.0, b=1.0).impact([0, 2], [0, 0], 5.0), [0, 2])
    np.testing.assert_array_equal(BM25(k1=1.0).impact([1], [7], 0.0), [1])  # no average yet
    assert BM25().impact(np.zeros(0), np.zeros(0), 1.0).shape == (0,)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.1, 1e6), st.floats(0, 10), st.floats(0, 1))
def test_impact_is_bounded_and_grows_with_frequency(tf: int, length: int, average: float, k1: float, b: float) -> None:
    bm25 = BM25(k1, b)
    one, two = bm25.impact([tf, tf + 1], length, average).tolist()
    assert 0 < one <= two <= np.float32(bm25.max_impact)
    assert bm25.impact(tf, length + 1, average) <= one


def test_idf() -> None:
    got = BM25.idf(np.array([0, 1, 5, 10]), 10)
    expected = [math.log(1 + (10 - df + 0.5) / (df + 0.5)) for df in (0, 1, 5, 10)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32
    assert (np.diff(got) < 0).all() and got[-1] > 0


@pytest.mark.parametrize(("k1", "b", "field"), [(-1, 0.5, "k1"), (math.inf, 0.5, "k1"), (1, -0.1, "b"), (1, 1.1, "b"),
                                                (math.nan, 0.5, "k1"), (1, math.nan, "b")])  # fmt: skip
def test_parameters(k1: float, b: float, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        BM25(k1, b)
    assert caught.value.field == field
