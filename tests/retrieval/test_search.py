from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sparsight.errors import DeadlineError, InvalidQueryError, SearchStoppedError, UnknownFieldError
from sparsight.kernels import CancelFlag
from sparsight.retrieval import Collection
from sparsight.types import Fusion, Query, Retriever, SearchResult, SparseVector

SPARSE = SparseVector.from_dict({0: 1.0, 20: 0.7, 33: 2.0, 250: -0.5})


def _all_sparse(things: Collection) -> dict[str, dict[int, float]]:
    return {d.id: d.vectors["terms"].to_dict() for d in things.scroll(page_size=1000, include=["vectors"]).documents}  # type: ignore[union-attr]


def test_sparse_scores_are_the_dot_product_to_8_bits(things: Collection) -> None:
    weights = SPARSE.to_dict()
    stored = _all_sparse(things)
    truth = {id: sum(weights.get(t, 0.0) * w for t, w in v.items()) for id, v in stored.items()}
    result = things.search(Query(retrievers=[Retriever("terms", sparse=SPARSE)], k=200))
    assert set(result.ids) == {id for id, score in truth.items() if score > 0.05} | {
        h.id for h in result if h.score < 0.1
    }
    bound = sum(abs(w) for w in weights.values()) * 4 / 510 + 1e-3  # half an impact level of each term
    assert all(abs(hit.score - truth[hit.id]) < bound for hit in result)
    assert [h.rank for h in result] == list(range(1, len(result) + 1))
    assert [h.score for h in result] == sorted((h.score for h in result), reverse=True)
    assert result.exact


def test_dense_scores_are_inner_products(things: Collection, dense_of: np.ndarray) -> None:
    result = things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], k=5))
    assert result[0].id == "doc-0" and result[0].score == pytest.approx(1.0, abs=1e-5)
    for hit in result:
        vector = np.asarray(things.get(hit.id, include=["vectors"]).vectors["vec"])
        assert hit.score == pytest.approx(float(vector @ dense_of), abs=1e-5)


def test_text_finds_by_bm25_and_is_the_default(things: Collection) -> None:
    by_field = things.search("galaxy remark3", retrievers=["bm25"], k=5)
    assert all("galaxy" in hit.text for hit in by_field)
    assert things.search("galaxy remark3", k=5).ids == by_field.ids  # the only field that takes text here
    assert by_field[0].passage_text == by_field[0].text and by_field[0].title == "On the galaxy"


@pytest.mark.parametrize("fusion", [Fusion(), Fusion("rrf"), Fusion("rrf", rank_constant=1, depth=20)])
def test_shares_sum_to_the_score(things: Collection, dense_of: np.ndarray, fusion: Fusion) -> None:
    query = Query(
        "neuron remark2",
        retrievers=[
            Retriever("terms", sparse=SPARSE, weight=2),
            "bm25",
            Retriever("vec", dense=dense_of),
            Retriever("sae", dense=dense_of),
        ],
        fusion=fusion,
        explain=True,
        k=20,
    )
    result = things.search(query)
    assert len(result) == 20
    for hit in result:
        assert hit.explanation is not None and hit.explanation.movement is None
        parts = hit.explanation.retrievers
        assert [p.field for p in parts] == ["terms", "bm25", "vec", "sae"]
        assert sum(p.share for p in parts) == pytest.approx(hit.score, abs=1e-12)
        for part in parts:
            assert sum(c.score for c in part.contributions) + part.rest == pytest.approx(part.score, abs=1e-9)
            assert all(
                c.score == pytest.approx(c.query_weight * c.document_weight, rel=1e-9) for c in part.contributions
            )


def test_every_candidate_is_scored_in_every_field(things: Collection, dense_of: np.ndarray) -> None:
    """A document that only one retriever proposed still has its exact score in the others."""
    query = Query(retrievers=[Retriever("terms", sparse=SPARSE), Retriever("vec", dense=dense_of)],
                  fusion=Fusion(depth=3), k=3, explain=True)  # fmt: skip
    result = things.search(query)
    alone = {h.id: h.score for h in things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], k=200))}
    outsiders = [h for h in result if h.explanation and h.explanation.retrievers[1].rank == 0]
    for hit in result:
        assert hit.explanation is not None
        assert hit.explanation.retrievers[1].score == pytest.approx(alone[hit.id], abs=1e-6)
    assert outsiders


def test_filters_restrict_every_retriever(things: Collection, dense_of: np.ndarray) -> None:
    query = Query(
        "galaxy", retrievers=["bm25", Retriever("vec", dense=dense_of)], filter='year >= 2010 and tags = "t1"', k=100
    )
    result = things.search(query)
    assert result.hits and all(h.metadata["year"] >= 2010 and "t1" in h.metadata["tags"] for h in result)
    assert {h.id for h in result} <= {
        d.id for d in things.scroll('year >= 2010 and tags = "t1"', page_size=1000).documents
    }


def test_a_batch_gives_what_single_searches_give(things: Collection, dense_of: np.ndarray) -> None:
    queries: list[Query | str] = [
        "galaxy remark1",
        Query(retrievers=[Retriever("terms", sparse=SPARSE)], k=7, filter="year < 2005"),
        Query("market", retrievers=["bm25", Retriever("vec", dense=dense_of)], k=3, explain=True),
        Query(retrievers=[Retriever("terms", sparse=SPARSE)], k=150),
        Query("protein", retrievers=["bm25"], min_score=1.0),
    ]

    def shown(result: SearchResult) -> object:
        return result.hits, result.warnings, result.exact

    batch = things.batch_search(queries)
    assert [shown(r) for r in batch] == [shown(things.search(q)) for q in queries]
    assert len(batch[3]) > 10


def test_min_score_is_a_strict_threshold(things: Collection) -> None:
    everything = things.search(Query(retrievers=[Retriever("terms", sparse=SPARSE)], k=200))
    threshold = everything[4].score
    above = things.search(Query(retrievers=[Retriever("terms", sparse=SPARSE)], k=200, min_score=threshold))
    assert above.ids == [h.id for h in everything if h.score > threshold]


def test_k_bounds_the_hits_and_may_exceed_the_documents(things: Collection, dense_of: np.ndarray) -> None:
    whole = things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], k=10_000))
    assert len(whole) == things.count() == 200
    assert things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], k=1)).ids == whole.ids[:1]


def test_include_chooses_what_comes_back(things: Collection) -> None:
    bare = things.search("galaxy", k=1, include=[])[0]
    assert (bare.title, bare.text, bare.passage_text, bare.metadata, bare.vectors) == ("", "", "", {}, {})
    full = things.search("galaxy", k=1, include=["vectors", "text"])[0]
    assert set(full.vectors) == {"terms", "bm25", "vec", "sae"} and full.text and not full.title


def test_an_empty_query_vector_warns_and_finds_nothing(things: Collection) -> None:
    result = things.search(Query(retrievers=[Retriever("terms", sparse=SparseVector.from_dict({}))]))
    assert not result.hits and "no weights" in result.warnings[0]
    assert not things.search("the of and", retrievers=["bm25"]).hits


def test_a_passed_deadline_and_a_set_flag_stop_the_search(things: Collection) -> None:
    with pytest.raises(DeadlineError):
        things.search("galaxy", timeout=0.0)
    flag = CancelFlag()
    flag.set()
    with pytest.raises(SearchStoppedError):
        things.search("galaxy", cancel=flag)
    assert things.search("galaxy", timeout=30.0).hits


def test_searches_run_beside_each_other(things: Collection) -> None:
    expected, faults = things.search("galaxy remark1").ids, []

    def work() -> None:
        for _ in range(20):
            if things.search("galaxy remark1").ids != expected:
                faults.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_timings_add_up(things: Collection) -> None:
    started = time.perf_counter()
    timings = things.search("galaxy").timings
    wall = (time.perf_counter() - started) * 1000
    assert timings.encode_ms + timings.search_ms + timings.fetch_ms == pytest.approx(timings.server_ms, rel=1e-6)
    assert 0 < timings.server_ms <= wall


@pytest.mark.parametrize(
    "query, field",
    [
        (Query("x", k=0), "k"),
        (Query("x", k=10_001), "k"),
        (Query("x", retrievers=[Retriever("bm25", weight=float("nan"))]), "retrievers[0].weight"),
        (Query("x", retrievers=[Retriever("bm25", text="a", dense=np.ones(16, np.float32))]), "retrievers[0]"),
        (Query("x", retrievers=[Retriever("terms", dense=np.ones(16, np.float32))]), "retrievers[0].dense"),
        (Query("x", retrievers=[Retriever("vec", dense=np.ones(3, np.float32))]), "retrievers[0].dense"),
        (Query(""), "text"),
        (Query("x", fusion=Fusion("best")), "fusion.method"),  # type: ignore[arg-type]
        (Query("x", include=["everything"]), "include"),
        (Query("x", min_score=float("inf")), "min_score"),
        (Query("x", filter="year >"), "filter"),
    ],
)
def test_bad_queries_name_the_field(things: Collection, query: Query, field: str) -> None:
    with pytest.raises(ValueError) as caught:
        things.search(query)
    assert caught.value.field == field  # type: ignore[attr-defined]
    with pytest.raises(ValueError) as caught:
        things.batch_search(["galaxy", query])
    assert caught.value.field == f"queries[1].{field}"  # type: ignore[attr-defined]


def test_unknown_names_are_refused(things: Collection) -> None:
    with pytest.raises(UnknownFieldError, match="terms, bm25, vec, sae"):
        things.search("x", retrievers=["nope"])
    with pytest.raises(InvalidQueryError, match="unknown search argument"):
        things.search("x", top=3)
