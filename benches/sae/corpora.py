"""The texts: abstracts and passages in one list, read when they are first asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sparsight.retrieval.datasets import BeirFolder

__all__ = ["ARXIV", "WIKI", "Corpora", "Entry", "Texts", "random_sentence"]

ARXIV = ("arxiv_cs", "arxiv_sci")
"""Abstracts whose titles are queries: a title is no part of the text."""
WIKI = "wiki_passages"


class Entry(NamedTuple):
    """A document: ``text`` is what is embedded, ``category`` the primary one on arXiv, or "wiki"."""

    id: str
    title: str
    text: str
    category: str


class Corpora:
    """Documents of the large corpora, one corpus after the other.

    Parameters
    ----------
    folder : Path
        Of the corpora, each a BEIR folder.
    most : int
        Documents of each, the first ones; 0 takes all.
    """

    def __init__(self, folder: Path, most: int = 0) -> None:
        self.folder, self._most = folder, most

    @cached_property
    def _read(self) -> dict[str, list[Entry]]:
        return {name: list(islice(self._entries(name), self._most or None)) for name in (*ARXIV, WIKI)}

    @cached_property
    def entries(self) -> list[Entry]:
        """All documents. 475,000 take about 15 s and 1 GB."""
        return [entry for of in self._read.values() for entry in of]

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """First row, and the row after the last, of each corpus."""
        ends = np.cumsum([len(of) for of in self._read.values()]).tolist()
        return {name: (end - len(of), end) for (name, of), end in zip(self._read.items(), ends, strict=True)}

    def _entries(self, name: str) -> Iterator[Entry]:
        for document in BeirFolder(self.folder / name).documents():
            if name == WIKI:
                yield Entry(document.id, "", f"{document.title} {document.text}".strip(), "wiki")
            else:
                category = str(document.metadata.get("cat", "")).split(",")[0].strip()
                yield Entry(document.id, document.title.strip(), document.text.strip(), category)


class Texts(Sequence[str]):
    """Texts of some rows of the corpora."""

    def __init__(self, corpora: Corpora, rows: NDArray[np.int64]) -> None:
        self._corpora, self._rows = corpora, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        entries = self._corpora.entries
        if isinstance(at, slice):
            return [entries[row].text for row in self._rows[at].tolist()]
        return entries[int(self._rows[at])].text


def random_sentence(text: str, draw: Callable[[int], int]) -> str:
    """One of the sentences of 5 to 40 words, the one that ``draw(count)`` chooses; without any the text's beginning.

    Examples
    --------
    >>> random_sentence("Short. This one has five words.", lambda count: 0)
    'This one has five words.'
    """
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if 5 <= len(part.split()) <= 40]
    return sentences[draw(len(sentences))] if sentences else text[:200]
