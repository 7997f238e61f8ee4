"""CSR matrices on disk in planes of bytes: gaps between ids and bfloat16 weights, each byte apart, zstd-compressed.

Two thirds of the size of plain arrays, which matters where shards travel between machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["load_planes", "save_planes"]


def _packed(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.ZstdCompressor(level=6).compress(np.ascontiguousarray(values)), np.uint8)


def _plain(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(packed.tobytes()), np.uint8)


def save_planes(path: Path, matrix: csr_matrix) -> None:
    """Write a matrix with sorted indices below 65,536 whose values fit bfloat16; atomic."""
    gaps = np.diff(matrix.indices, prepend=np.int32(0))
    starts = matrix.indptr[:-1][np.diff(matrix.indptr) > 0]
    gaps[starts] = matrix.indices[starts]
    ids = gaps.astype(np.uint16).view(np.uint8).reshape(-1, 2)
    values = (matrix.data.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1, 2)
    part = path.with_suffix(".part.npz")
    np.savez(part, counts=np.diff(matrix.indptr).astype(np.uint16), vocab=matrix.shape[1], ids_low=_packed(ids[:, 0]),
             ids_high=_packed(ids[:, 1]), low=_packed(values[:, 0]), high=_packed(values[:, 1]))
    part.rename(path)


def load_planes(paths: Sequence[Path], vocab: int) -> csr_matrix:
    """The matrices of several files below each other, float32 with int32 indices and int64 indptr."""
    counts, indices, values = [], [], []
    for path in paths:
        with np.load(path) as planes:
            n = planes["counts"].astype(np.int64)
            gaps = _plain(planes["ids_low"]).astype(np.int64) + (_plain(planes["ids_high"]).astype(np.int64) << 8)
            top = _plain(planes["low"]).astype(np.uint32) << 16 | _plain(planes["high"]).astype(np.uint32) << 24
        ends = np.cumsum(n)
        total = np.cumsum(gaps)
        before = np.concatenate([[0], total])[ends - n]  # what the rows before add up to
        indices.append((total - np.repeat(before, n)).astype(np.int32))
        values.append(top.view(np.float32))
        counts.append(n)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    matrix = csr_matrix((len(indptr) - 1, vocab), dtype=np.float32)
    matrix.indptr, matrix.indices, matrix.data = indptr, np.concatenate(indices), np.concatenate(values)
    return matrix
