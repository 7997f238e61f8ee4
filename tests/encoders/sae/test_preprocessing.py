"""Centring and whitening: by hand, round trips, and that saved weights do what the inner ones did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae.preprocessing import fit


def skewed(rows: int = 2000, d: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, d, generator=generator) @ torch.randn(d, d, generator=generator) * 0.1 + 3


def test_center_by_hand() -> None:
    made = fit(torch.tensor([[1.0, 2, 3, 4], [3, 2, 1, 0]]), "center")
    assert made.mean.tolist() == [2, 2, 2, 2] and made.isotropic
    assert made(torch.tensor([[3.0, 2, 2, 0]])).tolist() == [[2, 0, 0, -4]]  # times sqrt(4)


def test_components_of_unit_vectors_have_a_variance_near_one() -> None:
    x = torch.nn.functional.normalize(torch.randn(3000, 50, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(fit(x, "center")(x).var(0).mean()) == pytest.approx(1, rel=0.02)


def test_whitened_rows_are_uncorrelated() -> None:
    x = skewed()
    made = fit(x, "whiten")
    y = made(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    covariance = torch.cov(y.T, correction=0).double()
    assert float((covariance - torch.diag(covariance.diagonal())).abs().max()) < 1e-3
    values = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0))
    expected = values / (values + 1e-3 * values.mean())
    np.testing.assert_allclose(covariance.diagonal().sort().values, expected.sort().values, rtol=1e-3)


@pytest.mark.parametrize("kind", ["center", "whiten"])
def test_round_trips(kind: str) -> None:
    x = skewed()
    made = fit(x, kind)
    torch.testing.assert_close(made.restored(made(x)), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.rows(made(x)), x - x.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((x - x.mean(0)) @ made.forward, made(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made.forward @ made.back, torch.eye(6), rtol=0, atol=1e-4)


def test_fewer_rows_than_components_can_be_whitened() -> None:
    x = skewed(5, 20)
    y = fit(x, "whiten")(x)
    assert torch.isfinite(y).all() and float(y.abs().max()) < 5


@pytest.mark.parametrize("tie", ["init", "hard", "aligned"])
@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
@pytest.mark.parametrize("kind", ["center", "whiten"])
def test_it_is_folded_into_the_weights(planted: Any, trainer_of: Any, kind: str, activation: str, tie: str) -> None:
    """Codes and reconstructions of the saved model, from embeddings, are the inner model's, from prepared ones."""
    x = planted()
    trainer = trainer_of(x, preprocess=kind, activation=activation, tie=tie)
    for step in range(20):
        trainer.step(step)
    sae = trainer.finish()
    dictionary, prepared = trainer.dictionary, trainer.preprocessing
    with torch.no_grad():
        w_dec, p = dictionary.decoder(), dictionary.parameters
        pre_acts = (trainer.x - p["b_dec"]) @ dictionary.encoder(w_dec).T + p["b_enc"]
        sizes = prepared.rows(w_dec).norm(dim=1)  # a code's unit is the length of a row among embeddings
        if activation == "topk":
            active = torch.zeros_like(pre_acts).scatter(1, (pre_acts * sizes).topk(4).indices, 1.0)
        else:
            active = (pre_acts > p["threshold"]).float()
        codes = pre_acts.relu() * active
        rebuilt = prepared.restored(codes @ w_dec + p["b_dec"])
    found = sae.encode(x)
    differ = (found.toarray() > 0) != (codes > 0).numpy()  # at a threshold, by rounding
    assert differ.mean() < 1e-4 and not (activation == "topk" and differ.any())
    np.testing.assert_allclose(found.toarray()[~differ], (codes * sizes).numpy()[~differ], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(sae.decode(found)[~differ.any(1)], rebuilt.numpy()[~differ.any(1)], rtol=2e-3, atol=2e-4)
    assert found.nnz > 600 and np.abs(np.linalg.norm(sae.W_dec, axis=1) - 1).max() < 1e-5
