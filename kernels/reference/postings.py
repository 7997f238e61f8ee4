"""Postings as bytes: the specification of the format that ``cpu/src/postings.hpp`` describes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.kernels.postings import PADDING, Postings

__all__ = ["BLOCK", "GROUPS", "WINDOW", "decode_term", "passage_of_slot"]

BLOCK = 65_536  # passages of a cell
WINDOW = 8_192  # passages of a bitmap
GROUPS = WINDOW // 64  # 64-bit masks of a bitmap
RANKS = GROUPS // 8  # 16-bit ranks before the masks; only random access needs them


def passage_of_slot(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Slots number the passages of each group of 64 with the even ones first."""
    return slots & ~63 | (slots & 31) << 1 | slots >> 5 & 1


def decode_term(postings: Postings, at: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending passages and impacts of ``postings.term_ids[at]``.

    Raises
    ------
    CorruptIndexError
        If cells or bytes lie outside of the arrays, a cell ends elsewhere than the next one begins, or a bitmap's bits
        are not as many as its impacts.
    """
    first, last = (int(offset) for offset in postings.cell_offsets[at : at + 2])
    begin, end = (int(offset) for offset in postings.byte_offsets[at : at + 2])
    if not (first <= last <= len(postings.cell_blocks) and begin <= end <= len(postings.data) - PADDING):
        raise CorruptIndexError(f"postings: the offsets of term {postings.term_ids[at]} lie outside of the arrays")
    data, place = postings.data[begin:end].tobytes(), 0

    def take(count: int, dtype: str) -> NDArray[np.int64]:
        nonlocal place
        start, place = place, place + count * np.dtype(dtype).itemsize
        if place > len(data):
            raise CorruptIndexError(f"postings.data: term {postings.term_ids[at]} ends within a cell")
        return np.frombuffer(data[start:place], dtype).astype(np.int64)

    passages, impacts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for cell in range(first, last):
        if place != postings.cell_bytes[cell]:
            received = postings.cell_bytes[cell]
            raise CorruptIndexError(f"postings.cell_bytes[{cell}]: expected {place}, received {received}")
        base = int(postings.cell_blocks[cell]) * BLOCK
        if base >= postings.n_passages:
            raise CorruptIndexError(f"postings.cell_blocks[{cell}]: block {base // BLOCK} is beyond the last passage")
        in_list = int(take(1, "<u2")[0])
        dense, _ = take(2, "u1").tolist()
        windows = [window for window in range(BLOCK // WINDOW) if dense >> window & 1]
        counts = take(len(windows), "<u2")
        passages.append(base + passage_of_slot(take(in_list, "<u2")))
        impacts.append(take(in_list, "u1"))
        for window, count in zip(windows, counts.tolist(), strict=True):
            take(RANKS, "<u2")
            bits = np.unpackbits(take(GROUPS * 8, "u1").astype(np.uint8), bitorder="little")
            if bits.sum(dtype=np.int64) != count:
                raise CorruptIndexError(f"postings.data: a bitmap of {postings.term_ids[at]} contradicts its count")
            passages.append(base + window * WINDOW + np.flatnonzero(bits))
            impacts.append(take(count, "u1"))
    if place != len(data):
        raise CorruptIndexError(f"postings.data: term {postings.term_ids[at]} ends at byte {place} of {len(data)}")
    all_passages = np.concatenate(passages)
    order = np.argsort(all_passages, kind="stable")
    return all_passages[order], np.concatenate(impacts)[order]
