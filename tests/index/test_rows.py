from __future__ import annotations

import numpy as np
import pytest

from sparsight.index.rows import Row, SparseRow, TermCounts, pack, unpack


def _row(term_ids: list[int], counts: list[int]) -> Row:
    ids = np.array(term_ids, np.uint32)
    row = Row("a", 7, "title", "text", {"year": 1996, "tags": ["x", None]}, [(0, 2), (2, 4)])
    row.sparse["terms"] = [
        SparseRow(ids, np.linspace(0.1, 3, len(ids)).astype(np.float32)),
        SparseRow(ids[:0], ids[:0].astype(np.float32)),
    ]
    row.terms["bm25"] = [TermCounts(ids, np.array(counts, np.uint32), 2**20)] * 2
    row.dense["vec"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    return row


@pytest.mark.parametrize("largest", [0, 255, 256, 65_535, 65_536, 2**32 - 2])
def test_a_row_comes_back_as_it_was(largest: int) -> None:
    row = _row(sorted({0, largest // 2, largest}), [1, largest + 1, 2][: len({0, largest // 2, largest})])
    again = unpack("a", 7, pack(row))
    assert (again.id, again.seq, again.title, again.text, again.metadata, again.spans) == (
        row.id, row.seq, row.title, row.text, row.metadata, row.spans)  # fmt: skip
    for name, entries in row.sparse.items():
        for ours, theirs in zip(again.sparse[name], entries, strict=True):
            assert ours.term_ids.dtype == np.uint32 and ours.values.dtype == np.float32
            assert np.array_equal(ours.term_ids, theirs.term_ids) and np.array_equal(ours.values, theirs.values)
    for ours, theirs in zip(again.terms["bm25"], row.terms["bm25"], strict=True):
        assert ours.length == theirs.length and ours.counts.dtype == np.uint32
        assert np.array_equal(ours.term_ids, theirs.term_ids) and np.array_equal(ours.counts, theirs.counts)
    assert np.array_equal(again.dense["vec"], row.dense["vec"])


def test_small_numbers_take_few_bytes() -> None:
    sizes = [len(pack(_row([largest - n for n in range(99, -1, -1)], [1] * 100))) for largest in (250, 60_000, 10**6)]
    assert 300 <= sizes[1] - sizes[0] <= 310  # three lists of 100 ids: one byte more each, and the lists' own lengths
    assert 600 <= sizes[2] - sizes[1] <= 610
