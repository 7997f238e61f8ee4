"""What src/module.cpp defines. Arguments are checked by the callers in sparsight.kernels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def available_paths() -> list[str]: ...
class Postings:
    def __init__(
        self,
        term_ids: NDArray[np.uint32],
        frequencies: NDArray[np.uint32],
        max_impacts: NDArray[np.uint8],
        cell_offsets: NDArray[np.uint32],
        byte_offsets: NDArray[np.uint64],
        cell_blocks: NDArray[np.uint16],
        cell_bytes: NDArray[np.uint32],
        data: NDArray[np.uint8],
        passage_offsets: NDArray[np.uint32],
        single: bool,
        most_terms: int,
    ) -> None: ...

def quantise_weights(
    terms: NDArray[np.uint32], weights: NDArray[np.float64]
) -> tuple[NDArray[np.uint32], NDArray[np.int16], float]: ...
def is_sound(terms: NDArray[np.uint32], weights: NDArray[np.int16]) -> bool: ...
def build_postings(
    indptr: NDArray[np.uint64], term_ids: NDArray[np.uint32], impacts: NDArray[np.uint8], threads: int
) -> tuple[
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.uint8],
    NDArray[np.uint32],
    NDArray[np.uint64],
    NDArray[np.uint16],
    NDArray[np.uint32],
    NDArray[np.uint8],
]: ...
def decode_term(postings: Postings, term: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]: ...
def score_postings(
    postings: Postings, terms: NDArray[np.uint32], weights: NDArray[np.int16], passages: NDArray[np.uint32]
) -> NDArray[np.int32]: ...
def topk_documents(
    postings: Postings,
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    starts: NDArray[np.uint64],
    masks: Sequence[NDArray[np.uint64] | None],
    k: int,
    min_score: int,
    flag: NDArray[np.uint8],
    deadline_ns: int,
    threads: int,
    path: str,
    mass: float,
    pool: int,
    deviations: float,
    budget_ns: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]: ...
def score_passages(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    impacts: NDArray[np.uint8],
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    rows: NDArray[np.uint32] | None,
) -> NDArray[np.int32]: ...
def sparse_dot_sparse(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[Any],
    rows: NDArray[np.uint32],
    q_ids: NDArray[np.uint32],
    q_values: NDArray[np.float32],
    path: str,
) -> NDArray[np.float32]: ...
def sparse_dot_dense(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[Any],
    rows: NDArray[np.uint32],
    q: NDArray[np.float32],
    path: str,
) -> NDArray[np.float32]: ...
def topk_encode(
    x: NDArray[np.float32],
    w_enc: NDArray[np.float32],
    b_enc: NDArray[np.float32],
    k: int,
    threads: int,
    path: str,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def threshold_encode(
    x: NDArray[np.float32],
    w_enc: NDArray[np.float32],
    b_enc: NDArray[np.float32],
    threshold: NDArray[np.float32],
    threads: int,
    path: str,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]: ...
def pursue(
    y: NDArray[np.float32],
    w_dec: NDArray[np.float32],
    k: int,
    candidates: int,
    once: bool,
    threads: int,
    path: str,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...

class WordPiece:
    def __init__(
        self,
        pieces: Sequence[tuple[str, int]],
        continuation: str,
        unknown: int,
        max_chars: int,
        literals: Sequence[str],
        first: Sequence[str | None],
    ) -> None: ...
    def learn(self, page: int, spellings: Sequence[str | None]) -> None: ...
    def encode(
        self, texts: tuple[str, ...], limit: int, threads: int, head: Sequence[int], tail: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], list[int]]: ...
    def lookup(
        self, text: str, table: NDArray[np.float32], limit: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None: ...

def weigh_pieces(
    ids: NDArray[np.int32], table: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
