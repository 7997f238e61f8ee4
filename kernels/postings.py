"""What the kernels search: postings, and the forward vectors beside them.

Constructors check what costs nothing (dtypes, layout, lengths, first and last offsets), so that one may be made for
every memory-mapped field of every segment. ``validate()`` is the full check, linear in the data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import ShapeError
from sparsight.kernels.arrays import (
    corrupt,
    require_all,
    require_array,
    require_end,
    require_offsets,
    require_sorted_groups,
)
from sparsight.kernels.cpu import _native

__all__ = ["PADDING", "UNKNOWN", "Forward", "Postings"]

MAX_DOCUMENTS = 2**31 - 1  # document numbers travel as int32
PADDING = 64  # bytes after the last cell
UNKNOWN = 2**32 - 1  # most_terms where nothing is known


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The inverted index of one field of one segment, in the form that the kernels scan.

    Passages are cut into blocks of 65,536 and these into windows of 8,192; a cell holds the postings of one term in one
    block: bitmaps with impacts for windows where at least one passage in 32 has the term, a list for the others.
    ``cpu/src/postings.hpp`` describes the bytes and says why. :meth:`from_rows` builds one, :meth:`decode` reads terms.

    Attributes
    ----------
    term_ids : uint32, shape (T,)
        Terms that occur, ascending, without repeats.
    frequencies : uint32, shape (T,)
        Passages that hold each term.
    max_impacts : uint8, shape (T,)
        Largest impact of each term.
    cell_offsets : uint32, shape (T + 1,)
        The cells of ``term_ids[t]`` are ``[cell_offsets[t], cell_offsets[t + 1])``.
    byte_offsets : uint64, shape (T + 1,)
        Their bytes within ``data``.
    cell_blocks : uint16, shape (C,)
        Block of each cell, ascending within a term.
    cell_bytes : uint32, shape (C,)
        First byte of each cell, counted from its term's first.
    data : uint8, shape (B,)
        All cells, then 64 bytes of zero: vector loads may reach that far.
    passage_offsets : uint32, shape (D + 1,)
        The passages of document d are ``[passage_offsets[d], passage_offsets[d + 1])``; none is allowed.
    most_terms : int
        No passage holds more terms than this, at least 0. It bounds the scan's rounding: a query of many more terms
        than a passage can hold, as those of SAE fields, is answered several times as fast where it is known.

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length, or when offsets do not start at 0 and end at the length they describe.
        What lies between is not looked at: that is :meth:`validate`.
    """

    term_ids: NDArray[np.uint32]
    frequencies: NDArray[np.uint32]
    max_impacts: NDArray[np.uint8]
    cell_offsets: NDArray[np.uint32]
    byte_offsets: NDArray[np.uint64]
    cell_blocks: NDArray[np.uint16]
    cell_bytes: NDArray[np.uint32]
    data: NDArray[np.uint8]
    passage_offsets: NDArray[np.uint32]
    most_terms: int = UNKNOWN
    native: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_array(self.term_ids, "postings.term_ids", np.uint32, (None,))
        terms = len(self.term_ids)
        require_array(self.frequencies, "postings.frequencies", np.uint32, (terms,))
        require_array(self.max_impacts, "postings.max_impacts", np.uint8, (terms,))
        require_array(self.cell_offsets, "postings.cell_offsets", np.uint32, (terms + 1,))
        require_array(self.byte_offsets, "postings.byte_offsets", np.uint64, (terms + 1,))
        require_array(self.cell_blocks, "postings.cell_blocks", np.uint16, (None,))
        require_array(self.cell_bytes, "postings.cell_bytes", np.uint32, (len(self.cell_blocks),))
        require_array(self.data, "postings.data", np.uint8, (None,))
        require_array(self.passage_offsets, "postings.passage_offsets", np.uint32, (None,))
        require_offsets(self.passage_offsets, "postings.passage_offsets")
        require_offsets(self.cell_offsets, "postings.cell_offsets")
        require_offsets(self.byte_offsets, "postings.byte_offsets")
        require_end(self.cell_offsets, "postings.cell_offsets", len(self.cell_blocks), "postings.cell_blocks")
        filled = len(self.data) - PADDING
        require_end(self.byte_offsets, "postings.byte_offsets", filled, "postings.data less its padding")
        if self.n_documents > MAX_DOCUMENTS:
            raise ShapeError(
                f"postings: expected at most {MAX_DOCUMENTS} documents, received {self.n_documents}",
                field="postings.passage_offsets",
                expected=MAX_DOCUMENTS,
                received=self.n_documents,
            )
        single = self.n_documents == self.n_passages and bool((np.diff(self.passage_offsets) == 1).all())
        handle = _native.Postings(
            self.term_ids, self.frequencies, self.max_impacts, self.cell_offsets, self.byte_offsets, self.cell_blocks,
            self.cell_bytes, self.data, self.passage_offsets, single, self.most_terms,
        )  # fmt: skip
        object.__setattr__(self, "native", handle)

    @classmethod
    def from_rows(
        cls,
        indptr: NDArray[np.uint64],
        term_ids: NDArray[np.uint32],
        impacts: NDArray[np.uint8],
        passage_offsets: NDArray[np.uint32],
        threads: int = 0,
    ) -> Postings:
        """Build from rows: passage p has entries ``[indptr[p], indptr[p + 1])``; impacts of 0 are left out.

        Parameters
        ----------
        indptr : uint64, shape (P + 1,)
        term_ids : uint32, shape (nnz,)
            Without repeats within a row; any order.
        impacts : uint8, shape (nnz,)
        passage_offsets : uint32, shape (D + 1,)
        threads : int
            0 takes the processors this process may run on. Equal input gives equal bytes for any number.

        Raises
        ------
        ShapeError
            On a wrong dtype, layout or length.
        InvalidArgumentError
            If a row repeats a term.
        """
        Forward(indptr, term_ids, impacts)  # the same checks
        require_array(passage_offsets, "passage_offsets", np.uint32, (None,))
        require_offsets(passage_offsets, "passage_offsets")
        require_end(passage_offsets, "passage_offsets", len(indptr) - 1, "the rows")
        if len(indptr) > 1 and (indptr[1:] < indptr[:-1]).any():
            raise ShapeError("indptr: expected ascending offsets", field="indptr")
        made = _native.build_postings(indptr, term_ids, impacts, threads or len(os.sched_getaffinity(0)))
        return cls(*made, passage_offsets, int(np.diff(indptr).max(initial=0)))

    @property
    def n_documents(self) -> int:
        """Number of documents, D."""
        return len(self.passage_offsets) - 1

    @property
    def n_passages(self) -> int:
        """Number of passages of all documents."""
        return int(self.passage_offsets[-1])

    @property
    def n_postings(self) -> int:
        """Number of postings of all terms."""
        return int(self.frequencies.sum(dtype=np.int64))

    def decode(self, term_id: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Ascending passages that hold a term, and its impacts there; empty for a term that does not occur.

        Raises
        ------
        CorruptIndexError
            If the term's cells contradict each other.
        """
        at = int(np.searchsorted(self.term_ids, term_id))
        if at == len(self.term_ids) or self.term_ids[at] != term_id:
            return np.empty(0, np.uint32), np.empty(0, np.uint8)
        found: tuple[NDArray[np.uint32], NDArray[np.uint8]] = _native.decode_term(self.native, at)
        return found

    def validate(self) -> None:
        """Decode every term and check every invariant; O(P + D) time for P postings.

        Raises
        ------
        CorruptIndexError
            At the first array that breaks its rule, with the position of the first offence.
        """
        require_all(self.term_ids[1:] > self.term_ids[:-1], "postings.term_ids", "expected strictly ascending terms")
        require_all(
            self.passage_offsets[1:] >= self.passage_offsets[:-1],
            "postings.passage_offsets",
            "expected ascending offsets",
        )
        held = np.zeros(self.n_passages, np.uint32)
        for at, term in enumerate(self.term_ids.tolist()):
            passages, impacts = self.decode(term)
            if len(passages) == 0 or len(passages) != self.frequencies[at] or impacts.max() != self.max_impacts[at]:
                raise corrupt("postings.frequencies", f"term {term} contradicts its frequency or largest impact", at)
            if passages[-1] >= self.n_passages or (passages[1:] <= passages[:-1]).any() or not impacts.all():
                raise corrupt("postings.data", f"passages of term {term} do not ascend or are out of range", at)
            held[passages] += 1
        require_all(held <= self.most_terms, "postings.most_terms", f"expected at most {self.most_terms} in a passage")


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """The impacts of each passage, for scoring chosen passages.

    Attributes
    ----------
    indptr : uint64, shape (R + 1,)
        Row r holds the entries ``[indptr[r], indptr[r + 1])``.
    term_ids : uint32, shape (nnz,)
        Strictly ascending within a row.
    impacts : uint8, shape (nnz,)

    Raises
    ------
    ShapeError
        On a wrong dtype, layout or length, or when ``indptr`` does not start at 0 and end at nnz.
    """

    indptr: NDArray[np.uint64]
    term_ids: NDArray[np.uint32]
    impacts: NDArray[np.uint8]

    def __post_init__(self) -> None:
        require_array(self.indptr, "forward.indptr", np.uint64, (None,))
        require_offsets(self.indptr, "forward.indptr")
        require_array(self.term_ids, "forward.term_ids", np.uint32, (None,))
        require_array(self.impacts, "forward.impacts", np.uint8, (len(self.term_ids),))
        require_end(self.indptr, "forward.indptr", len(self.term_ids), "forward.term_ids")

    @property
    def n_rows(self) -> int:
        """Number of rows (passages), R."""
        return len(self.indptr) - 1

    def validate(self) -> None:
        """Check every invariant; O(R + nnz) time.

        Raises
        ------
        CorruptIndexError
            At the first array that breaks its rule, with the position of the first offence.
        """
        require_all(self.indptr[1:] >= self.indptr[:-1], "forward.indptr", "expected ascending offsets")
        require_all(self.impacts > 0, "forward.impacts", "expected impacts above 0")
        require_sorted_groups(self.term_ids, self.indptr, "forward.term_ids")
