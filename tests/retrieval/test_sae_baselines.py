from __future__ import annotations

import numpy as np
import pytest

from sparsight.encoders import SAEConfig, train_sae
from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.judged_vectors import JudgedVectors, measure, rank_dense
from sparsight.retrieval.sae_baselines import (
    ProductQuantiser,
    ShortVectors,
    binary,
    centroid_atoms,
    int8,
    most_parts,
    pca,
    posting_bytes,
    principal_axes,
    product_quantised,
    random_atoms,
    truncated,
)
from sparsight.retrieval.sae_retention import dense_quality, retention
from sparsight.retrieval.sae_scoring import Scorer

D = 16


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def judged() -> JudgedVectors:
    """Vectors most of whose variance lies in five of sixteen dimensions, turned; each query's document is near it."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    spread = np.array([1.0] * 5 + [0.1] * 11)
    documents = unit((rng.standard_normal((600, D)) * spread + 0.3) @ turn)
    queries = unit(documents[:80] + 0.06 * rng.standard_normal((80, D)))
    return JudgedVectors("planted", documents, queries, np.array([(q, q, 1) for q in range(80)]))


def kept(vectors: ShortVectors, judged: JudgedVectors) -> float:
    return vectors.quality(judged).ndcg.mean() / dense_quality(judged).ndcg.mean()


@pytest.mark.parametrize(("n_latents", "k", "expected"), [
    (1024, 32, 72.0), (1025, 32, 76.0), (16384, 8, 22.0), (2, 8, 9.0), (1, 8, 9.0), (65536, 1, 3.0)])
def test_bytes_of_postings(n_latents, k, expected):
    assert posting_bytes(n_latents, k) == expected


@pytest.mark.parametrize(("d", "room", "expected"), [(384, 72.0, 64), (384, 4.5, 4), (384, 1000, 384), (384, 0.5, 1),
                                                     (7, 6.9, 1)])
def test_parts_that_fit(d, room, expected):
    assert most_parts(d, room) == expected


def test_principal_axes(judged):
    axes = principal_axes(judged.documents)
    assert axes.shape == (D, D) and axes.dtype == np.float32
    assert axes.T @ axes == pytest.approx(np.eye(D), abs=1e-5)
    variances = (judged.documents @ axes).var(0)
    assert (np.diff(variances) < 1e-6).all()
    assert variances == pytest.approx(np.sort(np.linalg.eigvalsh(np.cov(judged.documents.T)))[::-1], rel=0.02, abs=1e-4)


def test_pca(judged):
    axes = principal_axes(judged.documents)
    whole = pca(judged, axes, D)
    assert (whole.name, whole.dimensions, whole.bytes) == ("PCA", D, 4.0 * D)
    assert whole.documents @ whole.queries.T == pytest.approx(judged.documents @ judged.queries.T, abs=1e-5)
    assert kept(whole, judged) == pytest.approx(1.0)
    few = pca(judged, axes, 5)
    assert (few.dimensions, few.bytes, few.documents.shape, few.queries.shape) == (5, 20.0, (600, 5), (80, 5))
    assert np.linalg.norm(few.documents, axis=1) == pytest.approx(1.0, abs=1e-5)
    # It chooses the dimensions that vary; the first five are any five.
    assert kept(few, judged) > kept(truncated(judged, 5), judged) + 0.1
    coarse = pca(judged, axes, 5, train=judged.documents)
    assert (coarse.name, coarse.bytes) == ("PCA, 8 bits", 5.0)
    assert np.abs(coarse.documents - few.documents).max() < 0.02 and (coarse.documents != few.documents).any()


def test_truncation(judged):
    found = truncated(judged, 3)
    assert (found.dimensions, found.bytes) == (3, 12.0)
    assert found.documents == pytest.approx(unit(judged.documents[:, :3]), abs=1e-6)
    assert (found.queries == judged.queries[:, :3]).all()
    assert truncated(judged, 99).dimensions == D


def test_int8(judged):
    found = int8(judged, judged.documents)
    assert (found.dimensions, found.bytes) == (D, float(D))
    step = np.abs(judged.documents).max(0) / 127
    assert (np.abs(found.documents - judged.documents) <= step / 2 * (1 + 1e-4)).all()
    assert (np.abs(np.rint(found.documents / step)) <= 127).all()
    assert int8(judged, 0.5 * judged.documents).documents.max() <= judged.documents.max() / 2  # cut at the span


def test_binary_ranks_by_hamming_distance(judged):
    found = binary(judged, both=True)
    assert found.bytes == D / 8
    wrong = ((judged.queries > 0)[:, None] != (judged.documents > 0)[None]).sum(2)
    order = np.argsort(wrong, axis=1, kind="stable")[:, :100]
    assert rank_dense(found.documents, found.queries).tolist() == order.tolist()
    half = binary(judged, both=False)
    assert (half.documents == found.documents).all() and (half.queries == judged.queries).all()


def test_product_quantisation(judged):
    assert kept(ProductQuantiser.fit(judged.documents, 16).shorten(judged), judged) > 0.95
    few, turned = (ProductQuantiser.fit(judged.documents, 4, rotated=rotated).shorten(judged)
                   for rotated in (False, True))
    assert [(one.name, one.dimensions, one.bytes) for one in (few, turned)] == [("PQ", 4, 4.0), ("OPQ", 4, 4.0)]
    wrong = [np.square(one.documents @ one.queries.T - judged.documents @ judged.queries.T).mean()
             for one in (few, turned)]
    assert wrong[1] < 0.9 * wrong[0]  # variance lies across the parts, and a rotation gathers it
    again = product_quantised(judged, judged.documents, 4)
    assert (again.documents == few.documents).all()


def test_as_many_centroids_as_different_documents_lose_nothing(judged):
    repeated = np.repeat(judged.documents[:200], 2, axis=0)
    of = JudgedVectors("repeated", repeated, judged.queries, judged.qrels)
    found = ProductQuantiser.fit(repeated, 1).shorten(of)
    assert np.median(np.linalg.norm(found.documents - repeated, axis=1)) < 1e-3


@pytest.mark.parametrize(("rows", "parts"), [(255, 4), (256, 5), (256, 0), (256, 32)])
def test_what_cannot_be_quantised(judged, rows, parts):
    with pytest.raises(InvalidArgumentError):
        ProductQuantiser.fit(judged.documents[:rows], parts)


def test_untrained_dictionaries(judged):
    for made, again, other in (
        [random_atoms(64, 4, judged.documents, seed=seed) for seed in (0, 0, 1)],
        [centroid_atoms(64, 4, judged.documents, seed=seed) for seed in (0, 0, 1)],
    ):
        assert (made.n_latents, made.k, made.d_in) == (64, 4, D)
        assert made.fingerprint == again.fingerprint != other.fingerprint
        assert (made.W_enc == made.W_dec).all() and made.b_dec == pytest.approx(judged.documents.mean(0), abs=1e-6)
        # What is encoded are inner products with centred vectors.
        pre_acts = (judged.documents - judged.documents.mean(0)) @ made.W_enc.T
        code = made.encode(judged.documents[:1])
        assert set(code.indices) == set(np.argsort(-pre_acts[0])[:4]) and made.density.any()
    assert centroid_atoms(1000, 2000, judged.documents[:50]).n_latents == 50


def test_atoms_are_where_the_data_is(judged):
    """Centroids are nearer to documents than random directions are."""
    centred = unit(judged.documents - judged.documents.mean(0))
    random, centroids = (np.median((centred @ made(64, 4, judged.documents).W_dec.T).max(1))
                         for made in (random_atoms, centroid_atoms))
    assert centroids > random + 0.1


def test_training_keeps_more_than_random_atoms(judged):
    sae = train_sae(judged.documents, SAEConfig(n_latents=64, k=4, epochs=60, batch=64))[0]
    trained, untrained = (retention(one, judged, 4, Scorer("decode", 0)).ndcg
                          for one in (sae, random_atoms(64, 4, judged.documents)))
    assert trained > untrained + 0.05


def test_quality_is_of_the_short_vectors(judged):
    found = truncated(judged, 4)
    expected = measure(judged, rank_dense(found.documents, found.queries))
    assert (found.quality(judged).ndcg == expected.ndcg).all()
