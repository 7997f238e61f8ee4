from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsight.encoders.packed import PackedTexts, take
from sparsight.encoders.training.batches import RaggedRows
from sparsight.encoders.training.chunks import in_chunks


def texts(*rows: list[int]) -> PackedTexts:
    return PackedTexts(np.array([id for row in rows for id in row], np.uint16),
                       np.cumsum([0, *map(len, rows)]).astype(np.int64))


def rows_of(packed: PackedTexts) -> list[list[int]]:
    return [packed.ids[a:b].tolist() for a, b in zip(packed.starts[:-1], packed.starts[1:], strict=True)]


@pytest.mark.parametrize("rows", [[], [0], [2, 1, 0], [1, 1], [3, 0, 3]])
def test_take(rows: list[int]) -> None:
    starts = np.array([0, 2, 5, 5, 9])
    at, made = take(starts, np.array(rows, np.int64))
    expected = [list(range(starts[row], starts[row + 1])) for row in rows]
    assert at.tolist() == [entry for row in expected for entry in row]
    assert np.diff(made).tolist() == [len(row) for row in expected]


def test_rows_and_joined() -> None:
    packed = texts([1, 2], [], [3, 4, 5])
    assert len(packed) == 3
    assert rows_of(packed.rows(np.array([2, 0, 2, 1]))) == [[3, 4, 5], [1, 2], [3, 4, 5], []]
    assert rows_of(packed.joined(texts([9], [8, 7]))) == [[1, 2], [], [3, 4, 5], [9], [8, 7]]


def test_on_a_device() -> None:
    ids, packing = texts([1, 2], [3, 4, 5]).on("cpu")
    assert ids.tolist() == [1, 2, 3, 4, 5] and ids.dtype == torch.int64
    assert packing.bounds.tolist() == [0, 2, 5] and packing.positions.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("tokens", [1, 5, 7, 1000])
def test_batches_cover_all_texts_once(tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 8, 50)
    packed = PackedTexts(np.zeros(lengths.sum(), np.uint16), np.concatenate([[0], np.cumsum(lengths)]))
    batches = list(packed.batches(tokens))
    assert sorted(np.concatenate(batches).tolist()) == list(range(50))
    assert all(len(batch) == 1 or lengths[batch].sum() <= tokens for batch in batches)
    assert (np.diff(lengths[np.concatenate(batches)]) <= 0).all()


def test_ragged_rows() -> None:
    rows = RaggedRows(np.array([0, 2, 2, 3]), np.array([1, 3, 0], np.int32), np.array([0.5, 2.0, 1.0]), 4, "cpu")
    found = rows.dense(np.array([2, 0, 1, 0]))
    assert found.tolist() == [[1, 0, 0, 0], [0, 0.5, 0, 2], [0, 0, 0, 0], [0, 0.5, 0, 2]]
    assert rows.dense(np.array([0]), torch.float16).dtype == torch.float16
    assert rows.dense(np.array([], np.int64)).shape == (0, 4)


@pytest.mark.parametrize(("size", "calls"), [(0, [5]), (5, [5]), (9, [5]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_chunks_have_the_values_and_gradients_of_the_whole(size: int, calls: list[int]) -> None:
    matrix = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, requires_grad=True)
    seen = []

    def run(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(rows))
        product = torch.sin(matrix[torch.from_numpy(rows)] * weight)
        return product, product.sum()[None]

    products, sums = in_chunks(run, 5, size)
    assert seen == calls and sums.shape == (len(calls),)
    torch.testing.assert_close(products, torch.sin(matrix))
    (products @ products.T).square().sum().backward()  # every chunk with every other
    expected = torch.ones(3, requires_grad=True)
    whole = torch.sin(matrix * expected)
    (whole @ whole.T).square().sum().backward()
    torch.testing.assert_close(weight.grad, expected.grad)
    assert len(seen) == (1 if len(calls) == 1 else 2 * len(calls))
