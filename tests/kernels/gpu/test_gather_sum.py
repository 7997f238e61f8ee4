"""Sparse products against dense ones."""

from __future__ import annotations

import pytest
import torch

from sparsight.errors import ShapeError
from sparsight.kernels.gpu.gather_sum import gather_sum, gather_sum_sorted, row_dots


def test_gather_sum(device: str) -> None:
    torch.manual_seed(0)
    rows = torch.randint(0, 5, (60,), device=device)
    rows[rows == 3] = 4  # row 3 has none; the others more than the 8 that are read at once
    index, scale = torch.randint(0, 9, (60,), device=device), torch.randn(60, device=device)
    table = torch.randn(9, 48, device=device)
    expected = torch.zeros(6, 48, device=device).index_add_(0, rows, table[index] * scale[:, None])
    got = gather_sum(rows, index, scale, table, 6)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not got[3].any()
    assert not gather_sum(rows[:0], index[:0], scale[:0], table, 2).any()


def test_sorted_entries(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(7, 33, generator=generator).to(device)
    starts = torch.tensor([0, 0, 3, 4, 20], device=device)
    index = torch.randint(7, (20,), generator=generator).to(device)
    scale = torch.randn(20, generator=generator).to(device)
    expected = torch.zeros(4, 33, device=device)
    for row, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        for at in range(first, last):
            expected[row] += scale[at] * table[index[at]]
    torch.testing.assert_close(gather_sum_sorted(starts, index, scale, table), expected, rtol=1e-5, atol=1e-5)
    assert gather_sum_sorted(starts[:1], index[:0], scale[:0], table).shape == (0, 33)


@pytest.mark.parametrize(("batch", "k", "width"), [(5, 3, 16), (3, 19, 40), (1, 1, 5)])
def test_row_dots(device: str, batch: int, k: int, width: int) -> None:
    generator = torch.Generator().manual_seed(k)
    vectors, table = torch.randn(batch, width, generator=generator), torch.randn(11, width, generator=generator)
    index = torch.randint(11, (batch, k), generator=generator)
    got = row_dots(vectors.to(device), index.to(device), table.to(device))
    torch.testing.assert_close(got.cpu(), (vectors[:, None] * table[index]).sum(2), rtol=1e-5, atol=1e-5)


def test_row_dots_of_nothing_and_of_what_does_not_fit(device: str) -> None:
    vectors, table = torch.zeros(2, 4, device=device), torch.zeros(3, 4, device=device)
    index = torch.zeros((2, 0), dtype=torch.int64, device=device)
    assert row_dots(vectors, index, table).shape == (2, 0)
    with pytest.raises(ShapeError, match="expected"):
        row_dots(vectors, index[:1], table)
    with pytest.raises(ShapeError, match="contiguous"):
        row_dots(vectors, torch.zeros((3, 2), dtype=torch.int64, device=device).T, table)
