"""Codes by pursuit: by hand, against the best values there are, and against the encoder's; training with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from sparsight.encoders.sae.pursuit import best_codes
from sparsight.encoders.sae.step import Step


def atoms_of(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def errors(target: torch.Tensor, atoms: torch.Tensor, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (target - (values[:, None] @ atoms[latents])[:, 0]).square().sum(1)


def test_by_hand() -> None:
    atoms = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    latents, values = best_codes(torch.tensor([[3.0, 4.0], [-2.0, 0.5]]), atoms, 2)
    assert latents.tolist() == [[1, 0], [2, 1]]
    np.testing.assert_allclose(values, [[4, 3], [2, 0.5]], rtol=1e-5)
    latents, values = best_codes(torch.tensor([[3.0, -4.0]]), atoms, 1)
    assert latents.tolist() == [[0]] and values.item() == pytest.approx(3)  # nothing looks the other way


def test_two_alike_share_what_one_cannot() -> None:
    atoms = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    latents, values = best_codes(torch.tensor([[1.8, 0.6]]), atoms, 2, polish=200)
    assert latents.tolist()[0] in ([0, 1], [1, 0])
    np.testing.assert_allclose(values, [[1, 1]], atol=1e-3)


@given(st.integers(1, 30), st.integers(2, 12), st.integers(1, 12), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_what_holds_for_any_rows(n: int, d: int, k: int, seed: int) -> None:
    k = min(k, n)
    target = torch.randn(5, d, generator=torch.Generator().manual_seed(seed + 1)) * 3
    atoms = atoms_of(n, d, seed)
    latents, values = best_codes(target, atoms, k)
    assert latents.shape == values.shape == (5, k) and values.min() >= 0
    assert all(len(set(row)) == k for row in latents.tolist())  # all different
    assert (values.diff(dim=1) <= 0).all()
    assert (errors(target, atoms, latents, values) <= target.square().sum(1) * (1 + 1e-5)).all()


def test_values_are_the_best_of_the_chosen_atoms() -> None:
    target, atoms = 3 * torch.randn(20, 12, generator=torch.Generator().manual_seed(4)), atoms_of(60, 12)
    latents, values = best_codes(target, atoms, 6, polish=400)
    best = [nnls(atoms[row].T.double().numpy(), x.double().numpy())[1] ** 2
            for row, x in zip(latents, target, strict=True)]
    np.testing.assert_allclose(errors(target, atoms, latents, values), best, rtol=1e-3, atol=1e-4)
    default = errors(target, atoms, *best_codes(target, atoms, 6))
    assert default.sum() <= 1.002 * sum(best)  # 1.007 without the momentum


def test_sparse_codes_are_recovered() -> None:
    """Few atoms, nearly orthogonal: which ones, and how much of each."""
    atoms = atoms_of(100, 400)
    generator = torch.Generator().manual_seed(2)
    truth = torch.stack([torch.randperm(100, generator=generator)[:5] for _ in range(30)])
    amounts = 1 + torch.rand(30, 5, generator=generator)
    latents, values = best_codes((amounts[:, None] @ atoms[truth])[:, 0], atoms, 5)
    expected = torch.zeros(30, 100).scatter(1, truth, amounts)
    torch.testing.assert_close(torch.zeros(30, 100).scatter(1, latents, values), expected, rtol=0, atol=2e-3)


def test_polishing_never_adds_error() -> None:
    target, atoms = torch.randn(50, 10, generator=torch.Generator().manual_seed(3)), atoms_of(40, 10)
    sums = [float(errors(target, atoms, *best_codes(target, atoms, 6, polish=steps)).sum()) for steps in (0, 12, 100)]
    assert sums[0] >= sums[1] >= sums[2] - 1e-5 and sums[0] > sums[2]


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_codes_beat_the_encoders(planted: Callable[..., np.ndarray], trainer_of: Any, k: int) -> None:
    trainer = trainer_of(planted(), k=k)
    for step in range(40):
        trainer.step(step)
    with torch.no_grad():
        made = Step(trainer, trainer.x, None, k)
        found = errors(made.x - made.bias, made.w_dec, *best_codes(made.x - made.bias, made.w_dec, k))
    assert found.mean() < (0.97 if k > 1 else 1.0) * made.error.square().sum(1).mean()


# --- training with them ---------------------------------------------------------------------------------------


def test_steps_with_pursuit(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    """The last share of the steps, and what the encoder is held to there, against dense codes."""
    trainer = trainer_of(planted(), pursuit=0.25, epochs=4)
    pursuing = []
    for step in range(trainer.steps):
        seen = trainer.step(step)
        pursuing.append("prediction" in seen)
    assert sum(pursuing) == trainer.steps // 4 and all(pursuing[-(trainer.steps // 4):])
    made = Step(trainer, trainer.x[:50], None, 4)
    p, centred = trainer.dictionary.parameters, trainer.x[:50] - trainer.dictionary.parameters["b_dec"]
    pre_acts = centred.detach() @ p["w_enc"].T + p["b_enc"]
    latents, values = best_codes(centred.detach(), p["w_dec"].detach(), 4)
    wanted = torch.zeros(50, 64).scatter(1, latents, values)
    compared = torch.zeros(50, 64).scatter(1, latents, 1.0).scatter(1, pre_acts.topk(4).indices, 1.0)
    expected = (compared * (pre_acts.relu() - wanted).square()).sum(1).mean() / trainer.variance
    torch.testing.assert_close(made.prediction(), expected)
    torch.testing.assert_close(made.error, centred - wanted @ p["w_dec"], rtol=1e-4, atol=1e-4)
    parameters = [p[name] for name in ("w_enc", "b_enc")]
    for found, right in zip(torch.autograd.grad(made.prediction(), parameters),
                            torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-6)
    assert torch.autograd.grad(made.error.square().sum(), p["w_enc"], allow_unused=True) == (None,)


def test_the_dictionary_gets_better_for_pursuit(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    found = {}
    for share in (0.0, 0.5):
        trainer = trainer_of(planted(), pursuit=share, epochs=20)
        for step in range(trainer.steps):
            trainer.step(step)
        with torch.no_grad():
            target, atoms = trainer.x - trainer.dictionary.parameters["b_dec"], trainer.dictionary.decoder()
            found[share] = float(errors(target, atoms, *best_codes(target, atoms, 4)).mean())
    assert found[0.5] < 0.95 * found[0.0]


def test_more_levels_than_latents(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    from sparsight.encoders.sae.losses import Nested

    trainer = trainer_of(planted(), n_latents=6, k=2, pursuit=1.0, losses=(Nested(ks=(2, 50)),))
    trainer.step(0)
    made = Step(trainer, trainer.x[:9], None, 2)
    assert made.latents.shape == (9, 6) and all(len(set(row)) == 6 for row in made.latents.tolist())
