"""Constructors refuse what does not fit, cheaply; validate() finds the rest."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sparsight.errors import CorruptIndexError, DeadlineError, SearchStoppedError, ShapeError
from sparsight.kernels import CancelFlag, Forward, Postings


def arrays(**changes):
    """Terms 3 (passages 0 and 2) and 9 (passage 1), a cell each, two documents; `changes` replace arrays."""
    cells = [2, 0, 0, 0, 0, 0, 1, 0, 5, 6, 1, 0, 0, 0, 32, 0, 7]
    good = {
        "term_ids": np.array([3, 9], np.uint32),
        "frequencies": np.array([2, 1], np.uint32),
        "max_impacts": np.array([6, 7], np.uint8),
        "cell_offsets": np.array([0, 1, 2], np.uint32),
        "byte_offsets": np.array([0, 10, 17], np.uint64),
        "cell_blocks": np.array([0, 0], np.uint16),
        "cell_bytes": np.array([0, 0], np.uint32),
        "data": np.array(cells + [0] * 64, np.uint8),
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


def test_postings_know_their_sizes_and_decode():
    postings = Postings(**arrays())
    assert (postings.n_documents, postings.n_passages, postings.n_postings) == (2, 3, 3)
    assert [array.tolist() for array in postings.decode(3)] == [[0, 2], [5, 6]]
    assert [array.tolist() for array in postings.decode(9)] == [[1], [7]]
    postings.validate()


def test_empty_postings_are_fine():
    none = {name: array[:0] for name, array in arrays().items()}
    offsets = {name: array[:1] for name, array in arrays().items() if name.endswith("offsets")}
    postings = Postings(**none | offsets | {"data": np.zeros(64, np.uint8)})
    postings.validate()
    assert (postings.n_documents, postings.n_passages, postings.n_postings) == (0, 0, 0)
    assert len(postings.decode(3)[0]) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("term_ids", np.array([3, 9], np.int64)),
        ("term_ids", [3, 9]),
        ("term_ids", np.array([[3, 9]], np.uint32)),
        ("term_ids", np.array([3, 4, 9, 9], np.uint32)[::2]),
        ("frequencies", np.array([2], np.uint32)),
        ("frequencies", np.array([2, 1], np.uint64)),
        ("max_impacts", np.array([6, 7], np.uint16)),
        ("max_impacts", np.array([6, 7, 8], np.uint8)),
        ("cell_offsets", np.array([0, 2], np.uint32)),
        ("cell_offsets", np.array([1, 1, 2], np.uint32)),
        ("cell_offsets", np.array([0, 1, 3], np.uint32)),
        ("cell_offsets", np.array([0, 1, 2], np.uint64)),
        ("byte_offsets", np.array([1, 10, 17], np.uint64)),
        ("byte_offsets", np.array([0, 10, 18], np.uint64)),
        ("byte_offsets", np.array([0, 17], np.uint64)),
        ("cell_blocks", np.array([0, 0], np.uint32)),
        ("cell_bytes", np.array([0], np.uint32)),
        ("data", np.zeros(81, np.int8)),
        ("passage_offsets", np.array([], np.uint32)),
        ("passage_offsets", np.array([1, 2, 3], np.uint32)),
        ("passage_offsets", np.frombuffer(b"\0" + bytes(12), np.uint8)[1:].view(np.uint32)),
    ],
)
def test_postings_refuse_arrays_that_do_not_fit(name, value):
    with pytest.raises(ShapeError) as raised:
        Postings(**arrays(**{name: value}))
    assert raised.value.field == f"postings.{name}"
    assert {"expected", "received"} <= raised.value.details.keys()


@pytest.mark.parametrize("short", [0, 1, 63, 80])
def test_data_must_have_its_padding(short):
    """Vector loads reach 64 bytes beyond the last cell."""
    with pytest.raises(ShapeError):
        Postings(**arrays(data=arrays()["data"][:short]))
    with pytest.raises(ShapeError):
        Postings(**arrays(data=arrays()["data"][: 17 + min(short, 63)]))


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
