"""Encoder and decoder rows: where they start, what ties them, and what holds after every update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae.centroids import centroids
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.dictionary import Dictionary

N = 48


@pytest.fixture(scope="module")
def x(planted: Callable[..., np.ndarray]) -> torch.Tensor:
    rows = torch.from_numpy(planted())
    return (rows - rows.mean(0)) * 4


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def made(x: torch.Tensor, **settings: Any) -> Dictionary:
    return Dictionary(x, SAEConfig(**{"n_latents": N, "k": 4, **settings}))


# --- the start ------------------------------------------------------------------------------------------------


def test_starts(x: torch.Tensor) -> None:
    rows = made(x, start="rows").decoder().detach()
    assert ((unit(x) @ rows.T).amax(0) > 1 - 1e-5).all()  # each is a row of the data
    assert len({tuple(row) for row in rows.tolist()}) == N
    centres = made(x, start="centroids", seed=5).decoder().detach()
    assert torch.equal(centres, centroids(x, N)) and torch.equal(centres, made(x, start="centroids").decoder())
    assert torch.equal(made(x, start="centroids", centroids_seed=3).decoder(), centroids(x, N, seed=3))
    random = made(x, start="random").decoder().detach()
    assert ((unit(x) @ random.T).amax(0) < 1 - 1e-4).all()
    for one in (rows, centres, random):
        torch.testing.assert_close(one.norm(dim=1), torch.ones(N))
    assert torch.equal(rows, made(x, start="rows").decoder())
    assert not torch.equal(rows, made(x, start="rows", seed=1).decoder())


@pytest.mark.parametrize("start", ["rows", "centroids"])
def test_more_latents_than_rows(x: torch.Tensor, start: str) -> None:
    rows = made(x[:20], start=start).decoder().detach()
    assert ((unit(x[:20]) @ rows.T).amax(0) > 1 - 1e-5).sum() == 20


@pytest.mark.parametrize("start", ["rows", "centroids", "random"])
@pytest.mark.parametrize("k", [1, 8])
def test_first_reconstructions_have_the_size_of_the_inputs(x: torch.Tensor, start: str, k: int) -> None:
    """No other scale of the encoder would rebuild better."""
    dictionary = made(x, start=start, k=k)
    w_dec = dictionary.decoder().detach()
    w_enc = dictionary.encoder(w_dec).detach()

    def error(scale: float) -> float:
        found = (x[:512] @ (scale * w_enc).T).topk(k, dim=1)
        codes = torch.zeros(512, N).scatter(1, found.indices, found.values.relu())
        return float((x[:512] - codes @ w_dec).square().sum())

    assert error(1.0) < min(error(0.97), error(1.03), error(0.0))
    torch.testing.assert_close(unit(w_enc), w_dec, rtol=0, atol=1e-5)  # as the decoder, but for a factor


@pytest.mark.parametrize("tie", ["init", "hard", "aligned"])
def test_first_thresholds_leave_k_active(x: torch.Tensor, tie: str) -> None:
    dictionary = made(x, activation="jumprelu", tie=tie)
    threshold = dictionary.parameters["threshold"].detach()
    pre_acts = x[:512] @ dictionary.encoder(dictionary.decoder()).detach().T
    assert float((pre_acts > threshold).sum(1).float().mean()) == pytest.approx(4, abs=1 / 500)
    assert threshold.min() == threshold.max() > 0
    assert "threshold" not in made(x).parameters


# --- ties -----------------------------------------------------------------------------------------------------


def moved(dictionary: Dictionary, seed: int = 0, size: float = 0.3) -> Dictionary:
    """After an update to anywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
        dictionary.after_update()
    return dictionary


@pytest.mark.parametrize("dictionary", ["free", "archetypal"])
def test_ties(x: torch.Tensor, dictionary: str) -> None:
    hard = moved(made(x, tie="hard", dictionary=dictionary))
    w_dec = hard.decoder()
    assert hard.encoder(w_dec) is w_dec and "w_enc" not in hard.parameters
    aligned = moved(made(x, tie="aligned", dictionary=dictionary))
    w_dec = aligned.decoder()
    torch.testing.assert_close((aligned.encoder(w_dec) * w_dec).sum(1), torch.ones(N))
    across = aligned.encoder(w_dec) - w_dec  # beside its latent's row it is free
    own = aligned.parameters["w_enc"] - (aligned.parameters["w_enc"] * w_dec).sum(1, keepdim=True) * w_dec
    torch.testing.assert_close(across, own, rtol=1e-4, atol=1e-5)
    free = moved(made(x, dictionary=dictionary))
    assert free.encoder(free.decoder()) is free.parameters["w_enc"]


@pytest.mark.parametrize("tie", ["init", "hard", "aligned"])
def test_trained_rows_keep_their_ties(planted: Callable[..., np.ndarray], trainer_of: Any, tie: str) -> None:
    trainer = trainer_of(planted(), tie=tie)
    for step in range(15):
        trainer.step(step)
        w_dec = trainer.dictionary.decoder().detach()
        w_enc = trainer.dictionary.encoder(w_dec).detach()
        torch.testing.assert_close(w_dec.norm(dim=1), torch.ones(64))
        if tie == "aligned":
            torch.testing.assert_close((w_enc * w_dec).sum(1), torch.ones(64), rtol=0, atol=1e-5)
    sae = trainer.finish()
    assert tie != "hard" or np.allclose(sae.W_enc, sae.W_dec, atol=1e-6)


# --- free rows ------------------------------------------------------------------------------------------------


def test_the_radial_part_of_a_gradient_is_dropped(x: torch.Tensor) -> None:
    dictionary = made(x)
    row = dictionary.parameters["w_dec"]
    gradient = torch.randn(N, 16, generator=torch.Generator().manual_seed(0))
    row.grad = gradient.clone()
    with torch.no_grad():
        dictionary.before_update()
    assert float((row.grad * row.detach()).sum(1).abs().max()) < 1e-5
    torch.testing.assert_close(row.grad, gradient - (gradient * row).sum(1, keepdim=True) * row)


def test_rows_have_length_1_after_any_update(x: torch.Tensor) -> None:
    dictionary = moved(made(x), size=3.0)
    torch.testing.assert_close(dictionary.decoder().norm(dim=1), torch.ones(N))


def test_thresholds_stay_above_0(x: torch.Tensor) -> None:
    dictionary = made(x, activation="jumprelu")
    with torch.no_grad():
        dictionary.parameters["threshold"] -= 100
        dictionary.after_update()
    assert dictionary.parameters["threshold"].tolist() == pytest.approx([1e-3] * N)


# --- archetypal rows ------------------------------------------------------------------------------------------


def test_an_archetypal_dictionary_starts_as_the_centroids(x: torch.Tensor) -> None:
    dictionary = made(x, dictionary="archetypal", support=6, seed=9)
    centres = centroids(x, N)
    torch.testing.assert_close(dictionary.decoder().detach(), centres)
    expected = (centres @ centres.T).topk(6, dim=1).indices
    assert torch.equal(dictionary.support.sort(1).values, expected.sort(1).values)
    assert torch.equal(dictionary.support[:, 0], torch.arange(N))
    wide = made(x, dictionary="archetypal", support=1000)
    assert wide.support.shape == (N, N)


def test_its_rows_are_mixes_near_the_hull(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    relaxation = 0.05
    trainer = trainer_of(planted(), n_latents=N, dictionary="archetypal", support=6, relaxation=relaxation,
                         learning_rate=0.05)
    for step in range(30):
        trainer.step(step)
        p, centres = trainer.dictionary.parameters, trainer.dictionary.centres
        mix, rest = p["mix"].detach(), p["rest"].detach()
        assert mix.min() >= 0 and rest.norm(dim=1).max() <= relaxation * (1 + 1e-5)
        torch.testing.assert_close(mix.sum(1), torch.ones(N), rtol=0, atol=1e-5)
    dense = torch.zeros(N, N).scatter(1, trainer.dictionary.support, mix)
    row = trainer.dictionary.decoder().detach()
    torch.testing.assert_close(row, unit(dense @ centres + rest))
    assert torch.equal(centres, centroids(trainer.x, N)) and float((row - centres).norm(dim=1).max()) > 0.2
    assert rest.norm(dim=1).max() > 0.99 * relaxation and (mix > 0).sum(1).float().mean() > 1.5


def test_archetypal_parameters_are_put_back_by_hand(x: torch.Tensor) -> None:
    dictionary = made(x, dictionary="archetypal", support=3, relaxation=0.5)
    mix, rest = dictionary.parameters["mix"], dictionary.parameters["rest"]
    with torch.no_grad():
        mix[:2] = torch.tensor([[0.6, 0.2, -0.5], [2.0, 0.0, 2.0]])
        rest[0, :2], rest[1, :2] = torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.2])
        dictionary.after_update()
    np.testing.assert_allclose(mix[:2].detach(), [[0.75, 0.25, 0], [0.5, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(rest[:2, :2].detach(), [[0.3, 0.4], [0.1, 0.2]], atol=1e-6)


def test_relaxation_0_stays_in_the_hull(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    trainer = trainer_of(planted(), n_latents=N, dictionary="archetypal", support=6, relaxation=0.0)
    for step in range(10):
        trainer.step(step)
    assert not trainer.dictionary.parameters["rest"].any()


def test_archetypal_rows_find_the_same_places_from_other_seeds(planted: Callable[..., np.ndarray],
                                                               trainer_of: Any) -> None:
    cosines = {}
    for kind in ("free", "archetypal"):
        rows = []
        for seed in (0, 1):
            trainer = trainer_of(planted(), dictionary=kind, seed=seed, start="rows", support=8, relaxation=0.3)
            for step in range(80):
                trainer.step(step)
            rows.append(trainer.dictionary.decoder().detach())
        cosines[kind] = float((rows[0] @ rows[1].T).amax(1).mean())
    assert cosines["archetypal"] > 0.95 > cosines["free"]
