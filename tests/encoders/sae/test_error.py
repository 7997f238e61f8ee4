from __future__ import annotations

import numpy as np
import pytest

from sparsight.encoders.sae.error import linear_map, split_error
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def normal(rows: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(F32)


def test_linear_map_by_hand() -> None:
    # y = 3 + 2 a - b, exactly.
    x = np.array([[0, 0], [1, 0], [0, 1], [5, 7]], F32)
    weight, offset = linear_map(x, np.array([[3], [5], [2], [6]], F32))
    np.testing.assert_allclose(weight, [[2], [-1]], atol=1e-9)
    np.testing.assert_allclose(offset, [3], atol=1e-9)


def test_linear_map_against_lstsq() -> None:
    x, y = normal(60, 7), normal(60, 3, seed=1)
    weight, offset = linear_map(x, y)
    expected = np.linalg.lstsq(np.column_stack([x, np.ones(60)]).astype(float), y, rcond=None)[0]
    np.testing.assert_allclose(np.vstack([weight, offset]), expected, atol=1e-8)


def test_embeddings_that_do_not_fill_their_space() -> None:
    x = normal(200, 4) @ normal(4, 10, seed=1)  # rank 4 of 10
    truth = normal(10, 2, seed=2)
    weight, offset = linear_map(x, x @ truth + 1)
    np.testing.assert_allclose(x @ weight + offset, x @ truth + 1, atol=1e-3)
    assert np.isfinite(weight).all() and np.abs(weight).max() < 10


def test_a_linear_error_is_linear_and_noise_is_not() -> None:
    x, mixing = normal(4000, 12), normal(12, 12, seed=1)
    linear = split_error(x, x @ mixing + 1)
    assert linear.vector_r2 == pytest.approx(1, abs=1e-6) and linear.nonlinear_fvu == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(linear.weight, mixing, atol=1e-4)
    np.testing.assert_allclose(linear.offset, 1, atol=1e-4)
    np.testing.assert_allclose(linear.linear(x[:5]), x[:5] @ mixing + 1, atol=1e-3)
    assert (linear.rows, linear.held_out_rows) == (2000, 2000)
    noise = split_error(x, normal(4000, 12, seed=2))
    assert -0.02 < noise.vector_r2 < 0.001 and noise.linear_fvu == pytest.approx(0, abs=0.02)
    assert noise.fvu == pytest.approx(1, abs=0.05)  # as large as x


def test_planted_share() -> None:
    # A linear part of variance 3 and noise of variance 1 in each component: three quarters are linear.
    x = normal(20_000, 10)
    turn = np.linalg.qr(normal(10, 10, seed=1))[0]
    got = split_error(x, (np.sqrt(3) * x @ turn + normal(20_000, 10, seed=2)).astype(F32))
    assert got.vector_r2 == pytest.approx(0.75, abs=0.01)
    assert got.fvu == pytest.approx(4, rel=0.03)
    assert got.linear_fvu == pytest.approx(3, rel=0.03) and got.nonlinear_fvu == pytest.approx(1, rel=0.03)
    assert got.linear_fvu + got.nonlinear_fvu == pytest.approx(got.fvu)


def test_the_size_of_errors() -> None:
    # log |e| = a . x, so |e|^2 = exp(2 a . x), directions at random: size foretold, direction not.
    x, direction = normal(8000, 6), normal(8000, 6, seed=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    slope = 0.3 * np.ones(6) / np.sqrt(6)
    got = split_error(x, (np.exp(x @ slope)[:, None] * direction).astype(F32))
    assert got.log_norm_r2 == pytest.approx(1, abs=1e-6) and got.vector_r2 < 0.01
    # For a normal u of deviation s = .6, the share of exp(u) that is linear in u is s^2 / (exp(s^2) - 1).
    assert got.norm_r2 == pytest.approx(0.36 / np.expm1(0.36), abs=0.05)


def test_rows_without_error_have_no_logarithm() -> None:
    x = normal(1000, 3)
    error = np.exp(x[:, :1]) * np.ones((1, 3), F32)
    error[::5] = 0
    assert split_error(x, error.astype(F32)).log_norm_r2 == pytest.approx(1, abs=1e-6)


def test_held_out_rows_are_not_fitted_to() -> None:
    # As many weights as rows to fit to, nearly: noise is followed there and made worse elsewhere.
    x, error = normal(200, 90), normal(200, 90, seed=1)
    got = split_error(x, error)
    assert got.rows == 100 and got.vector_r2 < -1
    assert split_error(x, error, seed=0).vector_r2 == got.vector_r2 != split_error(x, error, seed=1).vector_r2
    assert split_error(x, error, held_out=0.1).rows == 180


def test_wrong_arguments() -> None:
    x = normal(50, 10)
    with pytest.raises(ShapeError):
        split_error(x, x[:, :3])
    with pytest.raises(InvalidVectorError):
        split_error(x, np.full_like(x, np.nan))
    for held_out in (0.0, 1.0, 0.02, 0.8):
        with pytest.raises(InvalidArgumentError):
            split_error(x, x, held_out=held_out)
    with pytest.raises(InvalidArgumentError):
        split_error(x, np.zeros_like(x))
    with pytest.raises(InvalidVectorError):
        split_error(np.ones_like(x), x)
    with pytest.raises(ShapeError):
        split_error(x, normal(50, 10, seed=1)).linear(x[:, :5])


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x, error = normal(5000, 64), normal(5000, 64, seed=1) + normal(5000, 64)
    got, expected = (split_error(x, error, device=device) for device in ("cuda", "cpu"))
    assert got.vector_r2 == pytest.approx(expected.vector_r2, abs=1e-6)
    assert got.norm_r2 == pytest.approx(expected.norm_r2, abs=1e-6)
