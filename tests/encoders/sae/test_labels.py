from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.labels import (
    _z_scores,
    label_features,
    strongest_codes,
    top_examples,
    word_counts,
)
from sparsight.errors import ShapeError

FILLER = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
]
PLANTED = [["zebra", "giraffe"], ["violin", "cello"], ["quartz", "granite"]]


def corpus(rows: int = 300, seed: int = 0) -> tuple[list[str], csr_matrix]:
    """Texts of common words; the texts of topic t hold its words too, and latent t fires on them, with some noise."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, 6, rows)  # topics 3 to 5 have no latent
    texts, codes = [], np.zeros((rows, 4), np.float32)
    for row, topic in enumerate(topics):
        words = list(rng.choice(FILLER, 8))
        if topic < 3:
            words += PLANTED[topic]
            codes[row, topic] = rng.uniform(0.5, 1.0)
        codes[row, rng.integers(0, 3)] += 0.1 * rng.random()
        texts.append(" ".join(rng.permutation(words)))
    return texts, csr_matrix(codes)


def test_planted_words_are_found() -> None:
    texts, codes = corpus()
    labels = label_features(codes, texts, top=2)
    assert [sorted(label.split(", ")) for label in labels[:3]] == [sorted(words) for words in PLANTED]
    assert labels[3] == ""  # never fires


def test_strong_activations_count_more() -> None:
    common = "common words here"
    texts = [f"lion {common}"] * 20 + [f"tiger {common}"] * 20 + [f"other {common}"] * 60
    codes = csr_matrix(np.array([[1.0]] * 20 + [[0.2]] * 20 + [[0.0]] * 60, np.float32))
    assert label_features(codes, texts) == ["lion, tiger"]


def test_strongest_codes_by_hand() -> None:
    codes = csr_matrix(np.array([[1, 3, 2, 0], [2, 2, 2, 0], [0, 0, 0, 0], [5, 4, 0, 1]], np.float32))
    # The last latent is in no row's two strongest, and so kept where it is.
    assert strongest_codes(codes, 2).toarray().tolist() == [[0, 3, 2, 0], [2, 2, 0, 0], [0, 0, 0, 0], [5, 4, 0, 1]]
    assert (strongest_codes(codes, 3) != codes).nnz == 0
    rng = np.random.default_rng(0)
    dense = rng.random((50, 30)).astype(np.float32) * (rng.random((50, 30)) < 0.5)
    kept = strongest_codes(csr_matrix(dense), 4).toarray()
    for row, of in zip(dense, kept, strict=True):
        assert sorted(of[of > 0])[-4:] == sorted(row)[-4:]
    assert ((kept > 0).any(0) == (dense > 0).any(0)).all()


def test_z_scores_by_hand() -> None:
    # Two words; 8 of 10 and 2 of 10 inside, 2 of 10 and 8 of 10 outside, prior of one word each.
    z = _z_scores(np.array([8.0, 2.0]), np.array([2.0, 8.0]), np.array([1.0, 1.0]), (12.0, 12.0))
    expected = (math.log(9 / 3) - math.log(3 / 9)) / math.sqrt(1 / 9 + 1 / 3)
    np.testing.assert_allclose(z, [expected, -expected], rtol=1e-12)


def test_one_stem_once() -> None:
    texts = ["cells cell inhibitor inhibition"] * 30 + ["other words stand here"] * 70
    codes = csr_matrix(np.array([[1.0]] * 30 + [[0.0]] * 70, np.float32))
    (label,) = label_features(codes, texts)
    assert sorted(word[:4] for word in label.split(", ")) == ["cell", "inhi"]


def test_words() -> None:
    counts, words = word_counts(["The cat's COVID-19 is at 3mm", "the CAT covid-19", ""], max_words=10, min_texts=1)
    assert words == ["covid-19", "the", "cat", "cat's"]
    assert counts.toarray().tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert word_counts(["one two", "one"], max_words=1, min_texts=1)[1] == ["one"]
    assert word_counts(["one two", "one"], max_words=9, min_texts=2)[1] == ["one"]


def test_corner_cases() -> None:
    assert label_features(csr_matrix((2, 3), dtype=np.float32), ["some words", "more words"]) == ["", "", ""]
    assert label_features(csr_matrix(np.ones((2, 1), np.float32)), ["", "1 2"]) == [""]
    assert label_features(csr_matrix((0, 2), dtype=np.float32), []) == ["", ""]
    with pytest.raises(ShapeError):
        label_features(csr_matrix((2, 3), dtype=np.float32), ["one"])


def test_top_examples() -> None:
    codes = csr_matrix(np.array([[1, 0], [3, 0], [3, 2], [2, 0]], np.float32))
    assert top_examples(codes, 3) == [[1, 2, 3], [2]]
    assert top_examples(csr_matrix((3, 2), dtype=np.float32)) == [[], []]
