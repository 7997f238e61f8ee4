from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.stability import match, stability
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32
METHODS = ["hungarian", "mutual"]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


def dictionary(decoder: np.ndarray, encoder: np.ndarray | None = None) -> SAE:
    n, d = decoder.shape
    return SAE(k=1, W_enc=2 * unit(decoder if encoder is None else encoder), b_enc=np.zeros(n, F32),
               W_dec=unit(decoder), b_dec=np.zeros(d, F32))


def random(n: int, d: int = 64, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def near(rows: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Rows with cosines of about ``1 / sqrt(1 + noise^2)`` with the given ones."""
    rng = np.random.default_rng(seed)
    return unit(rows + noise * rng.normal(size=rows.shape) / np.sqrt(rows.shape[1]))


@pytest.mark.parametrize("method", METHODS)
def test_a_reordered_dictionary_is_found_whole_and_a_random_one_not(method: str) -> None:
    rows, order = random(300), np.random.default_rng(1).permutation(300)
    same = match(dictionary(rows), dictionary(rows[order]), method=method)
    assert same.shared == 1 and same.found.all() and same.method == method
    np.testing.assert_array_equal(order[same.decoder_partner], np.arange(300))
    np.testing.assert_array_equal(same.decoder_partner, same.encoder_partner)
    assert same.mean_max_cosine == pytest.approx(1, abs=1e-5)
    other = match(dictionary(rows), dictionary(random(300, seed=2)), method=method)
    assert other.shared == 0 and other.mean_max_cosine < 0.5


def test_by_hand() -> None:
    a = dictionary(np.eye(4, 5))
    # Partner 0: alike twice. 1: encoder cosine .6. 2: the encoder's partner is another. 3: decoder cosine 0.
    decoder = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    encoder = np.array([[1, 0, 0, 0, 0], [0, 0.6, 0, 0, 0.8], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]])
    got = match(a, dictionary(decoder, encoder))
    assert got.method == "hungarian" and got.decoder_partner.tolist() == [0, 1, 2, 3]
    assert got.encoder_partner.tolist() == [0, 1, 3, 2]
    np.testing.assert_allclose(got.decoder_cosine, [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(got.encoder_cosine, [1, 0.6, 1, 1], atol=1e-6)
    assert got.found.tolist() == [True, False, False, False] and got.shared == 0.25
    assert got.max_cosine.tolist() == [1, 1, 1, 0] and got.mean_max_cosine == 0.75
    assert match(a, dictionary(decoder, encoder), threshold=0.5).found.tolist() == [True, True, False, False]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [0.3, 0.9])
def test_planted_share(method: str, noise: float) -> None:
    # 120 of 300 features are in both, with cosines of about .96 and .74; all others are random.
    rows = random(300, 256)
    again = np.concatenate([near(rows[:120], noise, 3), random(180, 256, seed=4)])
    order = np.random.default_rng(5).permutation(300)
    encoder = np.concatenate([near(rows[:120], noise, 6), random(180, 256, seed=7)])
    got = match(dictionary(rows), dictionary(again[order], encoder[order]), method=method)
    assert not got.found[120:].any()
    # At .74 with a spread of .03 a pair must pass twice: some tenths fall short.
    assert got.shared == 0.4 if noise == 0.3 else 0.2 < got.shared < 0.4
    assert (order[got.decoder_partner[:120]] == np.arange(120)).all()


def test_both_methods_agree() -> None:
    rows = random(400, 128)
    noises = np.linspace(0.1, 1.6, 400)[:, None]  # cosines from 1 down to .5: some fail, some barely pass
    rng = np.random.default_rng(1)
    again = [unit(rows + noises * rng.normal(size=rows.shape) / np.sqrt(128)) for _ in range(2)]
    pairs = [match(dictionary(rows), dictionary(*again), method=method) for method in METHODS]
    assert 0.3 < pairs[0].shared < 0.9
    np.testing.assert_array_equal(pairs[0].found, pairs[1].found)
    found = pairs[0].found
    np.testing.assert_array_equal(pairs[0].decoder_partner[found], pairs[1].decoder_partner[found])
    assert pairs[0].mean_max_cosine == pairs[1].mean_max_cosine


def test_the_method_is_chosen_by_the_larger_dictionary() -> None:
    small, large = dictionary(random(5)), dictionary(random(6, seed=1))
    assert match(small, large, exact_limit=6).method == "hungarian"
    assert match(small, large, exact_limit=5).method == "mutual"
    live = np.array([True] * 5 + [False])
    assert match(small, large, live_b=live, exact_limit=5).method == "hungarian"


@pytest.mark.parametrize("method", METHODS)
def test_dictionaries_of_two_sizes(method: str) -> None:
    rows = random(50)
    small, large = dictionary(rows[10:30]), dictionary(rows)
    got = match(small, large, method=method)
    assert got.shared == 1 and got.decoder_partner.tolist() == list(range(10, 30))
    back = match(large, small, method=method)
    assert back.shared == 0.4 and np.flatnonzero(back.found).tolist() == list(range(10, 30))
    assert method == "mutual" or (back.decoder_partner >= 0).sum() == 20


def test_only_live_latents_count() -> None:
    rows = random(6, seed=3)
    a, b = dictionary(rows), dictionary(rows[[5, 4, 3, 2, 1, 0]])
    live_a, live_b = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0, 0, 1, 1, 1, 1], bool)  # b's live: 3, 2, 1, 0
    got = match(a, b, live_a=live_a, live_b=live_b)
    assert got.decoder_partner.tolist() == [5, 4, 3, 2, -1, -1] and got.shared == 1
    assert got.found.tolist() == live_a.tolist() and (got.max_cosine[4:] == 0).all()
    assert (got.encoder_cosine[4:] == 0).all() and got.mean_max_cosine == pytest.approx(1, abs=1e-6)
    live_b[5] = False  # a's 0 is not live in b
    got = match(a, b, live_a=live_a, live_b=live_b)
    assert got.found.tolist() == [False, True, True, True, False, False] and got.shared == 0.75


@pytest.mark.parametrize("method", METHODS)
def test_stability_by_construction(method: str) -> None:
    # Features 0 to 9 are in all three, 10 to 14 in the first two, the rest in one alone.
    common, two = random(10, seed=1), random(5, seed=2)
    saes = [dictionary(np.concatenate([common, two, random(5, seed=3)])),
            dictionary(np.concatenate([common, two, random(5, seed=4)])),
            dictionary(np.concatenate([common, random(10, seed=5)]))]
    got = stability(saes, method=method)
    assert got.found_in[0].tolist() == got.found_in[1].tolist() == [2] * 10 + [1] * 5 + [0] * 5
    assert got.found_in[2].tolist() == [2] * 10 + [0] * 10
    assert all(stable.tolist() == [True] * 10 + [False] * 10 for stable in got.stable)
    off = [0.75, 0.5, 0.75, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(got.shared[~np.eye(3, dtype=bool)], off)
    assert np.isnan(np.diag(got.shared)).all()
    assert got.mean_shared == pytest.approx(np.mean(off)) and got.spread_shared == pytest.approx(np.std(off))
    assert got.mean_shared < got.mean_max_cosine < 1


def test_stability_of_live_latents() -> None:
    # Dead latents that never left a common start look found; the mask takes them out.
    start = random(10, seed=9)
    saes = [dictionary(np.concatenate([start, random(10, seed=i)])) for i in range(2)]
    assert stability(saes).mean_shared == 0.5
    live = [np.arange(20) >= 10] * 2
    got = stability(saes, live=live)
    assert got.mean_shared == 0 and not np.concatenate(got.stable).any()
    live = [np.arange(20) >= 8] * 2
    got = stability(saes, live=live)
    assert got.mean_shared == pytest.approx(2 / 12) and np.flatnonzero(got.stable[0]).tolist() == [8, 9]


def test_wrong_arguments() -> None:
    a = dictionary(random(5))
    with pytest.raises(ShapeError):
        match(a, dictionary(random(5, 32)))
    with pytest.raises(InvalidArgumentError):
        match(a, a, method="guess")  # type: ignore[arg-type]
    for live in (np.ones(4, bool), np.ones(5)):
        with pytest.raises(ShapeError):
            match(a, a, live_b=live)
    with pytest.raises(InvalidArgumentError):
        match(a, a, live_a=np.zeros(5, bool))
    for saes, live in (([a], None), ([a, a], [np.ones(5, bool)])):
        with pytest.raises(InvalidArgumentError):
            stability(saes, live=live)
    with pytest.raises(ShapeError, match=r"live\[1\]"):
        stability([a, a], live=[np.ones(5, bool), np.ones(4, bool)])


def test_lengths_do_not_matter() -> None:
    a = dictionary(random(20))
    assert match(a, replace(a, W_enc=a.W_enc * F32(7))).shared == 1
