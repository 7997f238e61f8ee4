"""What a collection holds in memory of its catalogue, and the generations that searches pin.

Only one thread changes it: the writer's, or a follower's under its lock. Searches see generations, which never change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.index.bm25 import Analyzer
from sparsight.index.catalog import Catalog
from sparsight.index.generation import Generation
from sparsight.index.jobs import Effects, Swap
from sparsight.index.lexicon import Lexicons
from sparsight.index.parts import SegmentPart
from sparsight.index.schema import DerivedModel, FieldSchema, ModelFactory
from sparsight.index.segment import Segment
from sparsight.index.tail import Tail, TailPart
from sparsight.types import BM25Field, SAEField

__all__ = ["LABELS", "MODELS_FOLDER", "PROFILES", "SEGMENTS_FOLDER", "Memory"]

SEGMENTS_FOLDER = "segments"
MODELS_FOLDER = "models"
LABELS = "labels"
"""Key of the meta table: what users call features; ``retrieval.renaming`` says what it holds."""
PROFILES = "profiles"
"""Key of the meta table: steering profiles, versions by name; ``retrieval.profiles`` says what they hold."""


class Memory:
    """Segments, tails and models of a collection, as its catalogue names them.

    Parameters
    ----------
    folder : Path
        The collection's.
    catalog : Catalog
    models : ModelFactory
        Loads the model of a derived (SAE) field.
    read_terms : callable
        Terms of a field from a number on, for lexicons that are read piece by piece.

    Attributes
    ----------
    generation : Generation
        The latest one.
    state : dict
        Counters that are committed with every write; the writer changes them.
    next_segment : int
        Number of the next segment. It never falls: a segment that is being built is in no record yet.
    """

    def __init__(self, folder: Path, catalog: Catalog, models: ModelFactory,
                 read_terms: Callable[[str, int], list[tuple[int, list[str]]]]) -> None:  # fmt: skip
        self._folder, self._catalog, self._models, self._read_terms = folder, catalog, models, read_terms
        self._parts: list[SegmentPart] = []
        self._loaded: dict[str, DerivedModel] = {}  # by the folder that it is in
        self._published = 0
        self.next_segment = 1
        self.load()

    def load(self) -> None:
        """Read all of the catalogue, from one committed state, and publish it.

        No flush may be under way: it knows of deaths in its tail that the catalogue no longer tells.
        """
        with self._catalog.snapshot():
            self.schema = self._catalog.schema()
            self.state = self._catalog.get_meta("state")
            self._load_notes()
            self.records = self._catalog.segments()
            dead = np.array(self._catalog.deletions(), np.int64)
            tail_seqs = self._catalog.tail_seqs()
            self.data_version = self._catalog.data_version()
            self.derived: Mapping[str, DerivedModel] = {
                item.name: self.load_model(item) for item in self.schema.fields if item.kind == "sae"
            }
            self._loaded = {path: model for path, model in self._loaded.items() if model in self.derived.values()}
            if not self._published:
                names = [item.name for item in self.schema.fields if isinstance(item.spec, BM25Field)]
                self.lexicons = Lexicons(names, self._read_terms)
            self.lexicons.ids.forget()  # what another process has added
            folder = self._folder / SEGMENTS_FOLDER
            known = {part.segment.name: part.segment for part in self._parts if part.segment.schema == self.schema}
            segments = [known.get(r.name) or Segment(folder / r.name, self.schema) for r in self.records]
            self._parts = [SegmentPart(segment, np.flatnonzero(np.isin(segment.seqs, dead))) for segment in segments]
            self.tails = [Tail(self.schema, self.derived)]
            self.tails[0].append(list(self._catalog.rows(tail_seqs)), self.average_lengths())
            self._check_complete(len(dead), len(tail_seqs))
        self.analyzers = {
            item.name: Analyzer(item.spec.language) for item in self.schema.fields if isinstance(item.spec, BM25Field)
        }
        self.next_segment = max([self.next_segment, *(1 + int(record.name) for record in self.records)])
        self.publish()

    def load_notes(self) -> None:
        """Read again what users have noted, labels and profiles, and publish it. Documents stay as they are."""
        self._load_notes()
        self.publish()

    def _load_notes(self) -> None:
        self.profiles, self.labels = self._catalog.find_meta(PROFILES), self._catalog.find_meta(LABELS)

    def _check_complete(self, dead: int, tail: int) -> None:
        """Every living document is in exactly one place: cheap enough to check on each opening."""
        stored = self.state["documents"]
        placed = sum(part.documents for part in self._parts) - dead + tail
        if len(self.tails[0].rows) != tail or stored != placed or dead != sum(len(part.dead) for part in self._parts):
            raise CorruptIndexError(
                f"{self._catalog.path}: expected {stored} living documents in segments and tail, found {placed}; "
                "`sparsight repair` rebuilds the segments",
                path=self._catalog.path,
            )

    def load_model(self, item: FieldSchema) -> DerivedModel:
        """The model of a derived field, loaded once.

        Raises
        ------
        CorruptIndexError
            Its files hold another model than the field was filled with.
        """
        assert isinstance(item.spec, SAEField)
        known = self._loaded.get(item.spec.model)
        if known is not None and known.fingerprint == item.fingerprint:
            return known
        model = self._models(item.spec)
        if model.fingerprint != item.fingerprint:
            raise CorruptIndexError(
                f"the model of field {item.name!r} in {self._folder / item.spec.model} changed on disk: "
                f"expected {item.fingerprint[:12]}, found {model.fingerprint[:12]}",
                path=self._folder / item.spec.model,
            )
        self._loaded[item.spec.model] = model
        return model

    # --- what is there now ---------------------------------------------------------------------------------

    def average_lengths(self) -> dict[str, float]:
        """Of passages, by BM25 field."""
        return self.lexicons.average_lengths(self.state)

    @property
    def saturated(self) -> dict[str, int]:
        """Weights that did not fit 8 bits, by field, in the live segments and the tail."""
        total: dict[str, int] = {}
        for counts in (*(tail.saturated for tail in self.tails), *(record.saturated for record in self.records)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def tail_documents(self) -> int:
        """Documents waiting for the next flush, dead ones included."""
        return sum(len(tail.rows) for tail in self.tails)

    def dead_of(self, names: frozenset[str]) -> list[NDArray[np.int64]]:
        """Seqs of the dead documents of each of these segments."""
        return [part.seqs[part.dead] for part in self._parts if part.segment.name in names]

    # --- what has changed ----------------------------------------------------------------------------------

    def publish(self) -> None:
        """Make what is here the generation that new searches pin."""
        self._published += 1
        self.generation = Generation(
            self._published,
            self.state["version"],
            self.schema,
            (*self._parts, *(tail.view() for tail in self.tails)),
            self.lexicons.ids,
            self.average_lengths(),
            self.derived,
            self.profiles,
            self.labels,
        )

    def take_over(self, effects: Effects) -> None:
        """Apply what a committed transaction changed, and publish."""
        self.tails[-1].append(effects.new_rows, self.average_lengths())
        self._parts += [SegmentPart(segment, np.empty(0, np.int64)) for segment in effects.segments]
        if effects.swap is not None:
            self._take_swap(effects.swap)
        if effects.segments or effects.swap is not None:
            self.records = self._catalog.segments()
        if effects.dead:
            dead = np.array(sorted(effects.dead), np.int64)
            self._parts = [_without(part, dead) for part in self._parts]
            for tail in self.tails:
                tail.kill(dead)
        self.publish()

    def _take_swap(self, swap: Swap) -> None:
        died = self.dead_of(swap.replaced)
        died += [np.array(sorted(tail.dead), np.int64) for tail in self.tails if tail.last_seq <= swap.flushed]
        dead = np.unique(np.concatenate(died)) if died else np.empty(0, np.int64)
        self._parts = [part for part in self._parts if part.segment.name not in swap.replaced]
        self._parts += [_without(SegmentPart(segment, dead[:0]), dead) for segment, _ in swap.made]
        self.tails = [tail for tail in self.tails if tail.last_seq > swap.flushed or tail is self.tails[-1]]

    def seal(self) -> list[TailPart]:
        """Make the tail one that only loses documents, and begin another. Returns those before that, oldest first."""
        if self.tails[-1].rows:
            self.tails.append(Tail(self.schema, self.derived))
            self.publish()
        return [tail.view() for tail in self.tails[:-1]]


def _without(part: SegmentPart, dead: NDArray[np.int64]) -> SegmentPart:
    """A segment's part with more dead documents, ascending seqs; the same one when it holds none of them."""
    at = np.searchsorted(part.seqs, dead)
    at = at[part.seqs[np.minimum(at, part.documents - 1)] == dead] if part.documents else at[:0]
    return SegmentPart(part.segment, np.union1d(part.dead, at)) if len(at) else part
