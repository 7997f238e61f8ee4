"""The encoder of a k-sparse autoencoder: shape, by hand, against numpy and torch, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels import available_paths, topk_encode

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
each_path = pytest.mark.parametrize("path", PATHS)


def f32(values):
    return np.array(values, np.float32)


def whole_numbers(rng, *shape):
    """Whole numbers so small that float32 sums of their products are exact in any order."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def oracle(x, w_enc, b_enc, k):
    """Plain Python over exact products."""
    idx, val = [], []
    for row in (x.astype(np.float64) @ w_enc.astype(np.float64).T + b_enc).tolist():
        best = sorted((-value, latent) for latent, value in enumerate(row) if value > 0)[:k]
        idx.append([latent for _, latent in best] + [-1] * (k - len(best)))
        val.append([-value for value, _ in best] + [0.0] * (k - len(best)))
    return idx, val


@each_path
def test_by_hand(path):
    w_enc = f32([[1, 0], [0, 1], [1, 1], [-1, -1], [1, 0]])
    b_enc = f32([0, 0.5, -1, 0, 0])
    # pre-activations: (2, 0.5, 1, -2, 2) and (-3, -1.5, -6, 5, -3)
    idx, val = topk_encode(f32([[2, 0], [-3, -2]]), w_enc, b_enc, 3, path=path)
    assert (idx.dtype, val.dtype, idx.shape, val.shape) == (np.int32, np.float32, (2, 3), (2, 3))
    assert idx.tolist() == [[0, 4, 2], [3, -1, -1]]
    assert val.tolist() == [[2, 2, 1], [5, 0, 0]]


@each_path
def test_empty_axes_and_k_beyond_the_latents(path):
    assert topk_encode(f32(np.zeros((0, 3))), f32(np.zeros((2, 3))), f32([0, 0]), 2, path=path)[0].shape == (0, 2)
    idx, val = topk_encode(f32(np.ones((2, 3))), f32(np.zeros((0, 3))), f32([]), 2, path=path)
    assert (idx.tolist(), val.tolist()) == ([[-1, -1]] * 2, [[0, 0]] * 2)
    idx, val = topk_encode(f32(np.zeros((1, 0))), f32(np.zeros((2, 0))), f32([3, 4]), 5, path=path)
    assert (idx.tolist(), val.tolist()) == ([[1, 0, -1, -1, -1]], [[4, 3, 0, 0, 0]])


@each_path
def test_zero_and_nan_are_never_chosen(path):
    idx, val = topk_encode(f32([[1.0], [np.nan]]), f32([[0], [2], [np.nan], [-1]]), f32([0, 0, 0, 0]), 4, path=path)
    assert idx.tolist() == [[1, -1, -1, -1], [-1, -1, -1, -1]]
    assert val.tolist() == [[2, 0, 0, 0], [0, 0, 0, 0]]


@each_path
@pytest.mark.parametrize("width", [1, 3, 7, 8, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_every_tile_and_tail_is_exact_on_whole_numbers(path, width, rows):
    rng = np.random.default_rng(width * 10 + rows)
    x, w_enc, b_enc = whole_numbers(rng, rows, width), whole_numbers(rng, 135, width), whole_numbers(rng, 135)
    idx, val = topk_encode(x, w_enc, b_enc, 9, path=path)
    expected = oracle(x, w_enc, b_enc, 9)
    assert (idx.tolist(), val.tolist()) == expected


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 9), latents=st.integers(0, 70), width=st.integers(0, 20), k=st.sampled_from([1, 3, 64, 100]),
    threads=st.sampled_from([1, 2, 3]), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_every_path_is_the_oracle_on_whole_numbers(rows, latents, width, k, threads, seed):
    rng = np.random.default_rng(seed)
    x, w_enc, b_enc = whole_numbers(rng, rows, width), whole_numbers(rng, latents, width), whole_numbers(rng, latents)
    expected = oracle(x, w_enc, b_enc, k)
    for path in PATHS:
        idx, val = topk_encode(x, w_enc, b_enc, k, threads=threads, path=path)
        assert (idx.tolist(), val.tolist()) == expected


@pytest.mark.parametrize("path", NATIVE)
def test_agrees_with_torch_within_rounding(path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = rng.normal(size=(70, 100)).astype(np.float32)
    w_enc, b_enc = rng.normal(size=(1000, 100)).astype(np.float32), rng.normal(size=1000).astype(np.float32)
    idx, val = topk_encode(x, w_enc, b_enc, 32, path=path)
    pre_acts = torch.from_numpy(x).double() @ torch.from_numpy(w_enc).double().T + torch.from_numpy(b_enc).double()
    values = torch.topk(pre_acts, 32).values.relu().numpy()
    np.testing.assert_allclose(val, values, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(val, np.take_along_axis(pre_acts.numpy(), idx.astype(np.int64), 1), rtol=1e-5, atol=1e-4)
    assert all(len(set(row)) == 32 for row in idx.tolist())


@pytest.mark.parametrize("path", NATIVE)
def test_a_row_depends_neither_on_its_batch_nor_on_threads(path):
    # 70 x 3,000 x 50 multiplications are enough for threads to be used
    rng = np.random.default_rng(6)
    x = rng.normal(size=(70, 50)).astype(np.float32)
    w_enc, b_enc = rng.normal(size=(3000, 50)).astype(np.float32), rng.normal(size=3000).astype(np.float32)
    idx, val = topk_encode(x, w_enc, b_enc, 20, threads=1, path=path)
    for threads in (2, 3, 7):
        again = topk_encode(x, w_enc, b_enc, 20, threads=threads, path=path)
        assert (again[0].tobytes(), again[1].tobytes()) == (idx.tobytes(), val.tobytes())
    for start, stop in [(0, 1), (5, 6), (3, 10), (69, 70), (1, 70)]:
        part = topk_encode(np.ascontiguousarray(x[start:stop]), w_enc, b_enc, 20, path=path)
        assert part[0].tobytes() == idx[start:stop].tobytes()
        assert part[1].tobytes() == val[start:stop].tobytes()


@pytest.mark.parametrize("path", NATIVE)
def test_one_row_on_several_threads_is_the_same(path):
    # One row of 300 x 16,384: the latents are cut up among threads
    rng = np.random.default_rng(7)
    x, w_enc = whole_numbers(rng, 1, 300), whole_numbers(rng, 16_384, 300)
    b_enc = np.zeros(16_384, np.float32)
    alone = topk_encode(x, w_enc, b_enc, 50, threads=1, path=path)
    for threads in (2, 5):
        shared = topk_encode(x, w_enc, b_enc, 50, threads=threads, path=path)
        assert np.array_equal(shared[0], alone[0])
        assert np.array_equal(shared[1], alone[1])


def test_bad_arguments_are_named():
    x, w_enc, b_enc = f32(np.ones((1, 2))), f32(np.ones((3, 2))), f32(np.ones(3))
    for bad, field in [
        ((x.astype(np.float64), w_enc, b_enc), "x"),
        ((x[0], w_enc, b_enc), "x"),
        ((x, f32(np.ones((3, 4))), b_enc), "w_enc"),
        ((x, np.asfortranarray(w_enc), b_enc), "w_enc"),
        ((x, w_enc, b_enc[:2]), "b_enc"),
    ]:
        with pytest.raises(ShapeError) as raised:
            topk_encode(*bad, 1)
        assert raised.value.field == field
    for arguments in ({"k": 0}, {"k": 1, "threads": -1}):
        with pytest.raises(InvalidArgumentError):
            topk_encode(x, w_enc, b_enc, **arguments)
