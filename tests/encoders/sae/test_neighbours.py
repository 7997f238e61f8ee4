"""The nearest rows of queries, against sorting all products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsight.encoders.sae import neighbours as module
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError


def rows(count: int, d: int = 7, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand() -> None:
    x = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    found = nearest(np.array([[1, 0], [0, 1]], np.float32), x, 2)
    assert found.rows.tolist() == [[0, 2], [1, 2]] and found.rows.dtype == np.int64
    assert found.queries.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("at_once", [1, 500, 1 << 28])  # a query, five, or all of them at a time
@pytest.mark.parametrize("count", [1, 10, 100])
def test_they_are_the_nearest(at_once: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    x, queries = rows(100), rows(23, seed=1)
    expected = np.argsort(-(queries @ x.T), 1, kind="stable")[:, :count]
    np.testing.assert_array_equal(nearest(queries, x, count).rows, expected)


def test_layout_does_not_matter() -> None:
    x, queries = rows(100), rows(5, seed=1)
    found = nearest(np.asfortranarray(queries), np.asfortranarray(x), 4)
    np.testing.assert_array_equal(found.rows, nearest(queries, x, 4).rows)
    assert found.queries.flags.c_contiguous


@pytest.mark.parametrize(("queries", "x", "count", "error"), [
    (rows(3), rows(9, 6), 2, ShapeError), (rows(3)[0], rows(9), 2, ShapeError),
    (rows(3), rows(9), 10, InvalidArgumentError), (rows(3), rows(9), 0, InvalidArgumentError),
    (rows(3) * np.nan, rows(9), 2, InvalidVectorError)],
    ids=["width", "dimensions", "many", "none", "nan"])
def test_wrong_arguments(queries: Any, x: Any, count: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        nearest(queries, x, count)


@pytest.mark.parametrize(("queries", "found"), [
    (rows(3).astype(np.float64), np.zeros((3, 2), np.int64)), (rows(3), np.zeros((3, 2), np.int32)),
    (rows(3), np.zeros((2, 2), np.int64)), (rows(3), np.zeros(3, np.int64))],
    ids=["float64", "int32", "lengths", "dimensions"])
def test_they_are_checked_however_they_are_made(queries: Any, found: Any) -> None:
    with pytest.raises(ShapeError, match="expected float32 queries") as caught:
        Neighbours(queries, found)
    assert caught.value.field == "neighbours"
    with pytest.raises(InvalidVectorError, match="finite queries"):
        Neighbours(rows(3) * np.float32(np.inf), np.zeros((3, 2), np.int64))
