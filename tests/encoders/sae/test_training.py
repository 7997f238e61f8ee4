from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.sae.training import SAEConfig, _Trainer, default_epochs, default_n_latents, train_sae
from sparsight.errors import InvalidArgumentError, InvalidVectorError, SearchStoppedError, ShapeError

QUICK = SAEConfig(n_latents=64, k=4, epochs=30, batch=64)


def planted(rows: int = 600, atoms: int = 32, d: int = 16, seed: int = 0) -> np.ndarray:
    """Unit vectors that are sums of three of some directions, around a common mean."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(atoms, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = np.array([rng.uniform(0.5, 1.5, 3) @ directions[rng.choice(atoms, 3, replace=False)] for _ in range(rows)])
    x += rng.normal(size=d) * 0.3
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, dict[str, Any]]:
    return train_sae(planted(), QUICK)


def test_same_seed_same_bits(trained: tuple[Any, dict[str, Any]]) -> None:
    again, report = train_sae(planted(), QUICK)
    assert again.fingerprint == trained[0].fingerprint
    assert {key: value for key, value in report.items() if key != "seconds"} == {
        key: value for key, value in trained[1].items() if key != "seconds"
    }
    other, _ = train_sae(planted(), SAEConfig(n_latents=64, k=4, epochs=30, batch=64, seed=1))
    assert other.fingerprint != trained[0].fingerprint


def test_callers_random_state_is_left_alone() -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    train_sae(planted(100), SAEConfig(n_latents=32, k=2, epochs=1))
    assert torch.equal(torch.rand(3), expected) and np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]


def test_it_learns(trained: tuple[Any, dict[str, Any]]) -> None:
    sae, report = trained
    x = planted(seed=0)
    codes = sae.encode(x)
    assert np.diff(codes.indptr).max() <= 4
    error = np.square(x - sae.decode(codes)).sum() / np.square(x - x.mean(0)).sum()
    assert error < 0.25  # the mean alone leaves 1.0; an untrained dictionary is above 0.5 (next test)
    assert report["fvu"] < 0.4 and 0 < report["l0"] <= 4 and report["train_dead"] <= 0.1
    assert (report["rows"], report["held_out_rows"], report["steps"]) == (540, 60, 30 * 8)
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-5)


def test_better_than_the_start_and_than_fewer_components() -> None:
    x = planted()
    start = _Trainer(x, SAEConfig(n_latents=64, k=4, epochs=1)).finish()
    total = np.square(x - x.mean(0)).sum()
    untrained = np.square(x - start.decode(start.encode(x))).sum() / total
    sae, _ = train_sae(x, QUICK)
    learnt = np.square(x - sae.decode(sae.encode(x))).sum() / total
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    four_components = 1 - np.square(singular[:4]).sum() / np.square(singular).sum()
    assert learnt < four_components < 1 and learnt < 0.6 * untrained


def test_scale_is_folded_back() -> None:
    import torch

    x = planted()
    trainer = _Trainer(x, QUICK)
    for step in range(20):
        trainer.step(step)
    sae = trainer.finish()
    with torch.no_grad():
        inner = trainer.x[:50]
        found = ((inner - trainer.b_dec) @ trainer.w_enc.T + trainer.b_enc).topk(4, dim=1)
        codes = torch.zeros(50, 64).scatter(1, found.indices, found.values.relu())
        rebuilt = (codes @ trainer.w_dec + trainer.b_dec) / math.sqrt(16)
    np.testing.assert_allclose(sae.encode(x[:50]).toarray() * math.sqrt(16), codes.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sae.decode(sae.encode(x[:50])), rebuilt.numpy(), rtol=1e-3, atol=1e-4)


def test_start() -> None:
    x = planted()
    trainer = _Trainer(x, QUICK)
    np.testing.assert_allclose(trainer.b_dec.detach().numpy(), x.mean(0) * 4, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(trainer.w_enc.detach().numpy(), trainer.w_dec.detach().numpy())


def test_radial_gradient_is_removed() -> None:
    x = planted()
    trainer = _Trainer(x, QUICK)
    trainer.step(0)
    before = trainer.w_dec.detach().clone()
    trainer.step(1)
    radial = (trainer.w_dec.grad * before).sum(1)  # type: ignore[operator]
    assert float(radial.abs().max()) < 1e-5 * float(trainer.w_dec.grad.norm(dim=1).max())  # type: ignore[union-attr]


def test_auxk_uses_dead_latents_only() -> None:
    import torch

    trainer = _Trainer(planted(), SAEConfig(n_latents=6, k=2, epochs=1, aux_k=2))
    # Living latents are positive or zero, the dead ones 3 and 5 negative: nothing can be rebuilt, and no living latent
    # may step in.
    pre_acts = torch.tensor([[5.0, 0.0, 1.0, -1.0, 0.0, -2.0]])
    error, centred = torch.ones(1, 16), torch.full((1, 16), 0.5)
    dead = torch.tensor([False, False, False, True, False, True])
    assert trainer._aux(pre_acts, centred, error, dead, 2).item() == pytest.approx(1.0)
    positive = torch.tensor([[5.0, 0.0, 1.0, 2.0, 0.0, 1.0]])
    loss = trainer._aux(positive, centred, error, dead, 2)
    expected = (error - 2 * trainer.w_dec[3] - trainer.w_dec[5]).square().sum() / 16
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    for weight in (trainer.w_enc, trainer.w_dec):
        assert weight.grad is not None and weight.grad.any(1).nonzero().flatten().tolist() == [3, 5]


def test_dead_latents_are_counted_in_samples() -> None:
    trainer = _Trainer(planted(), SAEConfig(n_latents=64, k=1, epochs=1, batch=50, anneal_from=1))
    assert trainer.dead_after == 50 * 64
    trainer.step(0)
    assert set(trainer.silent.tolist()) == {0, 50}


def test_k_falls() -> None:
    trainer = _Trainer(planted(), SAEConfig(n_latents=64, k=4, epochs=10, batch=60, anneal_from=4, anneal_until=0.5))
    assert trainer.steps == 100
    assert [trainer._k(step) for step in (0, 25, 50, 99)] == [16, 10, 4, 4]
    plain = _Trainer(planted(), SAEConfig(n_latents=64, k=4, epochs=10, anneal_from=1))
    assert {plain._k(step) for step in range(plain.steps)} == {4}


def test_progress_and_cancel() -> None:
    calls: list[tuple[int, int]] = []
    with pytest.raises(SearchStoppedError, match="after 3 of"):
        train_sae(
            planted(),
            QUICK,
            progress=lambda done, total: calls.append((done, total)),
            cancelled=lambda: len(calls) == 3,
        )
    assert calls == [(1, 240), (2, 240), (3, 240)]


def test_few_rows() -> None:
    sae, report = train_sae(planted(16), SAEConfig(epochs=2))
    assert sae.n_latents == 256 and sae.k == 32 and report["held_out_rows"] == 1


@pytest.mark.parametrize(
    ("rows", "k", "expected"), [(1, 1, 256), (800, 32, 256), (1600, 32, 512), (10_000, 32, 2048), (10**7, 32, 16384)]
)
def test_default_n_latents(rows: int, k: int, expected: int) -> None:
    assert default_n_latents(rows, k) == expected


def test_default_epochs() -> None:
    assert default_epochs(100, 256, 384) == 150 and default_epochs(10**6, 16384, 384) == 10
    assert default_epochs(5183, 1024, 384) == 105


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0},
        {"k": 65},
        {"epochs": -1},
        {"learning_rate": 0.0},
        {"held_out": 0.9},
        {"anneal_from": 0.5},
        {"batch": 0},
    ],
)
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        train_sae(planted(), SAEConfig(**({"n_latents": 64, "k": 4} | change)))
    assert caught.value.field.startswith("config.")


def test_wrong_rows() -> None:
    x = planted()
    for wrong in (x[:15], x[0], x.astype(np.float64)):
        with pytest.raises(ShapeError):
            train_sae(wrong, QUICK)
    with pytest.raises(InvalidVectorError, match="finite"):
        train_sae(np.where(x > 0.5, np.nan, x).astype(np.float32), QUICK)
    with pytest.raises(InvalidVectorError, match="equal rows"):
        train_sae(np.ones((20, 4), np.float32), QUICK)
