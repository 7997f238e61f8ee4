from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls

from sparsight.encoders.sae.examples import direction_of, direction_with, latents_towards
from sparsight.encoders.sae.model import SAE
from sparsight.errors import ShapeError


@pytest.fixture
def sae() -> SAE:
    """Six latents along the axes of four dimensions, the last two half way between; the fourth never fired."""
    rows = np.eye(4, dtype=np.float32)
    between = np.stack([rows[0] + rows[1], rows[1] + rows[2]]) / np.sqrt(np.float32(2))
    rows = np.concatenate([rows, between]).astype(np.float32)
    density = np.array([0.2, 0.2, 0.2, 0.0, 0.2, 0.2], np.float32)
    return SAE(2, rows, np.zeros(6, np.float32), rows, np.full(4, 0.1, np.float32), density=density,
               scale=(density > 0).astype(np.float32), impact_scale=np.ones(6, np.float32))


def test_a_direction_leads_to_the_positives(sae: SAE) -> None:
    positives = np.array([[1, 0.1, 0.1, 0.1]] * 3, np.float32)
    way = direction_of(sae, positives)
    assert way == pytest.approx([1, 0, 0, 0], abs=0.06) and np.linalg.norm(way) == pytest.approx(1, abs=1e-6)
    away = direction_of(sae, positives, np.array([[0.1, 1, 0.1, 0.1]] * 40, np.float32))
    assert away[1] < -0.3 and away[0] > 0.8  # 40 negatives against 30 of background


def test_directions_of_much_spread_count_less(sae: SAE) -> None:
    wide = replace(sae, density=np.array([0.9, 0, 0, 0.01, 0, 0], np.float32), scale=np.ones(6, np.float32) * 3)
    way = direction_of(wide, np.array([[1.1, 0.1, 0.1, 1.1]], np.float32))
    assert 0 < way[0] < way[3]


def test_no_difference_is_no_direction(sae: SAE) -> None:
    assert not direction_of(sae, np.full((2, 4), 0.1, np.float32)).any()
    assert len(latents_towards(sae, np.zeros(4, np.float32), 3)[0]) == 0


def test_words_count_as_much_as_all_examples(sae: SAE) -> None:
    positives, words = np.array([[1, 0.1, 0.1, 0.1]] * 3, np.float32), np.array([0.1, 0.1, 0.9, 0.1], np.float32)
    alone = direction_of(sae, np.zeros((0, 4), np.float32), words=words)
    assert alone == pytest.approx([0, 0, 1, 0], abs=1e-6)
    away = direction_of(sae, np.zeros((0, 4), np.float32), np.array([[0.1, 0.9, 0.1, 0.1]] * 40, np.float32), words)
    assert away[1] < -0.3 and away[2] > 0.8  # negatives without positives: the words lead away from them
    both = direction_of(sae, positives, words=words)
    assert both == pytest.approx((direction_of(sae, positives) + alone) / np.sqrt(2), abs=0.02)


def test_neighbours_count_nearly_as_much_as_examples(sae: SAE) -> None:
    none = np.zeros((0, 4), np.float32)
    positives, near = np.array([[1, 0.1, 0.1, 0.1]] * 3, np.float32), np.array([[0.1, 0.1, 0.9, 0.1]] * 7, np.float32)
    both = direction_with(sae, near, positives)
    alone = [direction_of(sae, rows) for rows in (positives, near)]
    assert both == pytest.approx((alone[0] + 0.8 * alone[1]) / np.linalg.norm(alone[0] + 0.8 * alone[1]), abs=1e-6)
    assert direction_with(sae, none, positives) == pytest.approx(alone[0], abs=1e-6)
    assert direction_with(sae, near, none) == pytest.approx(alone[1], abs=1e-6)
    negatives = np.array([[0.1, 0.9, 0.1, 0.1]] * 40, np.float32)
    assert direction_with(sae, near, none, negatives) == pytest.approx(direction_of(sae, near, negatives), abs=1e-6)
    assert not direction_with(sae, none, none).any()


def test_latents_of_a_step_of_length_1(sae: SAE) -> None:
    latents, weights = latents_towards(sae, np.array([0.8, 0.6, 0, 0], np.float32), 6)
    assert latents.tolist() == [4, 0]  # half way between the first two axes, and 0.2 of the first: exactly it
    assert weights == pytest.approx([0.6 * np.sqrt(2), 0.2], abs=1e-5)
    assert latents_towards(sae, np.array([0, 0, 0, 1], np.float32), 6)[0].tolist() == []  # never fired
    assert latents_towards(sae, np.array([-1, 0, 0, 0], np.float32), 6)[0].tolist() == []
    (one,), weight = latents_towards(sae, np.array([0.8, 0.6, 0, 0], np.float32), 1)
    assert one == 4 and weight == pytest.approx([1], abs=1e-6)


def test_latents_are_the_nearest_ones_and_their_weights_the_best() -> None:
    drawn = np.random.default_rng(3)
    rows = drawn.standard_normal((64, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ones = np.ones(64, np.float32)
    sae = SAE(2, rows, np.zeros(64, np.float32), rows, np.zeros(8, np.float32), density=ones, scale=ones,
              impact_scale=ones)
    direction = rows[:3].sum(0) / np.linalg.norm(rows[:3].sum(0))
    for count in (1, 2, 4, 12):
        nearest = np.argsort(-rows @ direction)[:count]
        latents, weights = latents_towards(sae, direction, count)
        assert set(latents.tolist()) <= set(nearest.tolist()) and (weights > 0).all()
        assert weights.tolist() == sorted(weights.tolist(), reverse=True)
        best, _ = nnls(rows[nearest].T.astype(np.float64), direction.astype(np.float64))
        ours, theirs = weights @ rows[latents], best @ rows[nearest] / np.linalg.norm(best @ rows[nearest])
        assert ours @ direction >= theirs @ direction - 1e-3 and np.linalg.norm(ours) == pytest.approx(1, abs=1e-6)


def test_wrong_shapes_are_named(sae: SAE) -> None:
    with pytest.raises(ShapeError, match="at least one positive example"):
        direction_of(sae, np.zeros((0, 4), np.float32))
    with pytest.raises(ShapeError, match="positives"):
        direction_of(sae, np.zeros((2, 3), np.float32))
    with pytest.raises(ShapeError, match="negatives"):
        direction_of(sae, np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ShapeError, match="words"):
        direction_of(sae, np.zeros((1, 4), np.float32), words=np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match="direction of 4 components"):
        latents_towards(sae, np.zeros(3, np.float32), 2)
    with pytest.raises(ShapeError, match="neighbours"):
        direction_with(sae, np.zeros((2, 5), np.float32), np.zeros((0, 4), np.float32))
