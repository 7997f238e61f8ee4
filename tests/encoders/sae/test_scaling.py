from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.encoders.sae.scaling import ScalingLaw, _fit, fit_scaling, r_squared
from sparsight.errors import InvalidArgumentError, ShapeError

LAW = ScalingLaw(alpha=-0.5, beta_k=0.26, beta_n=-0.02, gamma=-0.04, zeta=-1.3, eta=-0.08)
N, K = (column.ravel() for column in np.meshgrid(2.0 ** np.arange(9, 17), 2.0 ** np.arange(2, 8)))  # 48 cells


def test_numbers_by_hand() -> None:
    law = ScalingLaw(alpha=0, beta_k=0, beta_n=-1, gamma=0, zeta=np.log(0.25), eta=-1)
    np.testing.assert_allclose(law.loss([4, 8], 2), [1 / 4 + 1 / 8, 1 / 8 + 1 / 8])
    assert law.log_loss(4, 2) == pytest.approx(np.log(0.375))
    crossed = ScalingLaw(alpha=1, beta_k=2, beta_n=3, gamma=4, zeta=-1000, eta=0)
    assert crossed.log_loss(np.e, np.e) == pytest.approx(1 + 2 + 3 + 4)
    assert crossed.loss([[10, 20, 30]], [[1], [2]]).shape == (2, 3)
    assert r_squared([1, 2, 3], [1, 2, 3]) == 1 and r_squared([1, 2, 3], [2, 2, 2]) == 0
    assert r_squared([1, 2, 3], [1, 2, 5]) == -1


def test_a_known_law_is_recovered() -> None:
    got = fit_scaling(N, K, LAW.loss(N, K))
    assert got.r2 > 1 - 1e-9 and got.held_out_r2 > 1 - 1e-6 and np.abs(got.residuals).max() < 1e-5
    for name in ("alpha", "beta_k", "beta_n", "gamma", "zeta", "eta"):
        assert getattr(got.law, name) == pytest.approx(getattr(LAW, name), abs=0.02), name
    far = got.law.loss(2.0**20, 64)  # 16 times beyond the grid
    assert far == pytest.approx(float(LAW.loss(2.0**20, 64)), rel=1e-3)


def test_noise_lowers_what_is_held_out() -> None:
    noise = np.random.default_rng(0).normal(size=len(N))
    fits = [fit_scaling(N, K, LAW.loss(N, K) * np.exp(size * noise), starts=8) for size in (0.002, 0.05)]
    assert fits[0].held_out_r2 > 0.999 > fits[1].held_out_r2
    for fit in fits:
        assert fit.held_out_r2 < fit.r2 <= 1 and fit.residuals.std() < fit.held_out_residuals.std()


def test_held_out_cells_are_predicted_without_them() -> None:
    n, k = N[::3], K[::3]  # 16 cells
    loss = LAW.loss(n, k)
    loss[7] *= 2
    one_out = fit_scaling(n, k, loss, folds=16, starts=1)
    rest = np.arange(16) != 7
    without = fit_scaling(n[rest], k[rest], loss[rest], folds=2, starts=1)
    expected = np.log(loss[7]) - without.law.log_loss(n[7], k[7])
    assert one_out.held_out_residuals[7] == pytest.approx(expected, abs=1e-3) == pytest.approx(np.log(2), abs=1e-3)
    assert abs(one_out.residuals[7]) < np.log(2) - 0.05


def test_a_law_without_a_floor() -> None:
    law = ScalingLaw(alpha=0.3, beta_k=-0.3, beta_n=-0.2, gamma=0, zeta=-40, eta=0)
    got = fit_scaling(N, K, law.loss(N, K), starts=4)
    assert got.r2 > 1 - 1e-6 and got.held_out_r2 > 1 - 1e-4
    np.testing.assert_allclose(got.law.loss(N, K), law.loss(N, K), rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.floats(-1, 1), st.floats(-0.5, 0.3), st.floats(-0.3, -0.02), st.floats(-0.05, 0.02), st.floats(-4, -0.5),
       st.floats(-0.4, 0.2))
def test_any_law_is_predicted(alpha: float, beta_k: float, beta_n: float, gamma: float, zeta: float,
                              eta: float) -> None:
    law = ScalingLaw(alpha, beta_k, beta_n, gamma, zeta, eta)
    log_loss = law.log_loss(N, K)
    got = _fit(np.log(N), np.log(K), log_loss, 12, 0)
    assert np.abs(got.log_loss(N, K) - log_loss).max() < 1e-3


def test_equal_seeds_equal_fits() -> None:
    loss = LAW.loss(N, K) * np.exp(0.01 * np.random.default_rng(0).normal(size=len(N)))
    first, second, other = (fit_scaling(N, K, loss, starts=3, seed=seed) for seed in (1, 1, 2))
    assert first.law == second.law and first.held_out_r2 == second.held_out_r2 != other.held_out_r2


@pytest.mark.parametrize("change", [{"n_latents": N[1:]}, {"loss": np.ones((2, 24))}])
def test_wrong_shapes(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ShapeError):
        fit_scaling(**({"n_latents": N, "k": K, "loss": LAW.loss(N, K)} | change))


@pytest.mark.parametrize("change", [
    {"loss": np.where(N > 600, 0.5, 0.0)}, {"loss": np.where(N > 600, 0.5, np.nan)}, {"k": -K},
    {"n_latents": np.full(48, 512.0)}, {"k": np.where(K > 8, 8.0, 4.0)}, {"folds": 1}, {"folds": 49}, {"starts": 0},
    {"loss": np.ones(48)}])
def test_wrong_values(change: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        fit_scaling(**({"n_latents": N, "k": K, "loss": LAW.loss(N, K), "starts": 1} | change))  # type: ignore[arg-type]


def test_too_few_cells() -> None:
    with pytest.raises(InvalidArgumentError, match="at least 7 cells"):
        fit_scaling(N[:8], K[:8], LAW.loss(N, K)[:8], folds=4)
