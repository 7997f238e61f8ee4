"""Steering step by step, embedded and over gRPC alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.errors import InvalidArgumentError, UnknownFeatureError
from sparsight.retrieval import Database
from sparsight.service.client import Client
from sparsight.service.notebook import Explorer, View
from sparsight.service.server import ServerThread
from sparsight.types import DenseField, Document, Edit, Query, Retriever

TOPICS = ("galaxy", "neuron", "lattice", "market", "protein")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((len(TOPICS), 16))
    made = []
    for n in range(150):
        x = directions[n % 5] + 0.4 * rng.standard_normal(16)
        topic, unit = TOPICS[n % 5], (x / np.linalg.norm(x)).astype(np.float32)
        made.append(Document(f"doc-{n}", title=f"On the <{topic}>", text=f"A study of {topic} number {n}.",
                             metadata={"topic": topic}, vectors={"vec": unit}))
    with sparsight.open(tmp_path_factory.mktemp("notebook")) as opened:
        things = opened.create_collection("things", [DenseField("vec", dimension=16)])
        things.upsert(made)
        things.train_sae("sae", source="vec", n_latents=48, k=4, epochs=20)
        yield opened


@pytest.fixture(scope="module", params=["embedded", "server"])
def things(request: pytest.FixtureRequest, database: Database) -> Iterator[Explorer]:
    if request.param == "embedded":
        yield sparsight.explore(database["things"], k=8)
        return
    with ServerThread(database) as server, Client(server.target) as client:
        client.wait_ready(10)
        yield sparsight.explore(client["things"], k=8)


@pytest.fixture
def view(things: Explorer) -> View:
    vector = things.collection.get("doc-0", include=["vectors"]).vectors["vec"]
    return things.search(Query("about galaxies", [Retriever("vec", dense=vector)]))


def test_steering_makes_another_view(things: Explorer, view: View) -> None:
    market = things.like(["doc-3", "doc-8", "doc-13"], ["doc-0", "doc-5"], count=6)
    before = view.result.ids
    steered = view.edited(market.edits(2.0))
    assert {hit.metadata["topic"] for hit in steered.result} == {"market"} and view.result.ids == before
    assert steered.unsteered().result.ids == before
    few = things.search(view.query, k=3)
    assert len(few.steer(market[0].feature).result) == len(few.unsteered().result) == 3  # as it was asked for
    one = view.steer(market[0].feature.index, 3.0)
    assert one.result.ids == view.steer(market[0].feature, 3.0).result.ids != before
    assert [edit.op for edit in one.exclude(market[1].feature).query.edits] == ["boost", "exclude"]
    without, only = (set(of.result.ids) for of in (view.exclude(market[0].feature), view.require(market[0].feature)))
    assert only and not only & without


def test_features_by_words(things: Explorer, view: View) -> None:
    labelled = next(item for item in things.features("", 48).of if item.label)
    word = labelled.label.split(",")[0]
    assert things.feature(word).label == things.features(word).of[0].label
    assert view.steer(word, 1.0).query.edits[0].feature == things.feature(word).index
    with pytest.raises(UnknownFeatureError, match="no feature matches"):
        view.steer("zzzzqqq")


def test_why_adds_up(view: View) -> None:
    for which in (0, view.result[0].id, view.result[0]):
        told = view.why(which)
        assert sum(value for _, value in told.entries) == pytest.approx(view.result[0].score, abs=1e-5)
    steered = view.steer(view.result[0].explanation.retrievers[0].contributions[0].index, -2.0)
    assert any(name.startswith("moved by") for name, _ in steered.why(0).entries)
    for wrong in (8, -1, "no such"):
        with pytest.raises(InvalidArgumentError, match="8 hits"):
            view.why(wrong)
    with pytest.raises(InvalidArgumentError, match="explain=True"):
        view.explorer.search(view.query, explain=False).why(0)


def test_comparison(things: Explorer) -> None:
    told = things.compare("doc-0", "doc-1", count=5)
    assert len(told) <= 5 and [value for _, value in told.entries] == [item.a - item.b for item in told.of]
    with pytest.raises(InvalidArgumentError, match="found from examples"):
        told.edits()


def test_what_is_shown(things: Explorer, view: View) -> None:
    steered = view.steer(things.features().of[0], 2.0)
    text, page = repr(steered), steered._repr_html_()
    assert text.count("\n") == 9 and "boost" in text and "was " in text
    many = view.edited([Edit(feature, "boost", 0.1) for feature in range(20)])
    assert "and 12 more edits" in repr(many) and repr(many).count("boost") == 8
    assert "&lt;" in page and "<galaxy>" not in page and page.count("<tr>") == 8  # titles are text
    for table in (things.features(), things.like(["doc-0"]), steered.why(0)):
        assert len(repr(table).splitlines()) == len(table) + 1 and table._repr_html_().count("<tr>") == len(table)
    assert repr(things).startswith("<Explorer of")


def test_out_of_the_notebook(view: View, tmp_path: Path) -> None:
    table = view.to_arrow()
    assert table.num_rows == 8 and table.column("id").to_pylist() == view.result.ids
    assert {"rank", "id", "title", "score", "topic"} == set(table.column_names)
    steered = view.steer(3, 1.0).to_arrow()
    assert {"rank_before", "score_before"} <= set(steered.column_names)
    parts = view.why(0).to_arrow()
    assert parts.num_rows == len(view.why(0)) and parts.column("part").to_pylist()[0].startswith("vec: ")
