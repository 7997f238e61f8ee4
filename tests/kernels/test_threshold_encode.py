"""The encoder of an autoencoder with thresholds: by hand, against the definition, and independence of the batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels import available_paths, threshold_encode, topk_encode

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
each_path = pytest.mark.parametrize("path", PATHS)


def f32(values):
    return np.array(values, np.float32)


def whole_numbers(rng, *shape):
    """Whole numbers so small that float32 sums of their products are exact in any order."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def rows_of(result):
    """Lists of (latent, value), one a row."""
    indptr, idx, val = result
    assert (indptr.dtype, idx.dtype, val.dtype) == (np.int64, np.int32, np.float32)
    assert indptr[0] == 0 and indptr[-1] == len(idx) == len(val)
    return [list(zip(idx[a:b].tolist(), val[a:b].tolist(), strict=True)) for a, b in pairwise(indptr)]


def oracle(x, w_enc, b_enc, threshold):
    """Plain Python over exact products."""
    pre_acts = (x.astype(np.float64) @ w_enc.astype(np.float64).T + b_enc).tolist()
    return [[(i, v) for i, (v, t) in enumerate(zip(row, threshold.tolist(), strict=True)) if v > max(t, 0)]
            for row in pre_acts]  # fmt: skip


@each_path
def test_by_hand(path):
    w_enc = f32([[1, 0], [0, 1], [1, 1], [-1, -1], [1, 0], [1, 0]])
    b_enc = f32([0, 0.5, -1, 0, 0, 0])
    # pre-activations: (2, 0.5, 1, -2, 2, 2) and (-3, -1.5, -6, 5, -3, -3)
    threshold = f32([1.5, 0.5, 0, -9, -1, 2])
    result = threshold_encode(f32([[2, 0], [-3, -2]]), w_enc, b_enc, threshold, path=path)
    assert rows_of(result) == [[(0, 2), (2, 1), (4, 2)], [(3, 5)]]  # what equals its threshold or is below 0 is dropped


@each_path
def test_empty_axes(path):
    none = threshold_encode(f32(np.zeros((0, 3))), f32(np.zeros((2, 3))), f32([0, 0]), f32([0, 0]), path=path)
    assert rows_of(none) == [] and none[0].tolist() == [0]
    latentless = threshold_encode(f32(np.ones((2, 3))), f32(np.zeros((0, 3))), f32([]), f32([]), path=path)
    assert rows_of(latentless) == [[], []]
    widthless = threshold_encode(f32(np.zeros((1, 0))), f32(np.zeros((2, 0))), f32([3, 4]), f32([3, 3]), path=path)
    assert rows_of(widthless) == [[(1, 4)]]


@each_path
def test_zero_nan_and_infinity_keep_nothing(path):
    w_enc, zeros = f32([[0], [2], [np.nan], [2], [2]]), f32([0, 0, 0, 0, 0])
    threshold = f32([0, 0, 0, np.nan, np.inf])
    assert rows_of(threshold_encode(f32([[1.0], [np.nan]]), w_enc, zeros, threshold, path=path)) == [[(1, 2)], []]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 9), latents=st.integers(0, 140), width=st.integers(0, 20), low=st.integers(-5, 30),
    threads=st.sampled_from([1, 2, 3]), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_every_path_is_the_oracle_on_whole_numbers(rows, latents, width, low, threads, seed):
    rng = np.random.default_rng(seed)
    x, w_enc, b_enc = whole_numbers(rng, rows, width), whole_numbers(rng, latents, width), whole_numbers(rng, latents)
    threshold = low + whole_numbers(rng, latents)
    expected = oracle(x, w_enc, b_enc, threshold)
    for path in PATHS:
        assert rows_of(threshold_encode(x, w_enc, b_enc, threshold, threads=threads, path=path)) == expected


@pytest.mark.parametrize("path", NATIVE)
def test_values_have_the_bits_of_topk_encode(path):
    rng = np.random.default_rng(3)
    x, w_enc = rng.normal(size=(9, 50)).astype(np.float32), rng.normal(size=(500, 50)).astype(np.float32)
    b_enc = rng.normal(size=500).astype(np.float32)
    idx, val = topk_encode(x, w_enc, b_enc, 500, path=path)
    indptr, latents, values = threshold_encode(x, w_enc, b_enc, np.full(500, 3, np.float32), path=path)
    assert len(latents) > 1000
    for row in range(9):
        kept = val[row] > 3
        order = np.argsort(idx[row][kept])
        part = slice(indptr[row], indptr[row + 1])
        assert latents[part].tobytes() == idx[row][kept][order].tobytes()
        assert values[part].tobytes() == val[row][kept][order].tobytes()


@pytest.mark.parametrize("path", NATIVE)
def test_a_row_depends_neither_on_its_batch_nor_on_threads(path):
    # 70 x 3,000 x 50 multiplications are enough for threads to be used, and for a lone row to be cut up among them.
    rng = np.random.default_rng(6)
    x = rng.normal(size=(70, 50)).astype(np.float32)
    w_enc, b_enc = rng.normal(size=(3000, 50)).astype(np.float32), rng.normal(size=3000).astype(np.float32)
    threshold = rng.uniform(5, 15, 3000).astype(np.float32)
    whole = threshold_encode(x, w_enc, b_enc, threshold, threads=1, path=path)
    rows = rows_of(whole)
    assert min(map(len, rows)) > 20
    for threads in (2, 3, 7):
        again = threshold_encode(x, w_enc, b_enc, threshold, threads=threads, path=path)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(again, whole, strict=True))
    for start, stop in [(0, 1), (5, 6), (3, 10), (69, 70), (1, 70)]:
        part = threshold_encode(np.ascontiguousarray(x[start:stop]), w_enc, b_enc, threshold, threads=3, path=path)
        assert rows_of(part) == rows[start:stop]


@pytest.mark.parametrize("path", NATIVE)
def test_one_row_on_several_threads_is_the_same(path):
    rng = np.random.default_rng(7)
    x, w_enc = whole_numbers(rng, 1, 300), whole_numbers(rng, 16_384, 300)  # enough work for one row to be shared out
    b_enc, threshold = np.zeros(16_384, np.float32), np.full(16_384, 100, np.float32)
    alone = threshold_encode(x, w_enc, b_enc, threshold, threads=1, path=path)
    assert rows_of(alone) == oracle(x, w_enc, b_enc, threshold)
    for threads in (2, 5):
        shared = threshold_encode(x, w_enc, b_enc, threshold, threads=threads, path=path)
        assert all(np.array_equal(a, b) for a, b in zip(shared, alone, strict=True))


def test_bad_arguments_are_named():
    x, w_enc, b_enc, threshold = f32(np.ones((1, 2))), f32(np.ones((3, 2))), f32(np.ones(3)), f32(np.ones(3))
    for bad, field in [
        ((x.astype(np.float64), w_enc, b_enc, threshold), "x"),
        ((x, f32(np.ones((3, 4))), b_enc, threshold), "w_enc"),
        ((x, w_enc, b_enc[:2], threshold), "b_enc"),
        ((x, w_enc, b_enc, threshold[:2]), "threshold"),
        ((x, w_enc, b_enc, threshold.astype(np.float64)), "threshold"),
        ((x, w_enc, b_enc, np.ones(6, np.float32)[::2]), "threshold"),
    ]:
        with pytest.raises(ShapeError) as raised:
            threshold_encode(*bad)
        assert raised.value.field == field
    for arguments in ({"threads": -1}, {"path": "cuda"}):
        with pytest.raises(InvalidArgumentError):
            threshold_encode(x, w_enc, b_enc, threshold, **arguments)
