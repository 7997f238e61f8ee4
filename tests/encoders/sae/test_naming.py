"""Words for latents: by hand, on texts whose subjects are known, and judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae import naming
from sparsight.encoders.sae.label_scores import LabelScores, score_labels
from sparsight.encoders.sae.labellers import expansion_words, near_misses, nearest_words
from sparsight.encoders.sae.labels import contrast_words, word_counts
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.naming import LABELLERS, Names, name_latents
from sparsight.errors import InvalidArgumentError, ShapeError

F32 = np.float32
SUBJECTS = {"galaxy": ["redshift", "telescope", "halo"], "protein": ["enzyme", "folding", "cell"],
            "market": ["price", "trader", "stock"], "neural": ["network", "training", "layer"]}  # fmt: skip
FILLER = ["study", "result", "method", "large", "new", "many", "between", "often"]


def axes_sae(n: int = 4, d: int = 4, k: int = 1) -> SAE:
    eye = np.eye(n, d, dtype=F32)
    return SAE(k, eye, np.zeros(n, F32), eye, np.zeros(d, F32))


# --- near misses ----------------------------------------------------------------------------------------------------


def test_near_misses_by_hand() -> None:
    sae = axes_sae(3, 3)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (100, 3)).astype(F32)
    codes = sae.encode(x)
    misses = near_misses(sae, x, codes)
    assert misses.shape == (100, 3) and misses.dtype == bool
    fired = np.diff(codes.tocsc().indptr)
    for latent in range(3):
        rows = misses.indices[misses.indptr[latent]:misses.indptr[latent + 1]]
        silent = np.flatnonzero(codes[:, latent].toarray()[:, 0] == 0)
        assert len(rows) == min(max(fired[latent], 20), len(silent))
        expected = silent[np.argsort(-x[silent, latent])[:len(rows)]]
        assert set(rows) == set(expected)


def test_a_latent_that_never_or_always_fires_has_no_near_misses() -> None:
    sae, x = axes_sae(3, 3), np.zeros((30, 3), F32)
    x[:, 1] = 1
    assert near_misses(sae, x, sae.encode(x)).nnz == 0
    with pytest.raises(ShapeError):
        near_misses(sae, x, sae.encode(x[:5]))


# --- labellers ------------------------------------------------------------------------------------------------------


def test_contrast_takes_what_near_misses_have_not() -> None:
    # Latent 0 fires on texts about galaxies and telescopes; near misses are about telescopes alone.
    texts = ["galaxy telescope"] * 100 + ["telescope mirror"] * 100 + ["market price"] * 100
    counts, words = word_counts(texts, max_words=100, min_texts=1)
    codes = csr_matrix((np.ones(100, F32), (range(100), [0] * 100)), shape=(300, 2))
    misses = csc_matrix((np.ones(100, bool), (range(100, 200), [0] * 100)), shape=(300, 2))
    found, nothing = contrast_words(codes, counts, words, misses)
    assert found[0] == "galaxy" and "mirror" not in found and "telescope" not in found
    assert nothing == []
    assert contrast_words(codes, counts, words, misses, top=1) == [["galaxy"], []]
    assert contrast_words(codes, counts, words)[0] == ["galaxy", "telescope"]  # against all others
    with pytest.raises(ShapeError):
        contrast_words(codes, counts, words[:-1])


def test_expansion_by_hand() -> None:
    names = ["galaxy", "##ing", "of", "stars", "1999", "telescope"]
    rows = np.zeros((30, 6), F32)
    rows[:10, [0, 1, 2, 4]] = 2.0  # what fires; the word pieces and numbers are no words
    rows[:10, 3] = np.linspace(0.5, 1.5, 10)
    rows[:20, 5] = 1.5  # both sides
    codes = csr_matrix((np.ones(10, F32), (range(10), [0] * 10)), shape=(30, 2))
    misses = csc_matrix((np.ones(10, bool), (range(10, 20), [0] * 10)), shape=(30, 2))
    found, nothing = expansion_words(codes, misses, csr_matrix(rows), names.__getitem__)
    assert found == ["galaxy", "stars"] and nothing == []
    with pytest.raises(ShapeError):
        expansion_words(codes, misses[:5], csr_matrix(rows), names.__getitem__)


def test_nearest_by_hand() -> None:
    words = ["cat", "cats", "dog", "tree"]
    common = np.array([0, 0, 0, 5], F32)
    embeddings = common + np.array([[3, 0, 0, 0], [1.5, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], F32)
    found = nearest_words(axes_sae(3, 4), words, embeddings, top=2)
    assert [of[0] for of in found] == ["cat", "dog", "tree"]
    assert "cats" not in found[0]  # the stem is there
    with pytest.raises(ShapeError):
        nearest_words(axes_sae(3, 4), words[:3], embeddings)


# --- judgement ------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    # Six texts, one term each label asks for. Label 0 suits the two texts that its latent fires on best; label 1 suits
    # the wrong ones; label 2 says nothing; latent 3 never fires.
    vectors = csr_matrix(np.array([[3, 0], [2, 0], [1, 1], [0, 2], [0, 2], [0, 2]], F32))
    labels = csr_matrix(np.array([[1, 0], [0, 1], [0, 0], [1, 0]], F32))
    codes = csr_matrix(np.array([[2, 2, 2, 0], [1, 1, 1, 0], *[[0] * 4] * 4], F32))
    found = score_labels(labels, vectors, codes)
    np.testing.assert_allclose(found.detection, [1, 0, 0.5, np.nan])
    np.testing.assert_allclose(found.strong_detection, [1, 0, 0.5, np.nan])
    activations, suits = codes.toarray()[:, 0], vectors.toarray()
    expected = [np.corrcoef(activations, suits[:, at])[0, 1] for at in (0, 1)]
    np.testing.assert_allclose(found.correlation, [*expected, 0, np.nan])
    assert np.isnan(found.intruder).all()  # four texts are shown beside one


def test_detection_is_the_share_of_pairs() -> None:
    rng = np.random.default_rng(3)
    vectors = csr_matrix(rng.integers(0, 4, (80, 5)).astype(F32))
    labels, codes = csr_matrix(rng.uniform(size=(7, 5)).round(1).astype(F32)), csr_matrix(
        np.maximum(rng.normal(-1, 1, (80, 7)), 0).astype(F32))
    found = score_labels(labels, vectors, codes)
    suits, values = (vectors @ labels.T).toarray().astype(np.float64), codes.toarray()
    for latent in range(7):
        fired = values[:, latent] > 0
        pairs = suits[fired, latent][:, None] - suits[~fired, latent]
        assert found.detection[latent] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
        expected = np.corrcoef(suits[:, latent], values[:, latent])[0, 1]
        assert found.correlation[latent] == pytest.approx(expected, abs=1e-5)


def test_intruders_are_found_by_good_labels_and_at_random_by_empty_ones() -> None:
    rng = np.random.default_rng(1)
    about = rng.random(2000) < 0.2
    vectors = csr_matrix(np.stack([about * 1.0, rng.random(2000)], 1).astype(F32))
    labels = csr_matrix(np.array([[1, 0]] * 300 + [[0, 1]] * 300 + [[0, 0]] * 10, F32))
    values = rng.uniform(0.5, 1, (2000, 610)) * about[:, None]
    values[:, 300:600] = np.where(rng.random((2000, 300)) < 0.2, values[:, 300:600] + 0.5, 0)  # of any texts
    codes = csr_matrix(values.astype(F32))
    intruder = score_labels(labels, vectors, codes).intruder
    assert (intruder[:300] == 1).all()
    assert intruder[300:600].mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_allclose(intruder[600:], 0.2)
    with pytest.raises(ShapeError):
        score_labels(labels[:, :1], vectors, codes)


# --- all of it ------------------------------------------------------------------------------------------------------


class Words:
    """An encoder of known words: a dense one looks the way of a text's subject, a sparse one knows a word as itself."""

    def __init__(self) -> None:
        self.words = [*SUBJECTS, *(word for of in SUBJECTS.values() for word in of), *FILLER]

    def term(self, index: int) -> str:
        return self.words[index]

    def _counts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.split().count(word) + text.split(", ").count(word) > 0 for word in self.words]
                         for text in (text.replace(", ", " ") for text in texts)], F32)


class Sparse(Words):
    def encode(self, texts: Sequence[str], mode: str = "document") -> csr_matrix:
        return csr_matrix(self._counts(texts))


class Dense(Words):
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        subject = np.zeros((len(self.words), 4), F32)
        for at, (name, of) in enumerate(SUBJECTS.items()):
            subject[[self.words.index(word) for word in (name, *of)], at] = 1
        x = self._counts(texts) @ subject + F32(0.01)
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), F32)


@pytest.fixture(scope="module")
def named() -> tuple[list[str], Names]:
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(400):
        subject = list(SUBJECTS)[rng.integers(4)]
        texts.append(" ".join([subject, *rng.choice(SUBJECTS[subject], 2, False), *rng.choice(FILLER, 4, False)]))
    told: list[tuple[float, str]] = []
    names = name_latents(axes_sae(), Dense().encode(texts), texts, embedder=Dense(), judge=Sparse(),  # type: ignore[arg-type]
                         top=4, progress=lambda share, what: told.append((share, what)))
    assert [share for share, _ in told] == sorted(share for share, _ in told) and told[-1][0] == 1.0
    return texts, names


def test_latents_are_named_after_their_subjects(named: tuple[list[str], Names]) -> None:
    _, names = named
    for label, (subject, of) in zip(names.labels, SUBJECTS.items(), strict=True):
        assert set(label.split(", ")) <= {subject, *of} and label
    assert set(names.labellers) <= set(LABELLERS)
    assert (names.scores.detection > 0.99).all() and (names.scores.intruder > 0.9).all()
    assert (names.scores.correlation > 0.8).all()


def test_the_best_labeller_wins(named: tuple[list[str], Names]) -> None:
    _, names = named
    for latent, labeller in enumerate(names.labellers):
        assert names.scores.detection[latent] == names.by_labeller[labeller].detection[latent]
    assert set(names.by_labeller) == set(LABELLERS) - {"model", "present"}


def test_present_labels_compete(named: tuple[list[str], Names]) -> None:
    texts, names = named

    def again(present: list[str]) -> Names:
        return name_latents(axes_sae(), Dense().encode(texts), texts, embedder=Dense(),  # type: ignore[arg-type]
                            judge=Sparse(), present=present, top=4)  # type: ignore[arg-type]

    assert set(again(list(names.labels)).labellers) == {"present"}  # as good as any: the label stays
    of_another = [*names.labels[1:], names.labels[0]]
    assert "present" not in again(of_another).labellers and again(of_another).labels == names.labels
    assert "present" not in again([""] * len(names.labels)).by_labeller
    with pytest.raises(ShapeError, match="present labels"):
        again(["x"])


def test_same_seed_same_names(named: tuple[list[str], Names]) -> None:
    texts, names = named
    again = name_latents(axes_sae(), Dense().encode(texts), texts, top=4,
                         embedder=Dense(), judge=Sparse())  # type: ignore[arg-type]
    assert again.labels == names.labels and again.labellers == names.labellers
    np.testing.assert_array_equal(again.scores.intruder, names.scores.intruder)


def test_few_texts_do_not_outweigh_what_a_labeller_is_worth() -> None:
    """Three latents: of many texts and of few the second labeller detects better; the third has no texts."""
    nothing = np.full(3, np.nan)

    def scores(*detection: float) -> LabelScores:
        return LabelScores(np.array(detection), nothing, nothing, nothing)

    own = LABELLERS[2:]
    labels = {name: ["" if name == "matched" else "a", "b", "c"] for name in own}
    found = {"contrast": scores(0.8, 0.9, np.nan), "matched": scores(1.0, 0.5, np.nan),
             "expansion": scores(0.95, 0.92, np.nan), "nearest": scores(0.5, 0.5, np.nan)}
    assert [own[at] for at in naming._best(labels, found, np.array([1000, 1000, 0]))] == [
        "expansion", "expansion", "expansion"]
    found["expansion"] = scores(0.6, 0.92, np.nan)  # of little worth elsewhere
    assert [own[at] for at in naming._best(labels, found, np.array([1000, 2, 0]))] == ["contrast"] * 3


def test_what_cannot_be_named() -> None:
    dense, sparse = Dense(), Sparse()
    texts = ["galaxy halo"] * 40
    x = dense.encode(texts)
    with pytest.raises(ShapeError) as caught:
        name_latents(axes_sae(), x, texts[:39], embedder=dense, judge=sparse)  # type: ignore[arg-type]
    assert caught.value.field == "texts"
    with pytest.raises(ShapeError):
        name_latents(axes_sae(), x[:9], texts[:9], embedder=dense, judge=sparse)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        name_latents(axes_sae(), x, texts, embedder=dense, judge=sparse, top=0)  # type: ignore[arg-type]
