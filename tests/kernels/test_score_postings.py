"""Exact scores of chosen passages by random access to the postings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import score_postings

WINDOW, BLOCK = 8_192, 65_536


def score(corpus, weights, passages):
    found = score_postings(corpus.postings, *corpus.arrays(weights), np.array(passages, np.uint32))
    assert found.dtype == np.int32
    return found.tolist()


def test_by_hand(corpus_of):
    corpus = corpus_of([{7: 10, 8: 1}, {8: 20}, {}, {9: 3, 2**32 - 2: 255}], [2, 0, 2])
    weights = {7: 3, 8: -2, 2**32 - 2: 32_767, 5: 9}
    assert score(corpus, weights, [0, 1, 2, 3]) == [28, -40, 0, 255 * 32_767]
    assert score(corpus, weights, [0, 0, 3, 3, 3]) == [28, 28] + [255 * 32_767] * 3
    assert score(corpus, weights, []) == []
    assert score(corpus, {}, [1, 2]) == [0, 0]
    assert score(corpus, {6: 5}, [1, 2]) == [0, 0]
    assert score(corpus_of([], []), {6: 5}, []) == []


@pytest.mark.parametrize("density", [0.001, 0.03, 0.033, 0.5, 1])
def test_every_passage_of_lists_and_bitmaps(random_corpus, density):
    """Around the edges of groups, windows and blocks, and all of them."""
    corpus = random_corpus(1, BLOCK + 2 * WINDOW + 5, [density] * 3, grouped=True)
    weights = dict(zip(corpus.term_ids.tolist(), [5, -300, 32_767], strict=True))
    expected = corpus.scores(weights)
    n = len(expected)
    assert score(corpus, weights, range(n)) == expected.tolist()
    for step in (63, 64, WINDOW):
        around = np.unique((np.arange(0, n, step)[:, None] + [-1, 0, 1]).clip(0, n - 1))
        assert score(corpus, weights, around) == expected[around].tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_passages=st.sampled_from([1, 64, 8_193, 70_000]),
    densities=st.lists(st.lists(st.sampled_from([0, 0.001, 0.03, 0.04, 0.9]), min_size=4, max_size=4),
                       min_size=1, max_size=9),
    n=st.integers(0, 300),
)  # fmt: skip
def test_chosen_passages_with_repeats(random_corpus, seed, n_passages, densities, n):
    corpus = random_corpus(seed, n_passages, densities, grouped=True)
    rng = np.random.default_rng(seed)
    weights = {term: int(rng.integers(-32_767, 32_768)) for term in [*corpus.term_ids.tolist(), 200_001]}
    chosen = np.sort(rng.integers(0, n_passages, n))
    assert score(corpus, weights, chosen) == corpus.scores(weights)[chosen].tolist()


def test_bad_arguments_are_named(corpus_of):
    corpus = corpus_of([{1: 2}, {1: 3}], [2])
    terms, weights = corpus.arrays({1: 1})
    for passages in ([2], [0, 2**32 - 1], [1, 0]):
        with pytest.raises(InvalidArgumentError) as raised:
            score(corpus, {1: 1}, passages)
        assert raised.value.field == "passages"
    with pytest.raises(ShapeError):
        score_postings(corpus.postings, terms, weights, np.array([0]))
    with pytest.raises(ShapeError):
        score_postings(corpus.postings, terms, weights[:0], np.array([0], np.uint32))
    with pytest.raises(InvalidQueryError):
        score_postings(corpus.postings, np.array([2, 1], np.uint32), np.ones(2, np.int16), np.array([0], np.uint32))
