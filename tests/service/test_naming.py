"""Training from several seeds, and naming anew, over gRPC: what a client sees is what the engine says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from sparsight.retrieval.engine import Database
from sparsight.service.aclient import AsyncClient
from sparsight.service.client import Client
from sparsight.types import DenseField, SparseField


@pytest.fixture(scope="module")
def named(database: Database) -> Iterator[str]:
    rng = np.random.default_rng(2)
    words = ("violin orchestra", "galaxy telescope", "parser grammar")
    papers = database.create_collection("named", [SparseField("words", encoder="sparsight-small"),
                                                  DenseField("vec", dimension=8)])
    centres = rng.standard_normal((3, 8))
    papers.upsert([{"id": str(n), "text": f"On {words[n % 3]} number {n}",
                    "vectors": {"vec": centres[n % 3] + 0.2 * rng.standard_normal(8)}} for n in range(150)])
    yield "named"


def test_a_client_trains_from_seeds_and_names_anew(database: Database, client: Client, named: str) -> None:
    remote = client.collection(named)
    report = remote.train_sae("sae", source="vec", n_latents=9, k=1, epochs=10, seeds=2).result
    assert report["n_latents"] == 9
    features = remote.features(page_size=100).features
    assert features == database[named].features(page_size=100).features
    assert all(len(f.histogram) == 10 and f.stability in (0.0, 1.0) for f in features)
    told = [f for f in features if f.quality is not None and f.quality.detection is not None]
    assert told and all(0 <= f.quality.detection <= 1 for f in told)  # type: ignore[operator,union-attr]
    remote.rename_feature(features[0].index, "okapi")
    operation = remote.name_features(wait=False)
    assert client.operation(operation.name).kind == "name_features"
    report = remote.name_features("sae").result
    assert report["named"] <= report["features"] == len(features) and 0 <= report["detection"] <= 1
    again = remote.feature(features[0].index)
    assert (again.label, again.label_source, again.quality) == ("okapi", "user", None)
    assert again.histogram == database[named].feature(features[0].index).histogram


def test_asyncio_names_too(server: object, client: Client, named: str) -> None:
    async def ask() -> dict[str, object]:
        async with AsyncClient(server.target) as twin:  # type: ignore[attr-defined]
            return dict((await twin[named].name_features()).result)

    client.collection(named).train_sae("sae", source="vec", n_latents=9, k=1, epochs=2)
    assert asyncio.run(ask())["field"] == "sae"
