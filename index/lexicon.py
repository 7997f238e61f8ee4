"""The terms of BM25 fields: from text to counted terms, and from terms to stable numbers.

Numbers are given in order of first appearance by the writer thread, in the transaction that stores the
documents, so a lexicon never disagrees with the documents. It only grows, and is read when it is first used.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


class _Numbers(Mapping[str, Mapping[str, int]]):
    """``{field: {term: term_id}}``; a field's terms are read when they are first asked for."""

    def __init__(self, fields: Sequence[str], read: Callable[[str, int], Iterable[tuple[int, list[str]]]]) -> None:
        self._known: dict[str, dict[str, int]] = {name: {} for name in fields}
        self._stale = set(fields)
        self._read = read
        self._lock = threading.Lock()

    def __getitem__(self, field: str) -> dict[str, int]:
        known = self._known[field]
        if field in self._stale:
            with self._lock:
                if field in self._stale:
                    for first, terms in self._read(field, len(known)):
                        known.update(zip(terms, range(first, first + len(terms)), strict=True))
                    self._stale.remove(field)
        return known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Other terms may have been stored: look again at the next use."""
        with self._lock:
            self._stale.update(self._known)


class Lexicons:
    """The lexicons of a collection's BM25 fields, and the new terms of the transaction under way.

    Parameters
    ----------
    fields : sequence of str
    read : callable
        ``read(field, term_id)`` gives the committed terms as :meth:`Catalog.terms` does, from any thread.
    """

    def __init__(self, fields: Sequence[str], read: Callable[[str, int], Iterable[tuple[int, list[str]]]]) -> None:
        self.ids = _Numbers(fields, read)
        self._new: dict[str, dict[str, int]] = {name: {} for name in fields}

    def number(self, field: str, passages: Sequence[PassageTerms], state: dict[str, Any]) -> list[TermCounts]:
        """Numbered terms of a document's passages; new terms get numbers, lengths are added up in ``state``."""
        known, new = self.ids[field], self._new[field]
        total = state.setdefault("lengths", {}).setdefault(field, [0, 0])
        rows = []
        for counts, length in passages:
            for term in counts:
                if term not in known and term not in new:
                    new[term] = len(known) + len(new)
            ids = np.array([known[term] if term in known else new[term] for term in counts], np.uint32)
            order = np.argsort(ids)
            rows.append(TermCounts(ids[order], np.array(list(counts.values()), np.uint32)[order], length))
            total[0] += length
            total[1] += 1
        return rows

    def write(self, catalog: Catalog) -> None:
        """Store the transaction's new terms, once, before it commits."""
        for field, new in self._new.items():
            if new:
                catalog.add_terms(field, len(self.ids[field]), list(new))

    def commit(self) -> None:
        """The transaction has committed: its terms are known now."""
        for field, new in self._new.items():
            if new:
                self.ids[field].update(new)
                new.clear()

    def rollback(self) -> None:
        """The transaction failed: forget its terms."""
        for new in self._new.values():
            new.clear()

    def average_lengths(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Terms a passage, by field, over everything ever written (deletions do not lower it)."""
        lengths = state.get("lengths", {})
        return {
            name: max(1.0, lengths[name][0] / max(1, lengths[name][1])) if name in lengths else 1.0
            for name in self._new
        }
