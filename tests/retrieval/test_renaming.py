from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.errors import InvalidArgumentError, ReadOnlyError, UnknownFeatureError
from sparsight.types import DenseField, Edit, Query, Retriever
from tests.retrieval.conftest import documents


def test_a_feature_is_renamed_for_good_and_everywhere(tmp_path: Path) -> None:
    dense = np.asarray(documents(1)[0].vectors["vec"])
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=16)])
        things.upsert([{"id": d.id, "text": d.text, "vectors": {"vec": d.vectors["vec"]}} for d in documents(120)])
        things.train_sae("sae", source="vec", n_latents=32, k=4, epochs=5)
        hit = things.search(Query(retrievers=[Retriever("vec", dense=dense)], explain=True))[0]
        feature = things.feature(hit.explanation.retrievers[0].contributions[0].index)  # type: ignore[union-attr]
        assert feature.history == ()
        renamed = things.rename_feature(feature.index, "okapi")
        assert (renamed.label, renamed.history) == ("okapi", (feature.label,))
        assert things.rename_feature(feature.index, "quagga, zebra").history == (feature.label, "okapi")
    with sparsight.open(tmp_path) as database, sparsight.open(tmp_path, read_only=True) as follower:
        things = database["things"]
        assert [item.index for item in things.features("quagga").features] == [feature.index]
        assert things.features("okapi").features == ()
        edits = [Edit(feature.index, "boost", 1.0)]
        for field in ("vec", "sae"):
            hit = things.search(Query(retrievers=[Retriever(field, dense=dense)], edits=edits, explain=True))[0]
            parts = hit.explanation.retrievers[0].contributions  # type: ignore[union-attr]
            moved = hit.explanation.movement.by_feature  # type: ignore[union-attr]
            assert {item.label for item in (*parts, *moved) if item.index == feature.index} == {"quagga, zebra"}
        assert follower["things"].feature(feature.index).label == "quagga, zebra"
        with pytest.raises(ReadOnlyError):
            follower["things"].rename_feature(feature.index, "x")
        back = things.rename_feature(feature.index, "")
        assert back.label == feature.label and back.history[-1] == "quagga, zebra"
        assert things.verify().ok
        things.rename_feature(3, "gone with the dictionary")
        things.train_sae("sae", source="vec", n_latents=32, k=4, epochs=5, seed=1)
        assert things.feature(3).history == () and things.feature(3).label != "gone with the dictionary"
        for label in ("x" * 201, " a", "a\nb", 7):
            with pytest.raises(InvalidArgumentError) as wrong:
                things.rename_feature(3, label)  # type: ignore[arg-type]
            assert wrong.value.field == "label"
        with pytest.raises(UnknownFeatureError):
            things.rename_feature(32, "x")
