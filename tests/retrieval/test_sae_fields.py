"""Collections whose SAE field is there from the start, with a dictionary that was trained before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import CheckpointError, IncompatibleModelError, InvalidArgumentError, StorageFullError
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.models import sae_field
from sparsight.types import BM25Field, DenseField, Document, Query, Retriever, SAEField

D, N = 8, 32


def rows(count: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def sae() -> SAE:
    atoms = rows(N, 1)
    plain = SAE(4, atoms, np.zeros(N, np.float32), atoms, np.zeros(D, np.float32), document_mode="pursuit")
    return describe_latents(plain, rows(500, 2)).with_names([f"latent {i}" for i in range(N)])


@pytest.fixture()
def model(sae: SAE, tmp_path: Path) -> str:
    sae.save(tmp_path / "dictionary")
    return str(tmp_path / "dictionary")


def documents(count: int = 40) -> list[Document]:
    return [Document(str(n), vectors={"vec": vector}) for n, vector in enumerate(rows(count, 3))]


def test_a_collection_keeps_its_own_copy(sae: SAE, model: str, tmp_path: Path) -> None:
    fields = [SAEField("sae", "vec", model, rescore=7), BM25Field(), DenseField("vec", dimension=D)]  # in any order
    with sparsight.open(tmp_path / "data") as database:
        things = database.create_collection("things", fields)
        things.upsert(documents())
        asked = Query(retrievers=[Retriever("sae", dense=rows(1, 4)[0])], k=5, explain=True)
        found = things.search(asked)
        own = things.info().fields[0]
        assert isinstance(own, SAEField) and own == replace(fields[0], model=f"models/sae-{sae.fingerprint[:16]}")
        assert things.feature(3).label == "latent 3"
    for path in (tmp_path / "dictionary").iterdir():
        path.unlink()
    with sparsight.open(tmp_path / "data") as database:
        again = database.collection("things").search(asked)
        assert again.hits == found.hits and len(found) == 5
        assert not database.collection("things").verify().faults
    weights = sae.document_weights(rows(40, 3)).toarray() @ (sae.W_dec @ rows(1, 4)[0])
    assert found.ids == [str(n) for n in np.argsort(-weights, kind="stable")[:5]]
    assert [hit.score for hit in found] == pytest.approx(sorted(weights, reverse=True)[:5], abs=0.02)


def test_training_puts_another_in_its_place(model: str, tmp_path: Path) -> None:
    with sparsight.open(tmp_path / "data") as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D), SAEField("sae", "vec", model)])
        things.upsert(documents(80))
        things.train_sae("sae", source="vec", n_latents=16, k=3, epochs=2)
        assert len(things.features(page_size=100).features) <= 16


def test_a_collection_in_the_way_of_its_dictionary_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   model: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    fields = [DenseField("vec", dimension=D), SAEField("sae", "vec", model)]
    with sparsight.open(tmp_path / "data") as database:
        with monkeypatch.context() as patched:
            patched.setattr(SAE, "save", full)
            with pytest.raises(StorageFullError, match="the disk is full"):
                database.create_collection("things", fields)
        assert [info.name for info in database.list_collections()] == []
        database.create_collection("things", fields)


def test_fields_that_do_not_go_together_are_named(sae: SAE, model: str, tmp_path: Path) -> None:
    vec = DenseField("vec", dimension=D)
    with sparsight.open(tmp_path / "data") as database:
        for field, place in [(SAEField("sae", "vec"), "fields[1]"),
                             (SAEField("sae", "other", model), "fields[1].source"),
                             (SAEField("sae", "bm25", model), "fields[1].source")]:  # fmt: skip
            with pytest.raises(InvalidArgumentError) as caught:
                database.create_collection("things", [vec, field, BM25Field()])
            assert caught.value.field == place
        with pytest.raises(InvalidArgumentError) as caught:
            database.create_collection("things", [DenseField("vec", dimension=D + 1), SAEField("sae", "vec", model)])
        assert caught.value.field == "fields[1].source"
        with pytest.raises(CheckpointError):
            database.create_collection("things", [vec, SAEField("sae", "vec", str(tmp_path / "nothing"))])
        for options in ({"rescore": -1}, {"rescore": 10_001}, {"rescore": True}, {"max_query_terms": -1},
                        {"k1": "much", "weighting": "bm25"}, {"source": ["vec"]}, {"model": 3}):  # fmt: skip
            with pytest.raises(InvalidArgumentError) as caught:
                given = {"source": "vec", "model": model} | options
                database.create_collection("things", [vec, SAEField("sae", **given)])  # type: ignore[arg-type]
            assert caught.value.field == f"fields[1].{next(iter(options))}"
        assert [info.name for info in database.list_collections()] == []


def test_a_dictionary_of_another_embedder_is_refused(sae: SAE) -> None:
    source = FieldSchema(DenseField("vec", encoder="this"), D, "1234")
    assert sae_field(sae, SAEField("sae", "vec"), source).dimension == N  # of an unknown one it is not
    assert sae_field(replace(sae, embedder="1234"), SAEField("sae", "vec"), source).dimension == N
    with pytest.raises(IncompatibleModelError) as caught:
        sae_field(replace(sae, embedder="5678"), SAEField("sae", "vec"), source)
    assert (caught.value.details["expected"], caught.value.details["found"]) == ("5678", "1234")
