"""Which latents are active: by hand, against sorting, and the surrogate gradients of thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae.choice import SPREAD, jump, keep_batch, largest


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the k largest of a row -----------------------------------------------------------------------------------


def test_largest_by_hand() -> None:
    x, weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]]), torch.zeros(4)
    latents, pre_acts = largest(x, weight, bias, 3)
    assert latents.tolist() == [[2, 1, 0]] and pre_acts.tolist() == [[3, 2, 1]]
    latents, pre_acts = largest(x, weight, torch.tensor([0, 0, 0, 5.0]), 1)
    assert latents.tolist() == [[3]] and pre_acts.tolist() == [[4]]


@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_largest_is_what_sorting_finds(k: int) -> None:
    x, weight, bias = numbers(20, 6), numbers(30, 6, seed=1), numbers(30, seed=2)
    latents, pre_acts = largest(x, weight, bias, k)
    dense = (x @ weight.T + bias).numpy()
    expected = np.argsort(-dense, 1)[:, :k]
    np.testing.assert_array_equal(latents.numpy(), expected)
    np.testing.assert_allclose(pre_acts.numpy(), np.take_along_axis(dense, expected, 1), rtol=1e-4, atol=1e-5)


def test_a_bonus_moves_the_choice_and_no_value() -> None:
    x, weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.zeros(3)
    latents, pre_acts = largest(x, weight, bias, 2, torch.tensor([[9.0, 2.0, 1.0]]))
    assert latents.tolist() == [[0, 1]] and pre_acts.tolist() == [[1, 2]]
    plain = largest(numbers(9, 4), numbers(12, 4, seed=1), numbers(12, seed=2), 5)
    same = largest(numbers(9, 4), numbers(12, 4, seed=1), numbers(12, seed=2), 5, torch.full((9, 12), 3.0))
    assert torch.equal(plain[0], same[0])
    torch.testing.assert_close(plain[1], same[1])


# --- the largest of a batch -----------------------------------------------------------------------------------


def test_keep_batch_by_hand() -> None:
    pre_acts = torch.tensor([[9.0, 8, 7], [3, 2, 1], [6, -1, -2]])
    assert keep_batch(pre_acts, 4).tolist() == [[9, 8, 7], [-1, -1, -1], [6, -1, -1]]
    assert torch.equal(keep_batch(pre_acts, 99), pre_acts)
    tied = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    assert keep_batch(tied, 2).tolist() == tied.tolist()  # equal ones stay together


@pytest.mark.parametrize("settings", [{}, {"preprocess": "whiten"}], ids=str)
def test_batchtopk_has_k_a_row_on_average(planted: Callable[..., np.ndarray], trainer_of: Any,
                                          settings: dict[str, Any]) -> None:
    trainer = trainer_of(planted(), activation="batchtopk", n_latents=128, k=3, epochs=3, anneal_from=2.0, **settings)
    assert trainer.k_at(0) == 6
    for step in range(trainer.steps):
        assert float(trainer.step(step)["l0"]) == pytest.approx(trainer.k_at(step), abs=1 / 64)


def test_batchtopk_chooses_over_the_batch(planted: Callable[..., np.ndarray], trainer_of: Any) -> None:
    from sparsight.encoders.sae.step import Step

    for settings in ({}, {"preprocess": "whiten"}):
        trainer = trainer_of(planted(), activation="batchtopk", n_latents=128, k=3, **settings)
        made = Step(trainer, trainer.x[:64], None, 3)
        counts = (made.values > 0).sum(1)
        assert counts.sum() == 3 * 64 and counts.max() <= SPREAD * 3 and counts.min() < 3 < counts.max()
        # What the saved model's one threshold compares is what the batch compared.
        sae = trainer.finish()
        x = trainer.preprocessing.restored(trainer.x[:64]).numpy()
        pre_acts = x @ sae.W_enc.T + sae.b_enc
        expected = np.sort(np.argsort(-pre_acts.ravel())[:3 * 64])
        rows, slots = (made.values > 0).nonzero(as_tuple=True)
        np.testing.assert_array_equal(np.sort(rows * 128 + made.latents[rows, slots]), expected)


# --- thresholds -----------------------------------------------------------------------------------------------


def test_jump_by_hand() -> None:
    pre_acts = torch.tensor([0.3, 0.52, 0.49, 2.0, -1.0], requires_grad=True)
    threshold = torch.full((5,), 0.5, requires_grad=True)
    values, steps = jump(pre_acts, threshold)
    assert values.tolist() == pytest.approx([0, 0.52, 0, 2, 0]) and steps.tolist() == [0, 1, 0, 1, 0]
    (values * torch.tensor([1.0, 2, 3, 4, 5])).sum().backward()
    assert pre_acts.grad is not None and threshold.grad is not None
    assert pre_acts.grad.tolist() == [0, 2, 0, 4, 0]
    # Within 0.025 of the threshold: - threshold / 0.05 times what came in.
    assert threshold.grad.tolist() == pytest.approx([0, -0.5 / 0.05 * 2, -0.5 / 0.05 * 3, 0, 0])
    threshold.grad = None
    _, steps = jump(pre_acts, threshold)
    steps.sum().backward()
    assert threshold.grad.tolist() == pytest.approx([0, -1 / 0.05, -1 / 0.05, 0, 0])


def test_the_surrogate_is_the_gradient_of_the_expected_l0() -> None:
    """Of many pre-activations the mean of the steps falls with the threshold by their density there."""
    pre_acts = numbers(200_000)
    threshold = torch.tensor(0.7, requires_grad=True)
    _, steps = jump(pre_acts, threshold.expand_as(pre_acts))
    steps.mean().backward()
    density = float(torch.exp(torch.tensor(-0.7**2 / 2))) / (2 * torch.pi) ** 0.5
    assert threshold.grad is not None and float(threshold.grad) == pytest.approx(-density, rel=0.05)
