"""The codes that a collection holds, and what is found from them: kept until the codes have become others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from scipy.sparse import csr_matrix

from sparsight.index.generation import Generation, Place
from sparsight.index.schema import FieldSchema

__all__ = ["MOST_PASSAGES", "KeptByField", "chosen_passages", "stored_codes", "stored_rows"]

T = TypeVar("T")

MOST_PASSAGES = 40_000
"""Passages that features are looked at with, evenly chosen: some seconds; more change little."""


class KeptByField(Generic[T]):
    """One thing for each SAE field, found when it is first asked for, and again once the field has another model or the
    collection has changed by a tenth.

    Safe to use from many threads: those that ask while it is being found wait for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, int, T]] = {}

    def get(self, generation: Generation, schema: FieldSchema, find: Callable[[], T]) -> T:
        """What is known of the field, or else what ``find`` returns; its errors pass, and nothing is kept then."""
        with self._lock:
            fingerprint, passages, found = self._known.get(schema.name, ("", 0, None))
            changed = abs(generation.passages - passages) > passages // 10
            if found is None or fingerprint != schema.fingerprint or changed:
                found = find()
                self._known[schema.name] = schema.fingerprint, generation.passages, found
            return found


def stored_codes(generation: Generation, field: str, most: int = MOST_PASSAGES) -> csr_matrix:
    """Weights (P, F) of living passages in an SAE field, evenly chosen where they are more than ``most``."""
    return stored_rows(generation, field, chosen_passages(generation, most))


def chosen_passages(generation: Generation, most: int) -> list[Place]:
    """Living passages, evenly chosen where they are more than ``most``."""
    places = [(reference, passage) for _, reference in generation.scan(generation.mask(None))
              for passage in range(generation.passages_of(reference))]
    return places[:: -(-len(places) // most)] if places else []


def stored_rows(generation: Generation, field: str, places: Sequence[Place]) -> csr_matrix:
    """Weights (P, F) of passages in a sparse or SAE field."""
    rows = generation.sparse_rows(field, places)
    return csr_matrix((rows.weights, rows.ids.astype(np.int32), rows.indptr),
                      shape=(len(places), generation.field(field).dimension))
