from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from sparsight.encoders.sae import blocks
from sparsight.encoders.sae.blocks import document_codes, encode, errors
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def random_sae(n: int = 40, d: int = 12, k: int = 5, seed: int = 0) -> SAE:
    rng = np.random.default_rng(seed)
    w_dec = rng.normal(size=(n, d))
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    return SAE(k=k, W_enc=rng.normal(size=(n, d)).astype(F32), b_enc=rng.normal(size=n).astype(F32),
               W_dec=w_dec.astype(F32), b_dec=rng.normal(size=d).astype(F32))


def embeddings(rows: int = 30, d: int = 12, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


def same_codes(got: csr_matrix, expected: csr_matrix) -> None:
    assert got.shape == expected.shape and got.dtype == F32 and got.indices.dtype == np.int32
    np.testing.assert_array_equal(got.indptr, expected.indptr)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_allclose(got.data, expected.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [40, 7 * 40, 1 << 20])  # one row a block, a rest of rows, one block
@pytest.mark.parametrize("mode", ["topk", "threshold"])
def test_codes_of_a_device_are_the_model_s(monkeypatch: pytest.MonkeyPatch, at_once: int, mode: str) -> None:
    monkeypatch.setattr(blocks, "_ENTRIES", at_once)
    sae, x = random_sae(), embeddings()
    if mode == "threshold":
        threshold = np.linspace(-1, 2, 40, dtype=F32)
        threshold[3] = np.inf
        sae = replace(sae, threshold=threshold)
    got = blocks._encode(sae, x, torch.device("cpu"))
    same_codes(got, sae.encode(x))
    assert got.nnz > 0 and (mode == "topk" or np.diff(got.indptr).max() > 5)
    assert blocks._encode(sae, x[:0], torch.device("cpu")).shape == (0, 40)


@pytest.mark.parametrize("threshold", [np.zeros(0, F32), np.full(40, 0.5, F32)])
def test_documents_are_coded_as_the_model_says(threshold: np.ndarray) -> None:
    x = embeddings()
    for mode in ("encoder", "pursuit"):
        sae = replace(random_sae(), threshold=threshold, document_mode=mode)
        expected = sae.encode(x, mode="pursuit") if mode == "pursuit" else sae.encode(x)
        for got in (document_codes(sae, x), sae.document_codes(x)):
            assert (got != expected).nnz == 0 and got.nnz > 0
    with pytest.raises(InvalidVectorError):
        document_codes(sae, np.full_like(x, np.nan))
    with pytest.raises(InvalidArgumentError):
        sae.document_codes(x, device="abacus")


def test_errors_by_hand() -> None:
    sae = SAE(k=1, W_enc=np.eye(2, dtype=F32), b_enc=np.zeros(2, F32), W_dec=np.array([[0.6, 0.8], [0, 1]], F32),
              b_dec=np.array([1, 0], F32))
    codes = csr_matrix(np.array([[5, 0], [0, 0], [10, 1]], F32))
    # Rebuilt: 5 (.6, .8) + (1, 0); (1, 0); 10 (.6, .8) + (0, 1) + (1, 0).
    x = np.array([[4, 5], [1, 1], [7, 9]], F32)
    np.testing.assert_allclose(errors(sae, x, codes), [[0, 1], [0, 1], [0, 0]], atol=1e-6)


def test_errors_against_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_ROWS", 7)
    sae, x = random_sae(), embeddings()
    codes = encode(sae, x)
    same_codes(codes, sae.encode(x))
    np.testing.assert_allclose(errors(sae, x, codes), x - sae.decode(codes), atol=1e-6)
    assert errors(sae, x[:0], codes[:0]).shape == (0, 12)


def test_wrong_arguments() -> None:
    sae, x = random_sae(), embeddings()
    codes = sae.encode(x)
    for wrong in (x[:, :5], x[0], x.astype(int)):
        with pytest.raises(ShapeError):
            encode(sae, wrong)
    for other in (codes[:3], codes[:, :7], codes.tocsc()):
        with pytest.raises(ShapeError):
            errors(sae, x, other)
    for value in (-1.0, 0.0, np.nan):
        spoilt = codes.copy()
        spoilt.data[0] = value
        with pytest.raises(InvalidVectorError):
            errors(sae, x, spoilt)
    unsorted = codes[:, ::-1]  # unsorted is no fault
    assert not unsorted.has_sorted_indices and errors(sae, x, unsorted).shape == x.shape
    twice = csr_matrix((np.ones(2, F32), [4, 4], [0, 2]), shape=(1, 40))
    with pytest.raises(InvalidVectorError):
        errors(sae, x[:1], twice)
    with pytest.raises(InvalidVectorError):
        encode(sae, np.full((1, 12), np.inf, F32))
    with pytest.raises(InvalidArgumentError):
        encode(sae, x, device="abacus")


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    sae, x = random_sae(n=4096, d=64, k=8), embeddings(3000, 64)
    codes = encode(sae, x, device="cuda")
    expected = blocks._encode(sae, x, torch.device("cpu"))
    same = np.diff(codes.multiply(expected).tocsr().indptr)
    assert (same == 8).mean() > 0.999  # sums in another order: near ties may fall otherwise
    np.testing.assert_allclose(errors(sae, x, expected, device="cuda"), errors(sae, x, expected), atol=1e-5)
