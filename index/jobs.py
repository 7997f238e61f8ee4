"""What callers ask of a collection's writer thread, and how requests that wait are grouped to share a commit."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sparsight.index.catalog import SegmentRecord
from sparsight.index.filters import Node
from sparsight.index.lexicon import PassageTerms
from sparsight.index.rows import Row
from sparsight.index.segment import Segment

__all__ = ["Effects", "Job", "JobQueue", "Made", "Swap", "WriteAnswer"]

Made: TypeAlias = tuple[Segment, SegmentRecord]
"""A segment whose files are durable, and what the catalogue is to say of it."""

_GROUP_DOCUMENTS = 4_000  # a commit waits for no more documents than this


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    """What a write did; ``version`` is the number of committed writes after it."""

    upserted: int = 0
    replaced: int = 0
    deleted: int = 0
    version: int = 0
    saturated: int = 0


@dataclass(frozen=True, slots=True)
class Swap:
    """Segments made in the background: for those they replace, or for the tails' documents up to seq ``flushed``."""

    made: Sequence[Made]
    replaced: frozenset[str]
    flushed: int


@dataclass(slots=True)
class Effects:
    """What a transaction changed, to be applied to memory once it has committed."""

    new_rows: list[Row] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    swap: Swap | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One request: a write of ``rows`` (``bulk``: as a segment of their own), a deletion, a swap of segments,
    a new tail (``seal``), or any ``work`` inside a transaction of its own, with ``reload`` on more than notes.
    """

    rows: Sequence[Row] = ()
    terms: Sequence[Mapping[str, list[PassageTerms]]] = ()
    bulk: bool = False
    delete_ids: Sequence[str] = ()
    delete_filter: Node | None = None
    request_id: str = ""
    digest: str = ""
    swap: Swap | None = None
    seal: bool = False
    work: Callable[[], Any] | None = None
    reload: bool = False
    future: Future[Any] = field(default_factory=Future)

    @property
    def alone(self) -> bool:
        """Whether it shares its transaction with nothing."""
        return (
            self.bulk or self.seal or self.delete_filter is not None or self.swap is not None or self.work is not None
        )


class JobQueue:
    """Jobs in the order they came. Many threads put, one takes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: list[Job | None] = []  # taken from the queue, but not part of the group before

    def put(self, job: Job) -> None:
        """Add a job."""
        self._queue.put(job)

    def end(self) -> None:
        """No job follows."""
        self._queue.put(None)

    def __len__(self) -> int:
        return self._queue.qsize() + len(self._held)

    def take(self) -> list[Job]:
        """Wait for a job, and return it with those behind it that may share its transaction; empty at the end."""
        first = self._held.pop() if self._held else self._queue.get()
        if first is None:
            return []
        jobs, documents = [first], len(first.rows)
        while not first.alone and documents < _GROUP_DOCUMENTS and not self._queue.empty():
            following = self._queue.get()
            if following is None or following.alone:
                self._held.append(following)
                break
            jobs.append(following)
            documents += len(following.rows)
        return jobs
