from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.training.losses import (
    ensemble,
    flops,
    flops_idf,
    flops_l0,
    info_nce,
    kl_distillation,
    l1,
    margin_mse,
)
from sparsight.errors import InvalidArgumentError, ShapeError

SCORES = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 5.0]])
TEACHER = torch.tensor([[1.0, 0.0, 0.0], [4.0, 1.0, 0.0]])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    return x.grad


# --- margin MSE -----------------------------------------------------------------------------------------------


def test_margin_mse_by_hand() -> None:
    # Margins 2, 3 against 1, 1 in the first row; 0, -3 against 3, 4 in the second.
    assert margin_mse(SCORES, TEACHER).item() == pytest.approx((1 + 4 + 9 + 49) / 4)


def test_margin_mse_with_the_positive_elsewhere() -> None:
    order = [1, 2, 0]
    moved = margin_mse(SCORES[:, order], TEACHER[:, order], positive=2)
    assert moved.item() == margin_mse(SCORES, TEACHER).item()
    assert margin_mse(SCORES[:, order], TEACHER[:, order], positive=-1).item() == moved.item()


def test_margin_mse_leaves_out_masked_pairs() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert margin_mse(SCORES, TEACHER, mask=mask).item() == pytest.approx((1 + 9 + 49) / 3)
    without = torch.tensor([[False, True, True], [True, True, True]])  # no positive, no pair
    assert margin_mse(SCORES, TEACHER, mask=without).item() == pytest.approx((9 + 49) / 2)
    nothing = margin_mse(SCORES, TEACHER, mask=torch.zeros(2, 1, dtype=torch.bool))
    assert nothing.item() == 0


def test_margin_mse_ignores_a_shift_of_a_query() -> None:
    shift = torch.tensor([[7.0], [-2.0]])
    assert margin_mse(SCORES + shift, TEACHER).item() == pytest.approx(margin_mse(SCORES, TEACHER).item())


@pytest.mark.parametrize("positive", [3, -4])
def test_margin_mse_needs_the_positive(positive: int) -> None:
    with pytest.raises(ShapeError, match=f"3 and column {positive}"):
        margin_mse(SCORES, TEACHER, positive)
    with pytest.raises(ShapeError, match="at least 2 candidates"):
        margin_mse(SCORES[:, :1], TEACHER[:, :1])


# --- KL -------------------------------------------------------------------------------------------------------


def numpy_kl(scores: np.ndarray, teacher: np.ndarray, temperature: float, mask: np.ndarray) -> float:
    total, rows = 0.0, 0
    for s, t, kept in zip(scores, teacher, mask, strict=True):
        if kept.any():
            p, q = (np.exp(x[kept] / temperature) / np.exp(x[kept] / temperature).sum() for x in (t, s))
            total += float((p * np.log(p / q)).sum())
            rows += 1
    return total / max(rows, 1)


def test_kl_by_hand() -> None:
    scores, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl_distillation(scores, teacher).item() == pytest.approx(expected)
    assert kl_distillation(scores, 2 * teacher, temperature=2).item() == pytest.approx(expected)


def test_kl_equals_numpy_with_masks() -> None:
    scores, teacher = random(5, 7), random(5, 7, seed=1) * 3
    mask = random(5, 7, seed=2) > 0
    mask[3] = False
    for temperature in (0.5, 1.0, 4.0):
        expected = numpy_kl(scores.numpy(), teacher.numpy(), temperature, mask.numpy())
        assert kl_distillation(scores, teacher, temperature, mask).item() == pytest.approx(expected)


def test_kl_is_zero_at_the_teacher_and_positive_elsewhere() -> None:
    assert kl_distillation(TEACHER + 5, TEACHER).item() == pytest.approx(0, abs=1e-7)
    assert kl_distillation(SCORES, TEACHER).item() > 0


def test_kl_gradient_is_the_difference_of_the_distributions() -> None:
    found = gradient(lambda x: kl_distillation(x, TEACHER), SCORES)
    expected = (torch.softmax(SCORES, 1) - torch.softmax(TEACHER, 1)) / 2
    torch.testing.assert_close(found, expected)


def test_masked_candidates_and_rows_get_no_gradient() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    for loss in (lambda x: kl_distillation(x, TEACHER, mask=mask), lambda x: margin_mse(x, TEACHER, mask=mask)):
        found = gradient(loss, SCORES)
        assert torch.isfinite(found).all()
        assert (found[~mask] == 0).all() and (found[0, mask[0]] != 0).all()


def test_the_teacher_gets_no_gradient() -> None:
    teacher = TEACHER.clone().requires_grad_()
    assert not kl_distillation(SCORES, teacher).requires_grad


# --- InfoNCE --------------------------------------------------------------------------------------------------


def test_info_nce_is_cross_entropy() -> None:
    scores, positives = random(4, 9), torch.tensor([0, 8, 3, 3])
    for temperature in (1.0, 0.05):
        expected = torch.nn.functional.cross_entropy(scores / temperature, positives)
        torch.testing.assert_close(info_nce(scores, positives, temperature=temperature), expected)


def test_info_nce_by_hand_with_a_false_negative() -> None:
    scores = torch.tensor([[0.0, 0.0, 50.0]])
    mask = torch.tensor([[True, True, False]])
    assert info_nce(scores, torch.tensor([0]), mask).item() == pytest.approx(math.log(2))


def test_info_nce_keeps_the_positive_whatever_the_mask() -> None:
    scores = torch.tensor([[0.0, 0.0, 1.0]])
    mask = torch.tensor([[False, True, False]])
    assert info_nce(scores, torch.tensor([0]), mask).item() == pytest.approx(math.log(2))


def test_info_nce_skips_queries_without_a_positive() -> None:
    scores = random(3, 5)
    some = info_nce(scores, torch.tensor([2, -1, 4]))
    torch.testing.assert_close(some, info_nce(scores[[0, 2]], torch.tensor([2, 4])))
    none = torch.full((3,), -1)
    assert info_nce(scores, none).item() == 0
    assert (gradient(lambda x: info_nce(x, none, torch.zeros(3, 5, dtype=torch.bool)), scores) == 0).all()


# --- ensemble -------------------------------------------------------------------------------------------------


def test_ensemble_by_hand() -> None:
    first, second = torch.tensor([[0.0, 5.0, 10.0]]), torch.tensor([[-1.0, -1.0, 3.0]])
    torch.testing.assert_close(ensemble([first, second]), torch.tensor([[0.0, 7.5, 30.0]]))
    torch.testing.assert_close(ensemble([first, second], [3, 1], scale=4), torch.tensor([[0.0, 1.5, 4.0]]))


def test_ensemble_takes_extremes_of_what_is_not_masked() -> None:
    teacher = torch.tensor([[0.0, 5.0, 10.0, 1e9], [1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True, True, True, False], [False, False, False, False]])
    torch.testing.assert_close(ensemble([teacher], mask=mask, scale=1),
                               torch.tensor([[0.0, 0.5, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_ensemble_of_a_teacher_without_an_opinion() -> None:
    flat = torch.full((1, 3), 7.0)
    assert ensemble([flat]).tolist() == [[0.0, 0.0, 0.0]]
    torch.testing.assert_close(ensemble([flat, torch.tensor([[0.0, 1.0, 2.0]])], scale=2),
                               torch.tensor([[0.0, 0.5, 1.0]]))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_ensemble_needs_fitting_weights(weights: list[float]) -> None:
    with pytest.raises(InvalidArgumentError, match="weight >= 0 each"):
        ensemble([SCORES, TEACHER], weights)
    with pytest.raises(InvalidArgumentError, match="expected teachers"):
        ensemble([])


# --- sparsity -------------------------------------------------------------------------------------------------


def test_flops_by_hand() -> None:
    weights = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    assert flops(weights).item() == 2**2 + 1**2
    assert flops(-weights).item() == 5
    assert flops(weights, groups=2).item() == 1 + 9 + 4  # each row alone


def test_groups_are_interleaved() -> None:
    weights = random(12, 5)
    expected = sum(flops(weights[start::3]) for start in range(3))
    torch.testing.assert_close(flops(weights, groups=3), expected)
    torch.testing.assert_close(flops_l0(weights, 0, groups=3), expected)
    torch.testing.assert_close(flops_idf(weights, torch.ones(5), groups=3), expected)


def test_l1_by_hand() -> None:
    assert l1(torch.tensor([[1.0, 0.0], [-3.0, 2.0]])).item() == 3


def test_short_documents_get_exactly_no_gradient() -> None:
    weights = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = gradient(lambda x: flops_l0(x, 2), weights)
    assert (found[0] == 0).all()
    assert (found[1, :3] > 0).all() and (found[2] > 0).all()
    # Means over all three rows, the short one included: 2/3 three times, then 1/3.
    assert flops_l0(weights, 2).item() == pytest.approx((3 * 4 + 1) / 9)
    assert flops_l0(weights, 4).item() == 0
    assert (gradient(lambda x: flops_l0(x, 4), weights) == 0).all()
    torch.testing.assert_close(flops_l0(weights, 0), flops(weights))


def test_flops_idf_by_hand() -> None:
    weights, idf = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([2.0, 4.0, 0.0])  # mean 2
    assert flops_idf(weights, idf).item() == pytest.approx(1 + 0.25 + 100)


def test_flops_idf_of_equal_idf_is_flops() -> None:
    weights = random(6, 8)
    torch.testing.assert_close(flops_idf(weights, torch.full((8,), 3.5)), flops(weights))
    idf = random(8, seed=4).abs()
    torch.testing.assert_close(flops_idf(weights, idf), flops_idf(weights, 10 * idf))


# --- all of them ----------------------------------------------------------------------------------------------

MASK = random(3, 5, seed=9) > -0.7
ALL: dict[str, Any] = {
    "margin_mse": lambda x: margin_mse(x, random(3, 5, seed=1), 1, MASK),
    "kl": lambda x: kl_distillation(x, random(3, 5, seed=1), 0.7, MASK),
    "info_nce": lambda x: info_nce(x, torch.tensor([0, -1, 4]), MASK, 0.5),
    "ensemble": lambda x: ensemble([x, random(3, 5, seed=1)], [1, 2], 3, MASK).sum(),
    "flops": lambda x: flops(x, 3),
    "flops_l0": lambda x: flops_l0(x, 3),
    "flops_idf": lambda x: flops_idf(x, torch.arange(5.0)),
    "l1": l1,
}


@pytest.mark.parametrize("name", ALL)
def test_gradients(name: str) -> None:
    assert torch.autograd.gradcheck(ALL[name], random(3, 5).requires_grad_())


@pytest.mark.parametrize("name", ALL)
def test_sums_are_taken_in_float32(name: str) -> None:
    half = random(3, 5).to(torch.bfloat16)
    loss = ALL[name](half)
    # Those with a teacher in float64 rise to that; none stays in bfloat16.
    assert loss.dtype in (torch.float32, torch.float64) and loss.ndim == 0
    torch.testing.assert_close(loss.double(), ALL[name](half.double()).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [
    lambda: margin_mse(SCORES, TEACHER[:, :2]),
    lambda: kl_distillation(SCORES, TEACHER[0]),
    lambda: kl_distillation(SCORES, TEACHER, mask=torch.ones(2, 3)),
    lambda: kl_distillation(SCORES, TEACHER, mask=torch.ones(3, 2, dtype=torch.bool)),
    lambda: info_nce(SCORES, torch.tensor([0])),
    lambda: flops(SCORES, groups=4),
    lambda: flops(SCORES, groups=0),
    lambda: flops(SCORES[0]),
    lambda: flops(SCORES[:0]),
    lambda: flops_idf(SCORES, torch.ones(2)),
    lambda: l1(SCORES[0]),
])
def test_shapes_are_checked(call: Any) -> None:
    with pytest.raises(ShapeError, match="expected"):
        call()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_are_positive(temperature: float) -> None:
    for call in (lambda: kl_distillation(SCORES, TEACHER, temperature),
                 lambda: info_nce(SCORES, torch.tensor([0, 0]), temperature=temperature)):
        with pytest.raises(InvalidArgumentError, match="temperature above 0"):
            call()


# --- several devices ------------------------------------------------------------------------------------------


def _device(rank: int, sizes: list[int], folder: str) -> None:
    """One process of `test_the_penalty_does_not_depend_on_the_number_of_devices`."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(sizes))
    rows = random(sum(sizes), 6).abs()[sum(sizes[:rank]):sum(sizes[:rank + 1])].requires_grad_()
    losses = {"flops": flops(rows, 2, across_devices=True), "alone": flops(rows, 2),
              "l0": flops_l0(rows, 5, 2, across_devices=True)}
    found = {name: (loss.item(), torch.autograd.grad(loss, rows)[0]) for name, loss in losses.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_penalty_does_not_depend_on_the_number_of_devices(tmp_path: Path) -> None:
    sizes = [4, 8]
    processes = [torch.multiprocessing.get_context("fork").Process(target=_device, args=(rank, sizes, str(tmp_path)))
                 for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = random(12, 6).abs()
    for name, loss in (("flops", lambda x: flops(x, 2)), ("l0", lambda x: flops_l0(x, 5, 2))):
        expected, slope = loss(whole).item(), gradient(loss, whole)
        assert [part[name][0] for part in parts] == pytest.approx([expected] * 2)
        # Averaged over the two processes, as their data-parallel wrapper would do.
        torch.testing.assert_close(torch.cat([part[name][1] for part in parts]) / 2, slope)
    assert parts[0]["alone"][0] != pytest.approx(flops(whole, 2).item())


def test_across_devices_needs_no_group() -> None:
    assert "RANK" not in os.environ
    assert flops(SCORES, across_devices=True).item() == flops(SCORES).item()
