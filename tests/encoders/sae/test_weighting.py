from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.encoders.sae.weighting import idf, saturate, weigh_query
from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.types import SparseVector

F32 = np.float32


def random_sae(n: int = 40, d: int = 12, k: int = 5) -> SAE:
    rng = np.random.default_rng(0)
    w_dec = rng.normal(size=(n, d))
    return SAE(
        k=k,
        W_enc=rng.normal(size=(n, d)).astype(F32),
        b_enc=rng.normal(size=n).astype(F32),
        W_dec=(w_dec / np.linalg.norm(w_dec, axis=1, keepdims=True)).astype(F32),
        b_dec=(rng.normal(size=d) / 10).astype(F32),
    )


def embeddings(rows: int, d: int = 12, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


# --- idf --------------------------------------------------------------------------------------------------


def test_idf_is_that_of_robertson_and_sparck_jones() -> None:
    rows, counts = 1000, np.array([1, 2, 40, 499, 500, 501, 1000, 0])
    expected = np.log((rows - counts + 0.5) / (counts + 0.5))
    np.testing.assert_allclose(idf((counts / rows).astype(F32)), np.maximum(expected, 0.0), rtol=1e-5, atol=1e-5)


def test_idf_without_statistics_leaves_weights_alone() -> None:
    assert idf(np.zeros(3, F32)).tolist() == [1, 1, 1] and idf(np.zeros(0, F32)).shape == (0,)


@given(arrays(F32, 6, elements=st.floats(0, 1, width=32)))
def test_idf_falls_with_density_and_is_never_negative(density: np.ndarray) -> None:
    weights = idf(density)
    assert weights.dtype == F32 and np.isfinite(weights).all() and (weights >= 0).all()
    assert (np.diff(weights[np.argsort(density)]) <= 0).all()


def test_densities_that_are_none_are_refused() -> None:
    for wrong in ([-0.1], [1.1], [np.nan]):
        with pytest.raises(InvalidArgumentError):
            idf(np.array(wrong, F32))
    with pytest.raises(ShapeError):
        idf(np.zeros((2, 2), F32))


# --- saturation -------------------------------------------------------------------------------------------


def test_saturation_by_hand() -> None:
    # t = 0, 1/2, 1, 3 in units of 2; (k1 + 1) t / (k1 + t) with k1 = 1: 0, 2/3, 1, 3/2.
    values = np.array([0, 1, 2, 6], F32)
    np.testing.assert_allclose(saturate(values, np.float32(2), 1.0), [0, 4 / 3, 2, 3], rtol=1e-6)
    assert saturate(values, np.float32(2), 0.0).tolist() == [0, 2, 2, 2]
    assert saturate(values, np.float32(2), np.inf).tolist() == values.tolist()
    assert saturate(np.zeros((0,), F32), np.zeros((0,), F32), 0.0).shape == (0,)


POSITIVE = st.floats(2**-10, 2**10, width=32)


@given(arrays(F32, 5, elements=POSITIVE), POSITIVE, st.floats(0.01, 100))
def test_saturation_rises_and_is_bounded(values: np.ndarray, usual: float, k1: float) -> None:
    held = saturate(np.sort(values), np.float32(usual), k1)
    assert held.dtype == F32 and (np.diff(held) >= 0).all()
    assert (held > 0).all() and (held <= usual * (k1 + 1) * (1 + 1e-6)).all()
    assert saturate(np.array([usual], F32), np.float32(usual), k1)[0] == pytest.approx(usual, rel=1e-6)


@pytest.mark.parametrize("k1", [-0.1, float("nan")])
def test_a_k1_that_is_none_is_refused(k1: float) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        saturate(np.ones(1, F32), np.ones(1, F32), k1)
    assert caught.value.field == "k1"


# --- queries ----------------------------------------------------------------------------------------------


def test_query_weights_by_hand() -> None:
    query = SparseVector.from_dict({0: 3.0, 2: -2.0, 5: 1.0, 6: 2.0})
    factors = np.array([0, 9, 1, 9, 9, 4, 0.5], F32)
    assert weigh_query(query, factors).to_dict() == {2: -2.0, 5: 4.0, 6: 1.0}  # a factor of 0 leaves its latent out
    assert weigh_query(query, factors, 2).to_dict() == {2: -2.0, 5: 4.0}  # chosen by what they weigh then
    assert weigh_query(query, max_terms=2).to_dict() == {0: 3.0, 6: 2.0}  # a negative weight counts half
    assert weigh_query(query, max_terms=3).to_dict() == {0: 3.0, 2: -2.0, 6: 2.0}  # a tie: the lower latent
    assert weigh_query(query, max_terms=2, always=[5]).to_dict() == {0: 3.0, 5: 1.0}
    with pytest.raises(InvalidArgumentError):
        weigh_query(query, max_terms=-1)


def test_without_factors_it_prunes_as_the_model_does() -> None:
    sae, queries = random_sae(), embeddings(5, seed=2)
    for kept in (0, 1, 7, 40, 100):
        for whole, pruned in zip(sae.query_weights(queries, max_terms=0), sae.query_weights(queries, max_terms=kept),
                                 strict=True):  # fmt: skip
            found = weigh_query(whole, None, kept)
            np.testing.assert_array_equal(found.indices, pruned.indices)
            np.testing.assert_array_equal(found.values, pruned.values)


# --- scorers ----------------------------------------------------------------------------------------------


def test_unpruned_decode_is_the_dense_product_with_the_normalised_reconstruction() -> None:
    sae, x, queries = random_sae(), embeddings(30), embeddings(4, seed=2)
    rebuilt = sae.decode(sae.encode(x)).astype(np.float64)
    norms = np.linalg.norm(rebuilt, axis=1)
    documents = sae.document_weights(x).toarray().astype(np.float64)
    for query, weights in zip(queries, sae.query_weights(queries, max_terms=0), strict=True):
        scores = documents[:, weights.indices] @ weights.values.astype(np.float64)
        share_of_b_dec = (query @ sae.b_dec) / norms
        np.testing.assert_allclose(scores + share_of_b_dec, rebuilt @ query / norms, rtol=0, atol=1e-5)


def test_symmetric_is_the_product_of_codes_over_the_norm() -> None:
    sae, x, queries = random_sae(), embeddings(30), embeddings(4, seed=2)
    norms = np.linalg.norm(sae.decode(sae.encode(x)).astype(np.float64), axis=1)
    expected = sae.encode(queries).toarray() @ sae.encode(x).toarray().T / norms
    for row, weights in zip(expected, sae.query_weights(queries, scorer="symmetric", max_terms=0), strict=True):
        scores = sae.document_weights(x).toarray()[:, weights.indices] @ weights.values
        np.testing.assert_allclose(scores, row, rtol=0, atol=1e-5)


def test_the_largest_saturated_weight_is_that_of_the_largest_weight() -> None:
    """What the quantiser relies on: a latent's range in 8 bits can be saturated like its weights."""
    x = embeddings(200)
    sae = describe_latents(random_sae(), x)
    weights = sae.document_weights(x).tocsc()
    fires = np.flatnonzero(np.diff(weights.indptr))
    weights.data = saturate(weights.data, sae.scale[np.repeat(np.arange(40), np.diff(weights.indptr))], 1.2)
    largest = weights.max(0).toarray().ravel()
    np.testing.assert_allclose(largest[fires], saturate(sae.impact_scale, sae.scale, 1.2)[fires], rtol=1e-6)
