"""Approximate and budgeted searches: what they find beside the exact one, and what they say they did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sparsight
from sparsight.errors import InvalidQueryError
from sparsight.index.generation import Generation
from sparsight.retrieval import Collection
from sparsight.types import (
    DenseField,
    Document,
    Edit,
    Effort,
    Fusion,
    Query,
    Retriever,
    RetrieverWork,
    SearchResult,
    SparseField,
    SparseVector,
)

TERMS = 400
SEGMENTS = (2000, 1500, 500)
TAIL = 100


def _vector(rng: np.random.Generator) -> SparseVector:
    """Frequent terms come first, as in a text."""
    terms = np.unique((TERMS * rng.random(60) ** 2).astype(np.uint32))
    return SparseVector(terms, np.minimum(rng.gamma(2.0, 0.5, len(terms)), 3.5).astype(np.float32))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Three segments and a tail. Do not write to it."""
    rng = np.random.default_rng(5)
    fields = [SparseField("terms", dimension=TERMS), DenseField("vec", dimension=4)]
    with sparsight.open(tmp_path_factory.mktemp("effort")) as database:
        made = database.create_collection("texts", fields)
        ids = iter(range(10_000))
        for size in (*SEGMENTS, TAIL):
            made.flush()
            made.upsert(
                Document(f"d{next(ids)}", vectors={"terms": _vector(rng), "vec": rng.standard_normal(4)})
                for _ in range(size)
            )
        assert (made.info().segments, made.info().tail_documents) == (3, TAIL)
        yield made


@pytest.fixture(scope="module")
def vectors() -> list[SparseVector]:
    rng = np.random.default_rng(6)
    terms = [np.sort(rng.choice(TERMS, 25, replace=False)).astype(np.uint32) for _ in range(40)]
    return [SparseVector(each, rng.gamma(1.0, 1.0, 25).astype(np.float32)) for each in terms]


def _ask(collection: Collection, vectors: list[SparseVector], effort: Effort, k: int = 10) -> list[SearchResult]:
    return collection.batch_search(
        [Query(retrievers=[Retriever("terms", sparse=vector)], k=k, effort=effort) for vector in vectors]
    )


def _numbers(result: SearchResult) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in result]


@pytest.fixture(scope="module")
def exact(collection: Collection, vectors: list[SparseVector]) -> list[SearchResult]:
    """What every approximate search is held against."""
    return _ask(collection, vectors, Effort())


@pytest.fixture(scope="module")
def scores(collection: Collection, vectors: list[SparseVector]) -> list[dict[str, float]]:
    """The exact score of every document, for each query."""
    every = sum(SEGMENTS) + TAIL
    return [dict(_numbers(result)) for result in _ask(collection, vectors, Effort(), k=every)]


def _recall(found: list[SearchResult], exact: list[SearchResult]) -> float:
    return float(np.mean([len(set(a.ids) & set(b.ids)) / len(b) for a, b in zip(found, exact, strict=True)]))


def test_the_default_is_exact(collection: Collection, vectors: list[SparseVector]) -> None:
    weights, truth = vectors[0].to_dict(), {}
    for document in collection.scroll(page_size=1000, include=["vectors"]).documents:  # of one segment
        stored = document.vectors["terms"].to_dict()  # type: ignore[union-attr]
        truth[document.id] = sum(weights.get(term, 0.0) * weight for term, weight in stored.items())
    plain, named = _ask(collection, vectors[:1], Effort())[0], _ask(collection, vectors[:1], Effort(1.0, 0.0, 0))[0]
    assert plain.hits == named.hits and plain.work == named.work and plain.exact
    bound = sum(weights.values()) * 4 / 510 + 1e-3  # half an impact level of each term
    assert all(abs(hit.score - truth[hit.id]) < bound for hit in plain if hit.id in truth)
    least = plain[-1].score
    assert all(score < least + bound for id, score in truth.items() if id not in plain.ids)


@pytest.mark.parametrize("recall", [0.6, 0.9, 0.95, 0.99])
def test_a_recall_target_is_met_with_less_work(
    collection: Collection, vectors: list[SparseVector], exact: list[SearchResult], scores: list[dict[str, float]],
    recall: float,
) -> None:
    assert _recall(_ask(collection, vectors, Effort(recall)), exact) >= recall
    # So few documents are searched exactly at once, which is quicker, unless the time is to be watched.
    found = _ask(collection, vectors, Effort(recall, seconds=60.0))
    assert _recall(found, exact) >= recall
    assert all(scores[n][id] == score for n, result in enumerate(found) for id, score in _numbers(result))
    assert sum(r.work[0].postings for r in found) < 0.7 * sum(r.work[0].postings for r in exact)
    assert {r.work[0].mode for r in found} == {"approximate"} and not any(r.exact for r in found)


def test_negative_weights_are_searched_exactly(collection: Collection, vectors: list[SparseVector]) -> None:
    mixed = [SparseVector(v.indices, v.values - np.float32(0.3)) for v in vectors[:3]]
    signed = _ask(collection, mixed, Effort(0.9))
    assert [r.hits for r in signed] == [r.hits for r in _ask(collection, mixed, Effort())]
    assert all(result.exact and result.work[0].mode == "exact" for result in signed)


def test_a_budget_of_documents_bounds_what_is_scored(
    collection: Collection, vectors: list[SparseVector], exact: list[SearchResult]
) -> None:
    recalls = []
    for documents in (60, 200, 1000):
        found = _ask(collection, vectors, Effort(documents=documents))
        assert all(r.work[0].mode == "approximate" for r in found)
        # A share of the budget but k at least in each segment, equal sums beside, and the whole tail.
        most = documents + 10 * len(SEGMENTS) + TAIL
        assert all(r.work[0].rescored <= 1.1 * most for r in found)
        assert np.mean([r.work[0].rescored for r in found]) > 0.9 * documents
        recalls.append(_recall(found, exact))
    assert recalls == sorted(recalls) and recalls[-1] >= 0.98


def test_a_budget_of_time_cuts_and_says_so(collection: Collection, vectors: list[SparseVector]) -> None:
    (nothing,) = _ask(collection, vectors[:1], Effort(seconds=1e-9))
    assert nothing.work == (RetrieverWork("terms", "cut", 1, 0, TAIL, TAIL),) and not nothing.exact
    in_tail = {f"d{n}" for n in range(sum(SEGMENTS), sum(SEGMENTS) + TAIL)}
    assert set(nothing.ids) <= in_tail and len(nothing) == 10  # which is answered whatever the budget
    (enough,) = _ask(collection, vectors[:1], Effort(seconds=60.0))
    (exact,) = _ask(collection, vectors[:1], Effort())
    assert enough.hits == exact.hits and enough.work[0].mode == "approximate"
    assert enough.work[0].postings == exact.work[0].postings


def test_a_batch_of_efforts_gives_what_single_searches_give(
    collection: Collection, vectors: list[SparseVector]
) -> None:
    efforts = [Effort(), Effort(0.9), Effort(0.9), Effort(documents=50), Effort(0.95, documents=300), Effort()]
    ks = [10, 5, 40, 10, 10, 200]
    queries = [
        Query(retrievers=[Retriever("terms", sparse=vectors[n % 2])], k=k, effort=effort, min_score=float(n))
        for n, (k, effort) in enumerate(zip(ks, efforts, strict=True))
    ]
    batch, single = collection.batch_search(queries), [collection.search(query) for query in queries]
    assert [r.hits for r in batch] == [r.hits for r in single]
    # Exact legs are searched together for the largest k, which costs a few more finalists.
    assert [r.work for r in batch[1:5]] == [r.work for r in single[1:5]]


def test_each_retriever_reports_its_work(collection: Collection, vectors: list[SparseVector]) -> None:
    retrievers = [Retriever("vec", dense=np.ones(4, np.float32)), Retriever("terms", sparse=vectors[0])]
    query = Query(retrievers=retrievers, effort=Effort(0.9, 60.0), fusion=Fusion(depth=50), explain=True)
    result = collection.search(query)
    every = sum(SEGMENTS) + TAIL
    assert result.work[0] == RetrieverWork("vec", "exact", 0, 0, every, 0)
    assert result.work[1].field == "terms" and result.work[1].mode == "approximate"
    assert result.work[1].rescored >= TAIL + 50 * len(SEGMENTS)  # the depth takes the place of k
    assert not result.exact
    for hit in result:
        assert hit.explanation is not None
        assert sum(part.share for part in hit.explanation.retrievers) == pytest.approx(hit.score, abs=1e-12)


def test_before_and_after_an_edit_are_searched_alike(
    things: Collection, dense_of: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    efforts: list[Effort] = []
    search = Generation.search_impacts

    def observed(self: Generation, *arguments: Any) -> Any:
        efforts.append(arguments[-1])
        return search(self, *arguments)

    monkeypatch.setattr(Generation, "search_impacts", observed)
    effort = Effort(0.9, documents=30)
    retrievers = [Retriever("sae", dense=dense_of)]
    query = Query(retrievers=retrievers, edits=[Edit(1, "boost", 1.0)], explain=True, effort=effort)
    assert all(hit.explanation and hit.explanation.movement for hit in things.search(query))
    assert efforts == [effort, effort]


@pytest.mark.parametrize(
    "effort, field",
    [
        (Effort(recall=0.5), "effort.recall"),
        (Effort(recall=1.1), "effort.recall"),
        (Effort(recall=float("nan")), "effort.recall"),
        (Effort(recall="0.9"), "effort.recall"),  # type: ignore[arg-type]
        (Effort(seconds=-1.0), "effort.seconds"),
        (Effort(seconds=float("inf")), "effort.seconds"),
        (Effort(documents=-1), "effort.documents"),
        (Effort(documents=2.5), "effort.documents"),  # type: ignore[arg-type]
        (0.9, "effort"),
    ],
)
def test_bad_efforts_name_the_field(
    collection: Collection, vectors: list[SparseVector], effort: Effort, field: str
) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        _ask(collection, vectors[:1], effort)
    assert caught.value.field == field
