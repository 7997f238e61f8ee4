from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from sparsight.encoders.sae import layout as module
from sparsight.encoders.sae.layout import layout, layout_quality, pca_layout
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def clustered(groups: int = 20, size: int = 12, d: int = 24, spread: float = 0.4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(groups, d)), size, axis=0)
    return (centres + spread * rng.normal(size=centres.shape)).astype(F32)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def places(rows: np.ndarray) -> np.ndarray:
    return layout(rows)


def test_near_rows_are_near_on_the_map(rows: np.ndarray, places: np.ndarray) -> None:
    assert places.shape == (240, 2) and places.dtype == F32
    assert np.abs(places).max() == 1 and np.abs(places.mean(0)).max() < 1e-5
    assert layout_quality(rows, places, within=15) > 0.95 > 0.8 > layout_quality(rows, pca_layout(rows), within=15)
    # The nearest on the map is of the same group.
    nearest = cKDTree(places).query(places, 2)[1][:, 1]
    assert (nearest // 12 == np.arange(240) // 12).mean() > 0.95


def test_equal_arguments_give_equal_bits(rows: np.ndarray, places: np.ndarray) -> None:
    assert layout(rows).tobytes() == places.tobytes()
    assert layout(rows.astype(np.float64)).shape == places.shape
    assert layout(rows, seed=1, steps=20).tobytes() != layout(rows, seed=2, steps=20).tobytes()


def test_other_numbers_for_latents_make_as_good_a_map(rows: np.ndarray, places: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(rows))
    again = layout(rows[order])
    assert layout_quality(rows[order], again) == pytest.approx(layout_quality(rows, places), abs=0.02)
    np.testing.assert_allclose(pca_layout(rows[order]), pca_layout(rows)[order], atol=1e-5)


def test_lengths_of_rows_do_not_matter(rows: np.ndarray) -> None:
    np.testing.assert_allclose(pca_layout(3 * rows), pca_layout(rows), atol=1e-5)


def test_an_affinity_brings_its_latents_together(rows: np.ndarray, places: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    partner = rng.permutation(240).reshape(120, 2)
    together = csr_matrix((np.ones(240), (partner.T.ravel(), partner[:, ::-1].T.ravel())), shape=(240, 240))

    def apart(of: np.ndarray) -> float:
        return float(np.median(np.linalg.norm(of[partner[:, 0]] - of[partner[:, 1]], axis=1)))

    assert apart(layout(rows, together, share=0.9)) < 0.3 * apart(places)
    assert layout(rows, together, share=0.0).tobytes() == places.tobytes()
    assert layout(rows, csr_matrix((240, 240))).tobytes() == places.tobytes()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 8.0])
def test_pushes_against_the_whole_sum(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    places = scale * np.random.default_rng(0).normal(size=(200, 2))
    apart = places[:, None] - places
    q = 1 / (1 + (apart ** 2).sum(2))
    np.fill_diagonal(q, 0)
    wanted = (q[:, :, None] ** 2 * apart).sum(1) / q.sum()
    np.testing.assert_allclose(module._push(places), wanted, atol=1e-12)
    monkeypatch.setattr(module, "_FEW", 0)
    error = np.linalg.norm(module._push(places) - wanted) / np.linalg.norm(wanted)
    assert error < (0.02 if scale <= 1 else 0.2)  # cells of half a unit smooth what is nearer than that


def test_the_grid_makes_as_good_a_map(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray, places: np.ndarray) -> None:
    monkeypatch.setattr(module, "_FEW", 0)
    assert layout_quality(rows, layout(rows)) == pytest.approx(layout_quality(rows, places), abs=0.02)
    assert layout(rows).tobytes() == layout(rows).tobytes()


def test_pulls_against_the_whole_sum(rows: np.ndarray) -> None:
    pulls = module._pulls(rows, None, 0.5)
    assert abs(pulls - pulls.T).max() < 1e-15 and pulls.sum() == pytest.approx(1)
    places = np.random.default_rng(0).normal(size=(240, 2))
    apart = places[:, None] - places
    weights = pulls.toarray() / (1 + (apart ** 2).sum(2))
    found = module._pull(places, pulls, np.repeat(np.arange(240), np.diff(pulls.indptr)))
    np.testing.assert_allclose(found, (weights[:, :, None] * apart).sum(1), atol=1e-12)


def test_weights_have_the_perplexity() -> None:
    squares = np.sort(np.random.default_rng(0).random((7, 30)), axis=1)
    weights = module._perplexity_weights(squares)
    entropy = -(weights * np.log(weights)).sum(1)
    np.testing.assert_allclose(np.exp(entropy), 20, rtol=1e-3)
    np.testing.assert_allclose(module._perplexity_weights(np.ones((2, 4))), 0.25)
    assert module._perplexity_weights(np.ones((2, 1))).tolist() == [[1], [1]]


def test_quality_by_hand() -> None:
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], F32)
    line = np.array([[0, 0], [1, 0], [5, 0], [6, 0]], F32)
    assert layout_quality(rows, line, near=1, within=1) == 1
    assert layout_quality(rows, line[[0, 2, 1, 3]], near=1, within=1) == 0
    assert layout_quality(rows, line, near=9, within=9) == 1
    assert layout_quality(rows, np.zeros((4, 2), F32), near=1, within=3) == 1
    assert 0 <= layout_quality(rows, np.zeros((4, 2), F32), near=1, within=1) <= 1


@pytest.mark.parametrize("latents", [0, 1, 2, 3, 5])
def test_few_latents(latents: int) -> None:
    rows = np.eye(6, dtype=F32)[:latents]
    for places in (layout(rows), pca_layout(rows)):
        assert places.shape == (latents, 2) and np.isfinite(places).all()
    if latents > 1:
        apart = np.linalg.norm(layout(rows)[:, None] - layout(rows), axis=2)
        assert (apart[~np.eye(latents, dtype=bool)] > 0.1).all()
    else:
        assert not layout(rows).any()


def test_rows_that_say_nothing() -> None:
    same = np.ones((40, 3), F32)
    for rows in (same, 0 * same, np.ones((40, 1), F32)):
        places = layout(rows)
        assert np.isfinite(places).all() and len(np.unique(places, axis=0)) == 40
        assert np.isfinite(pca_layout(rows)).all()


def test_what_is_refused(rows: np.ndarray, places: np.ndarray) -> None:
    ring = csr_matrix(np.ones((240, 240)) - np.eye(240))
    for call, error, field in [
        (lambda: layout(rows[0]), ShapeError, "rows"),
        (lambda: layout(rows.astype(int)), ShapeError, "rows"),
        (lambda: layout(rows * np.inf), InvalidVectorError, "rows"),
        (lambda: pca_layout(rows[0]), ShapeError, "rows"),
        (lambda: layout(rows, steps=0), InvalidArgumentError, "steps"),
        (lambda: layout(rows, share=1.5), InvalidArgumentError, "share"),
        (lambda: layout(rows, ring[:5]), ShapeError, "affinity"),
        (lambda: layout(rows, ring.tocsc()), ShapeError, "affinity"),
        (lambda: layout(rows, csr_matrix(-ring)), InvalidArgumentError, "affinity"),
        (lambda: layout(rows, csr_matrix(np.triu(ring.toarray()))), InvalidArgumentError, "affinity"),
        (lambda: layout(rows, csr_matrix(np.eye(240))), InvalidArgumentError, "affinity"),
        (lambda: layout_quality(rows, places[:5]), ShapeError, "places"),
        (lambda: layout_quality(rows[:1], places[:1]), InvalidArgumentError, "rows"),
        (lambda: layout_quality(rows, places, near=0), InvalidArgumentError, "near"),
        (lambda: layout_quality(rows, places, within=0), InvalidArgumentError, "within"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.field == field
