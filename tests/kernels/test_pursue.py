"""Codes by pursuit: by hand, exactly on orthogonal atoms, against the reference, and what every code must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels import available_paths, pursue

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
ROOT = np.sqrt(0.5)
each_path = pytest.mark.parametrize("path", PATHS)
native = pytest.mark.parametrize("path", NATIVE)


def f32(values):
    return np.array(values, np.float32)


def dictionary(rng, n_atoms, width):
    atoms = rng.normal(size=(n_atoms, width))
    return f32(atoms / np.linalg.norm(atoms, axis=1, keepdims=True))


def mixtures(rng, atoms, rows, of=6):
    """Some atoms each, and noise."""
    chosen = np.array([rng.choice(len(atoms), of, replace=False) for _ in range(rows)])
    clean = np.einsum("bj,bjd->bd", rng.uniform(0.2, 1, chosen.shape), atoms[chosen])
    return f32(clean + 0.05 * rng.normal(size=clean.shape))


def dense(idx, val, n_atoms):
    out = np.zeros((len(idx), n_atoms))
    for row, (latents, values) in enumerate(zip(idx, val, strict=True)):
        out[row, latents[latents >= 0]] = values[latents >= 0]
    return out


def errors(y, w_dec, idx, val):
    """Squared, in float64, one a row."""
    return np.square(y - dense(idx, val, len(w_dec)) @ w_dec.astype(np.float64)).sum(1)


# --- by hand ------------------------------------------------------------------------------------------------------


@each_path
@pytest.mark.parametrize("candidates", [0, 1, 3, 128])
def test_by_hand(path, candidates):
    w_dec = f32([[1, 0], [0, 1], [ROOT, ROOT]])
    # (3, 1): products 3, 1, 2.83: the first at 3, which leaves (0, 1): the second at 1. (-1, -1): none is above 0.
    # (2, 2): the diagonal leaves nothing. (-1, 2): the second at 2; of what is left, (-1, 0), no product is above 0.
    # (4, 3): the diagonal at 4.95, which leaves (0.5, -0.5): the first joins, and (4, 3) is 1 and 3 times sqrt(2).
    y = f32([[3, 1], [-1, -1], [2, 2], [-1, 2], [4, 3]])
    idx, val = pursue(y, w_dec, 2, candidates=candidates, path=path)
    assert (idx.dtype, val.dtype, idx.shape, val.shape) == (np.int32, np.float32, (5, 2), (5, 2))
    assert idx.tolist() == [[0, 1], [-1, -1], [2, -1], [1, -1], [2, 0]]
    np.testing.assert_allclose(val, [[3, 1], [0, 0], [np.sqrt(8), 0], [2, 0], [np.sqrt(18), 1]], rtol=2e-5)


@each_path
def test_candidates_by_hand(path):
    # The two largest products of (3, 1) are those of the first and the diagonal, which is all that can be added to it.
    w_dec = f32([[1, 0], [0, 1], [ROOT, ROOT]])
    idx, val = pursue(f32([[3, 1]]), w_dec, 2, candidates=2, path=path)
    assert idx.tolist() == [[0, 2]]
    np.testing.assert_allclose(val, [[2, np.sqrt(2)]], rtol=2e-5)


@each_path
def test_a_value_that_ends_at_0_is_gone(path):
    # Of (-0.2, 1, 1), (1, 1, 1) / sqrt(3) has the largest product, 1.04, which leaves (-0.8, 0.4, 0.4). With the second
    # and third axis the best value of the diagonal would be -0.35: it is 0, and the axes' are 1.
    w_dec = f32([np.full(3, 3**-0.5), [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    idx, val = pursue(f32([[-0.2, 1, 1]]), w_dec, 3, path=path)
    assert idx.tolist() == [[2, 3, -1]] and val[0, 2] == 0
    np.testing.assert_allclose(val[0, :2], 1, rtol=1e-5)


@each_path
@pytest.mark.parametrize("candidates", [0, 1, 70])
def test_of_equal_atoms_the_lower_is_taken(path, candidates):
    w_dec = np.tile(f32([[0, 1], [1, 0]]), (75, 1))
    idx, val = pursue(f32([[2, 0], [1, 3]]), w_dec, 3, candidates=candidates, path=path)
    assert idx.tolist() == [[1, -1, -1], [0, 1, -1]]
    assert val.tolist() == [[2, 0, 0], [3, 1, 0]]


@each_path
def test_empty_axes_and_k_beyond_the_atoms(path):
    eye = np.eye(3, dtype=np.float32)
    assert pursue(f32(np.zeros((0, 3))), eye, 2, path=path)[0].shape == (0, 2)
    for nothing in (pursue(f32(np.ones((2, 3))), f32(np.zeros((0, 3))), 2, path=path),
                    pursue(f32(np.zeros((2, 0))), f32(np.zeros((3, 0))), 2, path=path),
                    pursue(f32(np.zeros((2, 3))), eye, 2, candidates=2, path=path)):  # fmt: skip
        assert (nothing[0].tolist(), nothing[1].tolist()) == ([[-1, -1]] * 2, [[0, 0]] * 2)
    for candidates in (0, 2):
        idx, val = pursue(f32([[1, 0, 5]]), eye, 2_000, candidates=candidates, path=path)
        assert (idx[0, :3].tolist(), val[0, :3].tolist()) == ([2, 0, -1], [5, 1, 0])
        assert (idx[0, 3:] == -1).all() and not val[0, 3:].any()


@each_path
@pytest.mark.parametrize("candidates", [0, 4])
def test_what_is_not_finite_gets_and_is_no_atom(path, candidates):
    w_dec = np.eye(6, dtype=np.float32)
    w_dec[1, 3] = np.nan
    y = f32([[1, 9, 2, 0, 0, 0], [np.nan, 1, 1, 1, 1, 1], [np.inf, 1, 1, 1, 1, 1], [0, -np.inf, 1, 1, 1, 1]])
    idx, val = pursue(y, w_dec, 2, candidates=candidates, path=path)
    assert idx.tolist() == [[2, 0]] + [[-1, -1]] * 3 and val.tolist() == [[2, 1]] + [[0, 0]] * 3


@each_path
def test_sizes_at_the_ends_of_float32(path):
    w_dec = dictionary(np.random.default_rng(0), 200, 8)
    y = mixtures(np.random.default_rng(1), w_dec, 6)
    expected, values = pursue(y, w_dec, 3, candidates=50, path=path)
    for factor in (2.0**-100, 2.0**100):  # exact
        idx, val = pursue(y * np.float32(factor), w_dec, 3, candidates=50, path=path)
        assert np.array_equal(idx, expected) and np.array_equal(val, values * np.float32(factor))
    assert (pursue(f32(np.full((1, 8), 1e-44)), w_dec, 3, candidates=50, path=path)[0] == -1).all()


# --- exactly ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 9), width=st.integers(1, 150), k=st.sampled_from([1, 3, 4, 5, 20]),
    candidates=st.sampled_from([0, 1, 3, 4, 30]), threads=st.sampled_from([1, 2, 3]), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_every_path_is_exact_on_orthogonal_atoms(rows, width, k, candidates, threads, seed):
    """Axes and their opposites, shuffled: the atoms are the axes of the largest components, and these the values."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(2 * width)
    w_dec = np.concatenate([np.eye(width), -np.eye(width)])[order].astype(np.float32)
    y = rng.integers(-4, 5, (rows, width)).astype(np.float32)
    expected = [sorted(((-v, i) for i, v in enumerate((w_dec @ row).tolist()) if v > 0))[:k] for row in y]
    for path in PATHS:
        idx, val = pursue(y, w_dec, k, candidates=candidates, threads=threads, path=path)
        for row, best in enumerate(expected):
            assert idx[row].tolist() == [i for _, i in best] + [-1] * (k - len(best))
            assert val[row].tolist() == [-v for v, _ in best] + [0] * (k - len(best))


# --- against the reference ----------------------------------------------------------------------------------------


def assert_same(got, expected):
    """No two products of these rows tie: the atoms are the same, and values differ by rounding."""
    assert np.array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5 * expected[1].max())


@native
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(
    ("n_atoms", "width", "k", "candidates"),
    [(300, 24, 6, 0), (300, 24, 6, 1), (300, 24, 6, 16), (257, 61, 17, 40), (2000, 384, 32, 128), (128, 16, 4, 127),
     (500, 1100, 20, 64)],
)  # fmt: skip
def test_against_the_reference(path, n_atoms, width, k, candidates, once):
    """Dictionaries around whole blocks of 64, rows around whole registers, and too long for numbers of 8 bits."""
    rng = np.random.default_rng(n_atoms + candidates)
    w_dec = dictionary(rng, n_atoms, width)
    y = mixtures(rng, w_dec, 21, of=10)
    expected = pursue(y, w_dec, k, candidates=candidates, once=once, path="reference")
    assert (expected[0] >= 0).sum() >= 21 * min(k, 5, candidates if once and candidates else 5)
    for threads in (1, 3):
        assert_same(pursue(y, w_dec, k, candidates=candidates, once=once, threads=threads, path=path), expected)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9), n_atoms=st.integers(1, 200), width=st.integers(12, 40), k=st.integers(1, 8),
    candidates=st.sampled_from([0, 1, 5, 20]), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_every_path_leaves_the_error_of_the_reference(rows, n_atoms, width, k, candidates, seed):
    rng = np.random.default_rng(seed)
    w_dec, y = dictionary(rng, n_atoms, width), f32(rng.normal(size=(rows, width)))
    expected = errors(y, w_dec, *pursue(y, w_dec, k, candidates=candidates, path="reference"))
    for path in NATIVE:
        found = errors(y, w_dec, *pursue(y, w_dec, k, candidates=candidates, path=path))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


# --- what every code must be --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(8)
    w_dec = dictionary(rng, 3000, 64)
    return mixtures(rng, w_dec, 150, of=12), w_dec


@native
def test_a_row_depends_neither_on_its_batch_nor_on_threads(path, planted):
    # 150 x 3,000 x 64 multiplications are enough for threads to be used: batches of rows, and for few rows, of atoms
    y, w_dec = planted
    whole = pursue(y, w_dec, 12, threads=1, path=path)
    assert len(np.unique(whole[0])) > 1000
    for threads in (2, 3, 7):
        again = pursue(y, w_dec, 12, threads=threads, path=path)
        assert (again[0].tobytes(), again[1].tobytes()) == (whole[0].tobytes(), whole[1].tobytes())
    for start, stop in [(0, 1), (5, 6), (3, 10), (60, 70), (149, 150), (1, 150)]:
        part = pursue(np.ascontiguousarray(y[start:stop]), w_dec, 12, threads=5, path=path)
        assert part[0].tobytes() == whole[0][start:stop].tobytes()
        assert part[1].tobytes() == whole[1][start:stop].tobytes()


@native
def test_one_row_on_several_threads_is_the_same(path):
    rng = np.random.default_rng(2)
    w_dec = dictionary(rng, 20_000, 220)  # enough work for a look at it to be shared out
    y = mixtures(rng, w_dec, 1)
    alone = pursue(y, w_dec, 12, threads=1, path=path)
    for threads in (2, 5):
        shared = pursue(y, w_dec, 12, threads=threads, path=path)
        assert (shared[0].tobytes(), shared[1].tobytes()) == (alone[0].tobytes(), alone[1].tobytes())


@native
def test_codes_are_sorted_and_their_values_the_best_for_their_atoms(path, planted):
    y, w_dec = planted
    idx, val = pursue(y, w_dec, 16, path=path)
    assert (np.diff(val, axis=1) <= 0).all() and ((val > 0) == (idx >= 0)).all()
    for row, latents, values in zip(y, idx, val, strict=True):
        latents = latents[latents >= 0]
        assert len(set(latents.tolist())) == len(latents) > 8
        best, _ = nnls(w_dec[latents].T.astype(np.float64), row.astype(np.float64))
        np.testing.assert_allclose(values[:len(latents)], best, atol=1e-3)


@native
def test_a_longer_code_is_no_worse(path, planted):
    y, w_dec = planted
    found = [errors(y, w_dec, *pursue(y, w_dec, k, path=path)) for k in (1, 2, 4, 5, 8, 9, 20)]
    for shorter, longer in zip([np.square(y).sum(1), *found], found, strict=False):
        assert (longer <= shorter * (1 + 1e-4)).all()


@native
def test_candidates_cost_little(path, planted):
    y, w_dec = planted
    error = {c: errors(y, w_dec, *pursue(y, w_dec, 16, candidates=c, path=path)).sum() for c in (0, 1, 4, 128)}
    assert error[1] == pytest.approx(error[0], rel=0.03)  # all are looked at before each pick, in 8 bits
    assert error[128] == pytest.approx(error[0], rel=0.06)  # of embeddings' dictionaries at most 0.004
    assert error[4] > 2 * error[128]


@each_path
def test_candidates_looked_for_once_are_those_of_the_row_itself(path):
    # (4, 3): products 4, 3, 4.95 and -4. The diagonal leaves (0.5, -0.5), of which a second look finds the first.
    w_dec, y = f32([[1, 0], [0, 1], [ROOT, ROOT], [-1, 0]]), f32([[4, 3]])
    for candidates, expected in [(1, [0, 0, 7 * ROOT, 0]), (2, [1, 0, 3 / ROOT, 0]), (0, [1, 0, 3 / ROOT, 0])]:
        found = pursue(y, w_dec, 4, candidates=candidates, once=True, path=path)
        np.testing.assert_allclose(dense(*found, 4)[0], expected, atol=1e-4)
    again = pursue(y, w_dec, 4, candidates=1, path=path)
    np.testing.assert_allclose(dense(*again, 4)[0], [1, 0, 3 / ROOT, 0], atol=1e-4)


# --- arguments ----------------------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    y, w_dec = f32(np.ones((1, 2))), np.eye(2, dtype=np.float32)
    for bad, field in [
        ((y.astype(np.float64), w_dec), "y"),
        ((y[0], w_dec), "y"),
        ((y, f32(np.ones((3, 4)))), "w_dec"),
        ((y, np.asfortranarray(f32(np.ones((3, 2))))), "w_dec"),
    ]:
        with pytest.raises(ShapeError) as raised:
            pursue(*bad, 1)
        assert raised.value.field == field
    for arguments, field in [
        ({"k": 0}, "k"), ({"k": 1, "threads": -1}, "threads"), ({"k": 1, "candidates": -1}, "candidates"),
        ({"k": 1, "candidates": 2.5}, "candidates"), ({"k": 1, "path": "cuda"}, "path"),
    ]:  # fmt: skip
        with pytest.raises(InvalidArgumentError) as raised:
            pursue(y, w_dec, **arguments)
        assert raised.value.field == field
