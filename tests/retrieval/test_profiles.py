from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.errors import (
    IncompatibleModelError,
    InvalidArgumentError,
    InvalidQueryError,
    UnknownFeatureError,
    UnknownProfileError,
)
from sparsight.retrieval import Collection
from sparsight.types import DenseField, Edit, Query, Retriever, SearchResult
from tests.retrieval.conftest import documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profiles")
    with sparsight.open(path) as database:
        made = database.create_collection("things", [DenseField("vec", dimension=16)])
        made.upsert([{"id": d.id, "text": d.text, "vectors": {"vec": d.vectors["vec"]}} for d in documents(120)])
        made.train_sae("sae", source="vec", n_latents=32, k=4, epochs=5)
    return path


def _search(things: Collection, *edits: Edit, profile: str = "") -> list[tuple[str, float]]:
    dense = np.asarray(documents(1)[0].vectors["vec"])
    found: SearchResult = things.search(
        Query(retrievers=[Retriever("vec", dense=dense)], edits=edits, profile=profile, k=50))
    return [(hit.id, hit.score) for hit in found]


def test_a_profile_is_its_edits_and_survives_a_new_opening(folder: Path) -> None:
    first, second = Edit(3, "boost", 2.0), Edit(5, "suppress", 1.0, when=3)
    with sparsight.open(folder) as database:
        things = database["things"]
        plain, expected = _search(things), _search(things, first, second)
        assert plain != expected
        saved = things.save_profile("market", [first, second], note="up with markets")
        assert (saved.name, saved.version, saved.note) == ("market", 1, "up with markets") and saved.created > 1e9
        assert [edit.field for edit in saved.edits] == ["sae", "sae"]
        assert _search(things, profile="market") == expected
    with sparsight.open(folder) as database:
        things = database["things"]
        assert things.profile("market") == saved and things.profiles() == [saved]
        assert _search(things, profile="market@1") == expected
        assert things.save_profile("market", [first]).version == 2
        assert _search(things, profile="market") == _search(things, first)
        assert _search(things, profile="market@1") == expected
        assert _search(things, second, profile="market@2") == _search(things, first, second)  # its edits come first
        assert things.verify().ok
        things.drop_profile("market")
        assert things.profiles() == [] and _search(things) == plain


def test_what_is_wrong_is_named(folder: Path) -> None:
    with sparsight.open(folder) as database:
        things = database["things"]
        for name in ("", "Big", "a b", "../up", 7, "x" * 64):
            with pytest.raises(InvalidArgumentError) as caught:
                things.save_profile(name, [Edit(1)])  # type: ignore[arg-type]
            assert caught.value.field == "name"
        with pytest.raises(InvalidArgumentError, match="at least one edit"):
            things.save_profile("empty", [])
        with pytest.raises(UnknownFeatureError) as unknown:
            things.save_profile("far", [Edit(1), Edit(32)])
        assert unknown.value.field == "edits[1].feature"
        with pytest.raises(InvalidQueryError):
            things.save_profile("odd", [Edit(1, "require", -1.0)])
        assert things.profiles() == []
        for use, error in (("none", UnknownProfileError), ("Not a name", InvalidArgumentError),
                           ("name@0", InvalidArgumentError)):  # fmt: skip
            with pytest.raises(error) as wrong:
                _search(things, profile=use)
            assert wrong.value.field == "profile"
        things.save_profile("one", [Edit(1)])
        with pytest.raises(UnknownFeatureError) as own:
            _search(things, Edit(99), profile="one")
        assert own.value.field == "edits[0].feature"
        with pytest.raises(UnknownProfileError, match="versions 1 to 1"):
            _search(things, profile="one@2")
        with pytest.raises(UnknownProfileError, match="there are: one"):
            things.drop_profile("two")
        things.drop_profile("one")


def test_a_profile_of_another_dictionary_is_refused(folder: Path) -> None:
    with sparsight.open(folder) as database:
        things = database["things"]
        things.save_profile("old", [Edit(1)])
        things.train_sae("sae", source="vec", n_latents=32, k=4, epochs=5, seed=1)
        with pytest.raises(IncompatibleModelError, match="save the profile anew"):
            _search(things, profile="old")
        assert things.save_profile("old", [Edit(1)]).version == 2
        assert _search(things, profile="old") == _search(things, Edit(1))


def test_followers_see_profiles(folder: Path) -> None:
    with sparsight.open(folder) as database, sparsight.open(folder, read_only=True) as other:
        follower = other["things"]
        database["things"].save_profile("shared", [Edit(2, "boost", 1.5)])
        assert _search(follower, profile="shared") == _search(database["things"], profile="shared")
        assert follower.profile("shared").edits[0].feature == 2
