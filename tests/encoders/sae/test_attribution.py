"""Shares of words: exact sums, the right words, and deletion as the judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.checkpoint import read_settings
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.sae.attribution import By, attribute, deletion_effect
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.splade import SpladeEncoder
from sparsight.encoders.term_attribution import attribute_term
from sparsight.encoders.word_shares import word_spans
from sparsight.errors import IncompatibleModelError, InvalidArgumentError, ShapeError

WIDTH, LATENTS = 16, 6
TEXTS = ["The cat sat on the mat, and the dog ran.", "", "old " * 90 + "house", "dogs!"]
WAYS: tuple[By, ...] = ("pull", "split", "occlusion")


def make_sae(rows: np.ndarray, **settings: Any) -> SAE:
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    n, d = rows.shape
    bias = np.linspace(-0.1, 0.1, d).astype(np.float32)
    return SAE(k=1, W_enc=rows, b_enc=np.zeros(n, np.float32), W_dec=rows, b_dec=bias, **settings)


def with_settings(folder: Path, place: Path, **settings: Any) -> Path:
    made = Path(shutil.copytree(folder, place))
    (made / "sparsight.json").write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="module")
def embedder(dense_folder: Path) -> DenseEncoder:
    return DenseEncoder(read_settings(dense_folder))


@pytest.fixture(scope="module")
def sae(embedder: DenseEncoder) -> SAE:
    return make_sae(np.random.default_rng(0).normal(size=(LATENTS, WIDTH)), embedder=embedder.fingerprint)


@pytest.mark.parametrize(("text", "words"), [
    ("", []),
    (" ... ", []),
    ("The cat, the cat!", ["The", "cat", "the", "cat"]),
    ("state-of-the-art (don't) snake_case", ["state-of-the-art", "don't", "snake_case"]),
    ("'quoted' users' a -- b word—word c--d", ["quoted", "users", "a", "b", "word", "word", "c", "d"]),
    ("0.95 of 1,000, e.g. v2.0.", ["0.95", "of", "1,000", "e", "g", "v2.0"]),
    ("Cafe\u0301s naïve Ωmega", ["Cafe\u0301s", "naïve", "Ωmega"]),
    ("中文 and 日本", ["中", "文", "and", "日", "本"]),
    ("हिन्दी \u2764\ufe0f x²", ["हिन्दी", "x²"]),
])
def test_words_are_those_of_the_text(text: str, words: list[str]) -> None:
    spans = word_spans(text)
    assert spans.dtype == np.int64 and spans.shape == (len(words), 2)
    assert [text[start:end] for start, end in spans] == words


@pytest.mark.parametrize("by", WAYS)
def test_shares_and_rest_are_the_product(embedder: DenseEncoder, sae: SAE, by: By) -> None:
    latents = [[0, 3, 3], [1], [5, 2], []]
    found = attribute(TEXTS, latents, embedder=embedder, sae=sae, by=by)
    x = embedder.encode(TEXTS)
    for one, text, vector, of in zip(found, TEXTS, x, latents, strict=True):
        assert one.text == text and one.units.tolist() == of and one.shares.dtype == np.float32
        assert one.shares.shape == (len(one.spans), len(of)) and one.rest.shape == one.total.shape == (len(of),)
        np.testing.assert_allclose(one.total, sae.W_dec[of] @ (vector - sae.b_dec), atol=2e-6)
        np.testing.assert_allclose(one.shares.sum(0) + one.rest, one.total, atol=2e-6)
        assert not one.shares[~one.seen].any()
    assert found[0].words == ["The", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "ran"]
    np.testing.assert_array_equal(found[0].shares[:, 1], found[0].shares[:, 2])
    assert found[1].words == []
    assert found[2].seen.tolist() == [True] * 62 + [False] * 29  # 64 pieces, two of them special
    assert found[3].seen.tolist() == [True]


def test_split_by_hand(embedder: DenseEncoder, sae: SAE) -> None:
    """Word pieces: [CLS] dog ##s ! cat [SEP]."""
    states = embedder.token_states(["dogs! cat"])[0].astype(np.float64)
    mean = states.mean(0)
    parts = states @ sae.W_dec.T / (6 * np.linalg.norm(mean))
    split = attribute(["dogs! cat"], [range(LATENTS)], embedder=embedder, sae=sae, by="split")[0]
    np.testing.assert_allclose(split.shares, [parts[1] + parts[2], parts[4]], atol=1e-6)
    np.testing.assert_allclose(split.rest, parts[[0, 3, 5]].sum(0) - sae.W_dec @ sae.b_dec, atol=1e-6)


def test_pull_is_a_derivative(embedder: DenseEncoder, sae: SAE) -> None:
    """Of the product by the weight that the word's pieces have in the mean; over all pieces together it is 0."""
    text = "dogs! cat"
    states = embedder.token_states([text])[0].astype(np.float64)
    pull = attribute([text], [range(LATENTS)], embedder=embedder, sae=sae)[0]

    def product(weights: np.ndarray) -> np.ndarray:
        pooled = weights @ states
        return sae.W_dec @ (pooled / np.linalg.norm(pooled) - sae.b_dec)

    for pieces, share in (([1, 2], pull.shares[0]), ([4], pull.shares[1]), ([0, 3, 5], pull.rest - pull.total)):
        step = np.zeros(6)
        step[pieces] = 1e-5
        np.testing.assert_allclose((product(1 + step) - product(1 - step)) / 2e-5, share, atol=1e-6)


def test_occlusion_is_encoding_without_the_word(embedder: DenseEncoder, sae: SAE) -> None:
    text = "the cat sat, old dog"
    found = attribute([text], [[4, 1]], embedder=embedder, sae=sae, by="occlusion")[0]
    shorter = [" cat sat, old dog", "the  sat, old dog", "the cat , old dog", "the cat sat,  dog", "the cat sat, old "]
    products = embedder.encode([text, *shorter]) @ sae.W_dec[[4, 1]].T
    np.testing.assert_allclose(found.shares, products[0] - products[1:], atol=1e-6)


def test_occlusion_lets_no_words_in_from_beyond(embedder: DenseEncoder, sae: SAE) -> None:
    text = "cat " * 62 + "dog house"
    found = attribute([text], [[0]], embedder=embedder, sae=sae, by="occlusion")[0]
    whole, shorter = embedder.encode(["cat " * 62, "cat " * 61]) @ sae.W_dec[0]
    np.testing.assert_allclose(found.shares[:, 0], [whole - shorter] * 62 + [0, 0], atol=1e-5)


def test_modes_and_limits(dense_folder: Path, tmp_path: Path, sae: SAE) -> None:
    folder = with_settings(dense_folder, tmp_path / "m", prompts={"query": "he is "})
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    encoder, free = DenseEncoder(read_settings(folder)), replace(sae, embedder="")
    text = "\u0130 cat"  # its small form has two characters
    one = attribute([text], [[0]], embedder=encoder, sae=free, mode="query", by="split")[0]
    assert one.words == ["\u0130", "cat"] and one.seen.all()
    states = encoder.token_states([text], mode="query")[0].astype(np.float64)
    parts = states @ sae.W_dec[0] / len(states) / np.linalg.norm(states.mean(0))
    np.testing.assert_allclose(one.shares[-1, 0], parts[-2], atol=1e-6)
    np.testing.assert_allclose(one.shares[0, 0], parts[3:-2].sum(), atol=1e-6)  # behind [CLS] he is
    cut = attribute(["the cat sat"], [[0]], embedder=encoder, sae=free, max_tokens=4)[0]
    assert cut.seen.tolist() == [True, True, False]


def test_top(embedder: DenseEncoder, sae: SAE) -> None:
    one = attribute(["cat dog mat the"], [[0, 1]], embedder=embedder, sae=sae)[0]
    one = replace(one, shares=np.array([[0, 1], [0, 3], [0, -2], [0, 3]], np.float32))
    assert [(word.word, word.start, word.end, word.share) for word in one.top(1)] == [
        ("dog", 4, 7, 3.0), ("the", 12, 15, 3.0), ("cat", 0, 3, 1.0)]
    assert len(one.top(1, 2)) == 2 and one.top(0) == []


@pytest.mark.parametrize("by", WAYS)
def test_deletion_finds_the_planted_word(make_model: Callable[..., Path], by: By) -> None:
    """Without layers and positions a state is its word's, and the latent's direction is what "dog" alone has."""
    encoder = DenseEncoder(read_settings(make_model(masked_lm=False, num_hidden_layers=0, seed=3)))
    model: Any = encoder._model
    model.embeddings.position_embeddings.weight.data.zero_()
    rng = np.random.default_rng(1)
    others = ["cat", "mat", "house", "red", "blue", "old", "new", "small", "big"]
    texts = [" ".join(rng.permutation([*rng.choice(others, 11), "dog"])) for _ in range(12)]
    states = np.concatenate([encoder.token_states(["dog"])[0][[1, 0, 2]],
                             *(encoder.token_states([word])[0][1:2] for word in others)])
    sae = make_sae(np.linalg.pinv(states)[:, :1].T)  # its product is 1 with "dog" and 0 with all else
    sae = replace(sae, b_dec=np.zeros(WIDTH, np.float32))
    found = attribute(texts, [[0]] * len(texts), embedder=encoder, sae=sae, by=by)
    assert [one.top(0, 1)[0].word for one in found] == ["dog"] * len(texts)
    effect = deletion_effect(found, embedder=encoder, sae=sae, counts=(1, 2, 0.25))
    at_random = deletion_effect([replace(one, shares=rng.random(one.shares.shape).astype(np.float32))
                                 for one in found], embedder=encoder, sae=sae, counts=(1, 2, 0.25))
    assert effect.shape == (12, 3)
    np.testing.assert_allclose(effect, 1, atol=1e-4)
    assert (at_random.mean(0) < 0.7).all()


def test_deletion_by_hand(embedder: DenseEncoder, sae: SAE) -> None:
    text = "the cat sat, old dog"
    one = attribute([text], [range(LATENTS)], embedder=embedder, sae=sae)[0]
    shares = np.zeros((5, LATENTS), np.float32)
    shares[[1, 4]] = [[2], [1]]
    got = deletion_effect([replace(one, shares=shares)], embedder=embedder, sae=sae, counts=(1, 0.4, 9))
    left = embedder.encode([text, "the  sat, old dog", "the  sat, old ", "  ,  "]) - sae.b_dec
    products = left @ sae.W_dec.T
    fired = products[0] > 0
    np.testing.assert_allclose(got[fired], (1 - products[1:] / products[0]).T[fired], atol=1e-4)
    assert 0 < fired.sum() < LATENTS and np.isnan(got[~fired]).all()
    assert deletion_effect([], embedder=embedder, sae=sae).shape == (0, 4)


def test_bad_arguments(embedder: DenseEncoder, sae: SAE, dense_folder: Path, tmp_path: Path) -> None:
    def run(texts: Any, latents: Any, **changed: Any) -> Any:
        return attribute(texts, latents, **{"embedder": embedder, "sae": sae} | changed)

    with pytest.raises(ShapeError, match="expected latents of 2 texts, got 1"):
        run(["a", "b"], [[0]])
    for bad in ([6], [-1], [0.5], 0, [[1]], ["a"]):
        with pytest.raises(InvalidArgumentError, match=r"latents\[0\] in \[0, 6\)"):
            run(["a"], [bad])
    with pytest.raises(InvalidArgumentError, match="got one string"):
        run("a", [[0]])
    with pytest.raises(InvalidArgumentError, match="'gradient'"):
        run(["a"], [[0]], by="gradient")
    with pytest.raises(IncompatibleModelError):
        run(["a"], [[0]], sae=replace(sae, embedder="0" * 64))
    with pytest.raises(IncompatibleModelError, match="8 components"):
        run(["a"], [[0]], sae=make_sae(np.eye(8)))
    with pytest.raises(InvalidArgumentError, match="counts"):
        deletion_effect([], embedder=embedder, sae=sae, counts=(0,))
    first = DenseEncoder(read_settings(with_settings(dense_folder, tmp_path / "m", pooling="cls")))
    free = replace(sae, embedder="")
    with pytest.raises(InvalidArgumentError, match="mean"):
        run(["a"], [[0]], embedder=first, sae=free)
    assert run(["a cat"], [[0]], embedder=first, sae=free, by="occlusion")[0].shares.any()
    assert run([], []) == []


def test_terms_are_raised_by_words(splade_folder: Path, tmp_path: Path) -> None:
    encoder = SpladeEncoder(read_settings(splade_folder))
    weights = encoder.encode(TEXTS)
    terms = [row.indices[:20].tolist() for row in weights]
    terms[1] = [3]
    found = attribute_term(TEXTS, terms, encoder=encoder)
    for at, one in enumerate(found):
        np.testing.assert_allclose(one.total, weights[at, terms[at]].toarray()[0], atol=1e-5)
        np.testing.assert_array_equal(np.vstack([one.shares, one.rest]).max(0), one.total)
        assert (one.shares >= 0).all() and not one.shares[~one.seen].any()
    assert (found[0].shares.max(0) > found[0].rest).any() and not found[2].seen.all()
    with pytest.raises(InvalidArgumentError, match=r"terms\[0\]"):
        attribute_term(["a"], [[encoder.dimension]], encoder=encoder)
    added = SpladeEncoder(read_settings(with_settings(splade_folder, tmp_path / "m", pooling="sum")))
    with pytest.raises(InvalidArgumentError, match="max pooling"):
        attribute_term(["a"], [[0]], encoder=added)
