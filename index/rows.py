"""A document as the catalogue keeps it: packed to bytes and back, with every vector of every passage.

Bodies are MessagePack; arrays inside are little-endian bytes. The layout is in ``FORMAT.md``. Term ids and counts take
the fewest bytes that hold the largest of them (1, 2 or 4): with a vocabulary of word pieces a weight is 6 bytes, not 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

__all__ = ["Row", "SparseRow", "TermCounts", "pack", "unpack"]


class SparseRow(NamedTuple):
    """One passage's weights in a sparse field: sorted unique term ids (u32) and positive weights (f32)."""

    term_ids: NDArray[np.uint32]
    values: NDArray[np.float32]


class TermCounts(NamedTuple):
    """One passage's terms in a BM25 field: sorted unique term ids (u32), how often each occurs (u32), and the
    passage's length in terms."""

    term_ids: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    length: int


@dataclass(slots=True)
class Row:
    """One version of a document with all that is needed to index it again.

    ``spans`` are the passages as character ranges of ``text``. ``sparse[field]``, ``terms[field]`` hold one
    entry a passage; ``dense[field]`` is float32 (passages, dimension); a field without an entry has no
    vectors for this document.
    """

    id: str
    seq: int = 0
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    sparse: dict[str, list[SparseRow]] = field(default_factory=dict)
    dense: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    terms: dict[str, list[TermCounts]] = field(default_factory=dict)

    @property
    def passages(self) -> int:
        """Number of passages, at least 1."""
        return len(self.spans)

    def passage_text(self, passage: int) -> str:
        """The text of one passage, without the title."""
        start, stop = self.spans[passage]
        return self.text[start:stop]


def pack(row: Row) -> bytes:
    """A row's body (everything but ``seq`` and ``id``, which are columns of their own)."""
    return bytes(
        msgpack.packb(
            {
                "title": row.title,
                "text": row.text,
                "meta": dict(row.metadata),
                "spans": [number for span in row.spans for number in span],
                "sparse": {
                    name: [[_narrow(r.term_ids), r.values.astype("<f4", copy=False).tobytes()] for r in rows]
                    for name, rows in row.sparse.items()
                },
                "dense": {name: matrix.astype("<f4", copy=False).tobytes() for name, matrix in row.dense.items()},
                "terms": {
                    name: [[len(t.term_ids), _narrow(t.term_ids), _narrow(t.counts), t.length] for t in rows]
                    for name, rows in row.terms.items()
                },
            }
        )
    )


def unpack(id: str, seq: int, body: bytes) -> Row:
    """The row of a body; its arrays are read-only."""
    value = msgpack.unpackb(body)
    spans = value["spans"]
    passages = len(spans) // 2
    return Row(
        id,
        seq,
        value["title"],
        value["text"],
        value["meta"],
        list(zip(spans[::2], spans[1::2], strict=True)),
        {
            name: [SparseRow(_widen(ids, len(values) // 4), np.frombuffer(values, "<f4")) for ids, values in rows]
            for name, rows in value["sparse"].items()
        },
        {name: np.frombuffer(data, "<f4").reshape(passages, -1) for name, data in value["dense"].items()},
        {
            name: [TermCounts(_widen(ids, n), _widen(counts, n), length) for n, ids, counts, length in rows]
            for name, rows in value["terms"].items()
        },
    )


def _narrow(numbers: NDArray[np.uint32]) -> bytes:
    """Numbers as bytes, each in 1, 2 or 4 of them."""
    largest = int(numbers.max()) if len(numbers) else 0
    return numbers.astype("<u1" if largest < 1 << 8 else "<u2" if largest < 1 << 16 else "<u4").tobytes()


def _widen(data: bytes, count: int) -> NDArray[np.uint32]:
    """The ``count`` numbers that :func:`_narrow` packed."""
    if count == 0:
        return np.empty(0, np.uint32)
    return np.frombuffer(data, f"<u{len(data) // count}").astype(np.uint32, copy=False)
