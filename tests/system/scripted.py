"""A scripted workload that touches every way of writing, and what may be there when it is cut short.

Each step does one thing and says what that makes of the expected state. A test runs the steps in a process that it
disturbs, notes which had begun and which were acknowledged, and compares what a new process finds with
:func:`possible`: acknowledged steps are there, one in doubt is there wholly or not at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What the product loads only when it is needed is loaded here, once: every fork of a test would load it again.
import faiss  # noqa: F401
import numpy as np
import sqlite_utils  # noqa: F401
import Stemmer  # noqa: F401

from sparsight.errors import UnknownCollectionError
from sparsight.index import dense, hnsw, maintenance, store  # noqa: F401 - dense and hnsw likewise
from sparsight.index.catalog import Catalog
from sparsight.retrieval.engine import Database, verify
from sparsight.types import BM25Field, DenseField, Document, Query, Retriever, SparseField, SparseVector, Vector

__all__ = ["LAST", "MORE_STEPS", "REOPEN_BEFORE", "STEPS", "State", "Step", "apply", "document", "lower_thresholds",
           "possible", "read", "read_collection", "recover"]

FIELDS = (SparseField("terms", dimension=100, max_impact=255.0), DenseField("vec", dimension=2), BM25Field("words"))
BULK = 12
CHECKPOINT_PAGES = 40

State = Mapping[str, Mapping[str, int]]
"""By collection: which step wrote each document."""


def lower_thresholds() -> None:
    """For this process: a few documents make a segment, a few pages a checkpoint; merges come only when called for."""
    store.BULK_DOCUMENTS = BULK
    maintenance.merge_candidates = lambda sizes: []
    original = Catalog.__init__

    def with_checkpoints(self: Catalog, folder: Path, *, read_only: bool = False) -> None:
        original(self, folder, read_only=read_only)
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    Catalog.__init__ = with_checkpoints  # type: ignore[method-assign]


def document(id: str, step: int) -> Document:
    """What a step writes under an id; some are longer than a page of the catalogue."""
    number = int(id[1:])
    terms = SparseVector.from_dict({0: step + 1.0, 1 + number: 9.0})
    vectors: dict[str, Vector] = {"terms": terms, "vec": np.array([step, number], np.float32)}
    text = f"common step{step}" + " word" * (400 * (number % 4))
    return Document(id, title=f"step {step}", text=text, metadata={"step": step}, vectors=vectors)


# --- the steps ---------------------------------------------------------------------------------------------


class Step:
    """One call. ``work`` gets the database; ``effect`` makes the state after from the state before.

    Neighbouring steps that are ``together`` may be run at once, in threads: they write different documents.
    """

    def __init__(self, work: Callable[[Any], Any], effect: Callable[[dict[str, dict[str, int]]], None] = lambda _: None,
                 *, together: bool = False) -> None:
        self.work, self._effect, self.together = work, effect, together

    def after(self, state: State) -> State:
        copy = {name: dict(documents) for name, documents in state.items()}
        self._effect(copy)
        return copy


def _create(name: str) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        state.setdefault(name, {})

    return Step(lambda db: db.create_collection(name, FIELDS, exist_ok=True), effect)


def _drop(name: str) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        state.pop(name, None)

    return Step(lambda db: db.drop_collection(name), effect)


def _upsert(number: int, ids: range, *, together: bool = False) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        if "main" in state:
            state["main"] |= {f"d{i}": number for i in ids}

    return Step(lambda db: db["main"].upsert([document(f"d{i}", number) for i in ids], request_id=f"r{number}"), effect,
                together=together)


def _delete(number: int, gone: Callable[[str, int], bool], *, together: bool = False, **arguments: Any) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        if "main" in state:
            state["main"] = {id: step for id, step in state["main"].items() if not gone(id, step)}

    return Step(lambda db: db["main"].delete(**arguments, request_id=f"r{number}"), effect, together=together)


def _flush() -> Step:
    return Step(lambda db: db["main"].flush())


def _merge() -> Step:
    """Let the background merge all segments but the oldest; returns when it has ended."""

    def work(database: Any) -> None:
        inner, chosen = database["main"]._store, threading.Event()

        def choose(sizes: Sequence[tuple[str, int, int]]) -> list[str]:
            first = not chosen.is_set()
            chosen.set()
            return [name for name, *_ in sizes[1:]] if first else []

        maintenance.merge_candidates = choose
        inner.on_change()
        assert chosen.wait(10)
        with inner.maintenance_lock:  # which is held from the choice to the end
            pass

    return Step(work)


STEPS = [
    _create("main"),
    _upsert(1, range(3)),
    _upsert(2, range(2, 2 + BULK)),  # bulk: a segment
    _upsert(3, range(6)),
    _flush(),
    _delete(5, lambda id, _: id in ("d0", "d9"), ids=["d0", "d9"]),
    _upsert(6, range(4, 8)),
    Step(lambda db: db["main"].compact()),
    _delete(8, lambda _, step: step == 6, filter="step = 6"),
    _create("other"),
    _drop("other"),
    _upsert(11, range(1, 3)),
]
REOPEN_BEFORE = 8

MORE_STEPS = [
    *STEPS,
    _upsert(12, range(20, 24), together=True),
    _upsert(13, range(24, 25), together=True),
    _delete(14, lambda id, _: id in ("d1", "d11"), ids=["d1", "d11"], together=True),
    _upsert(15, range(26, 30), together=True),
    _upsert(16, range(30, 30 + 2 * BULK)),
    _flush(),
    _upsert(18, range(8, 18)),
    _flush(),
    _upsert(20, range(28, 32)),
    _merge(),
    _delete(22, lambda _, step: step == 16, filter="step = 16"),
    _upsert(23, range(60, 60 + BULK)),
    _upsert(24, range(60, 63)),
    _delete(25, lambda id, _: id in ("d60", "d70"), ids=["d60", "d70"]),
]

LAST = {97: _create("main"), 98: _upsert(98, range(97, 99)), 99: _delete(99, lambda id, _: id == "d97", ids=["d97"])}
"""Steps that show, after a disturbance, that writing goes on; by number."""

_BY_NUMBER = dict(enumerate(MORE_STEPS)) | LAST


# --- what may be there -------------------------------------------------------------------------------------


def apply(state: State, numbers: Iterable[int]) -> State:
    """The state after some steps, in their order."""
    for number in numbers:
        state = _BY_NUMBER[number].after(state)
    return state


def possible(outcomes: Sequence[Any]) -> list[State]:
    """Every state that what a run said allows: a step in doubt is there or not, a refused one is not.

    An outcome is [step, "begun"], [step, "done"] or [step, error's name, message].
    """
    ends: dict[int, list[Any]] = {}
    for number, *outcome in outcomes:
        ends.setdefault(number, []).append(outcome)
    states: list[State] = [{}]
    for number in sorted(ends.keys() & _BY_NUMBER.keys()):
        after = [apply(state, [number]) for state in states]
        if ["done"] in ends[number]:
            states = after
        elif not all(_is_refusal(outcome) for outcome in ends[number][1:] or ends[number]):
            states += [state for state in after if state not in states]
    return states


def _is_refusal(outcome: list[str]) -> bool:
    """Errors that promise that nothing was written; any other leaves the step in doubt, as does no answer at all."""
    sure = ("StorageFullError", "UnknownCollectionError")
    return outcome[0] in sure or (outcome[0] == "StorageError" and "writes stopped after" in outcome[1])


def read(database: Any) -> dict[str, dict[str, int]]:
    """What a database shows: by collection, which step wrote each document."""
    return {info.name: read_collection(database[info.name]) for info in database.list_collections()}


def read_collection(collection: Any) -> dict[str, int]:
    """What a collection shows, by scroll, count, and search in each field; they must agree, and be what was written."""
    page = collection.scroll(page_size=1000)
    found = {item.id: item.metadata["step"] for item in page.documents}
    assert len(page.documents) == len(found) == collection.count(), "a document is there twice"
    for item in page.documents:
        wrote = document(item.id, found[item.id])
        assert (item.title, item.text) == (wrote.title, wrote.text), f"not what a step wrote: {item}"
    for retriever in (Retriever("terms", sparse=SparseVector.from_dict({0: 1.0})), Retriever("words", text="common"),
                      Retriever("vec", dense=np.array([1, 0], np.float32))):
        result = collection.search(Query(retrievers=(retriever,), k=1000))
        hits = {hit.id: hit.metadata["step"] for hit in result}
        assert hits == found and len(result) == len(found), f"{retriever.field} finds {hits}, scroll {found}"
        if retriever.field != "words":
            scores = {hit.id: round(hit.score) - (retriever.field == "terms") for hit in result}
            assert scores == found, f"{retriever.field} scores {scores} for {found}"
    return found


def recover(folder: Path, in_doubt: Sequence[int] = ()) -> dict[str, Any]:
    """Open a folder after a disturbance, as a new process would, and say what is there.

    Looks, sends what was in doubt again, writes, reads, closes, and looks from outside; ``state`` is what was there,
    ``again`` after what was in doubt, ``faults`` what ``verify`` said before and after, ``left`` unfinished folders.
    """
    before = verify(folder).values() if folder.is_dir() else []
    faults = [fault for report in before for fault in report.faults]
    with Database(folder) as database:
        state = read(database)
        for number in in_doubt:
            with contextlib.suppress(UnknownCollectionError):  # it had been dropped
                _BY_NUMBER[number].work(database)
        again = read(database)
        for step in LAST.values():
            step.work(database)
        database["main"].flush()
        written = read(database)
    expected = apply(again, LAST)
    assert written == expected, f"after writing again found {written}, expected {expected}"
    faults += [fault for report in verify(folder).values() for fault in report.faults]
    return {"state": state, "again": again, "faults": faults, "left": [str(entry) for entry in
                                                                       folder.rglob(".building-*")]}
