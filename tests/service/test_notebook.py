"""Steering step by step, embedded and over gRPC alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import sparsight
from sparsight.errors import InvalidArgumentError, UnknownFeatureError
from sparsight.retrieval import Database
from sparsight.service.client import Client
from sparsight.service.notebook import Explorer, QueryOptions
from sparsight.service.server import ServerThread
from sparsight.service.tables import Table, arrow_of
from sparsight.service.views import View
from sparsight.types import BM25Field, DenseField, Document, Edit, Feature, FeatureFamily, Query, Retriever

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
        things = opened.create_collection("things", [DenseField("vec", dimension=16), BM25Field("bm25")])
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
        assert view.why(which).total == pytest.approx(view.result[0].score, abs=1e-5)
    short = view.why(0, count=1)
    assert short.total == pytest.approx(view.result[0].score, abs=1e-5) and short[0].index >= 0
    assert [name.split(": ")[1] for name, _ in short.entries][1:] == ["3 smaller ones", "what no feature carries"]
    steered = view.steer(short[0].index, -2.0)
    assert steered.why(0).total == pytest.approx(steered.result[0].score, abs=1e-5)
    for wrong in (8, -1, "no such"):
        with pytest.raises(InvalidArgumentError, match="8 hits"):
            view.why(wrong)
    with pytest.raises(InvalidArgumentError, match="explain=True"):
        view.explorer.search(view.query, explain=False).why(0)


def test_what_moved_adds_up(view: View) -> None:
    steered = view.steer(view.why(0)[0].index, -2.0).steer(3, 1.0)
    for hit in steered.result:
        told, moved = steered.moved(hit), hit.explanation.movement
        assert told.total == pytest.approx(moved.score_after - moved.score_before, abs=1e-5)
        assert f"rank {moved.rank_before} to {hit.rank}" in told.heading and len(told) == len(moved.by_feature) == 2
    with pytest.raises(InvalidArgumentError, match="no edit was done"):
        view.moved(0)


def test_scores_of_several_fields_are_told_by_their_shares(things: Explorer, view: View) -> None:
    both = things.search(replace(view.query, text="galaxy", retrievers=[*view.query.retrievers, "bm25"]))
    told = both.why(0)
    assert [name for name, _ in told.entries] == ["vec", "bm25"]
    assert told.total == pytest.approx(both.result[0].score, abs=1e-5)
    for part in told:
        assert both.why(0, part.field).total == pytest.approx(part.score, abs=1e-5)
    with pytest.raises(InvalidArgumentError, match="did not search 'sae'"):
        both.why(0, "sae")
    moved = both.steer(view.why(0)[0].index, 1.0).moved(0)
    assert [name.split()[0] for name, _ in moved.entries] == [str(view.why(0)[0].index)]  # of fused scores no rest


def test_related_features(things: Explorer) -> None:
    related = things.related(3, 4)
    values = [value for _, value in related.entries]
    assert len(related) == 8 and values == [item.weight for item in related] and values[0] > 0 > values[-1]
    with pytest.raises(InvalidArgumentError, match="found from examples"):
        related.edits()


def test_families_are_trees() -> None:
    family = FeatureFamily(Feature(1, "music"), (Feature(2, "piano"), Feature(4, "song"), Feature(3, "keys")),
                           above=(1, 1, 2), strength=(0.9, 0.7, 0.8))
    asked = []

    def families(index: int, *, field: str, count: int) -> tuple[FeatureFamily, ...]:
        asked.append((index, field, count))
        return (family,)

    table = Explorer(SimpleNamespace(families=families)).families(family.parent, count=2)
    assert asked == [(1, "sae", 2)] and [feature.index for feature in table] == [1, 2, 3, 4]
    assert table.entries == [("1 music", 1.0), ("    2 piano", 0.9), ("        3 keys", 0.8), ("    4 song", 0.7)]


def test_families_of_any_collection(things: Explorer) -> None:
    assert isinstance(things.families(), Table) and isinstance(things.families(3), Table)  # here there are none


def test_a_view_is_kept_as_a_profile(things: Explorer, view: View) -> None:
    collection = things.collection
    steered = view.steer(3, 1.0).steer(5, -1.0)
    first = steered.save_profile("kept", note="why")
    again = things.search(view.query, profile="kept")
    assert again.result.ids == steered.result.ids and "profile kept" in repr(again)
    more = again.steer(7, 0.5).save_profile("kept")
    assert [edit.feature for edit in more.edits] == [3, 5, 7] and more.version == first.version + 1
    old = things.search(view.query, profile=f"kept@{first.version}").save_profile("older")
    assert old.edits == first.edits and not again.unsteered().query.profile
    collection.drop_profile("kept")
    collection.drop_profile("older")


def test_a_feature_called_something_else(things: Explorer, view: View) -> None:
    steered = view.steer(3, 1.0)
    before = repr(steered)
    assert things.rename(3, "my own words").label == "my own words"
    assert "boost 3 my own words +1" in repr(steered)
    things.rename(3, "")
    assert repr(steered) == before


def test_options_are_those_of_a_query() -> None:
    assert set(QueryOptions.__annotations__) == {item.name for item in fields(Query)} - {"text"}


def test_comparison(things: Explorer) -> None:
    told = things.compare("doc-0", "doc-1", count=5)
    assert len(told) <= 5 and [value for _, value in told.entries] == [item.a - item.b for item in told.of]
    with pytest.raises(InvalidArgumentError, match="found from examples"):
        told.edits()


def test_what_is_shown(things: Explorer, view: View) -> None:
    steered = view.steer(things.features().of[0], 2.0)
    text, page = repr(steered), steered._repr_html_()
    assert text.count("\n") == 10 and "boost" in text and " was " in text and "doc-0 " in text
    assert " was " not in repr(view)
    many = view.edited([Edit(feature, "boost", 0.1) for feature in range(20)])
    assert "and 12 more edits" in repr(many) and repr(many).count("boost") == 8
    assert "&lt;" in page and "<galaxy>" not in page and page.count("<tr>") == 9  # titles are text
    for table in (things.features(), things.like(["doc-0"]), steered.why(0), things.families()):
        assert len(repr(table).splitlines()) == len(table) + 1 and table._repr_html_().count("<tr>") == len(table)
    assert repr(things).startswith("<Explorer of")


def test_edits_are_told(view: View) -> None:
    clamped = view.steer(3, 0.5, "clamp", when=4).exclude(5).require(6, 0.1).edited([Edit(3, when=4, when_strength=2)])
    told = [line.split() for line in repr(clamped).splitlines()[1:5]]
    assert [line[:2] for line in told] == [["clamp", "3"], ["exclude", "5"], ["require", "6"], ["boost", "3"]]
    assert "0.5 when 4" in " ".join(told[0]) and told[2][-1] == "0.1" and "+1 when 4" in " ".join(told[3])
    assert told[3][-1] == "2" and "0" not in told[1]


def test_bars_are_text_in_a_page_too() -> None:
    table = Table("of", [("  <b>", 2.0), ("c", -1.0), ("d", 0.0)], "unit")
    page = table._repr_html_()
    assert page.count("█") == 24 and page.count("░") == 12 and "&nbsp;&nbsp;&lt;b&gt;" in page
    assert repr(table).splitlines()[0] == "unit" and table.total == 1.0
    assert repr(Table("of", [], "unit")) == "unit"


def test_out_of_the_notebook(view: View, tmp_path: Path) -> None:
    table = view.to_arrow()
    assert table.num_rows == 8 and table.column("id").to_pylist() == view.result.ids
    assert {"rank", "id", "title", "score", "topic"} == set(table.column_names)
    steered = view.steer(3, 1.0).to_arrow()
    assert {"rank_before", "score_before"} <= set(steered.column_names)
    parts = view.why(0).to_arrow()
    assert parts.num_rows == len(view.why(0)) and parts.column("part").to_pylist()[0].startswith("vec: ")
    indices = parts.column("index").to_pylist()
    assert indices[0] == view.why(0)[0].index and indices[-1] is None
    features = view.explorer.features(count=3)
    assert features.to_arrow().to_pylist() == [
        {"index": feature.index, "feature": name, "share of passages": value}
        for feature, (name, value) in zip(features, features.entries, strict=True)]


def test_a_column_that_the_first_row_has_not() -> None:
    table = arrow_of([{"a": 1}, {"a": 2, "b": "x"}])
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert isinstance(arrow_of([]), pa.Table)
