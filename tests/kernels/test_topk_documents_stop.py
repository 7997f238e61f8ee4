"""Searches stop when they are told to, in the middle, and let other Python threads run meanwhile."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sparsight.errors import DeadlineError, SearchStoppedError
from sparsight.kernels import CancelFlag, available_paths, topk_documents, topk_documents_batch

NATIVE = [path for path in available_paths() if path != "reference"]


@pytest.fixture
def small(postings_of):
    return postings_of([{1: 2}], [1])


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("terms", [[], [1], [2]])
def test_a_search_that_is_stopped_before_it_starts_has_no_result(small, path, terms):
    query = np.array(terms, np.uint32), np.ones(len(terms), np.int16)
    stopped, late = CancelFlag(), CancelFlag(1)
    stopped.set()
    with pytest.raises(SearchStoppedError) as raised:
        topk_documents(small, *query, 1, cancel=stopped, path=path)
    assert type(raised.value) is SearchStoppedError
    with pytest.raises(DeadlineError):
        topk_documents(small, *query, 1, cancel=late, path=path)
    with pytest.raises(DeadlineError):
        topk_documents_batch(small, [query] * 3, 1, cancel=late, path=path, threads=2)


@pytest.mark.parametrize("path", available_paths())
def test_a_flag_that_is_not_set_changes_nothing(small, path):
    query = np.array([1], np.uint32), np.array([1], np.int16)
    found = topk_documents(small, *query, 1, cancel=CancelFlag.after(3600), path=path)
    assert found.documents.tolist() == [0]


@pytest.mark.parametrize("path", NATIVE)
def test_another_thread_stops_a_running_search(slow_search, path):
    """Also shows that the GIL is released: else the flag could be set only after the search had returned."""
    postings, terms, weights = slow_search
    flag = CancelFlag()
    outcome: list[object] = []
    entered = threading.Event()

    def search() -> None:
        entered.set()
        try:
            outcome.append(topk_documents(postings, terms, weights, 10, cancel=flag, path=path))
        except SearchStoppedError as error:
            outcome.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    entered.wait()
    steps = 0
    while steps < 20:  # Python goes on here while the search runs there
        time.sleep(0.005)
        steps += 1
        assert thread.is_alive()
    flag.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert type(outcome[0]) is SearchStoppedError


@pytest.mark.parametrize("path", NATIVE)
def test_a_deadline_stops_a_running_search_and_leaves_no_trace(slow_search, small, path):
    postings, terms, weights = slow_search
    with pytest.raises(DeadlineError):
        topk_documents(postings, terms, weights, 10, cancel=CancelFlag.after(0.05), path=path)
    # The thread's scratch memory serves the next search as if nothing had happened.
    found = topk_documents(small, np.array([1], np.uint32), np.array([1], np.int16), 1, path=path)
    assert found.scores.tolist() == [2]


def test_a_deadline_stops_a_batch_on_every_thread(slow_search):
    postings, terms, weights = slow_search
    start = time.monotonic()
    with pytest.raises(DeadlineError):
        topk_documents_batch(postings, [(terms, weights)] * 50, 10, cancel=CancelFlag.after(0.05), threads=4)
    assert time.monotonic() - start < 30  # all of them together would take minutes


@pytest.mark.parametrize("path", NATIVE)
def test_a_deadline_ends_a_batch_of_quick_searches(random_corpus, path):
    corpus = random_corpus(1, 20_000, [0.3] * 20, grouped=False)
    query = corpus.arrays({term: 5 for term in corpus.term_ids.tolist()})
    many, soon = [query] * 100_000, CancelFlag.after(0.8)  # seconds; checking the queries takes a part of it
    start = time.monotonic()
    with pytest.raises(DeadlineError):
        topk_documents_batch(corpus.postings, many, 10, cancel=soon, threads=2, path=path)
    assert time.monotonic() - start < 5
    again = topk_documents(corpus.postings, *query, 10, path=path)
    assert again.scores.tolist() == topk_documents(corpus.postings, *query, 10, path="reference").scores.tolist()
