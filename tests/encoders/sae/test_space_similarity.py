from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparsight.encoders.sae import space_similarity as module
from sparsight.encoders.sae.space_similarity import space_similarity
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32


def normal(rows: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(F32)


def test_similarity_does_not_see_rotations_and_scale() -> None:
    a = normal(100, 6)
    turn = np.linalg.qr(normal(6, 6, seed=1))[0]
    same = space_similarity(a, 5 * a @ turn, pairings=5)
    assert same.svcca == pytest.approx(1, abs=1e-5) and same.rsa == pytest.approx(1, abs=1e-4)
    # SVCCA does not see any invertible map either, once all directions are kept; RSA does.
    bent = space_similarity(a, (a * [9, 1, 1, 1, 1, 1]).astype(F32), pairings=5, variance=1.0)
    assert bent.svcca == pytest.approx(1, abs=1e-5) and bent.rsa < 0.8


def test_svcca_by_hand() -> None:
    # Two directions each: one the same, one at right angles to all. Correlations 1 and 0.
    base = np.linalg.qr(np.column_stack([np.ones(40), normal(40, 3)]))[0][:, 1:]  # orthogonal, of mean 0
    got = space_similarity(base[:, :2].astype(F32), base[:, 1:].astype(F32), pairings=2)
    assert got.svcca == pytest.approx(0.5, abs=1e-6)
    # The second direction of the first space holds under 1 % of its variance, and goes.
    got = space_similarity((base[:, :2] * [0.05, 1]).astype(F32), base[:, 1:].astype(F32), pairings=2)
    assert got.svcca == pytest.approx(1, abs=1e-6)


def test_rsa_against_scipy() -> None:
    a, b = normal(30, 5), normal(30, 4, seed=1)
    b[:, 0] += a[:, 0]
    upper = np.triu_indices(30, 1)
    tables = [(x @ x.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1)))[upper] for x in (a, b)]
    got = space_similarity(a, b, pairings=50)
    assert got.rsa == pytest.approx(spearmanr(*tables).statistic, abs=1e-6)
    order = np.random.default_rng(3).permutation(30)
    shuffled = space_similarity(a, b[order], pairings=2).rsa
    assert module._rsa(a, b, "cpu")(order) == pytest.approx(shuffled, abs=1e-6)
    assert module._svcca(a, b, 0.99, "cpu")(order) == pytest.approx(
        space_similarity(a, b[order], pairings=2).svcca, abs=1e-6)


def test_rsa_of_some_rows() -> None:
    a = normal(300, 5)
    got = space_similarity(a, a, most=50, pairings=3)
    assert got.rsa == pytest.approx(1, abs=1e-5) and got.pairs == 300
    again = space_similarity(a, normal(300, 5, seed=1), most=50, pairings=3, seed=7)
    assert again == space_similarity(a, normal(300, 5, seed=1), most=50, pairings=3, seed=7)


def test_wrong_arguments() -> None:
    rows = normal(20, 4)
    with pytest.raises(ShapeError):
        space_similarity(rows, rows[:9])
    for options in ({"pairings": 1}, {"most": 2}, {"variance": 0.0}, {"variance": 1.1}):
        with pytest.raises(InvalidArgumentError):
            space_similarity(rows, rows, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="more than 21 pairs"):
        space_similarity(normal(20, 10), normal(20, 10, seed=1), variance=1.0)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    a, b = normal(500, 16), normal(500, 16) + normal(500, 16, seed=1)
    got, expected = (space_similarity(a, b, device=device) for device in ("cuda", "cpu"))
    assert got.svcca == pytest.approx(expected.svcca, abs=1e-6) and got.rsa == pytest.approx(expected.rsa, abs=1e-6)
