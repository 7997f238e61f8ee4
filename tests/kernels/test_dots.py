"""Dot products of chosen rows: shape, by hand, against scipy, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from sparsight.errors import CorruptIndexError, InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import (
    Forward,
    available_paths,
    score_passages,
    sparse_dot_dense,
    sparse_dot_sparse,
    topk_documents,
)

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
each_path = pytest.mark.parametrize("path", PATHS)

# rows: {1: 4, 5: 5}, {}, {0: 6}
INDPTR = np.array([0, 2, 2, 3], np.uint64)
IDS = np.array([1, 5, 0], np.uint32)
IMPACTS = np.array([4, 5, 6], np.uint8)


def u32(*values):
    return np.array(values, np.uint32)


def i16(*values):
    return np.array(values, np.int16)


def random_csr(rng, rows, columns, density):
    matrix = sparse.random(rows, columns, density, "csr", rng=rng)
    matrix.sort_indices()
    return matrix


# --- score_passages ---------------------------------------------------------------------------------------


@each_path
def test_score_passages_by_hand(path):
    forward = Forward(INDPTR, IDS, IMPACTS)
    scores = score_passages(forward, u32(0, 5, 9), i16(-2, 3, 7), path=path)
    assert scores.dtype == np.int32
    assert scores.tolist() == [15, 0, -12]
    assert score_passages(forward, u32(0, 5), i16(-2, 3), u32(2, 0, 2), path=path).tolist() == [-12, 15, -12]
    assert score_passages(forward, u32(), i16(), path=path).tolist() == [0, 0, 0]
    assert score_passages(forward, u32(5), i16(1), u32(), path=path).tolist() == []


@each_path
@pytest.mark.parametrize("top", [1 << 16, 1 << 22, (1 << 22) - 1, 2**32 - 2])
def test_score_passages_with_a_table_and_by_merging(path, top):
    """Query ids below 2**22 go through a table, larger ones are merged; rows hold ids on both sides."""
    forward = Forward(np.array([0, 3, 4], np.uint64), u32(7, 1 << 22, 2**32 - 2, top), np.array([1, 2, 4, 8], np.uint8))
    weights = {7: 10, top: 100}
    terms, values = u32(*sorted(weights)), i16(*(weights[t] for t in sorted(weights)))
    first = 10 + {1 << 22: 200, 2**32 - 2: 400}.get(top, 0)
    assert score_passages(forward, terms, values, path=path).tolist() == [first, 800]
    # and nothing of that query is left for the next
    assert score_passages(forward, u32(8), i16(1), path=path).tolist() == [0, 0]


@each_path
def test_score_passages_gives_the_numbers_of_the_search(corpus_of_matrix, path):
    rng = np.random.default_rng(0)
    matrix = random_csr(rng, 300, 40, 0.2)
    matrix.data = rng.integers(1, 256, matrix.nnz).astype(float)
    forward = Forward(matrix.indptr.astype(np.uint64), matrix.indices.astype(np.uint32), matrix.data.astype(np.uint8))
    forward.validate()
    corpus = corpus_of_matrix(matrix, np.arange(40), [3] * 100)
    terms = np.sort(rng.choice(40, 9, replace=False)).astype(np.uint32)
    weights = rng.integers(-500, 500, 9).astype(np.int16)
    dense = np.zeros(40, np.int64)
    dense[terms] = weights
    assert np.array_equal(score_passages(forward, terms, weights, path=path), matrix.astype(np.int64) @ dense)
    found = topk_documents(corpus.postings, terms, weights, 20, path=path)
    assert len(found) == 20
    assert np.array_equal(score_passages(forward, terms, weights, found.passages, path=path), found.scores)


@each_path
def test_score_passages_refuses_bad_rows_and_damage(path):
    forward = Forward(INDPTR, IDS, IMPACTS)
    with pytest.raises(InvalidArgumentError) as raised:
        score_passages(forward, u32(1), i16(1), u32(0, 3), path=path)
    assert raised.value.field == "rows"
    with pytest.raises(ShapeError):
        score_passages(forward, u32(1), i16(1), np.array([0]), path=path)
    with pytest.raises(InvalidQueryError):
        score_passages(forward, u32(2, 1), i16(1, 1), path=path)
    for middle in (4, 2**63):
        damaged = Forward(np.array([0, 2, middle, 3], np.uint64), IDS, IMPACTS)
        for terms in (u32(1), u32(2**23)):
            with pytest.raises(CorruptIndexError):
                score_passages(damaged, terms, i16(1), path=path)
        assert score_passages(damaged, u32(1), i16(2), u32(0), path=path).tolist() == [8]
        assert score_passages(forward, u32(0, 1), i16(1, 1), path=path).tolist() == [4, 0, 6]


# --- floating point ---------------------------------------------------------------------------------------


@each_path
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dots_by_hand(path, dtype):
    values = np.array([0.5, -2, 3], dtype)
    q_ids, q_values = u32(0, 1, 9), np.array([10, 4, 1], np.float32)
    found = sparse_dot_sparse(INDPTR, IDS, values, u32(2, 1, 0), q_ids, q_values, path=path)
    assert found.dtype == np.float32
    assert found.tolist() == [30, 0, 2]
    dense = np.array([10, 4, 0, 0, 0, 0.25], np.float32)
    assert sparse_dot_dense(INDPTR, IDS, values, None, dense, path=path).tolist() == [1.5, 0, 30]
    assert sparse_dot_sparse(INDPTR, IDS, values, None, u32(), dense[:0], path=path).tolist() == [0, 0, 0]
    assert sparse_dot_dense(INDPTR, IDS, values, u32(), dense, path=path).tolist() == []


@each_path
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dots_agree_with_scipy_and_to_the_bit_with_the_reference(path, dtype):
    rng = np.random.default_rng(1)
    matrix = random_csr(rng, 80, 500, 0.1)
    matrix.data = rng.normal(size=matrix.nnz)
    values = matrix.data.astype(dtype)
    indptr, ids = matrix.indptr.astype(np.uint64), matrix.indices.astype(np.uint32)
    rows = rng.permutation(80)[:50].astype(np.uint32)
    q_ids = np.sort(rng.choice(500, 60, replace=False)).astype(np.uint32)
    q_values = rng.normal(size=60).astype(np.float32)
    dense = np.zeros(500, np.float32)
    dense[q_ids] = q_values
    matrix.data = values.astype(np.float64)
    exact = (matrix @ dense.astype(np.float64))[rows]
    for found, reference in [
        (
            sparse_dot_sparse(indptr, ids, values, rows, q_ids, q_values, path=path),
            sparse_dot_sparse(indptr, ids, values, rows, q_ids, q_values, path="reference"),
        ),
        (
            sparse_dot_dense(indptr, ids, values, rows, dense, path=path),
            sparse_dot_dense(indptr, ids, values, rows, dense, path="reference"),
        ),
    ]:
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-7)
        assert found.tobytes() == reference.tobytes()


@pytest.mark.parametrize("path", PATHS)
def test_every_float16_is_widened_as_numpy_does(path):
    """Each of the 65,536 bit patterns as a row of its own: subnormals, infinities and NaN as well."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    indptr = np.arange(len(values) + 1, dtype=np.uint64)
    ids = np.zeros(len(values), np.uint32)
    found = sparse_dot_dense(indptr, ids, values, None, np.ones(1, np.float32), path=path)
    np.testing.assert_array_equal(found, values.astype(np.float32))
    whole_row = np.array([0, len(values[:0x7C00])], np.uint64)  # one long row: the eight-wide loop of the conversion
    q = np.ones(1, np.float32)
    finite = np.ascontiguousarray(values[:0x7C00])
    total = sparse_dot_dense(whole_row, ids[:0x7C00], finite, None, q, path=path)
    assert total.tolist() == [np.float32(np.cumsum(finite.astype(np.float64))[-1])]


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32)),
    seed=st.integers(0, 2**16),
)
def test_dots_are_the_same_bits_on_every_path(values, seed):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(100, len(values), replace=False)).astype(np.uint32)
    indptr = np.array([0, len(values) // 3, len(values)], np.uint64)
    q = rng.normal(size=100).astype(np.float32)
    q_ids = np.flatnonzero(rng.random(100) < 0.5).astype(np.uint32)
    results = {
        (
            sparse_dot_sparse(indptr, ids, values, None, q_ids, q[q_ids], path=path).tobytes(),
            sparse_dot_dense(indptr, ids, values, None, q, path=path).tobytes(),
        )
        for path in PATHS
    }
    assert len(results) == 1


@each_path
def test_dots_refuse_bad_arguments_and_damage(path):
    values = np.ones(3, np.float32)
    q = np.ones(6, np.float32)
    with pytest.raises(ShapeError) as raised:
        sparse_dot_dense(INDPTR, IDS, values.astype(np.float64), None, q, path=path)
    assert raised.value.field == "values"
    with pytest.raises(ShapeError):
        sparse_dot_dense(INDPTR[:-1], IDS, values, None, q, path=path)
    with pytest.raises(ShapeError):
        sparse_dot_dense(INDPTR[:0], IDS, values, None, q, path=path)
    with pytest.raises(InvalidArgumentError):
        sparse_dot_dense(INDPTR, IDS, values, u32(3), q, path=path)
    with pytest.raises(InvalidQueryError):
        sparse_dot_sparse(INDPTR, IDS, values, None, u32(1, 1), np.ones(2, np.float32), path=path)
    with pytest.raises(CorruptIndexError):
        sparse_dot_dense(INDPTR, IDS, values, None, q[:5], path=path)
    damaged = np.array([0, 9, 2, 3], np.uint64)
    with pytest.raises(CorruptIndexError):
        sparse_dot_dense(damaged, IDS, values, None, q, path=path)
    with pytest.raises(CorruptIndexError):
        sparse_dot_sparse(damaged, IDS, values.astype(np.float16), None, u32(1), np.ones(1, np.float32), path=path)
