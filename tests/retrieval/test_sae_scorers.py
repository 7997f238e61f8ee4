"""How SAE fields score: decode and symmetric over the same postings, weighting, re-ranking by the dense vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.encoders.sae.weighting import idf, saturate, weigh_query
from sparsight.errors import InvalidArgumentError, InvalidQueryError
from sparsight.index.catalog import Catalog
from sparsight.index.schema import FieldSchema
from sparsight.retrieval import Collection
from sparsight.retrieval.installing import install_sae
from sparsight.types import (
    BM25Field,
    DenseField,
    Document,
    Edit,
    Effort,
    Fusion,
    Overlap,
    Passage,
    Query,
    Retriever,
    SAEField,
    SearchResult,
    SparseVector,
)

N, D, K, ROWS = 32, 16, 8, 150


def vectors(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Around eight centres, all on one side of the origin, as embeddings of texts are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((8, D)) + 1.5 * np.eye(1, D)
    x = centres[rng.integers(0, 8, rows)] + 0.6 * rng.standard_normal((rows, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_sae() -> SAE:
    """An autoencoder nobody trained, whose codes are of the embeddings' size; one latent fires nearly always."""
    rng = np.random.default_rng(4)
    w_dec = vectors(N, seed=5)
    w_dec[7] = np.eye(1, D)[0]
    b_enc = (rng.normal(size=N) / 30).astype(np.float32)
    b_enc[7] = 0.12
    sae = SAE(K, (0.25 * w_dec).astype(np.float32), b_enc, w_dec, (rng.normal(size=D) / 20).astype(np.float32))
    sae = describe_latents(sae, vectors())
    return sae.with_names([f"latent {i}" for i in range(N)])


SAE_MODEL = make_sae()
X = vectors()
Q = vectors(1, seed=9)[0]
XHAT = SAE_MODEL.decode(SAE_MODEL.encode(X)).astype(np.float64)
WEIGHTS = SAE_MODEL.document_weights(X).toarray().astype(np.float64)
DECODE = (SAE_MODEL.W_dec @ Q).astype(np.float64)
CODE = SAE_MODEL.encode(Q[None]).toarray()[0].astype(np.float64)
IDF = idf(SAE_MODEL.density).astype(np.float64)
SATURATED = saturate(WEIGHTS.astype(np.float32), SAE_MODEL.scale[None], 0.9).astype(np.float64)


@contextmanager
def filled(path: Path) -> Iterator[Collection]:
    with sparsight.open(path) as database:
        things = database.create_collection("things", [BM25Field("bm25"), DenseField("vec", dimension=D)])
        install_sae(things._store, SAE_MODEL, SAEField("sae", "vec"))
        install_sae(things._store, SAE_MODEL, SAEField("plain", "vec", "", "symmetric", 3))
        install_sae(things._store, SAE_MODEL, SAEField("rare", "vec", "", "symmetric", 0, "idf"))
        install_sae(things._store, SAE_MODEL, SAEField("bm", "vec", "", "decode", 0, "bm25", 0.9))
        for start, stop in ((0, 90), (90, ROWS)):  # a segment and a tail
            things.upsert([Document(str(n), f"words {n % 7}", vectors={"vec": X[n]}) for n in range(start, stop)])
            if not start:
                things.flush()
        yield things


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Shared by tests: do not write to it."""
    with filled(tmp_path_factory.mktemp("scorers")) as collection:
        yield collection


def ask(things: Collection, field: str = "sae", *edits: Edit, k: int = ROWS, explain: bool = False,
        min_score: float | None = None, dense: np.ndarray = Q, **options: Any) -> SearchResult:  # fmt: skip
    """Scored once unless ``options`` say otherwise."""
    options = options if field == "vec" else {"rescore": 0} | options
    return things.search(
        Query(retrievers=[Retriever(field, dense=dense, **options)], edits=edits, k=k, explain=explain,
              min_score=min_score, include=())
    )  # fmt: skip


def numbers(result: SearchResult) -> dict[str, float]:
    return {hit.id: hit.score for hit in result}


def check(result: SearchResult, truth: np.ndarray, query: np.ndarray, scale: np.ndarray) -> None:
    """The scores are the truth to what 8 bits of documents and 16 of the query can hold, and no good one is missing."""
    found = numbers(result)
    # Half a level for each of a code's latents, and half a step of the query for each level.
    most = np.sort(np.abs(query) * scale)[::-1]
    bound = most[:K].sum() / 510 + K * most[0] / 65_534 + 1e-6
    for row, score in enumerate(truth):
        assert abs(found.get(str(row), 0.0) - max(score, 0.0)) <= bound, row
    assert len(found) > ROWS / 4
    assert list(found.values()) == sorted(found.values(), reverse=True)


# --- decode and symmetric ---------------------------------------------------------------------------------


def test_unpruned_decode_is_the_dense_product_with_the_normalised_reconstruction(things: Collection) -> None:
    norms = np.linalg.norm(XHAT, axis=1)
    dense = XHAT @ Q / norms
    share_of_b_dec = (SAE_MODEL.b_dec @ Q) / norms
    check(ask(things, max_query_terms=0), dense - share_of_b_dec, DECODE, SAE_MODEL.impact_scale)


def test_symmetric_is_the_product_of_codes_over_the_norm(things: Collection) -> None:
    result = ask(things, scorer="symmetric", max_query_terms=0)
    truth = SAE_MODEL.encode(X).toarray() @ CODE / np.linalg.norm(XHAT, axis=1)
    check(result, truth, CODE, SAE_MODEL.impact_scale)


def test_a_query_may_choose_what_the_field_does_not(things: Collection) -> None:
    """Every field here has the same postings, so the same choice gives the same scores, bit for bit."""
    for options in ({"scorer": "decode", "max_query_terms": 7}, {"scorer": "symmetric", "max_query_terms": 2},
                    {"scorer": "decode", "max_query_terms": 0}):  # fmt: skip
        assert numbers(ask(things, "sae", **options)) == numbers(ask(things, "plain", **options))
    assert numbers(ask(things, "plain")) == numbers(ask(things, "sae", scorer="symmetric", max_query_terms=3))
    assert numbers(ask(things, "sae")) == numbers(ask(things, "plain", scorer="decode", max_query_terms=512))
    assert numbers(ask(things, "plain")) != numbers(ask(things, "sae"))


@pytest.mark.parametrize("kept", [1, 4, 20])
def test_a_pruned_query_has_its_largest_weights(things: Collection, kept: int) -> None:
    pruned = np.zeros(N)
    best = np.argsort(-np.abs(DECODE), kind="stable")[:kept]
    pruned[best] = DECODE[best]
    found = numbers(ask(things, max_query_terms=kept))
    for row, score in enumerate(WEIGHTS @ pruned):
        assert found.get(str(row), 0.0) == pytest.approx(max(score, 0.0), abs=0.004)


def test_retrievers_of_one_field_may_differ_in_one_query(things: Collection) -> None:
    retrievers = [Retriever("sae", dense=Q, scorer=scorer) for scorer in ("decode", "symmetric")]
    result = things.search(Query(retrievers=retrievers, k=20, explain=True, fusion=Fusion(depth=ROWS)))
    alone = [numbers(ask(things, scorer=scorer)) for scorer in ("decode", "symmetric")]
    for hit in result:
        assert hit.explanation is not None
        for part, scores in zip(hit.explanation.retrievers, alone, strict=True):
            assert part.score == scores.get(hit.id, part.score if part.score <= 0 else None)


# --- weighting --------------------------------------------------------------------------------------------


def test_idf_weights_the_query(things: Collection) -> None:
    assert IDF[7] == 0 and (IDF > 0).sum() > N / 2 and len(set(IDF.tolist())) > 5
    check(ask(things, "rare"), WEIGHTS @ (CODE * IDF), CODE * IDF, SAE_MODEL.impact_scale)
    decode = ask(things, "rare", scorer="decode")
    check(decode, WEIGHTS @ (DECODE * IDF), DECODE * IDF, SAE_MODEL.impact_scale)


def test_bm25_saturates_the_documents_too(things: Collection) -> None:
    scale = SATURATED.max(0)
    check(ask(things, "bm"), SATURATED @ (DECODE * IDF), DECODE * IDF, scale)
    check(ask(things, "bm", scorer="symmetric"), SATURATED @ (CODE * IDF), CODE * IDF, scale)
    hits = things.search(Query(retrievers=[Retriever("bm", dense=Q)], include=["vectors"], k=20))
    for hit in hits:
        assert hit.vectors["bm"].to_dict() == pytest.approx(  # type: ignore[union-attr]
            {i: w for i, w in enumerate(SATURATED[int(hit.id)].tolist()) if w}, rel=1e-3)  # fmt: skip


def test_pruning_goes_by_the_weighted_query(things: Collection) -> None:
    expected = weigh_query(SAE_MODEL.query_weights(Q[None], max_terms=0)[0], IDF.astype(np.float32), 6)
    found = ask(things, "rare", scorer="decode", max_query_terms=6, explain=True, k=30)
    used = {part.index for hit in found for part in hit.explanation.retrievers[0].contributions}  # type: ignore[union-attr]
    assert len(used) > 2 and used <= set(expected.indices.tolist())


def test_a_ready_sparse_query_is_not_weighted(things: Collection) -> None:
    ready = SparseVector.from_dict({3: 1.0, 11: 0.5})
    for field, documents in (("sae", WEIGHTS), ("rare", WEIGHTS), ("bm", SATURATED)):
        found = numbers(things.search(Query(retrievers=[Retriever(field, sparse=ready)], k=ROWS)))
        for row, score in enumerate(documents[:, 3] + 0.5 * documents[:, 11]):
            assert found.get(str(row), 0.0) == pytest.approx(score, abs=0.006)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_features_are_required_by_their_own_activations(things: Collection, strength: float) -> None:
    """Strengths are of activations: a field whose postings are saturated lets the same documents pass."""
    (latent,) = np.argsort(-SAE_MODEL.density)[2:3].tolist()
    found = {
        field: set(ask(things, "vec", Edit(latent, "require", strength, field)).ids) for field in ("sae", "bm")
    }
    near = np.abs(WEIGHTS[:, latent] - strength * SAE_MODEL.scale[latent]) < 0.01 * SAE_MODEL.scale[latent]
    assert found["sae"] and found["sae"] ^ found["bm"] <= {str(row) for row in np.flatnonzero(near)}
    overlap = [Overlap([latent], 1, strength, "bm")]
    passed = things.search(Query(retrievers=[Retriever("vec", dense=Q)], k=ROWS, overlaps=overlap))
    assert set(passed.ids) == found["bm"]


@pytest.mark.parametrize("field", ["sae", "plain", "rare", "bm"])
@pytest.mark.parametrize("scorer", ["decode", "symmetric"])
def test_edits_move_activations_before_they_are_weighted(things: Collection, field: str, scorer: Any) -> None:
    latent = int(np.argmax(CODE * (IDF > 0)))
    spec = next(item for item in things.info().fields if item.name == field)
    documents = SATURATED if field == "bm" else WEIGHTS
    factors = np.ones(N) if field in ("sae", "plain") else IDF
    for edit, change in ((Edit(latent, "boost", 2.0, field), 2 * SAE_MODEL.scale[latent]),
                         (Edit(latent, "set", 0.0, field), -CODE[latent])):  # fmt: skip
        query = SAE_MODEL.W_dec @ (Q + change * SAE_MODEL.W_dec[latent]) if scorer == "decode" else CODE.copy()
        if scorer == "symmetric":
            query[latent] += change
        result = ask(things, field, edit, scorer=scorer, max_query_terms=0, explain=True, k=10)
        for hit in result:
            truth = float(documents[int(hit.id)] @ (query * factors))
            assert hit.score == pytest.approx(truth, abs=0.02), spec
            movement = hit.explanation.movement  # type: ignore[union-attr]
            assert movement is not None and [part.index for part in movement.by_feature] == [latent]
            if movement.rank_before:
                moved = movement.score_after - movement.score_before
                assert movement.by_feature[0].score == pytest.approx(moved, abs=0.01)


def test_an_edit_of_a_ready_sparse_query_says_what_it_moved(things: Collection) -> None:
    ready = SparseVector.from_dict({3: 1.0, 11: 0.5})
    query = Query(retrievers=[Retriever("bm", sparse=ready)], edits=[Edit(3, "set", 0.0, "bm")], explain=True, k=20)
    moved = [hit.explanation.movement for hit in things.search(query)]  # type: ignore[union-attr]
    assert moved and all(m.by_feature[0].query_weight == pytest.approx(-1.0, rel=1e-3) for m in moved)  # type: ignore[union-attr]


# --- scored again with all weights ------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "scorer"), [("sae", "decode"), ("sae", "symmetric"), ("bm", "decode")])
def test_candidates_are_found_by_some_weights_and_scored_with_all(things: Collection, field: str, scorer: Any) -> None:
    some = {"scorer": scorer, "max_query_terms": 3}
    candidates = ask(things, field, k=30, **some).ids
    whole = numbers(ask(things, field, scorer=scorer, max_query_terms=0))
    result = ask(things, field, k=10, rescore=30, **some)
    again = {id: whole[id] for id in candidates}
    assert result.ids == sorted(again, key=lambda id: (-again[id], int(id)))[:10]
    assert numbers(result) == {id: again[id] for id in result.ids}
    assert result.ids != candidates[:10]
    assert [work.reranked for work in result.work] == [30] and [work.terms for work in result.work] == [3]
    assert ask(things, field, k=10, rescore=1, **some).work[0].reranked == 10  # all that are wanted anyway
    assert ask(things, field, k=10, rescore=30, scorer=scorer, max_query_terms=0).work[0].reranked == 0  # nothing new
    threshold = list(numbers(result).values())[4]
    assert ask(things, field, k=10, rescore=30, min_score=threshold, **some).ids == result.ids[:4]


def test_a_score_with_all_weights_is_the_sum_of_its_contributions(things: Collection) -> None:
    for hit in ask(things, k=10, max_query_terms=2, rescore=20, explain=True):
        (part,) = hit.explanation.retrievers  # type: ignore[union-attr]
        assert len(part.contributions) > 2 and part.score == hit.score
        assert sum(item.score for item in part.contributions) == pytest.approx(hit.score, abs=1e-9)
        for item in part.contributions:
            assert item.query_weight == pytest.approx(DECODE[item.index], abs=1e-3)
            assert item.document_weight == pytest.approx(WEIGHTS[int(hit.id), item.index], abs=0.01)


def test_fields_rescore_unless_a_query_says_otherwise(things: Collection) -> None:
    def found(**options: Any) -> SearchResult:
        return things.search(Query(retrievers=[Retriever("sae", dense=Q, max_query_terms=3, **options)], k=10))

    assert found().work[0].reranked == SAEField().rescore == 50
    assert numbers(found()) == numbers(found(rescore=50)) != numbers(found(rescore=0))
    assert numbers(found(rescore=20, rerank=40)) == numbers(found(rerank=40))  # dense products are the last word


def test_steering_moves_scores_with_all_weights(things: Collection) -> None:
    latent = int(np.argsort(-SAE_MODEL.density)[3])
    some = {"max_query_terms": 3, "rescore": 30}
    result = ask(things, "sae", Edit(latent, "boost", 1.0, "sae"), k=10, explain=True, **some)
    moved = SAE_MODEL.W_dec @ (Q + SAE_MODEL.scale[latent] * SAE_MODEL.W_dec[latent])
    before, whole = ask(things, k=10, **some), numbers(ask(things, max_query_terms=0))
    for hit in result:
        assert hit.score == pytest.approx(float(WEIGHTS[int(hit.id)] @ moved), abs=0.02)
        movement = hit.explanation.movement  # type: ignore[union-attr]
        assert movement is not None and movement.score_before == pytest.approx(whole.get(hit.id, 0), abs=1e-9)
        change = movement.score_after - movement.score_before
        assert movement.by_feature[0].score == pytest.approx(change, abs=0.01)
        if hit.id in before.ids:
            assert movement.rank_before == before.ids.index(hit.id) + 1
        else:
            assert movement.rank_before == 0 or movement.rank_before > 10
    assert any(hit.id not in before.ids for hit in result)


@pytest.mark.parametrize("retriever", [
    {"field": "vec"}, {"field": "sae"}, {"field": "sae", "max_query_terms": 3}, {"field": "sae", "rerank": 50},
], ids=["dense", "codes", "some weights", "re-ranked"])  # fmt: skip
def test_a_movement_adds_up_where_another_passage_is_best_now(tmp_path: Path, retriever: dict[str, Any]) -> None:
    latent = int(np.argsort(-SAE_MODEL.density)[3])
    far = X[int(np.argmax(WEIGHTS[:, latent]))]  # strong in the feature
    near = X[int(np.argmax(np.where(WEIGHTS[:, latent] == 0, X @ Q, -1)))]  # without it, and nearest to the query
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D)])
        install_sae(things._store, SAE_MODEL, SAEField("sae", "vec"))
        both = [Passage("a", vectors={"vec": near}), Passage("b", vectors={"vec": far})]
        things.upsert([Document("both", passages=both),
                       *(Document(str(n), passages=[Passage("c", vectors={"vec": X[n]})]) for n in range(20))])
        query = Query(retrievers=[Retriever(dense=Q, **retriever)], edits=[Edit(latent, "boost", 8.0, "sae")], k=21,
                      explain=True)
        others = {}
        for hit in things.search(query):
            movement = hit.explanation.movement  # type: ignore[union-attr]
            assert movement is not None
            change = sum(part.score for part in movement.by_feature) + movement.other_passage
            assert change == pytest.approx(movement.score_after - movement.score_before, abs=0.01)
            others[hit.id] = movement.other_passage
        assert others.pop("both") < -0.05 and set(others.values()) == {0.0}


def test_an_edit_of_strength_0_changes_no_bit(things: Collection) -> None:
    some = {"max_query_terms": 3, "rescore": 30}
    assert numbers(ask(things, "sae", Edit(5, "boost", 0.0, "sae"), **some)) == numbers(ask(things, **some))


# --- re-ranking -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", ["decode", "symmetric"])
def test_reranked_candidates_are_scored_and_ordered_by_the_dense_product(things: Collection, scorer: Any) -> None:
    candidates = ask(things, scorer=scorer, k=30).ids
    result = ask(things, scorer=scorer, rerank=30, k=10)
    exact = {id: float(X[int(id)] @ Q) for id in candidates}
    assert result.ids == sorted(exact, key=lambda id: (-exact[id], int(id)))[:10]
    assert [hit.score for hit in result] == pytest.approx([exact[id] for id in result.ids], abs=1e-6)
    assert [hit.rank for hit in result] == list(range(1, 11))
    assert [work.reranked for work in result.work] == [30] and result.work[0].field == "sae"
    assert result.ids != ask(things, scorer=scorer, k=10).ids
    assert [work.reranked for work in ask(things, scorer=scorer, k=10).work] == [0]


def test_at_least_k_candidates_are_reranked(things: Collection) -> None:
    assert numbers(ask(things, rerank=1, k=25)) == numbers(ask(things, rerank=25, k=25))
    assert ask(things, rerank=1, k=25).work[0].reranked == 25
    everything = ask(things, rerank=10_000, k=10)
    assert everything.work[0].reranked == len(ask(things))  # what has a score above 0
    dense = numbers(ask(things, "vec", k=ROWS))
    assert numbers(everything) == {id: dense[id] for id in list(dense) if id in numbers(everything)}


@pytest.mark.parametrize("scorer", ["decode", "symmetric"])  # the latter's own scores are far below the dense ones
def test_min_score_is_of_the_dense_product(things: Collection, scorer: Any) -> None:
    whole = numbers(ask(things, scorer=scorer, rerank=60, k=60))
    threshold = list(whole.values())[20]
    above = ask(things, scorer=scorer, rerank=60, k=60, min_score=threshold)
    assert len(above) == 20 and numbers(above) == {id: score for id, score in whole.items() if score > threshold}
    assert numbers(ask(things, scorer=scorer, rerank=60, k=60, min_score=-9.0)) == whole


@pytest.mark.parametrize("fusion", [Fusion(depth=20), Fusion("rrf", depth=20)])
def test_a_reranked_retriever_is_fused_by_its_dense_scores(things: Collection, fusion: Fusion) -> None:
    retrievers = ["bm25", Retriever("sae", dense=Q, rerank=40)]
    result = things.search(Query("words 3", retrievers, fusion=fusion, k=15, explain=True))
    alone = ask(things, rerank=40, k=20)
    assert [work.reranked for work in result.work] == [0, 40]
    place = {id: rank for rank, id in enumerate(alone.ids, 1)}
    for hit in result:
        assert hit.explanation is not None
        part = hit.explanation.retrievers[1]
        assert part.score == pytest.approx(float(X[int(hit.id)] @ Q), abs=1e-6)
        assert part.rank == place.get(hit.id, 0)
        assert sum(each.share for each in hit.explanation.retrievers) == pytest.approx(hit.score, abs=1e-12)


@pytest.mark.parametrize("scorer", ["decode", "symmetric"])
@pytest.mark.parametrize("field", ["sae", "bm"])
def test_a_reranked_score_is_its_features_and_what_none_carries(things: Collection, field: str, scorer: Any) -> None:
    for hit in ask(things, field, scorer=scorer, rerank=20, k=10, explain=True):
        (part,) = hit.explanation.retrievers  # type: ignore[union-attr]
        code = SAE_MODEL.encode(X[int(hit.id)][None]).toarray()[0]
        assert {item.index: item.score for item in part.contributions} == pytest.approx(
            {int(i): float(code[i] * DECODE[i]) for i in np.flatnonzero(code)}, abs=1e-6)  # fmt: skip
        error = float((X[int(hit.id)] - code @ SAE_MODEL.W_dec) @ Q)  # b_dec and what was not reconstructed
        assert (part.rest, part.dense) == (0.0, pytest.approx(error, abs=1e-5))
        assert sum(item.score for item in part.contributions) + part.dense == pytest.approx(hit.score, abs=1e-9)


@pytest.mark.parametrize("scorer", ["decode", "symmetric"])
def test_steering_moves_the_dense_query_of_a_reranking(things: Collection, scorer: Any) -> None:
    latent = int(np.argsort(-SAE_MODEL.density)[3])
    edit = Edit(latent, "boost", 1.0, "sae")
    moved = Q + SAE_MODEL.scale[latent] * SAE_MODEL.W_dec[latent]
    result = ask(things, "sae", edit, scorer=scorer, rerank=40, k=20, explain=True)
    before = ask(things, scorer=scorer, rerank=40, k=20)
    for hit in result:
        assert hit.score == pytest.approx(float(X[int(hit.id)] @ moved), abs=1e-5)
        movement = hit.explanation.movement  # type: ignore[union-attr]
        assert movement is not None
        assert movement.score_before == pytest.approx(float(X[int(hit.id)] @ Q), abs=1e-6)
        assert movement.rank_before == (before.ids.index(hit.id) + 1 if hit.id in before.ids else 0)
        change = movement.score_after - movement.score_before
        assert movement.by_feature[0].score == pytest.approx(change, abs=1e-5)


def test_reranked_queries_of_a_batch_are_what_they_are_alone(things: Collection) -> None:
    queries = [
        Query(retrievers=[Retriever("sae", dense=Q, **options)], k=7, effort=effort)
        for options in ({}, {"rerank": 30}, {"rerank": 90, "scorer": "symmetric"}, {"scorer": "symmetric"},
                        {"max_query_terms": 4}, {"max_query_terms": 3, "rescore": 20})
        for effort in (Effort(), Effort(documents=40))
    ]
    for query, result in zip(queries, things.batch_search(queries), strict=True):  # type: ignore[arg-type]
        alone = things.search(query)
        assert result.hits == alone.hits and result.work[0].reranked == alone.work[0].reranked


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "retriever, field",
    [
        (Retriever("sae", dense=Q, scorer="cosine"), "scorer"),  # type: ignore[arg-type]
        (Retriever("sae", dense=Q, max_query_terms=-1), "max_query_terms"),
        (Retriever("sae", dense=Q, max_query_terms=16_385), "max_query_terms"),
        (Retriever("sae", dense=Q, max_query_terms=2.0), "max_query_terms"),  # type: ignore[arg-type]
        (Retriever("sae", dense=Q, rerank=-1), "rerank"),
        (Retriever("sae", dense=Q, rerank=10_001), "rerank"),
        (Retriever("sae", dense=Q, rerank=True), "rerank"),
        (Retriever("bm25", "words", scorer="decode"), "scorer"),
        (Retriever("bm25", "words", max_query_terms=0), "max_query_terms"),
        (Retriever("vec", dense=Q, rerank=10), "rerank"),
        (Retriever("sae", sparse=SparseVector.from_dict({1: 1.0}), rerank=10), "rerank"),
        (Retriever("sae", sparse=SparseVector.from_dict({1: 1.0}), scorer="symmetric"), "scorer"),
    ],
)
def test_options_that_cannot_be_are_named(things: Collection, retriever: Retriever, field: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        things.search(Query("words", ["bm25", retriever]))
    assert caught.value.field == f"retrievers[1].{field}"


@pytest.mark.parametrize(
    "options, field",
    [
        ({"scorer": "cosine"}, "scorer"),
        ({"weighting": "tf"}, "weighting"),
        ({"max_query_terms": -1}, "max_query_terms"),
        ({"max_query_terms": 2.5}, "max_query_terms"),
        ({"k1": -0.5}, "k1"),
        ({"k1": float("nan")}, "k1"),
        ({"k1": "high"}, "k1"),
    ],
)
def test_a_field_refuses_wrong_options_before_it_is_trained(
    things: Collection, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        things.train_sae("new", source="vec", **options)
    assert caught.value.field == field
    schema = things._store.schema
    bad = FieldSchema(replace(SAEField("new", "vec"), **options), N, "")
    with pytest.raises(InvalidArgumentError) as caught:
        replace(schema, fields=(*schema.fields, bad)).check()
    assert caught.value.field == f"fields[6].{field}"


def test_training_makes_the_field_that_was_asked_for(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D)])
        things.upsert([Document(str(n), vectors={"vec": X[n]}) for n in range(ROWS)])
        things.train_sae("sae", source="vec", n_latents=32, k=4, epochs=1, scorer="symmetric", max_query_terms=9,
                         weighting="bm25", k1=0.5)  # fmt: skip
        (spec,) = (item for item in things.info().fields if item.name == "sae")
        assert spec == SAEField("sae", "vec", spec.model, "symmetric", 9, "bm25", 0.5)  # type: ignore[union-attr]
        assert things.verify().ok and ask(things).hits


def test_another_weighting_fills_the_field_anew_and_survives_reopening(tmp_path: Path) -> None:
    with filled(tmp_path) as things:
        plain, bm = numbers(ask(things, "sae")), numbers(ask(things, "bm"))
        fingerprints = [things.info().fingerprints["sae"]]
        for weighting in ("bm25", "idf", "none"):
            install_sae(things._store, SAE_MODEL, SAEField("sae", "vec", weighting=weighting, k1=0.9))
            fingerprints.append(things.info().fingerprints["sae"])
            if weighting == "bm25":
                assert numbers(ask(things, "sae")) == numbers(ask(things, "bm", max_query_terms=512))
        assert numbers(ask(things, "sae")) == plain
        assert fingerprints[0] == fingerprints[2] == fingerprints[3] != fingerprints[1]
    with sparsight.open(tmp_path) as database:
        assert numbers(ask(database["things"], "bm")) == bm and database["things"].verify().ok


def test_collections_of_before_these_options_open(tmp_path: Path) -> None:
    """Their schema does not name weighting and k1."""
    with filled(tmp_path) as things:
        before = numbers(ask(things, "sae"))
    _rewrite_schema(tmp_path / "things")
    with sparsight.open(tmp_path) as database:
        things = database["things"]
        assert numbers(ask(things, "sae")) == before
        assert next(item for item in things.info().fields if item.name == "sae").weighting == "none"  # type: ignore[union-attr]


def _rewrite_schema(folder: Path) -> None:
    catalog = Catalog(folder)
    with catalog.transaction():
        schema = catalog.get_meta("schema")
        for field in schema["fields"]:
            if field["spec"]["name"] == "sae":
                del field["spec"]["weighting"], field["spec"]["k1"]
        catalog.set_meta("schema", schema)
    catalog.close()


def test_an_old_schema_has_the_defaults() -> None:
    old = {"name": "sae", "source": "vec", "model": "m", "scorer": "symmetric", "max_query_terms": 9, "kind": "sae"}
    schema = FieldSchema.from_json({"spec": old, "dimension": N, "fingerprint": "ff"})
    assert schema.spec == SAEField("sae", "vec", "m", "symmetric", 9, "none", 1.2)
