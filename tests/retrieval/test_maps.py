from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import InvalidQueryError, UnknownFieldError
from sparsight.retrieval import Collection, maps
from sparsight.types import BM25Field, DenseField, MapPoint, SAEField

D = 24
GROUPS = (range(6), range(6, 14), range(14, 20))  # features that fire together; the last four never fire


def _rows(count: int, seed: int) -> np.ndarray:
    """Rows along two axes of one group."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, D), np.float32)
    for row in x:
        row[rng.choice(GROUPS[rng.integers(3)], 2, replace=False)] = 0.8, 0.6
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps")
    eye = np.eye(D, dtype=np.float32)
    plain = SAE(2, eye, np.zeros(D, np.float32), eye, np.full(D, 1e-3, np.float32), document_mode="pursuit")
    kinds = [next((kind for kind, group in zip(("red", "blue", "old"), GROUPS, strict=True) if i in group), "none")
             for i in range(D)]
    labels = [f"thing, {kind}, number {i}" for i, kind in enumerate(kinds)]
    describe_latents(plain, _rows(900, 0)).with_names(labels).save(path / "sae")
    with sparsight.open(path / "data") as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D), BM25Field(),
                                                       SAEField(source="vec", model=str(path / "sae"))])
        things.upsert([{"id": str(n), "text": "x", "vectors": {"vec": x}} for n, x in enumerate(_rows(600, 1))])
        database.create_collection("empty", [DenseField("vec", dimension=D),
                                             SAEField(source="vec", model=str(path / "sae"))])
    return path / "data"


@pytest.fixture
def things(folder: Path) -> Collection:
    with sparsight.open(folder, read_only=True) as database:
        yield database["things"]


def test_planted_lobes_are_found_and_named(things: Collection) -> None:
    found = things.feature_map()
    assert found.field == "sae" and found == things.feature_map(field="sae")
    assert [point.index for point in found.points] == list(range(20))  # not those that never fired
    assert [lobe.size for lobe in found.lobes] == [8, 6, 6]
    groups = [{point.index for point in found.points if point.lobe == lobe} for lobe in range(3)]
    assert sorted(map(min, groups)) == [0, 6, 14] and all(group in map(set, GROUPS) for group in groups)
    kinds = {0: "red", 6: "blue", 14: "old"}
    # "thing" is in every label, so it tells nothing of one lobe.
    assert [lobe.label.split(", ")[0] for lobe in found.lobes] == [kinds[min(group)] for group in groups]
    assert all("thing" not in lobe.label for lobe in found.lobes)


def test_points_say_what_their_features_do(things: Collection) -> None:
    point = things.feature_map().points[7]
    feature = things.feature(7)
    assert point == MapPoint(7, point.x, point.y, 0, feature.label, feature.density)
    places = np.array([(point.x, point.y) for point in things.feature_map().points])
    assert np.abs(places).max() == 1.0 and np.abs(places.mean(0)).max() < 1e-6
    assert len({tuple(place) for place in places.tolist()}) == 20


def test_a_new_name_is_on_the_map_and_nothing_is_drawn_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sparsight.open(folder) as database:
        things = database["things"]
        before = things.feature_map()
        monkeypatch.setattr(maps.MapCache, "_draw", lambda *_: pytest.fail("drawn again"))
        things.rename_feature(3, "a better name")
        after = things.feature_map()
        assert after.points[3].label == "a better name"
        assert [(p.x, p.y, p.lobe) for p in after.points] == [(p.x, p.y, p.lobe) for p in before.points]
        things.rename_feature(3, "")
        assert things.feature_map() == before


def test_a_changed_collection_is_drawn_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sparsight.open(folder) as database:
        empty = database["empty"]
        found = empty.feature_map()  # places need no documents, lobes do
        assert len(found.points) == 20 and found.lobes == () and {point.lobe for point in found.points} == {-1}
        monkeypatch.setattr("sparsight.encoders.sae.layout.layout", lambda *_, **__: pytest.fail("placed again"))
        empty.upsert([{"id": str(n), "vectors": {"vec": x}} for n, x in enumerate(_rows(300, 2))])
        assert [lobe.size for lobe in empty.feature_map().lobes] == [8, 6, 6]
        assert [(p.x, p.y) for p in empty.feature_map().points] == [(p.x, p.y) for p in found.points]
        empty.delete(map(str, range(300)))


def test_only_the_most_frequent_are_on_a_map(things: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_FEATURES", 5)
    found = things.feature_map()
    frequent = things.features(page_size=5).features
    assert [point.index for point in found.points] == sorted(feature.index for feature in frequent)


def test_what_is_wrong_is_named(things: Collection) -> None:
    with pytest.raises(UnknownFieldError) as unknown:
        things.feature_map(field="nope")
    assert unknown.value.field == "field"
    with pytest.raises(InvalidQueryError, match="no features") as wrong:
        things.feature_map(field="bm25")
    assert wrong.value.field == "field"
