"""Constructors refuse what does not fit, cheaply; validate() finds the rest."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sparsight.errors import CorruptIndexError, DeadlineError, SearchStoppedError, ShapeError
from sparsight.kernels import CancelFlag, Forward, Postings


def arrays(**changes):
    """Two terms, three passages, two documents; `changes` replace arrays."""
    good = {
        "term_ids": np.array([3, 9], np.uint32),
        "offsets": np.array([0, 2, 3], np.uint64),
        "passages": np.array([0, 2, 1], np.uint32),
        "impacts": np.array([5, 6, 7], np.uint8),
        "passage_offsets": np.array([0, 2, 3], np.uint32),
    }
    return good | changes


def forward_arrays(**changes):
    good = {
        "indptr": np.array([0, 2, 2, 3], np.uint64),
        "term_ids": np.array([1, 5, 0], np.uint32),
        "impacts": np.array([4, 5, 6], np.uint8),
    }
    return good | changes


def test_postings_know_their_sizes():
    postings = Postings(**arrays())
    assert (postings.n_documents, postings.n_passages) == (2, 3)
    postings.validate()


def test_empty_postings_are_fine():
    postings = Postings(
        np.empty(0, np.uint32), np.zeros(1, np.uint64), np.empty(0, np.uint32), np.empty(0, np.uint8),
        np.zeros(1, np.uint32),
    )  # fmt: skip
    postings.validate()
    assert (postings.n_documents, postings.n_passages) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("term_ids", np.array([3, 9], np.int64), "postings.term_ids"),
        ("term_ids", [3, 9], "postings.term_ids"),
        ("term_ids", np.array([[3, 9]], np.uint32), "postings.term_ids"),
        ("term_ids", np.array([3, 4, 9, 9], np.uint32)[::2], "postings.term_ids"),
        ("offsets", np.array([0, 3], np.uint64), "postings.offsets"),
        ("offsets", np.array([1, 2, 3], np.uint64), "postings.offsets"),
        ("offsets", np.array([0, 2, 4], np.uint64), "postings.offsets"),
        ("passages", np.array([0, 2, 1], np.int32), "postings.passages"),
        ("impacts", np.array([5, 6], np.uint8), "postings.impacts"),
        ("passage_offsets", np.array([], np.uint32), "postings.passage_offsets"),
        ("passage_offsets", np.array([1, 2, 3], np.uint32), "postings.passage_offsets"),
        ("passage_offsets", np.frombuffer(b"\0" + bytes(12), np.uint8)[1:].view(np.uint32), "postings.passage_offsets"),
    ],
)
def test_postings_refuse_arrays_that_do_not_fit(name, value, field):
    with pytest.raises(ShapeError) as raised:
        Postings(**arrays(**{name: value}))
    assert raised.value.field == field
    assert {"expected", "received"} <= raised.value.details.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("term_ids", np.array([9, 3], np.uint32)),
        ("term_ids", np.array([3, 3], np.uint32)),
        ("offsets", np.array([0, 4, 3], np.uint64)),
        ("passages", np.array([2, 0, 1], np.uint32)),
        ("passages", np.array([0, 0, 1], np.uint32)),
        ("passages", np.array([0, 3, 1], np.uint32)),
        ("impacts", np.array([5, 0, 7], np.uint8)),
        ("passage_offsets", np.array([0, 4, 3], np.uint32)),
    ],
)
def test_validate_finds_what_the_constructor_does_not_look_at(name, value):
    postings = Postings(**arrays(**{name: value}))
    with pytest.raises(CorruptIndexError) as raised:
        postings.validate()
    assert raised.value.field == f"postings.{name}"
    assert "position" in raised.value.details


def test_validate_allows_a_fall_between_terms():
    Postings(**arrays(passages=np.array([1, 2, 0], np.uint32))).validate()


def test_forward_knows_its_rows_and_validates():
    forward = Forward(**forward_arrays())
    forward.validate()
    assert forward.n_rows == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indptr", np.array([0, 2, 2, 3], np.int64)),
        ("indptr", np.array([], np.uint64)),
        ("indptr", np.array([0, 2, 2, 4], np.uint64)),
        ("indptr", np.array([1, 2, 2, 3], np.uint64)),
        ("term_ids", np.array([1, 5, 0], np.uint16)),
        ("impacts", np.array([4, 5], np.uint8)),
    ],
)
def test_forward_refuses_arrays_that_do_not_fit(name, value):
    with pytest.raises(ShapeError):
        Forward(**forward_arrays(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indptr", np.array([0, 3, 2, 3], np.uint64)),
        ("term_ids", np.array([5, 1, 0], np.uint32)),
        ("impacts", np.array([4, 0, 1], np.uint8)),
    ],
)
def test_forward_validate_finds_damage(name, value):
    with pytest.raises(CorruptIndexError):
        Forward(**forward_arrays(**{name: value})).validate()


def test_cancel_flag():
    flag = CancelFlag()
    flag.check()
    assert not flag.is_set
    flag.set()
    assert flag.is_set
    with pytest.raises(SearchStoppedError) as raised:
        flag.check()
    assert not isinstance(raised.value, DeadlineError)


def test_cancel_flag_deadline():
    CancelFlag.after(3600).check()
    passed = CancelFlag(time.monotonic_ns())
    with pytest.raises(DeadlineError):
        passed.check()
    assert not passed.is_set
    with pytest.raises(TimeoutError):
        CancelFlag.after(0).check()
