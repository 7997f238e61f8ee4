"""Spherical k-means: by hand, against a plain one, and what holds for any rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.encoders.sae import centroids as module
from sparsight.encoders.sae.centroids import centroids


def directions(rows: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))


def test_by_hand() -> None:
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    assert {tuple(row) for row in centroids(x, 2, seed=1).tolist()} == {(1.0, 0.0), (0.0, 1.0)}
    middle = centroids(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 1)  # length counts for nothing
    torch.testing.assert_close(middle, torch.full((1, 2), 0.5**0.5))


def test_a_centre_that_no_row_is_nearest_to_stays() -> None:
    x = torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0], [0.6, 0.8]])
    for seed in range(6):  # some start from two equal rows: the second of them gets none
        found = centroids(x, 3, seed=seed)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
        assert {(round(a, 4), round(b, 4)) for a, b in found.tolist()} == {(0.6, 0.8), (1.0, 0.0)}


def test_clusters_are_found() -> None:
    truth = torch.nn.functional.normalize(torch.eye(6) + 0.1 * directions(6, 6), dim=1)
    x = truth.repeat_interleave(50, 0) + 0.05 * directions(300, 6, seed=1)
    found = max((centroids(x, 6, seed=seed) for seed in range(8)),
                key=lambda centres: float((x @ centres.T).amax(1).sum()))
    best = (found @ truth.T).amax(0)
    assert best.min() > 0.995


def plain(x: np.ndarray, centres: np.ndarray, rounds: int) -> np.ndarray:
    """Lloyd's algorithm by cosine in float64."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    for _ in range(rounds):
        nearest = (x @ centres.T).argmax(1)
        for number in range(len(centres)):
            if (nearest == number).any():
                total = x[nearest == number].sum(0)
                centres[number] = total / np.linalg.norm(total)
    return centres


@pytest.mark.parametrize(("at_once", "most_rows"), [(16_384, 200_000), (7, 200_000), (16_384, 60)])
def test_against_plain_k_means(at_once: int, most_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    x = directions(150, 5)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(3)).numpy()[:most_rows]
    rows = x.double().numpy()[order]
    start = rows[:9] / np.linalg.norm(rows[:9], axis=1, keepdims=True)
    found = centroids(x, 9, rounds=4, seed=3, most_rows=most_rows)
    np.testing.assert_allclose(found.numpy(), plain(rows, start, 4), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_unit_rows_that_get_no_worse(rows: int, count: int, seed: int) -> None:
    x = directions(rows, 4, seed)
    once, often = (centroids(x, count, rounds=rounds, seed=seed) for rounds in (0, 5))
    assert once.shape == often.shape == (count, 4)
    torch.testing.assert_close(often.norm(dim=1), torch.ones(count))
    unit = torch.nn.functional.normalize(x, dim=1)
    assert (unit @ often.T).amax(1).sum() >= (unit @ once.T).amax(1).sum() - 1e-4


def test_equal_bits_and_a_random_state_left_alone() -> None:
    x = directions(300, 8)
    torch.manual_seed(7)
    expected: Any = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = centroids(x, 20), centroids(x, 20), centroids(x, 20, seed=1)
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(torch.rand(3), expected)
