"""Naming a collection's features from its own passages: scores, sources, and what stays as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.language_model import LanguageModel
from sparsight.errors import (
    CheckpointError,
    FailedPreconditionError,
    InvalidQueryError,
    ReadOnlyError,
    UnknownFieldError,
)
from sparsight.retrieval import Collection, Database, naming
from sparsight.types import DenseField, Query, Retriever, SAEField, SparseField
from tests.encoders.sae.chat_endpoint import Endpoint, said
from tests.retrieval.conftest import TOPICS, documents

PLAIN = ("density", "scale", "index", "field", "stability")


def texts(count: int) -> list[dict[str, object]]:
    return [{"id": d.id, "title": d.title, "text": d.text, "vectors": {"vec": d.vectors["vec"]}}
            for d in documents(count)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with sparsight.open(tmp_path_factory.mktemp("named")) as database:
        fields = [SparseField("words", encoder="sparsight-small"), DenseField("vec", dimension=16)]
        database.create_collection("things", fields).upsert(texts(200))
        database["things"].train_sae("sae", source="vec", n_latents=24, k=2, epochs=20, seeds=3)
        database.create_collection("bare", [DenseField("vec", dimension=16)]).upsert(texts(100))
        database["bare"].train_sae("sae", source="vec", n_latents=24, k=2, epochs=5)
        yield database


def test_trained_features_come_with_scores(database: Database) -> None:
    things = database["things"]
    features = [f for f in things.features(page_size=100).features if sum(f.histogram) >= 20]
    assert len(features) >= 5
    for feature in features:
        assert feature.label and feature.label_source in ("contrast", "matched", "expansion", "nearest")
        assert len(feature.histogram) == 10 and feature.histogram[-1] >= 1
        assert sum(feature.histogram) == pytest.approx(feature.density * 200, abs=2)
        assert feature.stability in (0.0, 0.5, 1.0) and feature.quality is not None
    # Topics are told by a word, which texts of the topic hold and no other.
    assert np.median([f.quality.strong_detection for f in features]) >= 0.85  # type: ignore[union-attr]
    assert sum(any(topic in f.label for f in features) for topic in TOPICS) >= 3
    assert max(f.stability for f in features) > 0  # type: ignore[type-var]


def test_without_a_judge_there_are_no_scores(database: Database) -> None:
    feature = next(f for f in database["bare"].features().features if f.label)
    assert (feature.label_source, feature.quality, feature.stability) == ("contrast", None, None)
    assert sum(feature.histogram) > 0
    with pytest.raises(FailedPreconditionError, match="sparse field with an encoder"):
        database["bare"].name_features(language_model=LanguageModel("http://127.0.0.1:1/v1", "m"))
    report = database["bare"].name_features().result
    assert report["named"] <= report["features"] and "detection" not in report


def test_few_passages_do_not_take_a_label_away(tmp_path: Path) -> None:
    """Of a dictionary that comes with labels most features fire on next to nothing of a small collection."""
    with sparsight.open(tmp_path) as database:
        fields = [DenseField("dense", encoder="all-MiniLM-L6-v2"), SAEField("sae", "dense", "sparsight-minilm-sae")]
        small = database.create_collection("small", fields)
        small.upsert([{"id": d.id, "text": d.text} for d in documents(64)])
        before = {f.index: f.label for f in small.features(page_size=1000).features}
        report = small.name_features().result
        after = {index: small.feature(index) for index in before}
        changed = [f for f in after.values() if f.label != before[f.index]]
        assert report["features"] < len(before) and all(f.label for f in after.values())
        assert changed and all(sum(f.histogram) >= 20 and f.label_source == "contrast" for f in changed)


def ranked(collection: Collection) -> list[tuple[str, float]]:
    dense = np.asarray(documents(1)[0].vectors["vec"])
    return [(hit.id, hit.score) for hit in collection.search(Query(retrievers=[Retriever("sae", dense=dense)], k=50))]


def test_named_anew_all_else_stays(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        fields = [SparseField("words", encoder="sparsight-small"), DenseField("vec", dimension=16)]
        things = database.create_collection("things", fields)
        things.upsert(texts(120))
        things.train_sae("sae", source="vec", n_latents=24, k=2, epochs=10)
        before = things.features(page_size=100).features
        order, fingerprint = ranked(things), things.info().fingerprints["sae"]
        renamed = things.rename_feature(before[0].index, "okapi")
        assert (renamed.label_source, renamed.quality) == ("user", None)
        things.delete([f"doc-{n}" for n in range(0, 120, 5)])  # nothing about galaxies is left
        left = ranked(things)
        with sparsight.open(tmp_path, read_only=True) as follower:
            report = things.name_features("sae").result
            after = things.features(page_size=100).features
            assert report["features"] == sum(any(f.histogram) for f in after) <= len(before)
            assert report["named"] == sum(bool(f.label) for f in after if any(f.histogram))
            assert [f.label for f in follower["things"].features(page_size=100).features] == [f.label for f in after]
            with pytest.raises(ReadOnlyError):
                follower["things"].name_features()
        assert ranked(things) == left and things.info().fingerprints["sae"] == fingerprint and order != left
        for one, other in zip(before, after, strict=True):
            assert [getattr(one, name) for name in PLAIN] == [getattr(other, name) for name in PLAIN]
        assert all(int(id.removeprefix("doc-")) % 5 for f in after for id in f.examples)
        assert things.feature(before[0].index).label == "okapi"
        things.upsert(texts(5))  # new documents are coded as before
        assert things.verify().ok
        things.name_features()
    with sparsight.open(tmp_path) as database:
        things = database["things"]
        assert things.feature(before[0].index).label == "okapi"
        assert len(list((tmp_path / "things" / "models").iterdir())) == 1
        things.train_sae("sae", source="vec", n_latents=24, k=2, epochs=10, seed=1)
        assert things.verify().ok


def test_a_training_is_not_lost_with_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(field: object) -> None:
        raise CheckpointError("the model cannot be had")

    with sparsight.open(tmp_path) as database:
        fields = [SparseField("words", encoder="sparsight-small"), DenseField("vec", dimension=16)]
        things = database.create_collection("things", fields)
        things.upsert(texts(70))
        monkeypatch.setattr(naming, "sparse_encoder", gone)
        things.train_sae("sae", source="vec", n_latents=24, k=2, epochs=3)
        features = things.features().features
        assert any(f.label_source == "contrast" for f in features) and all(f.quality is None for f in features)


def test_several_at_once_do_not_hinder_each_other(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=16)])
        things.upsert(texts(120))
        things.train_sae("sae", source="vec", n_latents=24, k=2, epochs=3)
        started = [things.name_features(wait=False).name for _ in range(4)]
        for name in started:
            while not (operation := database.operation(name)).done:
                time.sleep(0.01)
            assert operation.error == ""
        things.upsert(texts(5))
        assert things.verify().ok
    with sparsight.open(tmp_path) as database:
        assert all(f.histogram for f in database["things"].features().features)
        assert len(list((tmp_path / "things" / "models").iterdir())) == 1


def test_a_language_model_competes(database: Database) -> None:
    endpoint = Endpoint()
    endpoint.answer = lambda body: (200, said(max(TOPICS, key=str(body["messages"][1]["content"]).split(
        "Texts without")[0].count)))
    try:
        database["things"].name_features(language_model=LanguageModel(endpoint.url, "small"))
    finally:
        endpoint.close()
    features = [f for f in database["things"].features(page_size=100).features if sum(f.histogram) >= 20]
    assert any(f.label_source == "model" and f.label in TOPICS for f in features)
    assert len(endpoint.asked) >= len(features)


def test_an_endpoint_that_fails_changes_nothing(database: Database) -> None:
    before = database["things"].features(page_size=100).features
    endpoint = Endpoint()
    endpoint.answer = lambda body: (401, b"no such key")
    try:
        with pytest.raises(FailedPreconditionError, match="no such key"):
            database["things"].name_features(language_model=LanguageModel(endpoint.url, "small"))
    finally:
        endpoint.close()
    assert database["things"].features(page_size=100).features == before


def test_what_cannot_be_named(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UnknownFieldError):
        database["things"].name_features("nothing")
    with pytest.raises(InvalidQueryError):
        database["things"].name_features("vec")
    with sparsight.open(tmp_path) as other:
        few = other.create_collection("few", [DenseField("vec", dimension=16)])
        few.upsert(texts(70))
        few.train_sae("sae", source="vec", n_latents=24, k=2, epochs=2)
        few.delete([f"doc-{n}" for n in range(30)])
        few.compact()
        with pytest.raises(FailedPreconditionError, match="at least 64 passages"):
            few.name_features()


def test_a_crash_or_a_full_disk_leaves_the_old_names_or_the_new(tmp_path: Path) -> None:
    """Stopped before and after each thing that is written; `naming_faults.py` says how."""
    with sparsight.open(tmp_path / "data") as database:
        things = database.create_collection("things", [DenseField("vec", dimension=16)])
        things.upsert(texts(100))
        things.train_sae("sae", source="vec", n_latents=24, k=2, epochs=2)
        old = [feature.label for feature in things.features(page_size=1000).features]
    script = Path(__file__).with_name("naming_faults.py")
    ran = subprocess.run([sys.executable, str(script), str(tmp_path / "data")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    cases = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(cases) == 18 and {case["way"] for case in cases} == {"killed", "full"}
    for case in cases:
        new = [label.startswith("new ") for label in case["names"]]
        assert case["names"] == old or all(new), case
        assert case["sound"] and len(case["folders"]) == 1, case  # nothing half-made is left
        assert all(label.startswith("again ") for label in case["again"]) and len(case["again"]) == len(old)
        if case["way"] == "full":  # the error says so, and there are no new names after it
            assert "the disk is full" in case["error"] and not any(new), case
        else:
            assert all(new) == (case["place"] == "run" and not case["before"]), case  # from the commit on
