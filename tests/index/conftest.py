"""Rows, a schema and a store that the index tests share; no encoder, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsight.index.rows import Row, SparseRow
from sparsight.index.schema import CollectionSchema, FieldSchema
from sparsight.index.store import CollectionStore
from sparsight.types import BM25Field, DenseField, PassageSpec, SparseField

TERMS = 40


@pytest.fixture
def schema() -> CollectionSchema:
    fields = (
        FieldSchema(SparseField("terms", dimension=TERMS), TERMS),
        FieldSchema(BM25Field("bm25"), 0),
        FieldSchema(DenseField("vec", dimension=3), 3),
    )
    return CollectionSchema("things", fields, PassageSpec(), "2026-01-01T00:00:00Z", "feed").check()


@pytest.fixture
def make_row() -> Callable[..., Row]:
    def make(id: str, seed: int = 0, passages: int = 1, dense: bool = True) -> Row:
        rng = np.random.default_rng([seed, sum(id.encode()), passages])
        entries = []
        for _ in range(passages):
            ids = np.sort(rng.choice(TERMS, int(rng.integers(0, 12)), replace=False)).astype(np.uint32)
            entries.append(SparseRow(ids, (rng.integers(1, 256, len(ids)) / 255 * 4).astype(np.float32)))
        text = " ".join(f"word{n}" for n in rng.integers(0, 9, 6 * passages))
        cut = len(text) // passages
        spans = [(p * cut, len(text) if p == passages - 1 else (p + 1) * cut) for p in range(passages)]
        row = Row(id, title=f"t{seed}", text=text, metadata={"seed": seed, "tag": [f"g{seed % 3}"]}, spans=spans)
        row.sparse["terms"] = entries
        if dense:
            row.dense["vec"] = rng.integers(-4, 5, (passages, 3)).astype(np.float32)
        return row

    return make


def no_models(spec: object) -> object:
    raise AssertionError(f"no model is needed, yet {spec} was asked for")


@pytest.fixture
def store(tmp_path: Path, schema: CollectionSchema) -> Iterator[CollectionStore]:
    made = CollectionStore.create(tmp_path / "things", schema, no_models)  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.fixture
def reopen() -> Iterator[Callable[..., CollectionStore]]:
    """Close a store and open its folder again; ``read_only=True`` opens a follower beside it."""
    opened: list[CollectionStore] = []

    def again(store: CollectionStore, *, read_only: bool = False) -> CollectionStore:
        if not read_only:
            store.close()
        opened.append(CollectionStore(store.folder, no_models, read_only=read_only))  # type: ignore[arg-type]
        return opened[-1]

    yield again
    for item in opened:
        item.close()
