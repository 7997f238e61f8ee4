"""The terms of BM25 fields: from text to counted terms, and from terms to stable numbers.

Numbers are given in order of first appearance by the writer thread, in the transaction that stores the
documents, so a lexicon never disagrees with the documents. It only grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsight.index.bm25 import Analyzer
from sparsight.index.catalog import Catalog
from sparsight.index.rows import Row, TermCounts

__all__ = ["Lexicons", "PassageTerms", "analyse", "searchable_text"]


class PassageTerms(NamedTuple):
    """A passage's terms before they have numbers: how often each occurs, and how many there are in all."""

    counts: Mapping[str, int]
    length: int


def searchable_text(title: str, text: str) -> str:
    """What is encoded and analysed for a passage: the title before the text."""
    return f"{title} {text}" if title and text else title or text


def analyse(row: Row, analyzer: Analyzer) -> list[PassageTerms]:
    """The counted terms of each passage of a document."""
    passages = []
    for passage in range(row.passages):
        terms = analyzer.terms(searchable_text(row.title, row.passage_text(passage)))
        passages.append(PassageTerms(Counter(terms), len(terms)))
    return passages


class Lexicons:
    """The lexicons of a collection's BM25 fields, and the new terms of the transaction under way."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.ids: dict[str, dict[str, int]] = {name: {} for name in fields}
        self._new: dict[str, dict[str, int]] = {name: {} for name in fields}
        self._unwritten: list[tuple[str, int, str]] = []

    def load(self, catalog: Catalog) -> None:
        """Take over the terms that the catalogue has beyond those known."""
        for name, ids in self.ids.items():
            for term_id, term in catalog.terms(name, after=len(ids) - 1):
                ids[term] = term_id

    def number(self, field: str, passages: Sequence[PassageTerms], state: dict[str, Any]) -> list[TermCounts]:
        """Numbered terms of a document's passages; new terms get numbers, lengths are added up in ``state``."""
        known, new = self.ids[field], self._new[field]
        total = state.setdefault("lengths", {}).setdefault(field, [0, 0])
        rows = []
        for counts, length in passages:
            for term in counts:
                if term not in known and term not in new:
                    new[term] = len(known) + len(new)
                    self._unwritten.append((field, new[term], term))
            ids = np.array([known[term] if term in known else new[term] for term in counts], np.uint32)
            order = np.argsort(ids)
            rows.append(TermCounts(ids[order], np.array(list(counts.values()), np.uint32)[order], length))
            total[0] += length
            total[1] += 1
        return rows

    def write(self, catalog: Catalog) -> None:
        """Store the new terms in the transaction under way."""
        for field in self.ids:
            catalog.add_terms(field, ((term_id, term) for name, term_id, term in self._unwritten if name == field))
        self._unwritten.clear()

    def commit(self) -> None:
        """The transaction has committed: its terms are known now."""
        for field, new in self._new.items():
            self.ids[field].update(new)
            new.clear()

    def rollback(self) -> None:
        """The transaction failed: forget its terms."""
        self._unwritten.clear()
        for new in self._new.values():
            new.clear()

    def average_lengths(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Terms a passage, by field, over everything ever written (deletions do not lower it)."""
        lengths = state.get("lengths", {})
        return {
            name: max(1.0, lengths[name][0] / max(1, lengths[name][1])) if name in lengths else 1.0 for name in self.ids
        }
