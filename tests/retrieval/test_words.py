"""Words of a passage that fired a feature, with an encoder of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.loading import load_encoder
from sparsight.errors import FailedPreconditionError, InvalidArgumentError, UnknownDocumentError, UnknownFeatureError
from sparsight.retrieval import Collection
from sparsight.service.notebook import Explorer
from sparsight.types import DenseField
from tests.encoders.conftest import dense_folder, make_model  # noqa: F401 - fixtures


def test_words_are_of_the_passage_that_was_encoded(dense_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("dense", str(dense_folder))])
        animals = ("cat", "dog", "mat", "house", "old")
        things.upsert([{"id": str(n), "title": f"The {animals[n % 5]}",
                        "text": f"The {animals[n % 5]} sat on the {animals[(n // 5) % 5]}, and the dog ran."}
                       for n in range(70)])  # fmt: skip
        things.train_sae("sae", n_latents=32, k=4, epochs=5)
        features = [item.index for item in things.features().features[:3]]
        told = things.words("7", features, count=4)
        assert [item.feature.index for item in told] == features
        assert {item.text for item in told} == {"The mat The mat sat on the dog, and the dog ran."}
        assert {item.begins for item in told} == {len("The mat ")}
        for item in told:
            assert all(item.text[each.start:each.end] == each.word for each in item.words)
            shares = [each.share for each in item.words]
            assert len(shares) <= 4 and shares == sorted(shares, reverse=True) and all(share > 0 for share in shares)
        vector = np.asarray(things.get("7", include=["vectors"]).vectors["dense"])
        sae = things._generation().derived["sae"].sae  # type: ignore[attr-defined]
        expected = sae.W_dec[features] @ (vector - sae.b_dec)
        assert [item.total for item in told] == pytest.approx(expected.tolist(), abs=1e-5)
        for wrong, error, place in (
                ({"id": "no"}, UnknownDocumentError, "id"), ({"features": [32]}, UnknownFeatureError, "features[0]"),
                ({"features": []}, InvalidArgumentError, "features"), ({"passage": 1}, InvalidArgumentError, "passage"),
                ({"count": 0}, InvalidArgumentError, "count")):  # fmt: skip
            with pytest.raises(error) as caught:
                things.words(**({"id": "7", "features": [1]} | wrong))  # type: ignore[arg-type]
            assert caught.value.field == place


def test_texts_are_compared_by_features(dense_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("dense", str(dense_folder))])
        animals = ("cat", "dog", "mat", "house", "old")
        things.upsert([{"id": str(n), "text": f"The {animals[n % 5]} sat on {animals[n // 5 % 5]}."}
                       for n in range(70)])
        things.train_sae("sae", n_latents=32, k=4, epochs=5)
        seven = things.get("7").text
        assert things.compare(a_text=seven, b="8") == things.compare("7", "8")
        alone = things.compare(a_text=seven)
        assert 1 <= len(alone) <= 4 and all(item.a > 0 == item.b for item in alone)
        assert [item.a for item in alone] == sorted((item.a for item in alone), reverse=True)
        assert [(item.feature, item.b) for item in things.compare(b="7")] == [(item.feature, item.a) for item in alone]
        explorer = sparsight.explore(things)
        assert list(explorer.about(seven)) == list(alone)
        assert list(explorer.compare(seven, "The old house", texts=True)) == list(
            things.compare(a_text=seven, b_text="The old house", count=20))
        _described(things, explorer, dense_folder)
        for wrong, place in (({}, "a"), ({"a": "7", "a_text": "old"}, "a_text"),
                             ({"b": "7", "b_text": "old"}, "b_text")):
            with pytest.raises(InvalidArgumentError) as caught:
                things.compare(**wrong)
            assert caught.value.field == place


def _described(things: Collection, explorer: Explorer, folder: Path) -> None:
    """Words lead to features: each with its cosine, and together as a step towards them."""
    page = things.features("The old house")
    own = {item.feature.index for item in things.compare(a_text="The old house")}
    assert own <= {feature.index for feature in page.features} and len(page.cosines) == len(page.features)
    sae = things._generation().derived["sae"].sae  # type: ignore[attr-defined]
    way = load_encoder(str(folder)).encode(["The old house"], mode="query")[0] - sae.b_dec
    rows = sae.W_dec[[feature.index for feature in page.features]]
    assert page.cosines == pytest.approx(rows @ way / np.linalg.norm(way), abs=1e-6)
    assert things.features().cosines == ()
    assert [number for _, number in explorer.features("The old house").entries] == list(page.cosines)[:20]
    alone = things.find_features(words="The old house")
    assert alone and all(item.weight > 0 == item.share for item in alone)
    before, after = (things.search("The dog", retrievers=["dense"], k=70, edits=edits, min_score=-9)
                     for edits in ((), [item.edit(0.5) for item in alone]))
    assert sum("old" in things.get(id).text for id in after.ids[:10]) > sum(
        "old" in things.get(id).text for id in before.ids[:10])
    assert list(explorer.like(["7"], words="The old house", count=3)) == list(
        things.find_features(["7"], words="The old house", count=3)) != list(things.find_features(["7"], count=3))
    with pytest.raises(InvalidArgumentError, match="or words; got neither"):
        things.find_features(words="  ")
    with pytest.raises(InvalidArgumentError) as caught:
        things.find_features(words="\ud800")
    assert caught.value.field == "words"


def test_ready_vectors_have_no_words(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("dense", dimension=8)])
        x = np.random.default_rng(0).standard_normal((70, 8)).astype(np.float32)
        things.upsert([{"id": str(n), "text": "a", "vectors": {"dense": x[n]}} for n in range(70)])
        things.train_sae("sae", n_latents=32, k=4, epochs=2)
        with pytest.raises(FailedPreconditionError, match="ready vectors"):
            things.words("7", [1])
