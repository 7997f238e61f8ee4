from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import sparsight
from sparsight.encoders import SAE, SAEConfig, train_sae
from sparsight.encoders.sae.weighting import idf, importance
from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.index.schema import quantise
from sparsight.retrieval import judged_vectors, sae_retention
from sparsight.retrieval.evaluation import compare
from sparsight.retrieval.judged_vectors import NDCG, measure
from sparsight.retrieval.sae_retention import (
    JudgedVectors,
    Retention,
    dense_quality,
    ratio_interval,
    retention,
    retentions,
)
from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, Scorer, parse_scorer
from sparsight.types import DenseField, Document, Query, Retriever

D, DOCUMENTS, QUERIES = 16, 400, 60


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def judged() -> JudgedVectors:
    """Documents around twelve directions, and queries near one document each, judged with grades 1 to 3."""
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((12, D))
    documents = unit(directions[rng.integers(0, 12, DOCUMENTS)] + 0.6 * rng.standard_normal((DOCUMENTS, D)))
    aims = rng.choice(DOCUMENTS, QUERIES, replace=False)
    queries = unit(documents[aims] + 0.15 * rng.standard_normal((QUERIES, D)))
    qrels = [(q, int(d), 3) for q, d in enumerate(aims)]
    for q in range(QUERIES):
        near = np.argsort(-queries[q] @ documents.T)[1:4].tolist()
        qrels += [(q, d, 1) for d in near if d != aims[q]]
    return JudgedVectors("planted", documents, queries, np.array(qrels, np.int64))


@pytest.fixture(scope="module")
def sae(judged: JudgedVectors) -> SAE:
    return train_sae(judged.documents, SAEConfig(n_latents=48, k=6, epochs=40, batch=64))[0]


def reference(sae: SAE, judged: JudgedVectors, k: int, scorer: Scorer, rounded: bool) -> np.ndarray:
    """Scores (Q, N) by whole matrices, in float64."""
    codes = sae.encode(judged.documents, k)
    weights = codes.toarray().astype(np.float64)
    if scorer.divided:
        weights /= np.linalg.norm(sae.decode(codes).astype(np.float64), axis=1, keepdims=True)
    if rounded:
        served = scorer.divided and k == sae.k
        scale = sae.impact_scale.astype(np.float64) if served else np.maximum(weights.max(0), 1e-30)
        weights = quantise(weights, scale)[0] * scale / 255
    if scorer.query == "decode":
        asked = judged.queries.astype(np.float64) @ sae.W_dec.T
    else:
        asked = sae.encode(judged.queries, scorer.m or k).toarray().astype(np.float64)
    if scorer.idf:
        asked *= idf(sae.density if k == sae.k else np.float32((codes.toarray() > 0).mean(0)))
    if scorer.query == "decode" and scorer.m:
        for row in asked:
            rank = np.abs(row) if scorer.by_size else importance(np.float32(row))
            row[np.argsort(-rank)[scorer.m:]] = 0
    return asked @ weights.T


SCORERS = [Scorer(query, m, divided, idf) for query, ms in (("decode", (0, 5, 1000)), ("symmetric", (0, 9)))
           for m in ms for divided in (True, False) for idf in (True, False)] + [Scorer(m=5, by_size=True)]


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)
def test_quality_is_that_of_scoring_with_whole_matrices(judged, sae, scorer, rounded):
    for found in retentions(sae, judged, [2, 6, 11], [scorer], rounded=rounded):
        scores = reference(sae, judged, found.k, scorer, rounded)
        order = np.argsort(-np.round(scores, 6), axis=1, kind="stable")
        expected = measure(judged, order.astype(np.int64))
        # A pair of documents that differ by rounding alone may change places.
        assert np.mean(np.abs(found.quality.ndcg - expected.ndcg) > 1e-9) <= 0.02
        assert (found.set, found.scorer, found.mode, found.rounded) == ("planted", scorer, "topk", rounded)


def test_ranking_by_hand():
    """Two latents along the axes, no bias: codes are the positive coordinates."""
    eye = np.eye(2, dtype=np.float32)
    zeros = np.zeros(2, np.float32)
    sae = SAE(k=2, W_enc=eye, b_enc=zeros, W_dec=eye, b_dec=zeros)
    documents = np.float32([[1, 0], [0.6, 0.8], [0.8, 0.6], [0, 1]])
    of = JudgedVectors("hand", documents, np.float32([[0.8, 0.6]]), np.array([[0, 2, 1]]))
    # With both latents nothing is lost: 1.0 for document 2. With one, [.6, .8] is [0, .8] and [.8, .6] is [.8, 0]:
    # raw scores .8, .48, .64, .6 put it second, and divided by the reconstruction's length .8, .6, .8, .6 do too.
    by_k = {(one.k, one.scorer.name): one for one in retentions(
        sae, of, [1, 2], [parse_scorer("decode-all"), parse_scorer("decode-all-raw")], rounded=False)}
    assert by_k[2, "decode-all"].ndcg == by_k[2, "decode-all-raw"].ndcg == 1.0
    assert by_k[1, "decode-all"].ndcg == by_k[1, "decode-all-raw"].ndcg == pytest.approx(1 / np.log2(3))
    # Postings: two of a document with both, where the axes have one each. The query has both latents.
    assert (by_k[1, "decode-all"].postings, by_k[2, "decode-all"].postings) == (4.0, 6.0)
    assert (by_k[1, "decode-all"].l0, by_k[2, "decode-all"].l0) == (1.0, 1.5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["decode-all", "decode-all-raw"]))
def test_a_dictionary_that_loses_nothing_keeps_everything(seed: int, scorer: str):
    """An orthonormal basis and its negative rebuild every vector from all its coordinates."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    atoms = np.concatenate([basis, -basis])
    sae = SAE(k=8, W_enc=atoms, b_enc=np.zeros(16, np.float32), W_dec=unit(atoms), b_dec=np.zeros(8, np.float32))
    documents = unit(rng.standard_normal((50, 8)))
    of = JudgedVectors("any", documents, unit(rng.standard_normal((5, 8))),
                       np.array([(q, int(rng.integers(50)), 1) for q in range(5)]))
    dense = dense_quality(of)
    found = retention(sae, of, 8, parse_scorer(scorer), rounded=False)
    assert found.quality.ndcg == pytest.approx(dense.ndcg) and found.quality.recall == pytest.approx(dense.recall)
    fewer = retention(sae, of, 1, parse_scorer(scorer), rounded=False)
    assert fewer.l0 == 1.0 and found.l0 == 8.0


def test_more_latents_keep_more(judged, sae):
    few, many = retentions(sae, judged, [1, 6], [Scorer(m=0)])
    assert few.ndcg < many.ndcg - 0.2 and many.ndcg > 0.7
    better = compare(few.quality.evaluation(), many.quality.evaluation(), NDCG)
    assert better.p_value < 0.01
    low, high = many.interval()
    assert low < many.ndcg < high < low + 0.3


def test_the_engine_ranks_as_is_measured(judged, tmp_path):
    """A collection's SAE field, asked for every query, has the nDCG@10 that is computed here for its scorer."""
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D)])
        things.upsert([Document(f"{row:04d}", text="x", vectors={"vec": vector})
                       for row, vector in enumerate(judged.documents)])
        for field, weighting in (("sae", "none"), ("rare", "idf")):
            things.train_sae(field, source="vec", n_latents=48, k=6, epochs=40, max_query_terms=20, rescore=0,
                             weighting=weighting)
        assert Scorer(m=512) == DEFAULT_SCORERS[0]
        for field, query, scorer in (("sae", "decode", Scorer(m=20)), ("sae", "symmetric", Scorer("symmetric", 0)),
                                     ("rare", "decode", Scorer(m=20, idf=True))):
            (folder,) = (tmp_path / "things" / "models").glob(f"{field}-*")
            ranked = np.array([[int(name) for name in things.search(
                Query(retrievers=[Retriever(field, dense=vector, scorer=query)], k=10, include=())).ids]
                for vector in judged.queries])
            expected = measure(judged, ranked.astype(np.int64)).ndcg
            found = retention(SAE.load(folder), judged, 0, scorer)
            # The index also rounds queries' weights, to 16 bits: near ties may change places.
            assert np.mean(np.abs(found.quality.ndcg - expected) > 1e-9) <= 0.02


def test_own_codes_of_thresholds(judged, sae):
    """Thresholds give each document its own number of latents; k = 0 measures those, k = 6 the six largest."""
    own = replace(sae, threshold=np.full(48, float(np.quantile(sae.encode(judged.documents).data, 0.4)), np.float32))
    counts = np.diff(own.encode(judged.documents).indptr)
    assert counts.min() < counts.max()
    by_mode = {one.mode: one for one in retentions(own, judged, [6, 0], [Scorer()])}
    assert (by_mode["threshold"].k, by_mode["topk"].k) == (6, 6)
    assert by_mode["threshold"].l0 == pytest.approx(counts.mean()) and by_mode["topk"].l0 <= 6
    (alone,) = retentions(own, judged, [0], [Scorer("symmetric", 0)])
    codes = own.document_weights(judged.documents).toarray()
    order = np.argsort(-np.round(own.encode(judged.queries).toarray() @ codes.T, 6), axis=1, kind="stable")
    assert alone.quality.ndcg.mean() == pytest.approx(measure(judged, order.astype(np.int64)).ndcg.mean(), abs=0.02)


def test_documents_are_coded_as_the_autoencoder_codes_documents(judged, sae):
    sought = replace(sae, document_mode="pursuit", pool=12)
    names = ["decode-24", "symmetric"]  # whose queries are coded by the encoder
    found = retentions(sought, judged, [0, 3], [parse_scorer(name) for name in names], rounded=False)
    given_ = retentions(sae, judged, [0, 3], [parse_scorer(name) for name in names], rounded=False,
                        code=lambda x, k: (sought if len(x) == DOCUMENTS else sae).encode(
                            x, k, mode="pursuit" if len(x) == DOCUMENTS else "topk"))
    assert [of.mode for of in found] == ["pursuit", "topk"] * 2 and [of.k for of in found] == [6, 3] * 2
    for one, other in zip(found[::2], given_[::2], strict=True):
        np.testing.assert_array_equal(one.quality.ndcg, other.quality.ndcg)
    assert found[0].ndcg > retention(sae, judged, 0, parse_scorer("decode-24"), rounded=False).ndcg


def test_codes_that_the_encoder_did_not_make(judged, sae):
    """A function's codes are measured in place of the encoder's, in documents and queries alike."""
    scorers = [Scorer(m=0), Scorer("symmetric", 0), Scorer(m=9, idf=True)]
    asked: list[tuple[int, int]] = []

    def doubled(x: np.ndarray, k: int) -> Any:
        asked.append((len(x), k))
        return 2 * sae.encode(x, k)

    stranger = replace(sae, W_enc=-sae.W_enc, impact_scale=np.full(48, 1e6, np.float32))  # neither is looked at
    made = retentions(stranger, judged, [0, 3], scorers, rounded=True, code=doubled)
    assert set(asked) == {(DOCUMENTS, 6), (QUERIES, 6), (QUERIES, 3)}
    for one in made:
        codes = sae.encode(judged.documents, 6)
        kept = np.argsort(-codes.toarray(), axis=1, kind="stable")[:, :one.k]
        of = np.zeros(codes.shape)
        np.put_along_axis(of, kept, 2 * np.take_along_axis(codes.toarray(), kept, 1), 1)
        weights = of / np.linalg.norm(of @ sae.W_dec + sae.b_dec, axis=1, keepdims=True)
        scale = np.maximum(weights.max(0), 1e-30)
        weights = quantise(weights, scale)[0] * scale / 255
        queries = 2 * sae.encode(judged.queries, one.k).toarray().astype(np.float64)
        if one.scorer.query == "decode":
            queries = judged.queries.astype(np.float64) @ sae.W_dec.T
        if one.scorer.idf:
            queries *= idf(np.float32((of > 0).mean(0)))
            for row in queries:
                row[np.argsort(-importance(np.float32(row)))[9:]] = 0
        order = np.argsort(-np.round(queries @ weights.T, 6), axis=1, kind="stable")
        assert np.mean(np.abs(one.quality.ndcg - measure(judged, order.astype(np.int64)).ndcg) > 1e-9) <= 0.02
        assert one.mode == "topk"

    def in_slots(x: np.ndarray, k: int) -> Any:
        codes = doubled(x, k).toarray()
        latents = np.argsort(-codes, axis=1, kind="stable")[:, :k]
        return torch.from_numpy(latents), torch.from_numpy(np.take_along_axis(codes, latents, 1))

    for one, other in zip(made, retentions(stranger, judged, [0, 3], scorers, code=in_slots), strict=True):
        assert one.quality.ndcg == pytest.approx(other.quality.ndcg) and one.postings == other.postings


def test_one_k_by_two_names_is_measured_once(judged, sae):
    found = retentions(sae, judged, [6, 0, 6, 3], [Scorer(), Scorer()])
    assert [one.k for one in found] == [6, 3]


def test_blocks_do_not_matter(judged, sae, monkeypatch):
    whole = retentions(sae, judged, [3, 6], DEFAULT_SCORERS)
    monkeypatch.setattr(judged_vectors, "_BLOCK", 500)
    monkeypatch.setattr(sae_retention, "_WEIGHTS", 48 * 7)
    steps: list[tuple[int, int]] = []
    parts = retentions(sae, judged, [3, 6], DEFAULT_SCORERS, progress=lambda done, total: steps.append((done, total)))
    assert len(whole) == 2 * len(DEFAULT_SCORERS)
    for one, other in zip(whole, parts, strict=True):
        assert (one.k, one.scorer) == (other.k, other.scorer)
        assert one.quality.ndcg == pytest.approx(other.quality.ndcg) and one.postings == pytest.approx(other.postings)
    assert [done for done, _ in steps] == list(range(1, 9 * len(whole) + 1)) and steps[-1][0] == steps[-1][1]


def test_eight_bits_are_an_option(judged, sae):
    """Weights that are told apart by float32 alone: a scale that is far too large leaves no level above 0."""
    coarse = replace(sae, impact_scale=np.full(48, 1e6, np.float32))
    assert retention(coarse, judged, 0, rounded=True).quality.recall.mean() == pytest.approx(100 / DOCUMENTS, abs=0.2)
    assert retention(coarse, judged, 0, rounded=False).ndcg == retention(sae, judged, 0, rounded=False).ndcg
    unknown = replace(coarse, density=np.zeros(48, np.float32))  # of another library: it has no statistics
    assert retention(unknown, judged, 0).ndcg == pytest.approx(retention(sae, judged, 0).ndcg, abs=0.05)


@pytest.mark.parametrize("name", [scorer.name for scorer in (*DEFAULT_SCORERS, *SCORERS, Scorer(m=9, refocus=3))])
def test_names_of_scorers(name):
    assert parse_scorer(name).name == name


def test_scorers_by_name():
    assert parse_scorer("decode") == parse_scorer("decode-all") == Scorer("decode", 0)
    assert parse_scorer("symmetric-all") == Scorer("symmetric", 0)
    assert parse_scorer("symmetric-64-idf-raw") == Scorer("symmetric", 64, False, True)
    assert parse_scorer("decode-64-size") == Scorer("decode", 64, by_size=True)
    assert DEFAULT_SCORERS[0] == Scorer()
    for wrong in ("", "dense", "decode-", "decode-512-raw-idf", "decode--1", "symmetric 3", "decode-1.5",
                  "decode-all-refocus-5", "symmetric-9-refocus-5"):
        with pytest.raises(InvalidArgumentError) as caught:
            parse_scorer(wrong)
        assert caught.value.field in ("scorers", "refocus")
    bad: list[dict[str, Any]] = [{"query": "dense"}, {"m": -1}, {"refocus": -1}]
    for given_ in bad:
        with pytest.raises(InvalidArgumentError):
            Scorer(**given_)


def test_what_cannot_be_measured(judged, sae):
    for ks in ([], [-1], [49]):
        with pytest.raises(InvalidArgumentError) as caught:
            retentions(sae, judged, ks)
        assert caught.value.field == "ks"
    narrow = JudgedVectors("narrow", unit(judged.documents[:, :8]), unit(judged.queries[:, :8]), judged.qrels)
    with pytest.raises(ShapeError):
        retention(sae, narrow)


def test_intervals_of_ratios():
    whole = np.array([0.5, 1.0, 0.25, 1.0] * 25)
    assert ratio_interval(0.8 * whole, whole) == pytest.approx((0.8, 0.8))  # the same share of every query
    rng = np.random.default_rng(1)
    part = whole * rng.integers(0, 2, 100)
    low, high = ratio_interval(part, whole)
    drawn = [part[rows].mean() / whole[rows].mean() for rows in rng.integers(0, 100, (4000, 100))]
    expected = np.percentile(drawn, [2.5, 97.5])
    assert (low, high) == pytest.approx(expected.tolist(), abs=0.015)
    assert ratio_interval(part, whole) == (low, high) != ratio_interval(part, whole, seed=1)


@pytest.mark.gpu
def test_a_gpu_measures_the_same(judged, sae):
    def rows(device: str) -> list[Retention]:
        return retentions(sae, judged, [2, 6], DEFAULT_SCORERS, device=device)

    for one, other in zip(rows("cpu"), rows("cuda"), strict=True):
        assert np.mean(np.abs(one.quality.ndcg - other.quality.ndcg) > 1e-9) <= 0.05
        assert (one.k, one.scorer, one.postings) == (other.k, other.scorer, pytest.approx(other.postings, rel=1e-3))


def test_the_best_documents_are_scored_again_by_the_latents_they_have():
    # Axes as latents, codes by hand. Of a query (3, 2.9, 2.8, 0) one weight finds the document of the first axis first;
    # of the three latents that the two best documents have, the one that adds most to their scores is the second.
    codes = csr_matrix(np.array([[5, 0, 0, 0], [4, 12, 0, 0], [0, 0, 7, 0], [0, 0, 0, 1]], np.float32))
    axes = np.eye(4, dtype=np.float32)
    sae = SAE(2, axes, np.zeros(4, np.float32), axes, np.zeros(4, np.float32))
    query = unit(np.array([[3, 2.9, 2.8, 0]]))
    judged = JudgedVectors("hand", axes, query, np.array([[0, 1, 1]], np.int64))

    def found(name: str) -> float:
        scorer = parse_scorer(f"{name}-raw")
        (one,) = retentions(sae, judged, [2], [scorer], rounded=False, code=lambda rows, k: codes)
        return float(one.quality.ndcg[0])

    second = 1 / np.log2(3)
    assert found("decode-1") == pytest.approx(second)  # 15 and 12
    assert found("decode-1-refocus-1") == pytest.approx(second)  # alone, it stays first
    assert found("decode-1-refocus-2") == found("decode-1-refocus-4") == 1  # the second latent: 34.8 in all, against 27
    assert found("decode-2-refocus-2") == found("decode-all") == 1


@pytest.mark.parametrize("scorer", ["decode-4-refocus-10", "decode-24-refocus-30-idf", "decode-8-refocus-200-raw"])
def test_scores_again_are_those_of_whole_matrices(judged, sae, scorer):
    wanted = parse_scorer(scorer)
    first = Scorer(m=wanted.m, divided=wanted.divided, idf=wanted.idf)
    found, once = (retention(sae, judged, 0, of, rounded=False) for of in (wanted, first))
    values = sae.encode(judged.documents).toarray()
    if wanted.divided:
        values /= np.linalg.norm(sae.decode(sae.encode(judged.documents)), axis=1, keepdims=True)
    weights = judged.queries @ sae.W_dec.T * (idf(sae.density) if wanted.idf else 1)
    order = np.argsort(np.argsort(-importance(weights), axis=1, kind="stable"), axis=1)
    pruned = np.where(order < wanted.m, weights, 0)
    ranking = np.argsort(-(pruned @ values.T), axis=1, kind="stable")[:, :100]
    for row, best in enumerate(ranking):
        some = best[:wanted.refocus]
        adds = np.abs(weights[row]) * values[some].sum(0)
        chosen = np.argsort(-adds, kind="stable")[:wanted.m]
        again = values[np.ix_(some, chosen)] @ weights[row, chosen]
        ranking[row, :wanted.refocus] = some[np.argsort(-again, kind="stable")]
    expected = measure(judged, ranking.astype(np.int64))
    np.testing.assert_allclose(found.quality.ndcg, expected.ndcg, atol=1e-6)
    assert found.recall == pytest.approx(once.recall) and (found.quality.ndcg != once.quality.ndcg).any()
