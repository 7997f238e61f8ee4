from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from sparsight.encoders.sae import auroc as module
from sparsight.encoders.sae.auroc import auroc
from sparsight.errors import InvalidVectorError, ShapeError

F32 = np.float32


def labels_of(*columns: list[int]) -> np.ndarray:
    return np.array(columns, bool).T


def brute_auroc(scores: np.ndarray, has: np.ndarray) -> float:
    yes, no = scores[has][:, None], scores[~has][None]
    return float(((yes > no) + 0.5 * (yes == no)).mean())


def test_auroc_by_hand() -> None:
    codes = csr_matrix(np.array([[0, 0], [0, 2], [1, 2], [3, 0], [2, 0]], F32))
    # Label 0 on rows 3, 4: latent 0 above the others without exception. Latent 1: both tie with row 0 of three, below
    # two: (1/2 * 2) / 6. Label 1 on rows 0, 2: latent 0: row 0 ties with row 1; row 2 is above row 1: 1.5 of 6.
    got = auroc(codes, labels_of([0, 0, 0, 1, 1], [1, 0, 1, 0, 0], [1] * 5))
    np.testing.assert_allclose(got[:, :2], [[1, 1.5 / 6], [1 / 6, (0.5 * 2 + 1 * 2 + 0.5) / 6]])
    assert np.isnan(got[:, 2]).all() and got.shape == (2, 3)
    silent = auroc(csr_matrix((4, 2), dtype=F32), labels_of([1, 0, 1, 0]))
    assert silent.tolist() == [[0.5], [0.5]]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.integers(1, 6), st.integers(0, 2**31))
def test_auroc_against_all_pairs(rows: int, latents: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (rows, latents)) * (rng.random((rows, latents)) < 0.6)  # many ties
    labels = rng.random((rows, 3)) < 0.5
    labels[0], labels[1] = True, False
    expected = [[brute_auroc(column, has) for has in labels.T] for column in x.T]
    np.testing.assert_allclose(auroc(csr_matrix(x.astype(F32)), labels), expected, atol=1e-12)
    np.testing.assert_allclose(auroc(x.astype(F32), labels), expected, atol=1e-12)
    np.testing.assert_allclose(auroc(-x.astype(F32), labels), 1 - np.array(expected), atol=1e-12)


def test_auroc_in_parts_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(50, 10)).astype(F32), rng.random((50, 2)) < 0.4
    whole = auroc(x, labels)
    monkeypatch.setattr(module, "_COLUMNS", 3)
    np.testing.assert_array_equal(auroc(x, labels), whole)


def test_selective_latents_are_counted() -> None:
    rng = np.random.default_rng(0)
    active = rng.random((1500, 30)) < 0.1
    labels = np.stack([active[:, 7], active[:, 3] | active[:, 4]], axis=1)
    table = auroc(csr_matrix(active.astype(F32)), labels)
    assert np.argwhere(table >= 0.95).tolist() == [[7, 0]] and (table >= 0.95).any(1).sum() == 1
    # Latent 3 fires on a share s of its label and nowhere else: 1 - (1 - s) / 2.
    share = active[:, 3].sum() / labels[:, 1].sum()
    assert table[3, 1] == pytest.approx((1 + share) / 2)


def test_wrong_arguments() -> None:
    codes = csr_matrix(np.ones((6, 2), F32))
    labels = np.arange(6)[:, None] < 3
    for wrong in (labels[:5], labels.astype(int), labels[:, 0]):
        with pytest.raises(ShapeError):
            auroc(codes, wrong)
    with pytest.raises(InvalidVectorError):
        auroc(-codes, labels)
    with pytest.raises(InvalidVectorError):
        auroc(np.full((6, 1), np.nan), labels)
