"""Documents, their vectors, and what writes and pages of them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Document", "Page", "Passage", "SparseVector", "Vector", "WriteResult"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse vector: ``values[i]`` is the weight of term (or latent) ``indices[i]``.

    Indices are unique and in ``[0, 2**32 - 2]``; order is free. Values are finite; zeros are dropped on
    entry. Document vectors are non-negative; query vectors may hold negative weights.
    """

    indices: NDArray[np.uint32]
    values: NDArray[np.float32]

    @classmethod
    def from_dict(cls, weights: Mapping[int, float]) -> SparseVector:
        """Vector from a ``{index: weight}`` mapping."""
        return cls(
            np.fromiter(weights.keys(), np.uint32, len(weights)),
            np.fromiter(weights.values(), np.float32, len(weights)),
        )

    def to_dict(self) -> dict[int, float]:
        """The vector as ``{index: weight}``."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))


Vector: TypeAlias = SparseVector | NDArray[np.float32]



@dataclass(frozen=True, slots=True)
class Passage:
    """A scored part of a document: its text and, where given ready-made, its vectors by field name."""

    text: str = ""
    vectors: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """What is stored, filtered, deleted and returned.

    Attributes
    ----------
    id : str
        The user's own id, 1 to 512 bytes of UTF-8 without control characters; unique in its collection.
    title, text : str
        What is searched. The title is put before each passage of the text when it is encoded.
    metadata : mapping
        JSON values by key, for filters: str, bool, int (|x| <= 2**53), float, None, or lists of these;
        nested objects are addressed as ``a.b``.
    vectors : mapping
        Ready vectors by field name; such a document is one passage, and fields with a vector here are
        not encoded.
    passages : sequence of Passage
        Passages with ready vectors, for documents that were split by the caller. Excludes ``vectors``.
    version : int
        Grows by at least one with every write of the collection; 0 on input.
    """

    id: str
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    passages: Sequence[Passage] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did. ``version`` is the collection's version after it; all counts are documents."""

    upserted: int = 0
    replaced: int = 0
    deleted: int = 0
    version: int = 0
    dropped_weights: int = 0
    saturated_weights: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of documents; ``next_page_token`` is "" on the last page."""

    documents: tuple[Document, ...]
    next_page_token: str = ""
