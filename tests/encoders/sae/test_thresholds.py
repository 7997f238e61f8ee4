from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsight.encoders.sae import thresholds
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.thresholds import calibrated
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def tied_sae(n: int = 200, d: int = 48, k: int = 8, seed: int = 0) -> SAE:
    w = np.random.default_rng(seed).normal(size=(n, d))
    w = (w / np.linalg.norm(w, axis=1, keepdims=True)).astype(F32)
    return SAE(k=k, W_enc=w, b_enc=np.full(n, -0.1, F32), W_dec=w, b_dec=np.zeros(d, F32))


def sparse_mixtures(sae: SAE, rows: int, seed: int) -> np.ndarray:
    """Rows of 1 to 9 atoms each, some atoms likelier than others, and noise."""
    rng = np.random.default_rng(seed)
    likely = 1 / (10 + np.arange(sae.n_latents))
    x = 0.05 * rng.normal(size=(rows, sae.d_in))
    for row in x:
        atoms = rng.choice(sae.n_latents, rng.integers(1, 10), replace=False, p=likely / likely.sum())
        row += rng.uniform(0.5, 1.5, len(atoms)) @ sae.W_dec[atoms]
    return x.astype(F32)


def positive_pre_acts(sae: SAE, x: np.ndarray) -> np.ndarray:
    """All of them, zeros elsewhere, with the bits of the encoder: (B, N)."""
    return sae.encode(x, sae.n_latents).toarray()


@pytest.fixture
def by_hand() -> tuple[SAE, np.ndarray]:
    """Two latents along x and y; pre-activations are the rows' own components."""
    eye = np.eye(2, dtype=F32)
    sae = SAE(k=1, W_enc=eye, b_enc=np.zeros(2, F32), W_dec=eye, b_dec=np.zeros(2, F32))
    return sae, np.array([[9, 8], [7, 1], [2, 3], [6, -5]], F32)


def test_numbers_by_hand(by_hand: tuple[SAE, np.ndarray]) -> None:
    sae, x = by_hand
    whole = calibrated(sae, x)  # the 4 largest of 9 8 7 6 3 2 1
    assert whole.k == 1 and whole.mode == "threshold" and whole.threshold.tolist() == [np.nextafter(F32(6), F32(0))] * 2
    assert whole.encode(x).toarray().tolist() == [[9, 8], [7, 0], [0, 0], [6, 0]]
    each = calibrated(sae, x, scope="latent")  # TopK chooses the first latent three times and the second once
    assert each.threshold.tolist() == [np.nextafter(F32(6), F32(0)), np.nextafter(F32(8), F32(0))]
    few = calibrated(sae, x, 2)  # 8 wanted, 7 are above 0
    assert few.k == 2 and few.threshold.tolist() == [0, 0] and few.encode(x).nnz == 7
    silent = calibrated(sae, x[[0, 1, 3]], scope="latent")
    assert silent.threshold.tolist() == [np.nextafter(F32(6), F32(0)), np.inf]


@pytest.mark.parametrize("at_once", [1, 2000, 1 << 22])
def test_exactly_k_on_average_against_sorting_everything(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "_PRE_ACTS", at_once)  # blocks of 1 and of 10 rows, and a single one
    sae = tied_sae()
    x = sparse_mixtures(sae, 300, 1)
    everything = positive_pre_acts(sae, x)
    for k in (1, 8, 20):
        whole = calibrated(sae, x, k)
        assert whole.encode(x).nnz == k * 300
        assert (whole.threshold == np.nextafter(np.sort(everything, axis=None)[-k * 300], F32(0))).all()
        each = calibrated(sae, x, k, scope="latent")
        counts = np.bincount(sae.encode(x, k).indices, minlength=200)
        assert (np.bincount(each.encode(x).indices, minlength=200) == counts).all()
        ranked = np.sort(everything, axis=0)
        for latent in np.flatnonzero(counts):
            assert each.threshold[latent] == np.nextafter(ranked[-counts[latent], latent], F32(0))
        assert np.isposinf(each.threshold[counts == 0]).all()


@pytest.mark.parametrize("scope", ["global", "latent"])
def test_mean_on_held_out_rows(scope: str) -> None:
    sae = tied_sae()
    fitted = calibrated(sae, sparse_mixtures(sae, 4000, 2), scope=scope)  # type: ignore[arg-type]
    active = np.diff(fitted.encode(sparse_mixtures(sae, 4000, 3)).indptr)
    assert abs(active.mean() / 8 - 1) < 0.02
    assert active.std() > 1  # a number of its own for each row


def test_rows_that_say_more_get_more_latents() -> None:
    sae = tied_sae()
    rng = np.random.default_rng(5)
    atoms = np.array([rng.choice(200, 8, replace=False) for _ in range(400)])
    few, many = sae.W_dec[atoms[:, :2]].sum(1), sae.W_dec[atoms].sum(1)
    codes = calibrated(sae, np.concatenate([few, many]), 5).encode(np.concatenate([few, many]))
    active = np.diff(codes.indptr)
    assert active[:400].mean() < 4 < 6 < active[400:].mean()


def test_thresholds_are_replaced_and_the_rest_stays() -> None:
    sae = replace(tied_sae(), threshold=np.full(200, 0.3, F32), labels=("x",) * 200)
    x = sparse_mixtures(sae, 100, 4)
    again = calibrated(sae, x)
    assert again.labels == sae.labels and again.W_enc is sae.W_enc
    assert (again.threshold == calibrated(tied_sae(), x).threshold).all()
    assert again.fingerprint != sae.fingerprint


def test_wrong_arguments() -> None:
    sae, x = tied_sae(), np.zeros((3, 48), F32)
    for wrong in (x[:0], x[:, :5], x[0], x.astype(np.float64)):
        with pytest.raises(ShapeError):
            calibrated(sae, wrong)
    with pytest.raises(InvalidVectorError):
        calibrated(sae, np.full((3, 48), np.nan, F32))
    for options in ({"k": -1}, {"k": 201}, {"scope": "row"}):
        with pytest.raises(InvalidArgumentError):
            calibrated(sae, x, **options)  # type: ignore[arg-type]
