from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.probes import (
    _best_threshold,
    _largest_differences,
    logistic_regression,
    probe_labels,
)
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32


def labels_of(*columns: list[int]) -> np.ndarray:
    return np.array(columns, bool).T


def planted(rows: int = 1500, seed: int = 0) -> tuple[np.ndarray, csr_matrix, np.ndarray]:
    """Label 0 is latent 7; label 1 is latent 3 or latent 4; label 2 a direction of x; label 3 is nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 10)).astype(F32)
    active = rng.random((rows, 30)) < 0.1
    codes = csr_matrix((active * rng.uniform(0.5, 1.5, active.shape)).astype(F32))
    labels = np.stack([active[:, 7], active[:, 3] | active[:, 4], x.sum(1) > 1, rng.random(rows) < 0.3], axis=1)
    x[:, 0] += labels[:, 0]  # the embedding knows label 0 a little, in one component
    return x, codes, labels


def test_differences_of_means_by_hand() -> None:
    codes = csr_matrix(np.array([[4, 0, 1], [2, 0, 1], [0, 9, 1], [0, 3, 1]], F32))
    # Label 0 on rows 0, 1: differences 3, 6, 0. On row 3 alone: 2, 0, 0 (3 - 3 for latent 1), equal ones by number.
    got = _largest_differences(codes, labels_of([1, 1, 0, 0], [0, 0, 0, 1]), 2)
    assert got.tolist() == [[1, 0], [0, 1]]


def test_threshold_by_hand() -> None:
    # F1 at 4: 2/3; at 3: 1/2; at 2: 4/5; at 1: 2/3.
    assert _best_threshold(np.array([1.0, 4, 3, 2]), np.array([0, 1, 0, 1], bool)) == 2
    # Equal scores are all in or all out: at 2 with three rows 4/5, though the first two would be perfect.
    assert _best_threshold(np.array([2.0, 2, 2, 0]), np.array([1, 1, 0, 0], bool)) == 2


def test_regression_against_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4)), (rng.random(80) < 0.4).astype(float)
    got = logistic_regression(torch.from_numpy(x), torch.from_numpy(y), penalty=2.0).numpy()

    def loss(w: np.ndarray) -> float:
        z = x @ w[:4] + w[4]
        return float(np.logaddexp(0, z).sum() - y @ z + w[:4] @ w[:4])

    expected = minimize(loss, np.zeros(5), tol=1e-12).x
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert loss(got) <= loss(expected) + 1e-9


def test_regression_by_hand() -> None:
    # Without any use in x the constant is the log odds: 3 to 1.
    x = torch.tensor([[1.0], [1], [-1], [-1], [1], [1], [-1], [-1]], dtype=torch.float64)
    y = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 1], dtype=torch.float64)
    weights = logistic_regression(x, y)
    assert weights[0] == pytest.approx(0, abs=1e-8) and weights[1] == pytest.approx(np.log(3), abs=1e-6)


@pytest.mark.parametrize("penalty", [1.0, 1e-6])
def test_separable_labels_do_not_run_away(penalty: float) -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None] * 1000
    weights = logistic_regression(x, (x[:, 0] > 0).double(), penalty)
    assert torch.isfinite(weights).all() and weights[0] > 0
    assert ((x @ weights[:1] + weights[1] > 0) == (x[:, 0] > 0)).all()


def test_planted_labels() -> None:
    x, codes, labels = planted()
    got = probe_labels(x, codes, labels, ks=(1, 2, 5))
    assert got.auroc.shape == got.f1.shape == (3, 4) and got.latents.shape == (4, 5) and got.ks == (1, 2, 5)
    assert got.latents[0, 0] == 7 and set(got.latents[1, :2]) == {3, 4}
    assert (got.auroc[:, 0] > 0.999).all() and (got.f1[:, 0] > 0.99).all()
    assert got.auroc[0, 1] < 0.85 and got.auroc[1, 1] > 0.999 and got.f1[0, 1] < 0.8 < 0.97 < got.f1[1, 1]
    assert got.dense_auroc[2] > 0.99 and got.dense_f1[2] > 0.95 and (got.auroc[:, 2] < 0.6).all()
    assert 0.5 < got.dimension_auroc[2] < 0.8 < got.dense_auroc[2]
    assert got.dimension[0] == 0 and 0.6 < got.dimension_auroc[0] < 0.9
    for nothing in (got.auroc[:, 3], got.dense_auroc[3:], got.dimension_auroc[3:]):
        assert (np.abs(nothing - 0.5) < 0.1).all()


def test_test_rows_are_not_looked_at() -> None:
    x, codes, labels = planted(400)
    train = np.arange(400) < 200
    clean = probe_labels(x, codes, labels, ks=(1,), train=train)
    labels[200:] = np.random.default_rng(1).random((200, 4)) < 0.3
    spoilt = probe_labels(x, codes, labels, ks=(1,), train=train)
    np.testing.assert_array_equal(clean.latents, spoilt.latents)
    np.testing.assert_array_equal(clean.dimension, spoilt.dimension)
    assert clean.auroc[0, 0] > 0.99 and abs(spoilt.auroc[0, 0] - 0.5) < 0.15
    again = probe_labels(x, codes, labels, ks=(1,), seed=3)
    np.testing.assert_array_equal(again.dense_auroc, probe_labels(x, codes, labels, ks=(1,), seed=3).dense_auroc)


def test_wrong_arguments() -> None:
    x, codes, labels = planted(60)
    for wrong in (labels[:5], labels.astype(int), labels[:, 0]):
        with pytest.raises(ShapeError):
            probe_labels(x, codes, wrong)
    for ks in ((), (0,), (31,)):
        with pytest.raises(InvalidArgumentError):
            probe_labels(x, codes, labels, ks=ks)
    with pytest.raises(InvalidArgumentError):
        probe_labels(x, codes, labels, penalty=0)
    for train in (np.ones(59, bool), np.ones(60)):
        with pytest.raises(ShapeError):
            probe_labels(x, codes, labels, train=train)
    with pytest.raises(ShapeError):
        probe_labels(x, codes[:5], labels)
    labels[:, 2] = np.arange(60) == 0
    with pytest.raises(InvalidArgumentError, match="label 2 among the other rows, got 0"):
        probe_labels(x, codes, labels, train=np.arange(60) < 30)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x, codes, labels = planted()
    got, expected = (probe_labels(x, codes, labels, ks=(1, 5), device=device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(got.auroc, expected.auroc, atol=1e-3)
    np.testing.assert_allclose(got.dense_auroc, expected.dense_auroc, atol=1e-3)
