"""Postings that contradict themselves raise, or give a useless answer; they never read or write elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import CorruptIndexError
from sparsight.kernels import Postings, available_paths, topk_documents, topk_documents_batch

PATHS = available_paths()
ONE = np.array([0], np.uint32), np.array([1], np.int16)


def one_term(passages, passage_offsets, offsets=None) -> Postings:
    return Postings(
        np.array([0], np.uint32) if offsets is None else np.arange(len(offsets) - 1, dtype=np.uint32),
        np.array([0, len(passages)] if offsets is None else offsets, np.uint64),
        np.array(passages, np.uint32),
        np.full(len(passages), 9, np.uint8),
        np.array(passage_offsets, np.uint32),
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("window", [1, 4, 0])
@pytest.mark.parametrize(
    "postings",
    [
        one_term([0, 3], [0, 1, 3]),  # passage 3 of 3
        one_term([4_000_000_000], [0, 1, 3]),
        one_term([0], [0]),  # postings, but no document
        one_term([0, 1], [0, 1, 2], offsets=[0, 5, 2]),  # a term's range ends before it starts, or past the end
        one_term([0, 1], [0, 1, 2], offsets=[0, 2**63, 2]),
    ],
    ids=["passage-too-high", "passage-far-too-high", "no-documents", "range-past-the-end", "range-huge"],
)
def test_damage_that_is_found(postings, path, window):
    with pytest.raises(CorruptIndexError):
        topk_documents(postings, np.arange(2, dtype=np.uint32), np.ones(2, np.int16), 5, path=path, _window=window)


@pytest.mark.parametrize("path", PATHS)
def test_passages_that_fall_back_behind_a_window(path):
    postings = one_term([20, 3], [0, 10, 30])
    with pytest.raises(CorruptIndexError):
        topk_documents(postings, *ONE, 5, path=path, _window=4)


@pytest.mark.parametrize("path", PATHS)
def test_damage_to_passage_offsets(path):
    # Passage 2 belongs to no document: the offsets fall.
    postings = one_term([2], [0, 3, 1, 2, 3])
    try:
        found = topk_documents(postings, *ONE, 5, path=path)
    except CorruptIndexError:
        return
    assert len(found) <= 4


@pytest.mark.parametrize("path", PATHS)
def test_an_error_leaves_no_trace_in_the_next_search(path):
    with pytest.raises(CorruptIndexError):
        topk_documents(one_term([1, 2, 3, 60, 4], [0, 70]), *ONE, 5, path=path, _window=16)
    found = topk_documents(one_term([1], [0, 1, 2, 3, 4, 70]), *ONE, 5, path=path, _window=16)
    assert (found.documents.tolist(), found.scores.tolist()) == ([1], [9])
    with pytest.raises(CorruptIndexError):
        topk_documents_batch(one_term([0, 9], [0, 1]), [ONE] * 4, 5, threads=2, path=path)


numbers = st.sampled_from([0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 65, 100, 2**31, 2**32 - 2, 2**32 - 1])


@settings(max_examples=500, deadline=None)
@given(
    passages=st.lists(numbers, max_size=30),
    cuts=st.lists(st.sampled_from([0, 1, 2, 5, 29, 31, 2**40, 2**64 - 1]), max_size=4),
    documents=st.lists(numbers, max_size=12),
    n_passages=st.sampled_from([0, 1, 5, 64, 100, 2**20]),
    weights=st.lists(st.sampled_from([1, -1, 32_767, -32_767]), min_size=5, max_size=5),
    masked=st.booleans(),
    window=st.sampled_from([1, 2, 16, 64, 0]),
    k=st.sampled_from([1, 3, 100]),
)
def test_fuzz(passages, cuts, documents, n_passages, weights, masked, window, k):
    """First and last offsets are right, as the constructor sees to it; everything else is arbitrary."""
    passage_offsets = [0, *documents, n_passages]
    postings = one_term(passages, passage_offsets, offsets=[0, *cuts, len(passages)])
    n_documents = len(passage_offsets) - 1
    mask = np.full(-(-n_documents // 64), 0xAAAA_AAAA_AAAA_AAAA, np.uint64) if masked else None
    terms = np.arange(5, dtype=np.uint32)
    for path in PATHS:
        try:
            found = topk_documents(
                postings, terms, np.array(weights, np.int16), k, mask=mask, path=path, _window=window
            )
        except CorruptIndexError:
            continue
        assert len(found) <= k
        assert all(0 <= document < n_documents for document in found.documents.tolist())
