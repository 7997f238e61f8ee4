"""Vectors checked together give what they give one by one: the same rows, or the same complaint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidVectorError
from sparsight.index.schema import FieldSchema
from sparsight.index.vectors import check_dense, check_dense_rows, check_sparse, check_sparse_rows
from sparsight.types import DenseField, SparseField, SparseVector

SPARSE = FieldSchema(SparseField("terms", dimension=50), 50)
DENSE = FieldSchema(DenseField("vec", dimension=3), 3)
WEIGHTS = [0.0, 1e-40, 0.5, 1.0, 3.25]
ODD_WEIGHTS = [*WEIGHTS, -0.0, -1.0, float("nan"), float("inf"), 1e39]

indices = st.lists(st.integers(0, 49), max_size=8, unique=True)
odd_indices = st.lists(st.integers(-2, 52), max_size=5)


def _vector(ids: list[int], weights: list[float], kinds: tuple[str, str]) -> SparseVector:
    return SparseVector(
        np.array(ids, np.int64).astype(kinds[0]), np.array(weights[: len(ids)], np.float64).astype(kinds[1])
    )


def _vectors(ids: st.SearchStrategy[list[int]], weights: list[float]) -> st.SearchStrategy[SparseVector]:
    kinds = st.tuples(st.sampled_from(["i4", "i8", "u4", "u8", "f8"]), st.sampled_from(["f4", "f8", "f2", "i8"]))
    return st.builds(_vector, ids, st.lists(st.sampled_from(weights), min_size=8, max_size=8), kinds)


def _outcome(check: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            rows, dropped = check()
    except InvalidVectorError as error:
        return error.message, error.field, error.details.get("reason")
    return [(row.term_ids.tolist(), row.values.tolist()) for row in rows], dropped


def _one_by_one(vectors: list[Any]) -> Any:
    each = [check_sparse(vector, SPARSE, f"v[{n}]") for n, vector in enumerate(vectors)]
    return [row for row, _ in each], sum(dropped for _, dropped in each)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.lists(_vectors(indices, WEIGHTS), min_size=1, max_size=9),
        st.lists(st.one_of(_vectors(indices, WEIGHTS), _vectors(odd_indices, ODD_WEIGHTS)), min_size=4, max_size=9),
    )
)
def test_sparse_vectors_together_and_one_by_one(vectors: list[SparseVector]) -> None:
    together = _outcome(lambda: check_sparse_rows(vectors, SPARSE, lambda n: f"v[{n}]"))
    assert together == _outcome(lambda: _one_by_one(vectors))


def test_unsorted_vectors_with_zeros_are_sorted_each_by_itself() -> None:
    vectors = [
        SparseVector(np.array([9, 2, 5]), np.array([1.0, 0.0, 3.0])),
        SparseVector(np.array([], np.int64), np.array([])),
        SparseVector(np.array([1]), np.array([0.0])),
        SparseVector(np.array([4, 3]), np.array([4.0, 3.0])),
        SparseVector(np.array([7]), np.array([7.0])),
    ]
    rows, dropped = check_sparse_rows(vectors, SPARSE, str)
    assert [row.term_ids.tolist() for row in rows] == [[5, 9], [], [], [3, 4], [7]]
    assert [row.values.tolist() for row in rows] == [[3, 1], [], [], [3, 4], [7]]
    assert dropped == 2
    assert {row.term_ids.dtype for row in rows} == {np.dtype(np.uint32)}


def test_the_callers_arrays_are_copied() -> None:
    values = [np.ones(1, np.float32) for _ in range(6)]
    rows, _ = check_sparse_rows([SparseVector(np.zeros(1, np.uint32), value) for value in values], SPARSE, str)
    for value in values:
        value[:] = 9
    assert [row.values.tolist() for row in rows] == [[1.0]] * 6
    one, _ = check_sparse_rows([SparseVector(np.zeros(1, np.uint32), values[0])], SPARSE, str)
    values[0][:] = 5
    assert one[0].values.tolist() == [9.0]


def test_the_last_dimension_of_the_widest_field_is_kept_apart() -> None:
    wide = FieldSchema(SparseField("wide"), 0)
    vectors = [SparseVector(np.array([2**32 - 2, 0, 2**31]), np.array([1.0, 2.0, 3.0])) for _ in range(5)]
    rows, _ = check_sparse_rows(vectors, wide, str)
    assert [row.term_ids.tolist() for row in rows] == [[0, 2**31, 2**32 - 2]] * 5
    assert [row.values.tolist() for row in rows] == [[2, 3, 1]] * 5


@pytest.mark.parametrize(
    "bad",
    [[0, 0, 0], [1, float("nan"), 0], [1, 2], [[1, 2, 3]], "x", SparseVector(np.zeros(1), np.ones(1)), [1e39, 0, 0]],
)
def test_a_bad_dense_vector_is_named(bad: Any) -> None:
    good = np.array([1, 2, 3], np.float32)
    wrong = bad if isinstance(bad, str | SparseVector) else np.array(bad, np.float64)
    with pytest.raises(InvalidVectorError) as alone:
        check_dense(wrong, DENSE, "v[1]")
    with pytest.raises(InvalidVectorError) as together:
        check_dense_rows([good, wrong, good], DENSE, lambda n: f"v[{n}]")
    assert (together.value.message, together.value.field) == (alone.value.message, alone.value.field)


def test_dense_vectors_of_any_kind_become_float32() -> None:
    rows = check_dense_rows([[1, 2, 3], np.array([4, 5, 6], np.float64), np.array([7, 8, 9])], DENSE, str)
    assert rows.dtype == np.float32 and rows.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
