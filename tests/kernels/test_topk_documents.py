"""The exact search: shape, numbers worked by hand, and equality with an oracle that shares no code with it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sparsight.errors import InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import Postings, available_paths, topk_documents, topk_documents_batch
from sparsight.kernels.search import check_query

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]

each_path = pytest.mark.parametrize("path", PATHS)


def query(weights: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    terms = sorted(weights)
    return np.array(terms, np.uint32), np.array([weights[term] for term in terms], np.int16)


def mask_of(documents, n: int) -> np.ndarray:
    mask = np.zeros(-(-n // 64), np.uint64)
    for document in documents:
        mask[document // 64] |= np.uint64(1 << (document % 64))
    return mask


def as_list(found) -> list[tuple[int, int, int]]:
    return list(zip(found.documents.tolist(), found.scores.tolist(), found.passages.tolist(), strict=True))


def oracle(postings: Postings, terms, weights, k, allowed=None, min_score=0) -> list[tuple[int, int, int]]:
    """Scores from a product of scipy's sparse matrices, grouped and sorted by plain Python."""
    by_term = sparse.csr_matrix(
        (postings.impacts.astype(np.int64), postings.passages.astype(np.int64), postings.offsets.astype(np.int64)),
        (len(postings.term_ids), postings.n_passages),
    )
    weight_of = dict(zip(terms.tolist(), weights.tolist(), strict=True))
    dense_query = np.array([weight_of.get(term, 0) for term in postings.term_ids.tolist()], np.int64)
    scores = (by_term.T @ dense_query).tolist()
    hits = []
    offsets = postings.passage_offsets.tolist()
    for document, (start, stop) in enumerate(pairwise(offsets)):
        if start == stop or (allowed is not None and document not in allowed):
            continue
        score = max(scores[start:stop])
        if score > max(0, min_score):
            hits.append((document, score, start + scores[start:stop].index(score)))
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


# --- shape ------------------------------------------------------------------------------------------------


@each_path
def test_result_arrays(postings_of, path):
    found = topk_documents(postings_of([{1: 2}, {1: 3}], [1, 1]), *query({1: 1}), 5, path=path)
    assert found.path == path
    assert len(found) == 2
    assert (found.documents.dtype, found.scores.dtype, found.passages.dtype) == (np.int32, np.int32, np.uint32)
    assert found.documents.shape == found.scores.shape == found.passages.shape == (2,)


@each_path
def test_nothing_to_search_or_to_find(postings_of, path):
    empty = postings_of([], [])
    no_passages = postings_of([], [0, 0, 0])
    one = postings_of([{4: 9}], [1])
    for postings, weights in [(empty, {1: 1}), (no_passages, {1: 1}), (one, {}), (one, {5: 1}), (one, {3: 2, 5: 1})]:
        found = topk_documents(postings, *query(weights), 3, path=path)
        assert (len(found), found.path) == (0, path)
    assert topk_documents_batch(one, [], 3, path=path) == []


@each_path
def test_arrays_may_be_read_only(postings_of, path, tmp_path):
    postings = postings_of([{1: 2}, {1: 3, 2: 1}], [1, 1])
    mapped = []
    for position, array in enumerate(
        (postings.term_ids, postings.offsets, postings.passages, postings.impacts, postings.passage_offsets)
    ):
        array.tofile(tmp_path / str(position))
        mapped.append(np.memmap(tmp_path / str(position), array.dtype, "r"))
    assert as_list(topk_documents(Postings(*mapped), *query({1: 1, 2: 1}), 5, path=path)) == [(1, 4, 1), (0, 2, 0)]


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
        ({"terms": np.array([2, 1], np.uint32), "weights": np.ones(2, np.int16)}, InvalidQueryError, "terms"),
        ({"terms": np.array([2, 2], np.uint32), "weights": np.ones(2, np.int16)}, InvalidQueryError, "terms"),
    ],
)
def test_bad_arguments_are_named(postings_of, change, error, field):
    postings = postings_of([{1: 2}], [1])
    given = {"terms": np.array([1], np.uint32), "weights": np.array([1], np.int16), "k": 1} | change
    with pytest.raises(error) as raised:
        topk_documents(postings, **given)
    assert raised.value.field == field
    if "mask" not in change:
        with pytest.raises(error):
            topk_documents_batch(postings, [(given["terms"], given["weights"])], given["k"],
                                 min_score=given.get("min_score", 0))  # fmt: skip


def test_scores_that_could_leave_int32_are_refused():
    # 2**31 - 1 = 255 * 8421504 + 127, and 8421504 = 257 * 32767 + 385
    terms = np.arange(259, dtype=np.uint32)
    weights = np.array([32767, -32767] * 128 + [32767, 385, 0], np.int16)
    check_query(terms, weights)
    weights[-1] = -1
    with pytest.raises(InvalidQueryError) as raised:
        check_query(terms, weights)
    assert raised.value.field == "weights"


def test_batch_names_the_offending_query_and_mask(postings_of):
    postings = postings_of([{1: 2}], [1])
    good = query({1: 1})
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
def test_scores_by_hand(postings_of, path):
    # documents:  0: passages 0, 1   1: none   2: passage 2   3: passages 3, 4
    postings = postings_of([{7: 10, 8: 1}, {8: 20}, {7: 5}, {9: 3}, {7: 4, 9: 2}], [2, 0, 1, 2])
    weights = query({7: 3, 8: 2, 9: -1, 70_000: 5})
    # passages: 3*10+2*1 = 32, 2*20 = 40, 3*5 = 15, -3, 3*4-2 = 10
    assert as_list(topk_documents(postings, *weights, 10, path=path)) == [(0, 40, 1), (2, 15, 2), (3, 10, 4)]
    assert as_list(topk_documents(postings, *weights, 2, path=path)) == [(0, 40, 1), (2, 15, 2)]
    assert as_list(topk_documents(postings, *weights, 10, min_score=10, path=path)) == [(0, 40, 1), (2, 15, 2)]
    assert as_list(topk_documents(postings, *weights, 10, min_score=-99, path=path)) == [
        (0, 40, 1), (2, 15, 2), (3, 10, 4)]  # fmt: skip
    assert as_list(topk_documents(postings, *weights, 1, mask=mask_of([2, 3], 4), path=path)) == [(2, 15, 2)]


@each_path
def test_ties_go_to_the_lower_document_and_passage(postings_of, path):
    postings = postings_of([{1: 2}, {1: 5}, {1: 5}, {1: 5}, {2: 5}], [1, 2, 1, 1])
    weights = query({1: 1, 2: 1})
    expected = [(1, 5, 1), (2, 5, 3), (3, 5, 4), (0, 2, 0)]
    for k in range(1, 6):
        for window in (1, 2, 4, 0):
            assert as_list(topk_documents(postings, *weights, k, path=path, _window=window)) == expected[:k]


@each_path
def test_extreme_weights_and_thresholds(postings_of, path):
    postings = postings_of([{1: 255, 2: 255}, {1: 255}, {2: 255}], [1, 1, 1])
    assert as_list(topk_documents(postings, *query({1: 32767, 2: -32767}), 3, path=path)) == [(1, 255 * 32767, 1)]
    assert as_list(topk_documents(postings, *query({1: -32768, 2: 32767}), 3, path=path)) == [(2, 255 * 32767, 2)]
    assert len(topk_documents(postings, *query({1: 1}), 3, min_score=2**40, path=path)) == 0
    assert len(topk_documents(postings, *query({1: 1}), 3, min_score=-(2**40), path=path)) == 2


@each_path
def test_a_document_may_straddle_windows(postings_of, path):
    # One document over 20 passages, its best one in the middle; neighbours with one passage each.
    rows = [{1: 7}, *({1: 1 + i % 9} for i in range(20)), {1: 8}]
    postings = postings_of(rows, [1, 20, 1])
    for window in (1, 2, 4, 8, 16, 0):
        found = topk_documents(postings, *query({1: 1}), 3, path=path, _window=window)
        assert as_list(found) == [(1, 9, 9), (2, 8, 21), (0, 7, 0)]


@each_path
def test_terms_beyond_16_bits_and_at_the_end_of_32(postings_of, path):
    postings = postings_of([{65_536: 1, 2**32 - 2: 2}, {0: 3}], [1, 1])
    found = topk_documents(postings, *query({0: 1, 65_536: 10, 2**32 - 2: 100}), 2, path=path)
    assert as_list(found) == [(0, 210, 0), (1, 3, 1)]


# --- against the oracle and the reference -----------------------------------------------------------------


def random_postings(rng: np.random.Generator, n_documents: int, terms: int, density: float) -> Postings:
    lengths = rng.choice([0, 1, 2, 7], n_documents, p=[0.1, 0.6, 0.2, 0.1])
    matrix = sparse.random(terms, int(lengths.sum()), density, "csr", rng=rng)
    matrix.sort_indices()
    return Postings(
        np.sort(rng.choice(200_000, terms, replace=False)).astype(np.uint32),
        matrix.indptr.astype(np.uint64),
        matrix.indices.astype(np.uint32),
        rng.integers(1, 256, matrix.nnz).astype(np.uint8),
        np.cumsum(np.concatenate([[0], lengths])).astype(np.uint32),
    )


@each_path
@pytest.mark.parametrize("window", [64, 1024, 0])
def test_many_windows_agree_with_the_oracle(path, window):
    # 24,000 passages: three windows of the default width, so that scans and cursors pass their main loops and tails
    rng = np.random.default_rng(3)
    postings = random_postings(rng, 17_000, 60, 0.05)
    postings.validate()
    assert postings.n_passages > 2 * 8192
    for k in (1, 10, 100, 30_000):
        terms = np.sort(rng.choice(postings.term_ids, 20, replace=False))
        weights = rng.integers(-300, 1000, 20).astype(np.int16)
        found = topk_documents(postings, terms, weights, k, path=path, _window=window)
        assert found.path == path
        assert as_list(found) == oracle(postings, terms, weights, k)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 1.0])
def test_masks_agree_with_the_oracle(path, share):
    rng = np.random.default_rng(4)
    postings = random_postings(rng, 9_000, 40, 0.05)
    allowed = set(np.flatnonzero(rng.random(postings.n_documents) < share).tolist())
    mask = mask_of(allowed, postings.n_documents)
    for window in (16, 256, 0):
        terms = np.sort(rng.choice(postings.term_ids, 12, replace=False))
        weights = rng.integers(-300, 1000, 12).astype(np.int16)
        found = topk_documents(postings, terms, weights, 10, mask=mask, path=path, _window=window)
        assert as_list(found) == oracle(postings, terms, weights, 10, allowed)


@pytest.mark.parametrize("path", NATIVE)
def test_rare_terms_far_apart(postings_of, path):
    """Windows that nothing touches are passed over, also by negative terms that have postings there."""
    n = 100_000
    rows = [{5: 1} for _ in range(n)]
    rows[3], rows[50_000], rows[99_999] = {1: 4, 5: 1}, {1: 4}, {1: 4, 2: 9}
    postings = postings_of(rows, [1] * n)
    found = topk_documents(postings, *query({1: 10, 2: 1, 5: -2}), 5, path=path)
    assert as_list(found) == [(99_999, 49, 99_999), (50_000, 40, 50_000), (3, 38, 3)]


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
    allowed = draw(st.none() | st.sets(st.integers(0, n - 1)) if n else st.none())
    return {
        "rows": rows,
        "lengths": lengths,
        "weights": weights,
        "k": draw(st.sampled_from([1, 2, 3, 10, 1000])),
        "allowed": allowed,
        "min_score": draw(st.sampled_from([0, -5, 1, 3, 600])),
        "window": draw(st.sampled_from([1, 2, 4, 8, 64, 0])),
    }


@settings(max_examples=400, deadline=None)
@given(case=searches())
def test_every_path_is_the_oracle(postings_of, case):
    postings = postings_of(case["rows"], case["lengths"])
    terms, weights = query(case["weights"])
    k, allowed, min_score = case["k"], case["allowed"], case["min_score"]
    mask = None if allowed is None else mask_of(allowed, postings.n_documents)
    expected = oracle(postings, terms, weights, k, allowed, min_score)
    for path in PATHS:
        found = topk_documents(
            postings, terms, weights, k, mask=mask, min_score=min_score, path=path, _window=case["window"]
        )
        assert found.path == path
        assert as_list(found) == expected


@settings(max_examples=100, deadline=None)
@given(case=searches(), masked=st.booleans(), threads=st.sampled_from([0, 1, 2, 5]))
def test_a_batch_is_its_queries_one_by_one(postings_of, case, masked, threads):
    postings = postings_of(case["rows"], case["lengths"])
    queries = [query({term: weight * sign for term, weight in case["weights"].items()}) for sign in (1, -1, 1)]
    mask = mask_of(case["allowed"] or (), postings.n_documents)
    masks = [None, mask, None] if masked else None
    for path in PATHS:
        alone = [
            topk_documents(postings, *q, case["k"], mask=mask if masked and i == 1 else None, path=path)
            for i, q in enumerate(queries)
        ]
        batch = topk_documents_batch(postings, queries, case["k"], masks=masks, threads=threads, path=path,
                                     _window=case["window"])  # fmt: skip
        assert [found.path for found in batch] == [path] * 3
        assert list(map(as_list, batch)) == list(map(as_list, alone))


@pytest.mark.parametrize("path", NATIVE)
def test_threads_change_nothing(path):
    rng = np.random.default_rng(5)
    postings = random_postings(rng, 5_000, 50, 0.05)
    queries = []
    for _ in range(60):
        terms = np.sort(rng.choice(postings.term_ids, int(rng.integers(0, 20)), replace=False))
        queries.append((terms, rng.integers(-300, 1000, len(terms)).astype(np.int16)))
    mask = mask_of(range(0, postings.n_documents, 3), postings.n_documents)
    serial = topk_documents_batch(postings, queries, 10, masks=mask, threads=1, path=path)
    assert any(len(found) for found in serial)
    for threads in (2, 3, 8):
        parallel = topk_documents_batch(postings, queries, 10, masks=mask, threads=threads, path=path)
        assert list(map(as_list, parallel)) == list(map(as_list, serial))
