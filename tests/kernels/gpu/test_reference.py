"""The specification of the head and of pruning, by numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sparsight.kernels.reference import max_logits as reference


def test_max_logits() -> None:
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    weight = torch.tensor([[1.0, 2.0], [-1.0, -3.0], [0.0, 0.0]])
    got = reference.max_logits(hidden, torch.tensor([0, 2, 3]), weight, torch.tensor([0.5, 0.0, -1.0]))
    assert got.tolist() == [[2.5, -1.0, -1.0], [6.5, -8.0, -1.0]]
    assert reference.max_logits(hidden, torch.tensor([0, 3]), weight, None).tolist() == [[6.0, -1.0, 0.0]]


def test_among_equal_logits_the_gradient_goes_to_the_first_token() -> None:
    hidden = torch.tensor([[1.0], [2.0], [2.0], [2.0]], requires_grad=True)
    reference.max_logits(hidden, torch.tensor([0, 3, 4]), torch.tensor([[3.0]]), None).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.ravel().tolist() == [0, 3, 0, 3]


def test_activations() -> None:
    logits = torch.tensor([-1.0, 0.0, math.e - 1])
    assert reference.activate(logits, "log1p_relu").tolist() == pytest.approx([0, 0, 1])
    assert reference.activate(logits, "log1p_log1p_relu").tolist() == pytest.approx([0, 0, math.log(2)])


@pytest.mark.parametrize(("max_terms", "threshold", "starts", "terms", "values"), [
    (0, 0.0, [0, 3, 3], [0, 2, 3], [1, 2, 2]),
    (0, 1.0, [0, 2, 2], [2, 3], [2, 2]),
    (1, 0.0, [0, 1, 1], [2], [2]),  # equal ones by lower term
    (2, 1.5, [0, 2, 2], [2, 3], [2, 2]),
    (9, 0.0, [0, 3, 3], [0, 2, 3], [1, 2, 2]),
])
def test_pruned_csr(max_terms: int, threshold: float, starts: list[int], terms: list[int], values: list[int]) -> None:
    weights = torch.tensor([[1.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    got = reference.pruned_csr(weights, max_terms, threshold)
    assert [part.tolist() for part in got] == [starts, terms, values]
