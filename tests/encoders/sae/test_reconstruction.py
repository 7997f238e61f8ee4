from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.reconstruction import density_histogram, fvu, reconstruction, spread
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def axes(k: int = 1) -> SAE:
    """Four latents: along x, along y, along the diagonal but deaf, and along y but listening to x."""
    root = math.sqrt(0.5)
    return SAE(k=k, W_enc=np.array([[1, 0], [0, 1], [1, 1], [1, 0]], F32), b_enc=np.array([0, 0, -99, -99], F32),
               W_dec=np.array([[1, 0], [0, 1], [root, root], [0, 1]], F32), b_dec=np.zeros(2, F32))


def test_numbers_by_hand() -> None:
    # Mean 0, squared lengths 4, 4, 10, 10. One latent is kept, and none for the negative rows: errors 0, 4, 1, 10.
    x = np.array([[2, 0], [-2, 0], [3, 1], [-3, -1]], F32)
    codes = csr_matrix(np.array([[2, 0, 0, 0], [0] * 4, [3, 0, 0, 0], [0] * 4], F32))
    got = reconstruction(axes(), x)
    assert got.fvu == pytest.approx(15 / 28)
    assert reconstruction(axes(), x, codes).fvu == got.fvu
    assert got.cosine == pytest.approx((1 + 0 + 3 / math.sqrt(10) + 0) / 4)
    assert got.worst_decile_fvu == pytest.approx(1.0)  # one row of four: lost altogether
    assert (got.l0, got.dead) == (0.5, 0.75)
    assert got.l0_p99 == 1.0
    assert got.density.tolist() == [0.5, 0, 0, 0]
    root = math.sqrt(0.5)
    np.testing.assert_allclose(got.nearest_atom, [root, 1, root, 1], rtol=1e-6)
    np.testing.assert_allclose(got.alignment, [1, 1, 1, 0], atol=1e-6)


def test_worst_rows_are_those_with_the_largest_relative_error() -> None:
    # 20 rows in mirrored pairs, so that the mean is 0: two of length 2, the others of length 20. Row 0 misses half of
    # its length, which is 1 of 4; row 1 three tenths, 36 of 400; all others a tenth, 4 of 400.
    angle = np.linspace(0, math.pi, 10, endpoint=False)
    half = 20 * np.stack([np.cos(angle), np.sin(angle)], 1)
    half[0] = [2, 0]
    x = np.concatenate([half, -half]).astype(F32)
    every = SAE(k=4, W_enc=np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], F32), b_enc=np.zeros(4, F32),
                W_dec=np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], F32), b_dec=np.zeros(2, F32))
    codes = every.encode(x)
    for row, scale in enumerate([0.5, 0.7] + [0.9] * 18):
        codes.data[codes.indptr[row]:codes.indptr[row + 1]] *= F32(scale)
    got = reconstruction(every, x, codes)
    assert got.worst_decile_fvu == pytest.approx((1 + 36) / (4 + 400), rel=1e-4)  # ceil(20 / 10) = 2 rows
    assert got.fvu == pytest.approx((1 + 36 + 17 * 4 + 0.04) / (18 * 400 + 2 * 4), rel=1e-4)


def test_against_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(30, 8))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    sae = SAE(k=4, W_enc=rng.normal(size=(30, 8)).astype(F32), b_enc=np.zeros(30, F32), W_dec=w.astype(F32),
              b_dec=rng.normal(size=8).astype(F32))
    x = rng.normal(size=(57, 8)).astype(F32)
    got, codes = reconstruction(sae, x), sae.encode(x).toarray().astype(float)
    rebuilt = codes @ w + sae.b_dec
    missed, centred = np.square(x - rebuilt).sum(1), np.square(x - x.mean(0)).sum(1)
    assert got.fvu == pytest.approx(missed.sum() / centred.sum(), rel=1e-5) == fvu(x, (x - rebuilt).astype(F32))
    worst = np.argsort(-missed / centred)[:6]
    assert got.worst_decile_fvu == pytest.approx(missed[worst].sum() / centred[worst].sum(), rel=1e-5)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(rebuilt, axis=1)
    assert got.cosine == pytest.approx(((x * rebuilt).sum(1) / lengths).mean(), rel=1e-5)
    active = (codes > 0).sum(1)
    assert (got.l0, got.l0_p99) == (active.mean(), np.quantile(active, 0.99))
    np.testing.assert_allclose(got.density, (codes > 0).mean(0))
    assert got.dead == (got.density == 0).mean()
    table = w @ w.T
    np.fill_diagonal(table, -2)
    np.testing.assert_allclose(got.nearest_atom, table.max(1), atol=1e-5)


@given(st.integers(2, 60), st.floats(0.01, 2.0), st.integers(0, 2**31))
def test_the_worst_are_no_better_than_all(rows: int, scale: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 2)).astype(F32)
    sae = axes(2)
    codes = sae.encode(x)
    codes.data *= F32(scale)
    got = reconstruction(sae, x, codes)
    assert got.worst_decile_fvu >= got.fvu * (1 - 1e-6) and got.l0 <= got.l0_p99 + 1


def test_rebuilding_the_mean_explains_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(F32)
    sae = SAE(k=1, W_enc=np.zeros((2, 3), F32), b_enc=np.full(2, -1, F32), W_dec=np.eye(3, dtype=F32)[:2],
              b_dec=x.mean(0))
    got = reconstruction(sae, x)
    assert got.fvu == pytest.approx(1, rel=1e-5) == got.worst_decile_fvu and got.l0 == 0 and got.dead == 1


def test_histogram_by_hand() -> None:
    # Edges 1e-3, 1e-2, 1e-1, 1: an edge belongs to the bin above, 1 to the last, what is rarer to the first.
    got = density_histogram(np.array([0, 0, 1e-5, 2e-3, 1e-2, 0.05, 0.5, 1.0]), bins=3, lowest=1e-3)
    np.testing.assert_allclose(got.edges, [-3, -2, -1, 0])
    assert got.counts.tolist() == [2, 2, 2] and got.silent == 2
    assert density_histogram(np.zeros(0)).counts.sum() == 0


def test_wrong_arguments() -> None:
    x = np.ones((3, 2), F32)
    with pytest.raises(InvalidVectorError):
        reconstruction(axes(), x)
    with pytest.raises(InvalidVectorError):
        spread(x[:1])
    with pytest.raises(ShapeError):
        reconstruction(axes(), np.eye(3, dtype=F32))
    with pytest.raises(ShapeError):
        reconstruction(axes(), np.eye(2, dtype=F32), csr_matrix((3, 4), dtype=F32))
    single = SAE(k=1, W_enc=np.ones((1, 1), F32), b_enc=np.zeros(1, F32), W_dec=np.ones((1, 1), F32),
                 b_dec=np.zeros(1, F32))
    with pytest.raises(InvalidArgumentError):
        reconstruction(single, np.array([[1], [2]], F32))
    for options in ({"bins": 0}, {"lowest": 0.0}, {"lowest": 1.0}):
        with pytest.raises(InvalidArgumentError):
            density_histogram(np.array([0.5]), **options)  # type: ignore[arg-type]
    for density in (-0.1, 1.1, np.nan):
        with pytest.raises(InvalidArgumentError):
            density_histogram(np.array([density]))
