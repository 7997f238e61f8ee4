from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import block_diag, csr_matrix

from sparsight.encoders.sae import lobes
from sparsight.encoders.sae.cosine_graph import cosine_graph, cosine_neighbours
from sparsight.encoders.sae.lobes import agreement, find_lobes, geometric_lobes, spectral_clusters
from sparsight.encoders.sae.shapes import cluster_rows, find_shapes, mixture_index, separability_index
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32
SIZES = (30, 20, 10)
PLANTED = np.repeat([0, 1, 2], SIZES)


def lobed_codes(texts: int = 600, seed: int = 0) -> csr_matrix:
    """Every text is of one of three subjects, and most of its latents are of that subject's."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, 3, texts)
    rate = np.where(subject[:, None] == PLANTED, 0.2, 0.02)
    fires = rng.random(rate.shape) < rate
    return csr_matrix((fires * rng.uniform(0.5, 1.5, rate.shape)).astype(F32))


def lobed_rows(d: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(3, d))[PLANTED] + 0.5 * rng.normal(size=(len(PLANTED), d))).astype(F32)


def circle(n: int = 2000, seed: int = 0) -> np.ndarray:
    angle = np.random.default_rng(seed).random(n) * 2 * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def cross(n: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.5
    return np.stack([which, ~which], axis=1) * rng.uniform(0.5, 1.5, (n, 1))


@pytest.mark.parametrize("dense", [256, 5])
def test_planted_lobes_are_found(monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr(lobes, "_DENSE", dense)  # all eigenvectors, or some
    codes, rows = lobed_codes(), lobed_rows()
    found = find_lobes(codes)
    assert found.tolist() == PLANTED.tolist() and found.dtype == np.int64
    assert geometric_lobes(rows).tolist() == PLANTED.tolist()
    compared = agreement(found, geometric_lobes(rows))
    assert compared.adjusted == pytest.approx(1) and compared.z > 10 and compared.latents == 60
    assert np.array_equal(find_lobes(codes, seed=0), found)


def test_other_numbers_for_latents_change_only_names() -> None:
    codes = lobed_codes()
    order = np.random.default_rng(0).permutation(60)
    assert find_lobes(csr_matrix(codes[:, order])).tolist() == find_lobes(codes)[order].tolist()


def test_components_are_clusters() -> None:
    parts = [csr_matrix(np.ones((n, n)) - np.eye(n)) for n in (2, 5, 3)] + [csr_matrix((1, 1))]
    affinity = csr_matrix(block_diag(parts))
    assert spectral_clusters(affinity, 3).tolist() == [2] * 2 + [0] * 5 + [1] * 3 + [-1]
    assert spectral_clusters(affinity, 1).tolist() == [0] * 10 + [-1]
    assert spectral_clusters(csr_matrix((4, 4)), 2).tolist() == [-1] * 4
    assert spectral_clusters(csr_matrix((0, 0)), 2).tolist() == []
    assert sorted(spectral_clusters(csr_matrix(np.ones((2, 2)) - np.eye(2)), 5).tolist()) in ([0, 0], [0, 1])


def test_latents_that_never_fire_have_no_lobe() -> None:
    codes = csr_matrix(np.hstack([lobed_codes().toarray(), np.zeros((600, 1), F32), np.ones((600, 1), F32)]))
    assert find_lobes(codes).tolist() == [*PLANTED, -1, -1]
    assert find_lobes(csr_matrix(np.ones((1, 4), F32))).tolist() == [-1] * 4
    assert find_lobes(csr_matrix(np.ones((5, 1), F32)), 1).tolist() == [-1]


def test_agreement_by_hand() -> None:
    a = np.array([0, 0, 1, 1, 2, -1])
    same = agreement(a, np.array([1, 1, 0, 0, 2, 0]))
    assert same.information == pytest.approx(2 * 0.4 * np.log(2.5) + 0.2 * np.log(5))
    assert same.adjusted == pytest.approx(1) and same.latents == 5
    half = agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert half.information == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(2 / 3) + 0.5 * np.log(4 / 3))
    assert agreement(np.zeros(4, np.int64), np.arange(4)).adjusted == 0
    one = agreement(np.zeros(4, np.int64), np.zeros(4, np.int64))
    assert np.isnan([one.adjusted, one.z]).all()


def test_agreement_of_unrelated_clusters_is_chance() -> None:
    rng = np.random.default_rng(0)
    found = [agreement(rng.integers(0, 4, 500), rng.integers(0, 6, 500), draws=50, seed=i) for i in range(40)]
    assert abs(np.mean([pair.adjusted for pair in found])) < 0.005
    assert abs(np.mean([pair.z for pair in found])) < 0.5 and 0.7 < np.std([pair.z for pair in found]) < 1.4


def test_cosine_neighbours_by_hand() -> None:
    rows = np.array([[1, 0], [3, 4], [0, 2], [-1, -0.1], [0, 0]], F32)
    neighbours, cosines = cosine_neighbours(rows, 2)
    assert neighbours[:3].tolist() == [[1, 4], [2, 0], [1, 4]] or neighbours[0, 1] == 2
    np.testing.assert_allclose(cosines[:3], [[0.6, 0], [0.8, 0.6], [0.8, 0]], atol=1e-6)
    graph = cosine_graph(rows, 1, 0.1).toarray()
    wanted = np.zeros((5, 5))
    wanted[0, 1] = wanted[1, 0] = 0.6
    wanted[1, 2] = wanted[2, 1] = 0.8
    np.testing.assert_allclose(graph, wanted, atol=1e-6)
    assert cosine_neighbours(rows[:1], 3)[0].shape == (1, 0) and cosine_neighbours(rows[:0], 3)[0].shape == (0, 0)
    assert cosine_graph(rows[:1], 3).shape == (1, 1)


def test_indices_of_known_clouds() -> None:
    normal = np.random.default_rng(0).normal(size=(2000, 2)) @ np.array([[1, 0.6], [0, 0.5]])
    assert separability_index(circle()) > 1 and mixture_index(circle()) < 0.3
    assert separability_index(normal) < 0.05 and 0.08 < mixture_index(normal) < 0.13
    assert separability_index(cross()) == pytest.approx(np.log(2), abs=0.02)
    assert mixture_index(cross()) == pytest.approx(0.5, abs=0.03)
    turned = np.array([[0.8, -0.6], [0.6, 0.8]])
    for index in (separability_index, mixture_index):
        for cloud in (circle(), cross()):
            assert index(cloud @ turned) == pytest.approx(index(cloud), abs=0.1)
        assert index(5 * cross()) == pytest.approx(index(cross()))


def test_groups_of_near_rows() -> None:
    angles = np.array([0, 20, 40, 150, 170, 260])
    rows = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1).astype(F32)
    assert cluster_rows(rows, least=0.9) == [(0, 1, 2), (3, 4)]
    assert cluster_rows(rows, least=0.9, most=2) == [(3, 4)]
    assert cluster_rows(rows, least=0.99) == [] and cluster_rows(rows[:1]) == []


def test_a_circle_is_told_from_a_cross() -> None:
    """Six latents around a circle that fire two by two, as parts of one angle do, and two that exclude each other."""
    around = np.arange(6) * np.pi / 3
    rows = np.zeros((9, 4), F32)
    rows[:6, :2] = np.stack([np.cos(around), np.sin(around)], axis=1)
    rows[6:8, 2:] = np.eye(2)
    rows[8] = 0.5
    angle = np.random.default_rng(0).random(2000) * 6
    codes = np.zeros((4000, 9))
    first = angle.astype(int)
    share = (angle - first) * np.pi / 3  # of the two neighbours, so that the sum has length 1
    codes[np.arange(2000), first] = np.sin(np.pi / 3 - share) / np.sin(np.pi / 3)
    codes[np.arange(2000), (first + 1) % 6] = np.sin(share) / np.sin(np.pi / 3)
    codes[2000:, 6:8] = cross()
    codes[0, 8] = 1
    found = find_shapes(csr_matrix(codes.astype(F32)), rows, [(7, 6), range(6), (8,), (8, 0)])
    assert set(found[0].latents) == set(range(6)) and found[0].texts == 2000 and found[0].plane == 0
    assert found[0].variance == pytest.approx(1) and found[0].score > 3 * found[0].null_score
    pair = next(shape for shape in found if set(shape.latents) == {6, 7})
    assert pair.mixture == pytest.approx(0.5, abs=0.05) and found[0].score > 2 * pair.score
    assert found[-1].latents == (8,) and found[-1].plane == -1 and found[-1].score == found[-1].null_score == 0
    again = find_shapes(csr_matrix(codes.astype(F32)), rows, [range(6)])
    assert again[0].separability == found[0].separability


def test_clouds_without_a_plane() -> None:
    codes, rows = csr_matrix(np.ones((200, 2), F32)), np.eye(2, dtype=F32)
    for group in ([0], [0, 1]):  # one direction; one point
        assert find_shapes(codes, rows, [group])[0].plane == -1
    assert find_shapes(codes, rows, []) == []
    assert find_shapes(codes[:1], rows, [[0, 1]], min_texts=1)[0].texts == 1


def test_what_is_refused() -> None:
    codes, rows, square = lobed_codes(), lobed_rows(), csr_matrix(np.ones((3, 3)) - np.eye(3))
    for call, error, field in [
        (lambda: find_lobes(codes, 0), InvalidArgumentError, "count"),
        (lambda: find_lobes(codes.tocsc()), ShapeError, "codes"),
        (lambda: find_lobes(codes, partners=0), InvalidArgumentError, "partners"),
        (lambda: geometric_lobes(rows[0]), ShapeError, "rows"),
        (lambda: geometric_lobes(rows * np.nan), InvalidVectorError, "rows"),
        (lambda: geometric_lobes(rows, partners=0), InvalidArgumentError, "count"),
        (lambda: cosine_graph(rows, 1, -0.1), InvalidArgumentError, "least"),
        (lambda: spectral_clusters(codes, 2), ShapeError, "affinity"),
        (lambda: spectral_clusters(csr_matrix(-square), 2), InvalidArgumentError, "affinity"),
        (lambda: spectral_clusters(csr_matrix(np.triu(square.toarray())), 2), InvalidArgumentError, "affinity"),
        (lambda: spectral_clusters(csr_matrix(np.eye(3)), 2), InvalidArgumentError, "affinity"),
        (lambda: agreement(PLANTED, PLANTED[:5]), ShapeError, "b"),
        (lambda: agreement(PLANTED, PLANTED, draws=1), InvalidArgumentError, "draws"),
        (lambda: agreement(PLANTED, np.full(60, -1)), InvalidArgumentError, "a"),
        (lambda: find_shapes(codes, rows[:5], [[0]]), ShapeError, "rows"),
        (lambda: find_shapes(codes, rows, [[0, 1], [3, 60]]), InvalidArgumentError, "groups[1]"),
        (lambda: find_shapes(codes, rows, [[2, 2]]), InvalidArgumentError, "groups[0]"),
        (lambda: find_shapes(codes, rows, [[0]], draws=0), InvalidArgumentError, "draws"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.field == field
