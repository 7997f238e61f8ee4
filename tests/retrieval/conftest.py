"""A small embedded collection of ready vectors with a trained SAE; no model is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import sparsight
from sparsight.retrieval import Collection, Database
from sparsight.types import BM25Field, DenseField, Document, SparseField, SparseVector

TOPICS = ("galaxy", "neuron", "lattice", "market", "protein")


def documents(count: int = 200, seed: int = 3) -> list[Document]:
    """Documents about one of five topics: the topic is in the text, in the sparse terms and in the dense direction."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((len(TOPICS), 16))
    made = []
    for n in range(count):
        topic = n % len(TOPICS)
        dense = directions[topic] + 0.4 * rng.standard_normal(16)
        terms = {topic: 2.0, **{int(t): float(rng.random()) for t in rng.choice(np.arange(5, 300), 12, replace=False)}}
        made.append(
            Document(
                f"doc-{n}",
                title=f"On the {TOPICS[topic]}",
                text=f"A study of {TOPICS[topic]} number {n} with remark{n % 7}.",
                metadata={"year": 2000 + n % 20, "topic": TOPICS[topic], "tags": [f"t{n % 3}", f"u{n % 4}"]},
                vectors={
                    "terms": SparseVector.from_dict(terms),
                    "vec": (dense / np.linalg.norm(dense)).astype(np.float32),
                },
            )
        )
    return made


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with sparsight.open(tmp_path_factory.mktemp("trained")) as database:
        things = database.create_collection(
            "things", [SparseField("terms", dimension=300), BM25Field("bm25"), DenseField("vec", dimension=16)]
        )
        things.upsert(documents())
        things.train_sae("sae", source="vec", n_latents=64, k=4, epochs=30)
        yield database


@pytest.fixture
def things(trained: Database) -> Collection:
    """Shared by tests: do not write to it."""
    return trained["things"]


@pytest.fixture
def dense_of(things: Collection) -> np.ndarray:
    """The dense vector of a document about galaxies."""
    return np.asarray(things.get("doc-0", include=["vectors"]).vectors["vec"])
