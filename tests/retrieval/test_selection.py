"""Selecting a part of a collection by seeds: against the scores of all documents, and the merge by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, InvalidQueryError, UnknownFieldError
from sparsight.retrieval import Collection, selection
from sparsight.retrieval.selection import merge_best, select
from sparsight.types import Query, Retriever, SearchResult

RANKINGS = st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5).map(float))), max_size=5)


@pytest.fixture(scope="module")
def seeds() -> list[np.ndarray]:
    made = np.random.default_rng(5).standard_normal((7, 16)).astype(np.float32)
    return list(made / np.linalg.norm(made, axis=1, keepdims=True))


def stored(things: Collection) -> tuple[list[str], np.ndarray]:
    """Ids and dense vectors of all documents."""
    documents = things.scroll(page_size=1000, include=["vectors"]).documents
    return [each.id for each in documents], np.stack([np.asarray(each.vectors["vec"]) for each in documents])


class TestMergeBest:
    def test_by_hand(self) -> None:
        first, second = [("a", 3.0), ("b", 2.0)], [("c", 2.5), ("b", 2.75), ("d", 0.5)]
        assert merge_best([first, second], 10) == [("a", 3.0), ("b", 2.75), ("c", 2.5), ("d", 0.5)]
        assert merge_best([first, second], 2) == [("a", 3.0), ("b", 2.75)]

    def test_of_equal_scores_the_first(self) -> None:
        assert merge_best([[("x", 1.0)], [("y", 1.0), ("x", 1.0)], [("w", 1.0)]], 2) == [("x", 1.0), ("y", 1.0)]

    def test_of_nothing(self) -> None:
        assert merge_best([], 3) == [] and merge_best([[], []], 3) == []

    @given(RANKINGS, st.integers(1, 10))
    def test_is_the_largest_score_of_each_item(self, rankings: list[list[tuple[int, float]]], count: int) -> None:
        flat = [pair for ranking in rankings for pair in ranking]
        found = merge_best(rankings, count)
        best = {item: max(score for other, score in flat if other == item) for item, _ in flat}
        assert len(found) == min(count, len(best)) == len(dict(found))
        assert all(best[item] == score for item, score in found)
        assert [score for _, score in found] == sorted(best.values(), reverse=True)[:count]

    @given(RANKINGS, st.integers(1, 10))
    def test_a_prefix_of_each_ranking_is_enough(self, rankings: list[list[tuple[int, float]]], count: int) -> None:
        whole = [merge_best([ranking], 99) for ranking in rankings]
        cut = [ranking[:count] for ranking in whole]
        assert [s for _, s in merge_best(cut, count)] == [s for _, s in merge_best(whole, count)]


class TestSelect:
    @pytest.mark.parametrize("count", [1, 30, 200, 10_000])
    def test_equals_the_best_product_with_any_seed(self, things: Collection, seeds: list[np.ndarray],
                                                   count: int) -> None:
        ids, vectors = stored(things)
        products = (vectors @ np.stack(seeds).T).max(1)
        order = np.argsort(-products)[:count]
        found = select(things, seeds, count, field="vec")
        assert [id for id, _ in found] == [ids[i] for i in order]
        assert [score for _, score in found] == pytest.approx(products[order].tolist(), abs=1e-5)

    def test_in_parts_it_finds_the_same(self, things: Collection, seeds: list[np.ndarray],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
        whole = select(things, seeds, 25, field="vec")
        calls = []

        class Counted:
            def batch_search(self, queries: Sequence[Query | str], /, **overrides: Any) -> list[SearchResult]:
                calls.append(len(queries))
                return things.batch_search(queries, **overrides)

        monkeypatch.setattr(selection, "_HITS", 50)  # two seeds at a time
        assert select(Counted(), seeds, 25, field="vec") == whole
        assert calls == [2, 2, 2, 1]

    def test_a_seed_of_each_of_two_topics(self, things: Collection) -> None:
        found = select(things, ["galaxy", "protein"], 500, field="bm25")
        topics = {id: things.get(id).metadata["topic"] for id, _ in found}
        assert len(found) == len(topics) == 80 and set(topics.values()) == {"galaxy", "protein"}

    def test_only_what_the_filter_lets_through(self, things: Collection, seeds: list[np.ndarray]) -> None:
        found = select(things, seeds, 200, field="vec", filter="year < 2005")
        assert len(found) == things.count("year < 2005") == 50
        assert all(things.get(id).metadata["year"] < 2005 for id, _ in found)

    def test_through_an_sae_field(self, things: Collection, seeds: list[np.ndarray]) -> None:
        answers = [things.search(Query(retrievers=[Retriever("sae", dense=seed)], k=200)) for seed in seeds]
        best = {hit.id: max(a.score for answer in answers for a in answer if a.id == hit.id)
                for answer in answers for hit in answer}
        found = select(things, seeds, 40, field="sae")
        assert found == sorted(found, key=lambda pair: -pair[1])
        assert [score for _, score in found] == sorted(best.values(), reverse=True)[:40]
        assert all(best[id] == score for id, score in found)

    @pytest.mark.parametrize(("given_seeds", "count", "field"), [
        ([], 5, "seeds"), ("galaxy", 5, "seeds"), (["galaxy"], 0, "count"), (["galaxy"], 10_001, "count")])
    def test_what_it_refuses(self, things: Collection, given_seeds: Any, count: int, field: str) -> None:
        with pytest.raises(InvalidArgumentError) as caught:
            select(things, given_seeds, count, field="bm25")
        assert caught.value.field == field

    def test_what_the_search_refuses(self, things: Collection) -> None:
        with pytest.raises(UnknownFieldError):
            select(things, ["galaxy"], 5, field="nowhere")
        with pytest.raises((InvalidQueryError, InvalidArgumentError)):
            select(things, [np.zeros(3, np.float32)], 5, field="vec")
