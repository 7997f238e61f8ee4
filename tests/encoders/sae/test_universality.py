from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders.sae import universality
from sparsight.encoders.sae.space_similarity import space_similarity
from sparsight.encoders.sae.synthetic import make_synthetic
from sparsight.encoders.sae.universality import Pairs, label_transfer, pair_by_activation
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def sparse(x: np.ndarray) -> csr_matrix:
    return csr_matrix(np.asarray(x, F32))


def random_codes(rows: int, latents: int, seed: int, density: float = 0.2) -> csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse(np.where(rng.random((rows, latents)) < density, rng.uniform(0.5, 1.5, (rows, latents)), 0))


def normal(rows: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(F32)


def pairs_of(a: list[int], b: list[int]) -> Pairs:
    return Pairs(np.array(a, np.int64), np.array(b, np.int64), np.ones(len(a)))


def test_pairs_by_hand() -> None:
    a = sparse([[1, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 0]])
    b = sparse([[0, 3, 1], [0, 3, 0], [1, 0, 1], [0, 0, 0]])
    # a0 is (1, 1, 0, 0): with b1 correlation 1, with b2 (1, 0, 1, 0) none. a1 with b0 1. a2 never fires.
    got = pair_by_activation(a, b)
    assert dict(zip(got.a.tolist(), got.b.tolist(), strict=True)) == {0: 1, 1: 0}
    np.testing.assert_allclose(got.correlation, 1, atol=1e-12)
    # (1, 0, 0, 0) with (1, 1, 0, 0): covariance 1/4 - 1/8, deviations sqrt(3)/4 and 1/2.
    got = pair_by_activation(sparse([[1], [0], [0], [0]]), sparse([[1], [1], [0], [0]]))
    assert got.correlation[0] == pytest.approx((1 / 8) / (np.sqrt(3) / 8))
    assert len(pair_by_activation(sparse([[1], [0], [0], [0]]), sparse([[1], [1], [0], [0]]), least=0.6).a) == 0


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_pairs_against_numpy(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(universality, "_LATENTS_AT_ONCE", at_once)
    a, b = random_codes(80, 20, 0), random_codes(80, 30, 1)
    table = np.corrcoef(a.toarray().T.astype(float), b.toarray().T)[:20, 20:]
    got = pair_by_activation(a, b, least=0.0, one_to_one=False)
    assert len(got.a) == 20 and (np.diff(got.correlation) <= 0).all()
    np.testing.assert_array_equal(got.b, table.argmax(1)[got.a])
    np.testing.assert_allclose(got.correlation, table.max(1)[got.a], atol=1e-9)
    one = pair_by_activation(a, b, least=0.15)
    assert len(set(one.b)) == len(one.b) < 20 and (one.correlation >= 0.15).all()
    for latent, partner, correlation in zip(one.a, one.b, one.correlation, strict=True):
        rivals = table.max(1)[table.argmax(1) == partner]
        assert correlation == pytest.approx(rivals.max()) == pytest.approx(table[latent, partner])


def test_constant_latents_have_no_partner() -> None:
    a = sparse(np.column_stack([np.full(50, 0.3), np.arange(50) % 2]))
    got = pair_by_activation(a, a)
    assert got.a.tolist() == got.b.tolist() == [1]


def test_planted_features_in_two_spaces() -> None:
    # The same activity, reordered, over two dictionaries of which one is the other turned, with noise.
    truth = make_synthetic(3000, 24, 300, active=12)
    order = np.random.default_rng(1).permutation(300)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(32, 32)))[0][:24]
    other = truth.dictionary @ turn + 0.1 * normal(300, 32, seed=3) / np.sqrt(32)
    pairs = pair_by_activation(truth.codes, csr_matrix(truth.codes[:, order]))
    assert len(pairs.a) == 300
    np.testing.assert_array_equal(order[pairs.b], pairs.a)
    alike = space_similarity(truth.dictionary[pairs.a], other[order][pairs.b].astype(F32))
    assert alike.svcca > 0.9 and alike.svcca_sigmas > 10 and alike.rsa > 0.9 and alike.rsa_sigmas > 10
    assert alike.svcca_by_chance < 0.5 and abs(alike.rsa_by_chance) < 0.02
    assert (alike.pairs, alike.pairings) == (300, 100)
    unlike = space_similarity(truth.dictionary, normal(300, 32, seed=4))
    assert abs(unlike.svcca_sigmas) < 4 and abs(unlike.rsa_sigmas) < 4


def test_labels_by_hand() -> None:
    a = ["cell, neuron", "music", "", "star, galaxy", "graph"]
    b = ["graph, edge", "neuron, cell", "music, song", "galaxy"]
    got = label_transfer(a, b, pairs_of([0, 1, 2, 3, 4], [1, 2, 0, 3, 0]))
    assert got.pairs == 4  # latent 2 of a has no label
    assert got.first == 0.5  # music and graph; star is not galaxy
    assert got.any == 1.0
    # Shuffled, each of four meets its partner once in four times, and no other shares a word.
    got = label_transfer(a, b, pairs_of([0, 1, 3, 4], [1, 2, 3, 0]), pairings=4000)
    assert got.any_by_chance == pytest.approx(0.25, abs=0.02)
    assert got.first_by_chance == pytest.approx(0.125, abs=0.02)


def test_wrong_arguments() -> None:
    a = random_codes(10, 4, 0)
    with pytest.raises(ShapeError):
        pair_by_activation(a, random_codes(9, 4, 1))
    with pytest.raises(InvalidVectorError):
        pair_by_activation(a, sparse(-np.ones((10, 2))))
    with pytest.raises(InvalidArgumentError):
        pair_by_activation(a, a, least=-0.1)
    with pytest.raises(InvalidArgumentError):
        label_transfer(["a", ""], ["", "b"], pairs_of([0, 1], [0, 1]))
    with pytest.raises(ShapeError):
        label_transfer(["a"], ["b"], pairs_of([0], [1]))
