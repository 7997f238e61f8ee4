"""Random histories of writes, deletes, flushes, merges and reopenings against a plain dictionary.

After every step the collection must hold exactly what the dictionary holds, found by id, by filter and by every kind
of search; the oracle scores documents from their own rows, not through the index.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparsight.index import filters, maintenance
from sparsight.index.memory import PROFILES
from sparsight.index.parts import ImpactQuery
from sparsight.index.rows import Row, SparseRow
from sparsight.index.schema import CollectionSchema, FieldSchema
from sparsight.index.store import CollectionStore
from sparsight.index.verification import verify_folder
from sparsight.types import BM25Field, DenseField, PassageSpec, SparseField

TERMS = 12
IDS = [f"d{n}" for n in range(9)]
QUERY = ImpactQuery(np.array([0, 2, 3, 7, 11], np.uint32), np.array([5, 1, -3, 2, 9], np.int16), 1.0)
DENSE = np.array([1.0, -2.0, 3.0], np.float32)

Passages = list[dict[int, int]]
Item = tuple[Passages, int, bool]  # levels by passage, group, has a dense vector

items = st.tuples(
    st.lists(st.dictionaries(st.integers(0, TERMS - 1), st.integers(1, 255), max_size=5), min_size=1, max_size=3),
    st.integers(0, 4),
    st.booleans(),
)
batches = st.dictionaries(st.sampled_from(IDS), items, min_size=1, max_size=5)


def _dense(passages: Passages, group: int) -> list[list[int]]:
    return [[sum(p) % 5 - 2, len(p), group] for p in passages]


def _row(id: str, passages: Passages, group: int, dense: bool) -> Row:
    text = "".join(f"alpha beta{group} " for _ in passages)
    cut = len(text) // len(passages)
    row = Row(id, text=text, metadata={"group": group}, spans=[(p * cut, (p + 1) * cut) for p in range(len(passages))])
    row.sparse["terms"] = [
        SparseRow(np.array(sorted(p), np.uint32), np.array([p[t] * 4 / 255 for t in sorted(p)], np.float32))
        for p in passages
    ]
    if dense:
        row.dense["vec"] = np.array(_dense(passages, group), np.float32)
    return row


def _best_impact(passages: Passages) -> int:
    weights = dict(zip(QUERY.terms.tolist(), QUERY.weights.tolist(), strict=True))
    return max(sum(weights.get(term, 0) * level for term, level in passage.items()) for passage in passages)


class History(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        fields = (
            FieldSchema(SparseField("terms", dimension=TERMS), TERMS),
            FieldSchema(BM25Field("bm25"), 0),
            FieldSchema(DenseField("vec", dimension=3), 3),
        )
        schema = CollectionSchema("c", fields, PassageSpec(), "", "feed")
        self.store = CollectionStore.create(Path(self.folder.name) / "c", schema, lambda spec: None)  # type: ignore[arg-type,return-value]
        self.model: dict[str, tuple[int, Item]] = {}
        self.clock = 0

    @rule(batch=batches)
    def upsert(self, batch: dict[str, Item]) -> None:
        known = len(self.model.keys() & batch.keys())
        answer = self.store.write([_row(id, *item) for id, item in batch.items()])
        assert (answer.upserted, answer.replaced) == (len(batch), known)
        for id, item in batch.items():
            self.clock += 1
            self.model[id] = (self.clock, item)

    @rule(ids=st.lists(st.sampled_from([*IDS, "never"]), min_size=1, max_size=4))
    def delete(self, ids: list[str]) -> None:
        assert self.store.delete(ids).deleted == len(self.model.keys() & set(ids))
        for id in ids:
            self.model.pop(id, None)

    @rule(group=st.integers(0, 4))
    def delete_by_filter(self, group: int) -> None:
        doomed = [id for id, (_, item) in self.model.items() if item[1] == group]
        assert self.store.delete(node=filters.parse(f"group = {group}")).deleted == len(doomed)
        for id in doomed:
            del self.model[id]

    @rule()
    def flush(self) -> None:
        maintenance.flush(self.store)

    @rule(batch=batches, ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4), first=st.booleans())
    def flush_with_others_between(self, batch: dict[str, Item], ids: list[str], first: bool) -> None:
        """While a segment of the tail is built, the writer goes on with what other threads ask for."""
        if not (tails := self.store.seal()):
            return
        rows = [tail.document(at) for tail in tails for at in range(tail.documents)
                if tail.alive is None or tail.alive[at]]
        made = [self.store.build(rows)] if rows else []
        if first:
            self.note()
        self.delete(ids)
        self.upsert(batch)
        if not first:
            self.note()
        self.holds_what_was_written()
        self.store.swap(made, [], int(tails[-1].seqs[-1]))

    @rule()
    def note(self) -> None:
        self.clock += 1
        self.store.run(lambda: self.store.catalog.set_meta(PROFILES, {"at": {"clock": self.clock}}))
        assert self.store.generation.profiles == {"at": {"clock": self.clock}}

    @rule()
    def compact(self) -> None:
        maintenance.compact(self.store)
        assert len(self.store.generation.parts) <= 2

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = CollectionStore(self.store.folder, lambda spec: None)  # type: ignore[arg-type,return-value]

    @invariant()
    def holds_what_was_written(self) -> None:
        generation = self.store.generation
        every = generation.mask(None)
        assert generation.documents == generation.count(every) == len(self.model)
        seen = [generation.document(reference).id for _, reference in generation.scan(every)]
        assert seen == sorted(self.model, key=lambda id: self.model[id][0])
        assert {row.id for row in self.store.rows(IDS)} == self.model.keys()

    @invariant()
    def finds_what_was_written(self) -> None:
        generation = self.store.generation
        every = generation.mask(None)
        scored = {id: _best_impact(item[0]) for id, (_, item) in self.model.items()}
        expected = sorted((id for id in scored if scored[id] > 0), key=lambda id: (-scored[id], self.model[id][0]))
        for k in (1, 3, 50):
            (found,) = generation.search_impacts("terms", [QUERY], k, [every], [0.0])
            assert [generation.document(r).id for r in found.references()] == expected[:k]
            assert found.scores.tolist() == [scored[id] for id in expected[:k]]
        filtered = generation.mask(filters.parse("group in [1, 2]"))
        (found,) = generation.search_impacts("terms", [QUERY], 50, [filtered], [0.0])
        wanted = [id for id in expected if self.model[id][1][1] in (1, 2)]
        assert [generation.document(r).id for r in found.references()] == wanted

    @invariant()
    def finds_dense_neighbours(self) -> None:
        generation = self.store.generation
        dense = {
            id: max(float(np.array(row) @ DENSE) for row in _dense(item[0], item[1]))
            for id, (_, item) in self.model.items()
            if item[2]
        }
        (found,) = generation.search_dense("vec", DENSE[None], 50, [generation.mask(None)])
        wanted = sorted(dense, key=lambda id: (-dense[id], self.model[id][0]))
        assert [generation.document(r).id for r in found.references()] == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            report = verify_folder(self.store.folder)
            assert report.ok, report.faults
            self.folder.cleanup()


History.TestCase.settings = settings(
    max_examples=60, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestHistory = History.TestCase
