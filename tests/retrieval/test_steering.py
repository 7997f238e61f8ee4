from __future__ import annotations

import numpy as np
import pytest

from sparsight.errors import InvalidQueryError, UnknownFeatureError
from sparsight.retrieval import Collection
from sparsight.types import Edit, Overlap, Query, Retriever, SearchResult, SparseVector


def _query(dense: np.ndarray, *edits: Edit, field: str = "vec", **options: object) -> Query:
    return Query(retrievers=[Retriever(field, dense=dense)], edits=edits, **{"k": 50, **options})  # type: ignore[arg-type]


def _feature_for(things: Collection, topic: str) -> int:
    """The most frequent feature that fires on at least 8 in 10 documents of a topic's top examples."""
    codes = _codes(things)
    topics = {d.id: d.metadata["topic"] for d in things.scroll(page_size=1000).documents}
    scores = {}
    for feature in range(64):
        weights = {id: code.get(feature, 0.0) for id, code in codes.items()}
        total = sum(weights.values())
        if total > 0:
            scores[feature] = sum(w for id, w in weights.items() if topics[id] == topic) * abs(
                sum(w for id, w in weights.items() if topics[id] == topic) / total
            )
    return max(scores, key=lambda f: scores[f])


def _codes(things: Collection) -> dict[str, dict[int, float]]:
    """What the index holds for every document in the SAE field."""
    vector = np.zeros(16, np.float32)
    vector[0] = 1
    result = things.search(Query(retrievers=[Retriever("vec", dense=vector)], k=1000, include=["vectors"]))
    assert len(result) == things.count()
    return {hit.id: hit.vectors["sae"].to_dict() for hit in result}  # type: ignore[union-attr]


def _numbers(result: SearchResult) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in result]


@pytest.mark.parametrize("field", ["vec", "sae"])
def test_no_edit_and_strength_0_change_nothing_bit_for_bit(
    things: Collection, dense_of: np.ndarray, field: str
) -> None:
    plain = _numbers(things.search(_query(dense_of, field=field)))
    for edits in (
        [Edit(3, "boost", 0.0)],
        [Edit(3, "suppress", 0.0)],
        [Edit(3, "boost", 1.5), Edit(3, "suppress", 1.5)],
    ):
        assert _numbers(things.search(_query(dense_of, *edits, field=field))) == plain


@pytest.mark.parametrize("field", ["vec", "sae"])
def test_a_boost_brings_the_features_documents_up(things: Collection, dense_of: np.ndarray, field: str) -> None:
    feature = _feature_for(things, "market")
    before = things.search(_query(dense_of, field=field))
    after = things.search(_query(dense_of, Edit(feature, "boost", 3.0), field=field))
    share = [np.mean([hit.metadata["topic"] == "market" for hit in result.hits[:10]]) for result in (before, after)]
    assert share[1] >= share[0] + 0.5
    codes, galaxy = _codes(things), _feature_for(things, "galaxy")
    down = things.search(_query(dense_of, Edit(galaxy, "suppress", 3.0), field=field))
    level = [np.mean([codes[hit.id].get(galaxy, 0.0) for hit in result.hits[:10]]) for result in (before, down)]
    assert level[1] < level[0]


def test_the_dense_edit_is_the_documented_difference(things: Collection, dense_of: np.ndarray) -> None:
    """x' = x + strength * scale * w, checked through the scores of all documents."""
    feature = things.features(page_size=1).features[0]
    plain = dict(_numbers(things.search(_query(dense_of))))
    steered = dict(_numbers(things.search(_query(dense_of, Edit(feature.index, "boost", 2.0)))))
    twice = dict(_numbers(things.search(_query(dense_of, *[Edit(feature.index, "boost", 1.0)] * 2))))
    common = plain.keys() & steered.keys()
    assert len(common) > 5
    vectors = {id: np.asarray(things.get(id, include=["vectors"]).vectors["vec"], np.float64) for id in common}
    matrix = np.stack([vectors[id] for id in common])
    moved = np.array([steered[id] - plain[id] for id in common])
    direction, *_ = np.linalg.lstsq(matrix, moved, rcond=None)
    assert np.allclose(matrix @ direction, moved, atol=1e-5)
    if len(common) >= 16:
        assert np.linalg.norm(direction) == pytest.approx(2.0 * feature.scale, rel=1e-2)
    assert all(twice[id] == pytest.approx(steered[id], abs=1e-6) for id in twice.keys() & steered.keys())


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_require_and_exclude_split_the_collection_exactly(
    things: Collection, dense_of: np.ndarray, strength: float
) -> None:
    feature = _feature_for(things, "neuron")
    wanted = things.search(
        Query(retrievers=[Retriever("vec", dense=dense_of)], edits=[Edit(feature, "require", strength)], k=1000)
    )
    rest = things.search(
        Query(retrievers=[Retriever("vec", dense=dense_of)], edits=[Edit(feature, "exclude", strength)], k=1000)
    )
    assert set(wanted.ids) | set(rest.ids) == {d.id for d in things.scroll(page_size=1000).documents}
    assert not set(wanted.ids) & set(rest.ids)
    assert wanted.hits and rest.hits
    codes, scale = _codes(things), things.feature(feature).scale
    least = min(codes[id].get(feature, 0.0) for id in wanted.ids)
    most = max(codes[id].get(feature, 0.0) for id in rest.ids)
    assert least > 0 and most <= least
    assert least >= strength * scale * 0.98  # one impact level below at most
    plain = things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], k=1000)).ids
    assert wanted.ids == [id for id in plain if id in set(wanted.ids)]


@pytest.mark.parametrize("at_least", [1, 2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_an_overlap_keeps_documents_with_enough_of_the_features(
    things: Collection, dense_of: np.ndarray, at_least: int, strength: float
) -> None:
    codes = _codes(things)
    features = [feature.index for feature in things.features(page_size=24).features]
    scales = {feature: things.feature(feature).scale for feature in features}
    found = things.search(_query(dense_of, overlaps=[Overlap(features, at_least, strength)], k=1000))
    ids = set(found.ids)

    def held(code: dict[int, float], slack: float) -> int:
        return sum(code.get(f, 0.0) > max(0.0, strength * scales[f] * slack) for f in features)

    # Levels are of 8 bits: what is within 2 % of the border may fall on either side.
    assert ids >= {id for id, code in codes.items() if held(code, 1.02) >= at_least}
    assert ids <= {id for id, code in codes.items() if held(code, 0.98) >= at_least}
    if strength == 0.0:
        assert ids == {id for id, code in codes.items() if sum(f in code for f in features) >= at_least}
    assert len(ids) < 200
    assert ids or (strength, at_least) == (1.0, 3)  # three features at once in their strongest tenth
    plain = things.search(_query(dense_of, k=1000)).ids
    assert found.ids == [id for id in plain if id in ids]  # a mask within the search, not a cut after it


def test_overlaps_add_to_filters_and_edits(things: Collection, dense_of: np.ndarray) -> None:
    first, second, third = (feature.index for feature in things.features(page_size=3).features)
    either = set(things.search(_query(dense_of, overlaps=[Overlap((first, second))], k=1000)).ids)
    both = things.search(_query(dense_of, overlaps=[Overlap((first, second), 2)], k=1000)).ids
    required = [Edit(first, "require", 0.0), Edit(second, "require", 0.0)]
    assert both == things.search(_query(dense_of, *required, k=1000)).ids
    chosen = things.search(_query(
        dense_of, Edit(third, "exclude", 0.0), overlaps=[Overlap((first, second)), Overlap([first, third], 1)],
        filter="year < 2010", k=1000))  # fmt: skip
    codes, years = _codes(things), {d.id: d.metadata["year"] for d in things.scroll(page_size=1000).documents}
    assert set(chosen.ids) == {
        id for id in either if first in codes[id] and third not in codes[id] and years[id] < 2010
    } and chosen.hits  # fmt: skip


def test_an_overlap_alone_is_no_steering(things: Collection, dense_of: np.ndarray) -> None:
    """It filters before and after alike, so nothing has moved; beside an edit, ranks before are ranks within it."""
    feature = things.features(page_size=1).features[0].index
    overlaps = [Overlap([feature])]
    for hit in things.search(_query(dense_of, overlaps=overlaps, explain=True)):
        assert hit.explanation is not None and hit.explanation.movement is None
    plain = {hit.id: hit.rank for hit in things.search(_query(dense_of, overlaps=overlaps, k=1000))}
    steered = things.search(_query(dense_of, Edit(feature, "boost", 2.0), overlaps=overlaps, explain=True))
    assert [hit.explanation.movement.rank_before for hit in steered] == [plain[hit.id] for hit in steered]  # type: ignore[union-attr]


def test_movement_tells_rank_and_score_before_and_after(things: Collection, dense_of: np.ndarray) -> None:
    feature = _feature_for(things, "market")
    for field in ("vec", "sae"):
        plain = things.search(_query(dense_of, field=field))
        where = {hit.id: (hit.rank, hit.score) for hit in plain}
        steered = things.search(_query(dense_of, Edit(feature, "boost", 2.0), field=field, explain=True))
        for hit in steered:
            assert hit.explanation is not None and hit.explanation.movement is not None
            movement = hit.explanation.movement
            assert (movement.rank_after, movement.score_after) == (hit.rank, hit.score)
            if hit.id in where:
                assert movement.rank_before == where[hit.id][0]
                assert movement.score_before == pytest.approx(where[hit.id][1], abs=1e-6)
            if field == "vec":
                change = sum(part.score for part in movement.by_feature)
                assert movement.score_before + change == pytest.approx(movement.score_after, abs=1e-5)
                assert [part.index for part in movement.by_feature] == [feature]


def test_edits_add_to_a_ready_sparse_query(things: Collection) -> None:
    feature = _feature_for(things, "protein")
    scale = things.feature(feature).scale
    base = SparseVector.from_dict({feature: 0.25, (feature + 1) % 64: 0.5})
    edited = things.search(Query(retrievers=[Retriever("sae", sparse=base)], edits=[Edit(feature, "boost", 1.0)], k=20))
    direct = SparseVector.from_dict({feature: 0.25 + scale, (feature + 1) % 64: 0.5})
    plain = things.search(Query(retrievers=[Retriever("sae", sparse=direct)], k=20))
    assert edited.ids == plain.ids
    assert [h.score for h in edited] == pytest.approx([h.score for h in plain], rel=1e-4)


def test_set_0_removes_a_feature_of_the_query(things: Collection, dense_of: np.ndarray) -> None:
    code = _codes(things)["doc-0"]  # whose vector is the query
    feature = max(code, key=lambda latent: code[latent])
    plain = things.search(_query(dense_of))
    ablated = things.search(_query(dense_of, Edit(feature, "set", 0.0)))
    assert _numbers(ablated) != _numbers(plain)
    assert _numbers(
        things.search(_query(dense_of, Edit(feature, "boost", 5.0), Edit(feature, "set", 0.0)))
    ) == _numbers(ablated)


def test_edits_without_a_retriever_to_move_warn(things: Collection) -> None:
    result = things.search("galaxy", retrievers=["bm25"], edits=[Edit(1, "boost", 1.0)])
    assert "move nothing" in result.warnings[0]


@pytest.mark.parametrize(
    "edit, error, field",
    [
        (Edit(64), UnknownFeatureError, "edits[0].feature"),
        (Edit(-1), UnknownFeatureError, "edits[0].feature"),
        (Edit(1, "boost", float("nan")), InvalidQueryError, "edits[0].strength"),
        (Edit(1, "boost", 1e9), InvalidQueryError, "edits[0].strength"),
        (Edit(1, "require", -1.0), InvalidQueryError, "edits[0].strength"),
        (Edit(1, "turn"), InvalidQueryError, "edits[0].op"),  # type: ignore[arg-type]
        (Edit(1, field="bm25"), InvalidQueryError, "edits[0].field"),
    ],
)
def test_bad_edits_name_the_field(
    things: Collection, dense_of: np.ndarray, edit: Edit, error: type, field: str
) -> None:
    with pytest.raises(error) as caught:
        things.search(_query(dense_of, edit))
    assert caught.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "overlap, error, field",
    [
        (Overlap([]), InvalidQueryError, "overlaps[1].features"),
        (Overlap(range(64), 0), InvalidQueryError, "overlaps[1].at_least"),
        (Overlap([1, 2], 3), InvalidQueryError, "overlaps[1].at_least"),
        (Overlap([1, 2], True), InvalidQueryError, "overlaps[1].at_least"),
        (Overlap([0] * 257), InvalidQueryError, "overlaps[1].features"),
        (Overlap([1, 2, 1]), InvalidQueryError, "overlaps[1].features[2]"),
        (Overlap([1, 64]), UnknownFeatureError, "overlaps[1].features[1]"),
        (Overlap([1], 1, -1.0), InvalidQueryError, "overlaps[1].strength"),
        (Overlap([1], 1, float("inf")), InvalidQueryError, "overlaps[1].strength"),
        (Overlap([1], field="vec"), InvalidQueryError, "overlaps[1].field"),
        ([1, 2], InvalidQueryError, "overlaps[1]"),
    ],
)
def test_bad_overlaps_name_the_field(
    things: Collection, dense_of: np.ndarray, overlap: Overlap, error: type, field: str
) -> None:
    with pytest.raises(error) as caught:
        things.search(_query(dense_of, overlaps=[Overlap([3]), overlap]))
    assert caught.value.field == field  # type: ignore[attr-defined]


def test_features_are_found_by_their_words(things: Collection) -> None:
    page = things.features("galaxy")
    assert page.features and any("galaxy" in feature.label for feature in page.features[:2])
    every = things.features(page_size=5)
    assert len(every.features) == 5 and every.next_page_token
    second = things.features(page_size=5, page_token=every.next_page_token)
    assert not {f.index for f in every.features} & {f.index for f in second.features}
    assert [f.density for f in every.features] == sorted((f.density for f in every.features), reverse=True)


def _active(things: Collection, dense: np.ndarray) -> dict[int, float]:
    """The query's own activations, in units of each feature's own."""
    return {item.feature.index: item.a for item in things.compare("doc-0", "doc-1") if item.a > 0}


@pytest.mark.parametrize("field", ["vec", "sae"])
def test_a_clamp_is_a_set_where_it_binds_and_nothing_elsewhere(
    things: Collection, dense_of: np.ndarray, field: str
) -> None:
    plain = _numbers(things.search(_query(dense_of, field=field)))
    feature, strength = max(_active(things, dense_of).items(), key=lambda item: item[1])
    clamped = _numbers(things.search(_query(dense_of, Edit(feature, "clamp", strength / 2), field=field)))
    assert clamped == _numbers(things.search(_query(dense_of, Edit(feature, "set", strength / 2), field=field)))
    assert clamped != plain
    assert _numbers(things.search(_query(dense_of, Edit(feature, "clamp", strength * 2), field=field))) == plain
    after_a_boost = (Edit(feature, "boost", strength), Edit(feature, "clamp", strength / 2))
    assert _numbers(things.search(_query(dense_of, *after_a_boost, field=field))) == clamped


@pytest.mark.parametrize("field", ["vec", "sae"])
def test_a_condition_on_the_querys_own_features(things: Collection, dense_of: np.ndarray, field: str) -> None:
    plain = _numbers(things.search(_query(dense_of, field=field)))
    on, strength = max(_active(things, dense_of).items(), key=lambda item: item[1])
    off = next(f for f in range(64) if f not in _active(things, dense_of))
    target = _feature_for(things, "market")
    boosted = _numbers(things.search(_query(dense_of, Edit(target, "boost", 2.0), field=field)))
    assert boosted != plain
    for when, least, expected in ((on, 0.0, boosted), (on, 0.9 * strength, boosted), (on, 1.1 * strength, plain),
                                  (off, 0.0, plain)):  # fmt: skip
        edit = Edit(target, "boost", 2.0, when=when, when_strength=least)
        assert _numbers(things.search(_query(dense_of, edit, field=field))) == expected
    # The condition is on the query before all edits.
    opened = (Edit(off, "boost", 2.0), Edit(target, "boost", 2.0, when=off))
    assert _numbers(things.search(_query(dense_of, *opened, field=field))) == _numbers(
        things.search(_query(dense_of, opened[0], field=field)))


def test_an_unmet_condition_is_told_where_explanations_are(things: Collection, dense_of: np.ndarray) -> None:
    on, off = next(iter(_active(things, dense_of))), next(f for f in range(64) if f not in _active(things, dense_of))
    edit = Edit(7, "boost", 2.0, when=off)
    for field in ("vec", "sae"):
        told = things.search(_query(dense_of, edit, Edit(on, "boost", 0.5), field=field), explain=True)
        assert told.warnings == (f"boost of feature 7 was not done: the query has too little of {off}",)
        assert things.search(_query(dense_of, edit, field=field)).warnings == ()
        assert things.search(_query(dense_of, Edit(7, "boost", 2.0, when=on), field=field), explain=True).warnings == ()


def test_what_is_wrong_with_a_condition_is_named(things: Collection, dense_of: np.ndarray) -> None:
    for edit, place in ((Edit(1, "require", when=2), "edits[0].when"),
                        (Edit(1, "boost", when=2, when_strength=-1.0), "edits[0].when_strength"),
                        (Edit(1, "clamp", -1.0), "edits[0].strength")):  # fmt: skip
        with pytest.raises(InvalidQueryError) as caught:
            things.search(_query(dense_of, edit))
        assert caught.value.field == place
    with pytest.raises(UnknownFeatureError) as unknown:
        things.search(_query(dense_of, Edit(1, "boost", when=64)))
    assert unknown.value.field == "edits[0].when"


def test_features_of_a_dense_hit_are_its_stored_code(things: Collection, dense_of: np.ndarray) -> None:
    """They come from the index, which has them over a length and in float16; pursuit finds the same again."""
    from sparsight.retrieval.models import SAEModel

    model = things._generation().derived["sae"]
    assert isinstance(model, SAEModel) and model.sae.document_mode == "pursuit"
    for hit in things.search(_query(dense_of, k=5, explain=True)):
        (part,) = hit.explanation.retrievers  # type: ignore[union-attr]
        code = model.sae.document_codes(np.asarray(things.get(hit.id, include=["vectors"]).vectors["vec"])[None])
        found = {item.index: item.document_weight for item in part.contributions}
        assert found == pytest.approx(dict(zip(code.indices.tolist(), code.data.tolist(), strict=True)), rel=1e-2)
        assert sum(item.score for item in part.contributions) + part.rest == pytest.approx(hit.score, abs=1e-6)
