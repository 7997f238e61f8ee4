from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import entropy

from sparsight.encoders.sae.description_length import (
    activity_bits,
    description_length,
    quantise,
    upper_bound,
    value_bits,
)
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def codes_of(rows: list[list[float]]) -> csr_matrix:
    return csr_matrix(np.array(rows, F32))


def axes_sae(d: int = 16, k: int = 6, seed: int = 0) -> SAE:
    """Both directions of d orthogonal axes: N = 2 d latents that rebuild the k largest components."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    w = np.concatenate([turn, -turn]).astype(F32)
    return SAE(k=k, W_enc=w, b_enc=np.zeros(2 * d, F32), W_dec=w, b_dec=np.zeros(d, F32))


def embeddings(rows: int = 400, d: int = 16, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


def test_upper_bound_by_hand() -> None:
    assert upper_bound(32, 16_384, 5) == 32 * (14 + 5) == 608
    assert upper_bound(1, 1, 0) == 0


def test_activity_by_hand() -> None:
    # Active in 2 of 4 texts: 1 bit. In 1 of 4: 1/4 * 2 + 3/4 * log2(4/3). In all or none: nothing.
    codes = codes_of([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    assert activity_bits(codes) == pytest.approx(1 + 0.5 + 0.75 * math.log2(4 / 3))
    assert activity_bits(csr_matrix((0, 3), dtype=F32)) == 0


def test_quantising_by_hand() -> None:
    codes = codes_of([[4, 1], [0, 1.9], [2, 0.01]])  # largest 4, two bits: steps of 1; data 4, 1, 1.9, 2, .01
    levels, step = quantise(codes, 2)
    assert step == 1 and levels.tolist() == [3, 1, 1, 2, 0]
    levels, step = quantise(codes, 0)
    assert step == 4 and levels.tolist() == [0] * 5


def test_values_by_hand() -> None:
    # Latent 0: levels 3, 2, an even choice: 1 bit, in 2 of 3 texts. Latent 1: levels 1, 1, 0, log2(3) - 2/3 bits.
    codes = codes_of([[4, 1], [0, 1.9], [2, 0.01]])
    levels, _ = quantise(codes, 2)
    assert value_bits(codes, levels) == pytest.approx(2 / 3 * 1 + 1 * (math.log2(3) - 2 / 3))
    assert value_bits(codes, quantise(codes, 0)[0]) == 0


def test_values_against_entropies_of_histograms() -> None:
    sae, x = axes_sae(), embeddings()
    codes = sae.encode(x)
    levels, _ = quantise(codes, 4)
    whole = csr_matrix((levels + 1, codes.indices, codes.indptr), codes.shape).toarray()
    expected = 0.0
    for column in whole.T:
        own = column[column > 0]
        expected += len(own) / len(x) * (entropy(np.bincount(own), base=2) if len(own) else 0)
    assert value_bits(codes, levels) == pytest.approx(expected)


def test_whole_length_by_hand() -> None:
    # Two axes; texts (1, 0), (3, 0), (0, 1), (0, 3), rebuilt but for a third component of +-1. Mean (1, 1, 0).
    sae = SAE(k=1, W_enc=np.eye(2, 3, dtype=F32), b_enc=np.zeros(2, F32), W_dec=np.eye(2, 3, dtype=F32),
              b_dec=np.zeros(3, F32))
    x = np.array([[1, 0, 1], [3, 0, -1], [0, 1, -1], [0, 3, 1]], F32)
    # FVU 4 / 16: squared distances from the mean 2, 6, 2, 6. Largest value 3. 0 bits rebuild all as 1.5: errors
    # .25, 2.25, .25, 2.25. 1 bit rebuilds 1 as .75 and 3 as 2.25: .0625, .5625, twice, in all 1.25.
    one_bit = (4 + 1.25) / 16
    got = description_length(sae, x, tolerance=one_bit / 0.25 - 1 + 1e-6, weight_bits=8, documents=90)
    assert got.fvu == pytest.approx(0.25) and got.fvu_quantised == pytest.approx(one_bit)
    assert got.precision == 1 and got.step == 1.5
    assert got.activity == 2  # each latent in half of the texts
    assert got.values == 1  # one latent a text, with its levels 0 and 1 equally often
    assert got.dictionary == pytest.approx(8 * (2 * 3 + 3) / 90)
    assert got.total == pytest.approx(2 + 1 + 0.8)
    assert got.upper_bound == 1 * (1 + 1)
    coarse = description_length(sae, x, tolerance=(4 + 5) / 4 - 1 + 1e-6)
    assert coarse.precision == 0 and coarse.values == 0 and coarse.dictionary == 16 * 9 / 4


def test_the_coarsest_that_suffices() -> None:
    sae, x = axes_sae(), embeddings()
    lengths = [description_length(sae, x, tolerance=tolerance) for tolerance in (0.1, 0.01, 0.001)]
    assert lengths[0].precision < lengths[1].precision < lengths[2].precision
    for tolerance, got in zip((0.1, 0.01, 0.001), lengths, strict=True):
        assert got.fvu < got.fvu_quantised <= (1 + tolerance) * got.fvu
        codes = sae.encode(x)
        levels, step = quantise(codes, got.precision - 1)
        codes.data = ((levels + 0.5) * step).astype(F32)
        missed = np.square(x - sae.decode(codes)).sum() / np.square(x - x.mean(0)).sum()
        assert missed > (1 + tolerance) * got.fvu


def test_a_duplicated_dictionary_is_longer() -> None:
    # Each latent split into two that share its texts at random: the same reconstruction, more bits.
    sae, x = axes_sae(), embeddings()
    codes = sae.encode(x)
    wide = SAE(k=6, W_enc=np.tile(sae.W_enc, (2, 1)), b_enc=np.zeros(64, F32), W_dec=np.tile(sae.W_dec, (2, 1)),
               b_dec=sae.b_dec)
    side = np.random.default_rng(0).integers(0, 2, codes.nnz)
    split = csr_matrix((codes.data.copy(), codes.indices + 32 * side, codes.indptr), shape=(len(x), 64))
    split.sort_indices()
    one, two = description_length(sae, x, codes), description_length(wide, x, split)
    assert one.fvu == pytest.approx(two.fvu, rel=1e-5) and one.precision == two.precision
    assert two.activity > one.activity + 0.9 * codes.nnz / len(x)  # about one bit more for each active latent
    assert two.dictionary > one.dictionary


@given(st.integers(0, 8), st.integers(0, 2**31))
def test_never_above_the_bound(precision: int, seed: int) -> None:
    # sum H(p_i) <= N h(k/N) <= k log2(e N / k), so below k log2 N from k = 3 on.
    codes = axes_sae(seed=seed).encode(embeddings(50, seed=seed + 1))
    levels, _ = quantise(codes, precision)
    values = value_bits(codes, levels)
    assert 0 <= values <= 6 * precision + 1e-9
    assert activity_bits(codes) + values <= upper_bound(codes.nnz / 50, 32, precision)


def test_wrong_arguments() -> None:
    sae, x = axes_sae(), embeddings(20)
    for options in ({"documents": -1}, {"tolerance": -0.1}, {"weight_bits": 0}):
        with pytest.raises(InvalidArgumentError):
            description_length(sae, x, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="16 bits"):
        description_length(axes_sae(k=32), x)  # rebuilds without any error
    with pytest.raises(ShapeError):
        description_length(sae, x, sae.encode(x)[:5])
    with pytest.raises(InvalidVectorError):
        description_length(sae, np.ones((3, 16), F32))
    with pytest.raises(InvalidArgumentError):
        description_length(sae, x, csr_matrix((20, 32), dtype=F32))
    for precision in (-1, 17):
        with pytest.raises(InvalidArgumentError):
            quantise(sae.encode(x), precision)
