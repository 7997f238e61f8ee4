"""The exact search: shape, numbers worked by hand, and properties; test_topk_documents_windows.py has the edges."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import Effort, Postings, available_paths, topk_documents, topk_documents_batch
from sparsight.kernels.search import check_query

PATHS = available_paths()
each_path = pytest.mark.parametrize("path", PATHS)


def as_list(found) -> list[tuple[int, int, int]]:
    return list(zip(found.documents.tolist(), found.scores.tolist(), found.passages.tolist(), strict=True))


# --- shape ------------------------------------------------------------------------------------------------


@each_path
def test_result_arrays(corpus_of, path):
    corpus = corpus_of([{1: 2}, {1: 3}], [1, 1])
    found = topk_documents(corpus.postings, *corpus.arrays({1: 1}), 5, path=path)
    assert found.path == path
    assert len(found) == 2
    assert (found.documents.dtype, found.scores.dtype, found.passages.dtype) == (np.int32, np.int32, np.uint32)
    assert found.documents.shape == found.scores.shape == found.passages.shape == (2,)


@each_path
def test_nothing_to_search_or_to_find(corpus_of, path):
    empty = corpus_of([], [])
    no_passages = corpus_of([], [0, 0, 0])
    empty_documents = corpus_of([{}, {}], [1, 1])
    one = corpus_of([{4: 9}], [1])
    for corpus, weights in [(empty, {1: 1}), (no_passages, {1: 1}), (empty_documents, {1: 1}), (one, {}), (one, {5: 1}),
                            (one, {3: 2, 5: 1}), (one, {4: 0}), (one, {4: -1})]:  # fmt: skip
        for allowed in (None, (), range(len(corpus.lengths))):
            assert corpus.search(weights, 3, path=path, allowed=allowed)[0] == []
    assert topk_documents_batch(one.postings, [], 3, path=path) == []


@each_path
def test_arrays_may_be_read_only(corpus_of, path, tmp_path):
    corpus = corpus_of([{1: 2}, {1: 3, 2: 1}, *({2: 4} for _ in range(300))], [1, 1, 300])
    mapped = {}
    for name in (field.name for field in fields(Postings) if field.init and field.name != "most_terms"):
        array = getattr(corpus.postings, name)
        array.tofile(tmp_path / name)
        mapped[name] = np.memmap(tmp_path / name, array.dtype, "r")
    found = topk_documents(Postings(**mapped), *corpus.arrays({1: 3, 2: 1}), 5, path=path)
    assert as_list(found) == [(1, 10, 1), (0, 6, 0), (2, 4, 2)]


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"terms": np.array([1], np.int32)}, ShapeError, "terms"),
        ({"weights": np.array([1, 2], np.int16)}, ShapeError, "weights"),
        ({"weights": np.array([1.0])}, ShapeError, "weights"),
        ({"mask": np.zeros(0, np.uint64)}, ShapeError, "mask"),
        ({"mask": np.ones(1, np.uint8)}, ShapeError, "mask"),
        ({"k": 0}, InvalidArgumentError, "k"),
        ({"k": 1.5}, InvalidArgumentError, "k"),
        ({"min_score": 0.5}, InvalidArgumentError, "min_score"),
        ({"path": "sse9"}, InvalidArgumentError, "path"),
        ({"effort": Effort(mass=0)}, InvalidArgumentError, "effort.mass"),
        ({"effort": Effort(mass=1.1)}, InvalidArgumentError, "effort.mass"),
        ({"effort": Effort(pool=-1)}, InvalidArgumentError, "effort.pool"),
        ({"effort": Effort(budget_ns=-1)}, InvalidArgumentError, "effort.budget_ns"),
        ({"effort": Effort(deviations=float("nan"))}, InvalidArgumentError, "effort.deviations"),
        ({"terms": np.array([2, 1], np.uint32), "weights": np.ones(2, np.int16)}, InvalidQueryError, "terms"),
        ({"terms": np.array([2, 2], np.uint32), "weights": np.ones(2, np.int16)}, InvalidQueryError, "terms"),
    ],
)
def test_bad_arguments_are_named(postings_of, change, error, field):
    postings = postings_of([{1: 2}], [1])
    given = {"terms": np.array([1], np.uint32), "weights": np.array([1], np.int16), "k": 1} | change
    with pytest.raises(error) as raised:
        topk_documents(postings, **given)
    assert raised.value.field.removesuffix("s") == field.removesuffix("s")  # a mask is one of a batch's masks
    if "mask" not in change:
        with pytest.raises(error):
            topk_documents_batch(postings, [(given.pop("terms"), given.pop("weights"))], **given)


def test_scores_that_could_leave_int32_are_refused():
    # 2**31 - 1 = 255 * 8421504 + 127, and 8421504 = 257 * 32767 + 385
    terms = np.arange(259, dtype=np.uint32)
    weights = np.array([32767, -32767] * 128 + [32767, 385, 0], np.int16)
    check_query(terms, weights)
    weights[-1] = -1
    with pytest.raises(InvalidQueryError) as raised:
        check_query(terms, weights)
    assert raised.value.field == "weights"


def test_batch_names_the_offending_query_and_mask(corpus_of):
    corpus = corpus_of([{1: 2}], [1])
    postings, good = corpus.postings, corpus.arrays({1: 1})
    with pytest.raises(ShapeError) as raised:
        topk_documents_batch(postings, [good, (good[0], good[1].astype(np.int32))], 1)
    assert raised.value.field == "queries[1].weights"
    with pytest.raises(ShapeError) as raised:
        topk_documents_batch(postings, [good, good], 1, masks=[None, np.zeros(2, np.uint64)])
    assert raised.value.field == "masks[1]"
    with pytest.raises(ShapeError) as raised:
        topk_documents_batch(postings, [good, good], 1, masks=[None])
    assert raised.value.field == "masks"
    with pytest.raises(InvalidArgumentError) as raised:
        topk_documents_batch(postings, [good], 1, threads=-1)
    assert raised.value.field == "threads"


# --- numbers worked by hand -------------------------------------------------------------------------------


@each_path
def test_scores_by_hand(corpus_of, path):
    # documents:  0: passages 0, 1   1: none   2: passage 2   3: passages 3, 4
    corpus = corpus_of([{7: 10, 8: 1}, {8: 20}, {7: 5}, {9: 3}, {7: 4, 9: 2}], [2, 0, 1, 2])
    weights = {7: 3, 8: 2, 9: -1, 70_000: 5}
    # passages: 3*10+2*1 = 32, 2*20 = 40, 3*5 = 15, -3, 3*4-2 = 10
    expected = [(0, 40, 1), (2, 15, 2), (3, 10, 4)]
    assert corpus.search(weights, 10, path=path)[0] == expected
    assert corpus.search(weights, 2, path=path)[0] == expected[:2]
    assert corpus.search(weights, 10, min_score=10, path=path)[0] == expected[:2]
    assert corpus.search(weights, 10, min_score=-99, path=path)[0] == expected
    assert corpus.search(weights, 1, allowed=[2, 3], path=path)[0] == expected[1:2]
    assert corpus.best(weights, 10) == expected  # and the oracle of the other tests is no worse


@each_path
def test_ties_go_to_the_lower_document_and_passage(corpus_of, path):
    corpus = corpus_of([{1: 2}, {1: 5}, {1: 5}, {1: 5}, {2: 5}], [1, 2, 1, 1])
    expected = [(1, 5, 1), (2, 5, 3), (3, 5, 4), (0, 2, 0)]
    for k in range(1, 6):
        assert corpus.search({1: 1, 2: 1}, k, path=path)[0] == expected[:k]


@each_path
def test_extreme_weights_and_thresholds(corpus_of, path):
    corpus = corpus_of([{1: 255, 2: 255}, {1: 255}, {2: 255}], [1, 1, 1])
    top = 255 * 32767
    assert corpus.search({1: 32767, 2: -32767}, 3, path=path)[0] == [(1, top, 1)]
    assert corpus.search({1: -32768, 2: 32767}, 3, path=path)[0] == [(2, top, 2)]
    assert corpus.search({1: 32767, 2: 32767}, 3, path=path)[0] == [(0, 2 * top, 0), (1, top, 1), (2, top, 2)]
    for min_score, n in [(2**40, 0), (2**31 - 1, 0), (255, 0), (254, 2), (0, 2), (-(2**40), 2)]:
        assert len(corpus.search({1: 1}, 3, min_score=min_score, path=path)[0]) == n


@each_path
def test_terms_beyond_16_bits_and_at_the_end_of_32(corpus_of, path):
    corpus = corpus_of([{65_536: 1, 2**32 - 2: 2}, {0: 3}], [1, 1])
    assert corpus.search({0: 1, 65_536: 10, 2**32 - 2: 100}, 2, path=path)[0] == [(0, 210, 0), (1, 3, 1)]


@each_path
def test_the_largest_scores_fit_int32(corpus_of, path):
    """257 terms of weight 32767 and one of 385 are as much as a query may weigh; every impact is 255."""
    weights = {term: 32767 for term in range(257)} | {300: 385}
    rows = [dict.fromkeys(weights, 255), dict.fromkeys(list(weights)[1:], 255), {300: 255}]
    top = 2**31 - 1 - 127
    expected = [(0, top, 0), (1, top - 255 * 32767, 1), (2, 255 * 385, 2)]
    corpus = corpus_of(rows, [1, 1, 1])
    for k in (1, 2, 3, 9):
        assert corpus.search(weights, k, path=path)[0] == expected[:k]
    assert corpus.search({term: -weight for term, weight in weights.items()}, 3, path=path)[0] == []


# --- properties -------------------------------------------------------------------------------------------

TERM_POOL = [0, 1, 2, 5, 65_535, 65_536, 2**32 - 2]


@st.composite
def searches(draw):
    lengths = draw(st.lists(st.sampled_from([1, 1, 0, 2, 5]), max_size=24))
    row = st.dictionaries(st.sampled_from(TERM_POOL), st.sampled_from([1, 2, 3, 255]), max_size=4)
    rows = draw(st.lists(row, min_size=sum(lengths), max_size=sum(lengths)))
    weight = st.sampled_from([1, 2, 3, -1, -2, 0, 100, 32_767, -32_767])
    weights = draw(st.dictionaries(st.sampled_from([*TERM_POOL, 3, 77]), weight, max_size=6))
    n = len(lengths)
    return {
        "rows": rows,
        "lengths": lengths,
        "weights": weights,
        "k": draw(st.sampled_from([1, 2, 3, 10, 1000])),
        "allowed": draw(st.none() | st.sets(st.integers(0, n - 1)) if n else st.none()),
        "min_score": draw(st.sampled_from([0, -5, 1, 3, 600])),
    }


@settings(max_examples=300, deadline=None)
@given(case=searches())
def test_every_path_is_the_oracle_on_few_passages(corpus_of, case):
    corpus = corpus_of(case["rows"], case["lengths"])
    options = {"allowed": case["allowed"], "min_score": case["min_score"]}
    expected = corpus.best(case["weights"], case["k"], **options)
    for path in PATHS:
        assert corpus.search(case["weights"], case["k"], path=path, **options)[0] == expected


def weights_of(rng, corpus, low, high):
    """A query of all terms with random weights, one unknown term among them."""
    return {term: int(rng.integers(low, high)) for term in [*corpus.term_ids.tolist(), 200_001]}


DENSITIES = st.sampled_from([0, 0.0003, 0.01, 0.03, 0.033, 0.1, 0.7, 1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_passages=st.sampled_from([1, 64, 700, 8_191, 8_192, 8_193, 20_000, 65_535, 65_537, 70_000]),
    densities=st.lists(st.lists(DENSITIES, min_size=4, max_size=4), min_size=1, max_size=9),
    top=st.sampled_from([1, 3, 255]),
    low=st.sampled_from([-300, -32_767, 1]),
    high=st.sampled_from([2, 300, 32_767]),
    grouped=st.booleans(),
    share=st.sampled_from([None, 0.5, 0.01, 0.0005]),
    k=st.sampled_from([1, 10, 65, 300, 80_000]),
)
def test_every_path_is_the_oracle_on_any_mix_of_windows(
    random_corpus, seed, n_passages, densities, top, low, high, grouped, share, k
):
    """Densities are drawn for each window: bitmaps, lists, both within a cell, and windows without anything."""
    corpus = random_corpus(seed, n_passages, densities, grouped=grouped, top=top)
    rng = np.random.default_rng(seed)
    weights = weights_of(rng, corpus, low, high)
    allowed = None if share is None else np.flatnonzero(rng.random(len(corpus.lengths)) < share).tolist()
    expected = corpus.best(weights, k, allowed=allowed)
    min_score = expected[len(expected) // 2][1] if expected else 5
    for path in PATHS:
        assert corpus.search(weights, k, path=path, allowed=allowed)[0] == expected
        above = [hit for hit in expected if hit[1] > min_score]
        assert corpus.search(weights, k, path=path, allowed=allowed, min_score=min_score)[0] == above


# --- batches ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(case=searches(), masked=st.booleans(), threads=st.sampled_from([0, 1, 2, 5]))
def test_a_batch_is_its_queries_one_by_one(corpus_of, case, masked, threads):
    corpus = corpus_of(case["rows"], case["lengths"])
    weights = [{term: weight * sign for term, weight in case["weights"].items()} for sign in (1, -1, 1)]
    allowed = [None, case["allowed"] or (), None] if masked else [None] * 3
    masks = [None if each is None else corpus.mask(each) for each in allowed] if masked else None
    for path in PATHS:
        alone = [corpus.search(w, case["k"], allowed=a, path=path)[0] for w, a in zip(weights, allowed, strict=True)]
        batch = topk_documents_batch(corpus.postings, [corpus.arrays(w) for w in weights], case["k"], masks=masks,
                                     threads=threads, path=path)  # fmt: skip
        assert [found.path for found in batch] == [path] * 3
        assert list(map(as_list, batch)) == alone


@each_path
def test_threads_change_nothing(random_corpus, path):
    rng = np.random.default_rng(5)
    corpus = random_corpus(5, 9_000, rng.choice([0.001, 0.02, 0.3], (2, 50)), grouped=True)
    queries = []
    for _ in range(40):
        chosen = rng.choice(corpus.term_ids, int(rng.integers(0, 20)), replace=False).tolist()
        queries.append({term: int(rng.integers(-300, 1000)) for term in chosen})
    allowed = range(0, len(corpus.lengths), 3)
    expected = [corpus.best(weights, 10, allowed=allowed) for weights in queries]
    assert sum(map(bool, expected)) > 30
    for threads in (1, 2, 3, 8):
        found = topk_documents_batch(corpus.postings, [corpus.arrays(weights) for weights in queries], 10,
                                     masks=corpus.mask(allowed), threads=threads, path=path)  # fmt: skip
        assert list(map(as_list, found)) == expected
