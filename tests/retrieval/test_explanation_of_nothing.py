"""Explanations where no hit has a field, or there is no hit: nothing to explain, and no failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.retrieval import Collection
from sparsight.types import BM25Field, DenseField, Query, Retriever
from tests.retrieval.conftest import documents


@pytest.mark.parametrize("field", ["vec", "sae", "terms", "bm25"])
def test_no_hit_at_all(things: Collection, dense_of: np.ndarray, field: str) -> None:
    asked = {"vec": Retriever("vec", dense=dense_of), "sae": Retriever("sae", dense=dense_of),
             "terms": Retriever("terms", sparse={1: 1.0}), "bm25": Retriever("bm25", "galaxy")}[field]
    assert things.search(Query(retrievers=[asked], filter="year > 3000", explain=True)).ids == []


def test_no_hit_has_the_field(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        mixed = database.create_collection("mixed", [BM25Field("bm25"), DenseField("vec", dimension=16)])
        mixed.upsert([{"id": d.id, "text": d.text, "vectors": {"vec": d.vectors["vec"]}} for d in documents(70)])
        mixed.train_sae("sae", source="vec", n_latents=16, k=2, epochs=2)
        mixed.upsert([{"id": "words", "text": "an okapi", "metadata": {"kind": "plain"}}])
        dense = np.asarray(documents(1)[0].vectors["vec"])
        for other in ("vec", "sae"):
            retrievers = [Retriever("bm25", "okapi"), Retriever(other, dense=dense)]
            found = mixed.search(Query(retrievers=retrievers, filter='kind = "plain"', k=5, explain=True))
            assert found.ids == ["words"]
            words, nothing = found[0].explanation.retrievers  # type: ignore[union-attr]
            assert words.score > 0 and nothing.contributions == () and nothing.rest == 0
