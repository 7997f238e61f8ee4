from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from sparsight.encoders import SAEConfig, train_sae
from sparsight.encoders.sae import refinement
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.refinement import lista_step, prune, pursue, refit
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32
ROOT = np.sqrt(0.5)


def tied_sae(n: int = 60, d: int = 16, k: int = 5, seed: int = 0) -> SAE:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(n, d))
    w = (w / np.linalg.norm(w, axis=1, keepdims=True)).astype(F32)
    b_dec = (0.1 * rng.normal(size=d)).astype(F32)
    return SAE(k=k, W_enc=w, b_enc=-w @ b_dec, W_dec=w, b_dec=b_dec)


def rows_of(sae: SAE, rows: int = 25, seed: int = 1) -> np.ndarray:
    """Four atoms each, and noise."""
    rng = np.random.default_rng(seed)
    atoms = np.array([rng.choice(sae.n_latents, 4, replace=False) for _ in range(rows)])
    x = np.einsum("bj,bjd->bd", rng.uniform(0.5, 2, (rows, 4)), sae.W_dec[atoms]) + sae.b_dec
    return (x + 0.1 * rng.normal(size=x.shape)).astype(F32)


def squared_errors(sae: SAE, x: np.ndarray, codes: csr_matrix) -> np.ndarray:
    """In float64, one a row."""
    rebuilt = codes.toarray().astype(np.float64) @ sae.W_dec.astype(np.float64) + sae.b_dec
    return np.square(x - rebuilt).sum(1)


def assert_codes(codes: csr_matrix, shape: tuple[int, int], most: int) -> None:
    assert codes.shape == shape and codes.dtype == F32 and codes.indices.dtype == np.int32
    assert codes.has_canonical_format and (codes.data > 0).all()
    assert np.diff(codes.indptr).max(initial=0) <= most


@pytest.fixture
def by_hand() -> SAE:
    """Latents along x, y and the diagonal; the encoder is the decoder."""
    w = np.array([[1, 0], [0, 1], [ROOT, ROOT]], F32)
    return SAE(k=2, W_enc=w, b_enc=np.zeros(3, F32), W_dec=w, b_dec=np.zeros(2, F32))


@pytest.fixture(scope="module")
def trained() -> tuple[SAE, np.ndarray]:
    """An autoencoder trained on mixtures of more atoms than it has latents, and rows that it has not seen."""
    rng = np.random.default_rng(7)
    atoms = rng.normal(size=(300, 32))
    x = np.stack([rng.uniform(0.5, 1.5, 6) @ atoms[rng.choice(300, 6, replace=False)] for _ in range(2400)])
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)
    sae, _ = train_sae(x[:2000], SAEConfig(n_latents=128, k=8, epochs=20))
    return sae, x[2000:]


# --- on a trained autoencoder ------------------------------------------------------------------------------------


def fvu(sae: SAE, x: np.ndarray, codes: csr_matrix) -> float:
    return float(squared_errors(sae, x, codes).sum() / np.square(x - x.mean(0)).sum())


def test_each_leaves_less_error_than_the_encoder_with_as_many_latents(trained: tuple[SAE, np.ndarray]) -> None:
    sae, x = trained
    encoded, twice = sae.encode(x), sae.encode(x, 16)
    pursued, some = pursue(sae, x), pursue(sae, x, candidates=8)
    for codes in (pursued, some, lista_step(sae, x), refit(sae, x, encoded), prune(sae, x, refit(sae, x, twice), 8)):
        assert_codes(codes, (400, 128), 8)
        assert fvu(sae, x, codes) < 0.97 * fvu(sae, x, encoded)
    assert fvu(sae, x, pursued) < 0.8 * fvu(sae, x, encoded)
    assert fvu(sae, x, pursued) < fvu(sae, x, some) < fvu(sae, x, refit(sae, x, encoded))
    assert fvu(sae, x, refit(sae, x, pursued)) == pytest.approx(fvu(sae, x, pursued), rel=1e-3)  # no better values


def test_a_pruned_code_is_better_than_a_shorter_one(trained: tuple[SAE, np.ndarray]) -> None:
    sae, x = trained
    assert fvu(sae, x, prune(sae, x, sae.encode(x), 4)) < fvu(sae, x, sae.encode(x, 4))


# --- pursuit -----------------------------------------------------------------------------------------------------


def test_pursuit_by_hand(by_hand: SAE) -> None:
    x = np.array([[3, 1], [2, 2], [-1, -1], [-1, 2], [4, 3]], F32)
    # (3, 1): gains 3, 1, 2.83: x first, at 3. What is left is (0, 1), with gains y 1, diagonal 0.71: y, at 1.
    # (2, 2): the diagonal explains everything. (-1, -1): nothing does. (-1, 2): y at 2; then no gain is above 0.
    # (4, 3): the diagonal, at 7 ROOT = 4.95; (0.5, -0.5) is left: x as well, and (4, 3) is x + 6 ROOT diagonal.
    expected = [[3, 1, 0], [0, 0, 4 * ROOT], [0, 0, 0], [0, 2, 0], [1, 0, 6 * ROOT]]
    np.testing.assert_allclose(pursue(by_hand, x).toarray(), expected, atol=1e-4)
    np.testing.assert_allclose(pursue(by_hand, x, 1).toarray()[0], [3, 0, 0], atol=1e-6)
    # The largest gains in (3, 1) are those of x and the diagonal: no other joins x.
    np.testing.assert_allclose(pursue(by_hand, x[:1], candidates=2).toarray(), [[2, 0, 2 * ROOT]], atol=1e-4)


def slow_pursuit(sae: SAE, row: np.ndarray, k: int) -> np.ndarray:
    """One row in float64: the latent with the largest gain, and the best values for all, k times."""
    w = sae.W_dec.astype(np.float64)
    target = row.astype(np.float64) - sae.b_dec
    z, chosen = np.zeros(len(w)), []
    for _ in range(k):
        gains = w @ (target - z @ w)
        best = max((i for i in range(len(w)) if i not in chosen), key=lambda i: gains[i])
        if gains[best] <= 0:
            break
        chosen.append(best)
        z[chosen], _ = nnls(w[chosen].T, target)
    return z


@pytest.mark.parametrize("candidates", [0, 1, 60])
def test_pursuit_against_one_row_at_a_time(candidates: int) -> None:
    sae = tied_sae()
    x = rows_of(sae)
    codes = pursue(sae, x, candidates=candidates)
    assert_codes(codes, (25, 60), 5)
    slow = np.stack([slow_pursuit(sae, row, 5) for row in x])
    same = (np.abs(codes.toarray() - slow) < 2e-3).all(1)
    assert same.sum() >= 22  # values short of the best choose otherwise where two latents gain nearly as much
    assert squared_errors(sae, x, codes).sum() < 1.02 * squared_errors(sae, x, csr_matrix(slow)).sum()


def test_pursuit_is_as_good_as_by_steps_along_the_gradient(
        trained: tuple[SAE, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = trained
    monkeypatch.setattr(refinement, "_FLOATS", 150 * (128 + 16 * 80))  # some blocks and a rest
    for k, pool in ((4, 0), (8, 0), (16, 0), (8, 24), (16, 3)):  # a pool of 3 is one of 16
        on_device = refinement._pursue(sae, x, k, pool, refinement._Model(sae, x, "cpu"))
        assert_codes(on_device, (400, 128), k)
        for candidates in (0, 64):
            here = fvu(sae, x, pursue(sae, x, k, candidates=candidates, pool=pool))
            assert 0.7 * fvu(sae, x, on_device) < here < 1.01 * fvu(sae, x, on_device)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), candidates=st.sampled_from([0, 30]))
def test_no_step_of_pursuit_adds_error(seed: int, candidates: int) -> None:
    sae = tied_sae(30, 8, 3, seed)
    x = np.random.default_rng(seed).normal(size=(10, 8)).astype(F32)
    errors = [squared_errors(sae, x, pursue(sae, x, k, candidates=candidates)) for k in range(1, 9)]
    for earlier, later in zip([np.square(x - sae.b_dec).sum(1), *errors], errors, strict=False):
        assert (later <= earlier + 1e-3).all()  # values are as near to the best as 34 sweeps come


def test_pursuit_finds_orthogonal_atoms_exactly() -> None:
    w = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0].astype(F32)
    sae = SAE(k=3, W_enc=w, b_enc=np.zeros(12, F32), W_dec=w, b_dec=np.zeros(12, F32))
    codes = csr_matrix(np.array([[2, 0, 0, 1, 0, 0, 0, 0.5, 0, 0, 0, 0], [0] * 11 + [3]], F32))
    np.testing.assert_allclose(pursue(sae, sae.decode(codes)).toarray(), codes.toarray(), atol=1e-5)


# --- LISTA -------------------------------------------------------------------------------------------------------


def test_lista_step_by_hand(by_hand: SAE) -> None:
    # (3, 1): z = (3, 0, 2.83), which rebuilds (5, 2), so that the error is (-2, -1). eta W_enc error is half of
    # (-2, -1, -2.12), and z plus that (2, -0.5, 1.77).
    x = np.array([[3, 1]], F32)
    np.testing.assert_allclose(lista_step(by_hand, x, eta=0.5).toarray(), [[2, 0, 2.5 * ROOT]], atol=1e-5)
    np.testing.assert_allclose(lista_step(by_hand, x, 1, eta=0.5).toarray(), [[3, 0, 0]], atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8])
def test_lista_step_against_numpy(eta: float) -> None:
    sae = tied_sae()
    x = rows_of(sae)
    z = sae.encode(x).toarray().astype(np.float64)
    again = z + eta * (x - z @ sae.W_dec - sae.b_dec) @ sae.W_enc.T
    again[again < -np.sort(-again, axis=1)[:, 4:5]] = 0
    codes = lista_step(sae, x, eta=eta)
    assert_codes(codes, (25, 60), 5)
    np.testing.assert_allclose(codes.toarray(), np.maximum(again, 0), atol=1e-5)


# --- pruning -----------------------------------------------------------------------------------------------------


def test_pruning_by_hand(by_hand: SAE) -> None:
    # x = (3, 1) from (3, 1.5, 0.1): r = (-0.0707, -0.5707). Growths 2 z (r . w) + z^2: x 9 - 0.42, y 2.25 - 1.71,
    # diagonal 0.01 - 0.0907 < 0. That goes; then r = (0, -0.5), and of 9 and 2.25 - 1.5 = 0.75 the smaller.
    x, codes = np.array([[3, 1]], F32), csr_matrix(np.array([[3, 1.5, 0.1]], F32))
    for options, expected in [
        ({}, [3, 1.5, 0]),
        ({"k": 2}, [3, 1.5, 0]),
        ({"k": 1}, [3, 0, 0]),
        ({"tolerance": 0.06}, [3, 1.5, 0]),  # of |x|^2 = 10; growths so far -0.0807
        ({"tolerance": 0.07}, [3, 0, 0]),
        ({"tolerance": 2.0}, [0, 0, 0]),
    ]:
        assert prune(by_hand, x, codes, **options).toarray().tolist() == [np.array(expected, F32).tolist()]


def slow_pruning(sae: SAE, row: np.ndarray, code: np.ndarray, k: int, tolerance: float) -> np.ndarray:
    """Tries every removal and takes the error itself, in float64."""
    z, target = code.astype(np.float64), row.astype(np.float64) - sae.b_dec
    w = sae.W_dec.astype(np.float64)

    def error(of: np.ndarray) -> float:
        return float(np.square(target - of @ w).sum())

    first = error(z)
    while z.any():
        best = min((np.where(np.arange(len(z)) == i, 0, z) for i in np.flatnonzero(z)), key=error)
        growth, total = error(best) - error(z), error(best) - first
        if not ((z > 0).sum() > k or growth <= 0 or total <= tolerance * (target @ target)):
            break
        z = best
    return z


@pytest.mark.parametrize(("k", "tolerance"), [(3, 0.0), (60, 0.0), (60, 0.05), (4, 0.02), (60, 5.0)])
def test_pruning_against_trying_every_removal(k: int, tolerance: float) -> None:
    sae = tied_sae()
    x = rows_of(sae)
    codes = sae.encode(x, 12)
    pruned = prune(sae, x, codes, k, tolerance=tolerance)
    assert_codes(pruned, (25, 60), k)
    for row, code, left in zip(x, codes.toarray(), pruned.toarray(), strict=True):
        np.testing.assert_allclose(left, slow_pruning(sae, row, code, k, tolerance), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), tolerance=st.floats(0, 1))
def test_pruning_adds_no_more_error_than_allowed(seed: int, tolerance: float) -> None:
    sae = tied_sae(30, 8, 10, seed)
    x = rows_of(sae, 10, seed)
    codes = sae.encode(x)
    grown = squared_errors(sae, x, prune(sae, x, codes, tolerance=tolerance)) - squared_errors(sae, x, codes)
    assert (grown <= tolerance * np.square(x - sae.b_dec).sum(1) + 1e-4).all()


# --- refitting ---------------------------------------------------------------------------------------------------


def test_refit_by_hand(by_hand: SAE) -> None:
    x = np.array([[3, 1], [-1, 2], [2, 2]], F32)
    codes = csr_matrix(np.array([[1, 0, 1], [5, 5, 0], [0, 0, 1]], F32))
    expected = [[2, 0, 2 * ROOT], [0, 2, 0], [0, 0, 4 * ROOT]]  # of the second, x would be -1
    np.testing.assert_allclose(refit(by_hand, x, codes).toarray(), expected, atol=1e-4)


def test_refit_is_the_non_negative_least_squares_solution() -> None:
    sae = tied_sae()
    x = rows_of(sae)
    codes = sae.encode(x, 9)
    fitted = refit(sae, x, codes)
    assert_codes(fitted, (25, 60), 9)
    for number, row in enumerate(fitted.toarray()):
        support = codes[number].indices
        expected = np.zeros(60)
        expected[support], _ = nnls(sae.W_dec[support].T.astype(np.float64), x[number].astype(np.float64) - sae.b_dec)
        np.testing.assert_allclose(row, expected, atol=2e-3)
    better = squared_errors(sae, x, fitted) <= squared_errors(sae, x, codes) + 1e-5
    assert better.all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 20))
def test_refit_never_adds_error(seed: int, k: int) -> None:
    sae = tied_sae(30, 8, k, seed)  # more latents than dimensions: no unique solution
    x = rows_of(sae, 10, seed)
    codes = sae.encode(x)
    assert (squared_errors(sae, x, refit(sae, x, codes)) <= squared_errors(sae, x, codes) + 1e-4).all()


# --- all of them -------------------------------------------------------------------------------------------------


def all_of_them(sae: SAE, x: np.ndarray) -> list[csr_matrix]:
    codes = sae.encode(x, min(9, sae.n_latents))
    return [pursue(sae, x), pursue(sae, x, candidates=8), lista_step(sae, x), prune(sae, x, codes, 3),
            refit(sae, x, codes)]  # fmt: skip


def test_blocks_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = tied_sae()
    x = rows_of(sae)
    whole = all_of_them(sae, x)
    monkeypatch.setattr(refinement, "_FLOATS", 1500)
    for one, blocks in zip(whole, all_of_them(sae, x), strict=True):
        assert blocks.indices.tolist() == one.indices.tolist()
        np.testing.assert_allclose(blocks.data, one.data, atol=1e-5)


def test_rows_of_unequal_lengths_and_none_at_all() -> None:
    sae = tied_sae()
    x = rows_of(sae, 3)
    dense = np.zeros((3, 60), F32)
    dense[1, [0, 4, 59]] = dense[2, 7] = 1  # latent 0 is also what fills the rows up
    codes = csr_matrix(dense)
    fitted, pruned = refit(sae, x, codes), prune(sae, x, codes, tolerance=9.0)
    assert fitted[0].nnz == 0 and set(fitted[1].indices) <= {0, 4, 59} and set(fitted[2].indices) <= {7}
    assert pruned.nnz == 0
    none = np.zeros((0, 16), F32)
    for result in all_of_them(sae, none):
        assert_codes(result, (0, 60), 0)


def test_wrong_arguments() -> None:
    sae = tied_sae()
    x = rows_of(sae)
    codes = sae.encode(x)
    for wrong in (x[0], x[:, :5], x.astype(np.float64)):
        for call in (lambda rows: pursue(sae, rows), lambda rows: lista_step(sae, rows)):
            with pytest.raises(ShapeError):
                call(wrong)
    with pytest.raises(InvalidVectorError):
        pursue(sae, np.full_like(x, np.nan))
    unfit: list[Any] = [codes[:5], codes[:, :30], codes.tocsc()]
    for wrong in unfit:
        for function in (prune, refit):
            with pytest.raises(ShapeError):
                function(sae, x, wrong)
    with pytest.raises(InvalidVectorError):
        refit(sae, x, -codes)
    calls: list[Any] = [
        lambda: pursue(sae, x, -1), lambda: pursue(sae, x, 61), lambda: pursue(sae, x, candidates=-1),
        lambda: pursue(sae, x, candidates=-1, device="meta"), lambda: pursue(sae, x, device="abacus"),
        lambda: lista_step(sae, x, eta=-1), lambda: lista_step(sae, x, eta=np.inf), lambda: prune(sae, x, codes, 61),
        lambda: prune(sae, x, codes, tolerance=-0.1), lambda: prune(sae, x, codes, tolerance=np.nan),
    ]  # fmt: skip
    for wrong_call in calls:
        with pytest.raises(InvalidArgumentError):
            wrong_call()


@pytest.mark.gpu
def test_a_gpu_does_as_well_as_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sae = tied_sae(200, 24, 6)
    x = rows_of(sae, 300)
    codes = sae.encode(x)
    here, there = lista_step(sae, x), lista_step(sae, x, device="cuda")
    np.testing.assert_allclose(squared_errors(sae, x, there), squared_errors(sae, x, here), rtol=1e-2, atol=1e-3)
    here, there = pursue(sae, x), pursue(sae, x, device="cuda")
    assert_codes(there, (300, 200), 6)
    wrong, with_float32 = (squared_errors(sae, x, codes).sum() for codes in (
        there, refinement._pursue(sae, x, 6, refinement._Model(sae, x, "cpu"))))
    assert squared_errors(sae, x, here).sum() < wrong < 1.05 * with_float32
    np.testing.assert_allclose(
        refit(sae, x, codes, device="cuda").toarray(), refit(sae, x, codes).toarray(), atol=1e-3
    )
