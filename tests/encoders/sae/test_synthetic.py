from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.synthetic import Synthetic, activation_f1, make_synthetic, recovery
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32


def test_shapes_and_what_it_was_made_of() -> None:
    got = make_synthetic(500, 20, 60, active=5)
    assert got.x.shape == (500, 20) and got.x.dtype == F32 == got.codes.dtype == got.dictionary.dtype
    assert got.codes.shape == (500, 60) and got.codes.data.min() >= 0.5 and got.codes.data.max() <= 1.5
    np.testing.assert_allclose(np.linalg.norm(got.dictionary, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(got.x, got.codes @ got.dictionary, atol=1e-5)
    assert (got.parent == -1).all()


def test_frequencies() -> None:
    even = make_synthetic(20_000, 4, 50, active=5)
    assert even.codes.nnz / 20_000 == pytest.approx(5, rel=0.02)
    np.testing.assert_allclose((even.codes > 0).mean(0), 0.1, atol=0.015)
    zipf = make_synthetic(50_000, 4, 50, active=2, decay=1.0)
    share = np.asarray((zipf.codes > 0).mean(0)).ravel()
    harmonic = (1 / np.arange(1, 51)).sum()
    np.testing.assert_allclose(share, 2 / harmonic / np.arange(1, 51), atol=0.01)
    capped = make_synthetic(20_000, 4, 2, active=2)
    np.testing.assert_allclose((capped.codes > 0).mean(0), 0.5, atol=0.02)


def test_children_come_with_their_parents_only() -> None:
    got = make_synthetic(20_000, 4, 31, active=3, children=2, child_rate=0.25)
    assert got.parent.tolist()[:7] == [-1, 0, 0, -1, 3, 3, -1] and got.parent[30] == -1
    active = got.codes.toarray() > 0
    for child in np.flatnonzero(got.parent >= 0):
        parent = active[:, got.parent[child]]
        assert not active[~parent, child].any()
        assert active[parent, child].mean() == pytest.approx(0.25, abs=0.05)
    assert active.sum(1).mean() == pytest.approx(3, rel=0.02)


def test_features_of_a_group_come_together() -> None:
    got = make_synthetic(20_000, 4, 40, active=8, group=4, correlation=0.7)
    active = got.codes.toarray() > 0
    np.testing.assert_allclose(active.mean(0), 0.2, atol=0.02)  # frequencies stay
    table = np.corrcoef(active.T)
    inside = np.kron(np.eye(10), np.ones((4, 4))).astype(bool)
    assert table[inside & ~np.eye(40, dtype=bool)].min() > 0.3 and np.abs(table[~inside]).max() < 0.05


def test_noise_is_as_large_as_said() -> None:
    clean, noisy = (make_synthetic(4000, 30, 50, noise=noise) for noise in (0.0, 0.5))
    assert (clean.codes != noisy.codes).nnz == 0
    signal, rest = clean.x, noisy.x - clean.x
    assert np.square(rest).mean() / np.square(signal).mean() == pytest.approx(0.25, rel=0.03)


def test_seeds() -> None:
    first, again, other = (make_synthetic(50, 8, 20, noise=0.1, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)


def by_hand() -> Synthetic:
    codes = csr_matrix(np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], F32))
    atoms = np.eye(3, dtype=F32)
    return Synthetic(x=codes @ atoms, codes=codes, dictionary=atoms, parent=np.full(3, -1))


def test_recovery_by_hand() -> None:
    # Learned: the second atom, and one between the first and the third.
    learned = np.array([[0, 1, 0], [0.8, 0, 0.6]], F32)
    codes = csr_matrix(np.array([[0, 2], [3, 0], [4, 0], [0, 5]], F32))
    got = recovery(by_hand(), learned, codes)
    assert got.mmcs == pytest.approx((0.8 + 1 + 0.6) / 3)
    assert got.partner.tolist() == [1, 0, -1] and got.mcc == pytest.approx((0.8 + 1 + 0) / 3)
    np.testing.assert_allclose(got.cosine, [0.8, 1, 0], atol=1e-6)
    # Feature 0: rows 0, 1 against rows 0, 3: one of both, 2 / 4. Feature 1: rows 1, 2 twice. Feature 2 is never active.
    assert activation_f1(by_hand().codes, codes, got.partner).tolist() == [0.5, 1, 0]
    assert got.f1 == 0.75
    assert np.isnan(recovery(by_hand(), learned).f1)


def test_a_reordered_truth_is_recovered_whole_and_a_random_dictionary_not() -> None:
    truth = make_synthetic(400, 32, 80)
    order = np.random.default_rng(1).permutation(80)
    got = recovery(truth, truth.dictionary[order], csr_matrix(truth.codes[:, order]))
    assert got.mmcs == pytest.approx(1, abs=1e-6) == got.mcc and got.f1 == 1
    np.testing.assert_array_equal(order[got.partner], np.arange(80))
    other = make_synthetic(400, 32, 80, seed=5)
    random = recovery(truth, other.dictionary, other.codes)
    assert random.mcc < random.mmcs < 0.6 and random.f1 < 0.3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(1, 4),
       st.floats(0, 0.9), st.floats(0, 2), st.integers(0, 2**31))
def test_any_setting(rows: int, features: int, learned: int, children: int, group: int, correlation: float,
                     decay: float, seed: int) -> None:
    truth = make_synthetic(rows, 5, features, active=min(2, features), children=children, group=group,
                           correlation=correlation, decay=decay, seed=seed)
    assert truth.codes.has_canonical_format and np.isfinite(truth.x).all()
    got = recovery(truth, make_synthetic(1, 5, learned, active=1, seed=seed + 1).dictionary)
    assert (got.partner >= 0).sum() == min(features, learned) and got.mmcs <= 1 + 1e-5
    assert got.mcc <= got.mmcs + 1e-6 or learned < features  # 0 for no partner may be above a negative best cosine


@pytest.mark.parametrize("change", [
    {"rows": 0}, {"d_in": 0}, {"n_features": 0}, {"active": 0}, {"active": 11}, {"decay": -1}, {"children": -1},
    {"child_rate": 0}, {"child_rate": 1.1}, {"group": 0}, {"correlation": 1}, {"correlation": -0.1}, {"noise": -1}])
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        make_synthetic(**({"rows": 3, "d_in": 4, "n_features": 10} | change))


def test_wrong_codes() -> None:
    with pytest.raises(ShapeError):
        recovery(by_hand(), np.eye(3, dtype=F32), csr_matrix((4, 2), dtype=F32))
    with pytest.raises(ShapeError):
        recovery(by_hand(), np.eye(4, dtype=F32))
