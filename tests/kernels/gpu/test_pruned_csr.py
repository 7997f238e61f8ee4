"""Weights to compressed rows, against the specification; all of it exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.reference import max_logits as reference

pytest.importorskip("triton")

from sparsight.kernels.gpu.pruned_csr import DeviceRows, pruned_csr


def check(weights: torch.Tensor, max_terms: int = 0, threshold: float = 0.0) -> DeviceRows:
    """Prune, and compare with the reference."""
    got = pruned_csr(weights, max_terms=max_terms, threshold=threshold)
    starts, terms, values = reference.pruned_csr(weights, max_terms, threshold)
    assert torch.equal(got.starts, starts)
    assert torch.equal(got.terms.to(torch.int64), terms)
    assert torch.equal(got.values, values)
    assert (got.starts.dtype, got.values.dtype) == (torch.int64, torch.float16)
    assert (got.scale, got.n_terms) == (1.0, weights.shape[1])
    return got


def sparse_weights(rows: int, terms: int, device: str, levels: int = 0) -> torch.Tensor:
    """About half zeros; with ``levels`` the others are multiples of 1 / levels, so that many are equal."""
    weights = torch.relu(torch.randn(rows, terms, generator=torch.Generator().manual_seed(terms)))
    if levels:
        weights = (weights * levels).ceil() / levels
    return weights.half().to(device)


def test_by_hand(device: str) -> None:
    weights = torch.tensor([[0, 1, 3, 1, 0, 2], [0] * 6, [4] * 6], dtype=torch.float16, device=device)
    got = pruned_csr(weights, max_terms=3)
    assert got.starts.tolist() == [0, 3, 3, 6]
    assert got.terms.tolist() == [1, 2, 5, 0, 1, 2]
    assert got.values.tolist() == [1, 3, 2, 4, 4, 4]


@pytest.mark.parametrize("terms", [1, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("max_terms", [0, 1, 7, 100, 20_000])
def test_largest_terms(terms: int, max_terms: int, device: str) -> None:
    got = check(sparse_weights(3, terms, device), max_terms)
    assert got.terms.dtype == torch.uint16
    if max_terms:
        assert int(got.starts.diff().max()) <= max_terms


@pytest.mark.parametrize("max_terms", [1, 50, 500, 4096])
def test_equal_weights_stay_by_lower_term(max_terms: int, device: str) -> None:
    check(sparse_weights(3, 9000, device, levels=2), max_terms)
    weights = torch.ones(1, 9000, dtype=torch.float16, device=device)
    assert check(weights, max_terms).terms.tolist() == list(range(max_terms))


def test_thresholds_on_and_between_float16_numbers(device: str) -> None:
    weights = sparse_weights(2, 300, device)
    for weight in np.unique(weights.cpu().numpy())[::40]:
        here = float(weight)
        above, below = (float(np.nextafter(weight, np.float16(end))) for end in (np.inf, 0))
        for threshold in (here, (here + above) / 2, 0.9 * here + 0.1 * above, (here + below) / 2, here * (1 + 1e-9)):
            check(weights, 0, threshold)
    check(weights, 20, 0.1)
    check(weights, 0, 1e-9)  # below every float16 number but 0
    check(weights, 0, 100.0)


def test_numbers_at_the_ends_of_float16(device: str) -> None:
    tiny = 2.0**-24
    weights = torch.tensor([[0, tiny, 65504, np.inf, -0.0, 2 * tiny]], dtype=torch.float16, device=device)
    for threshold in (0.0, tiny / 2, tiny, 1.5 * tiny, 65503.0, 65504.0, 1e6):
        for max_terms in (0, 1, 2, 5):
            check(weights, max_terms, threshold)
    weights[0, 5] = np.nan
    assert pruned_csr(weights, max_terms=1).terms.tolist() == [5]


@pytest.mark.parametrize(("terms", "dtype"), [(65_536, torch.uint16), (65_537, torch.int32), (70_001, torch.int32)])
def test_large_vocabularies(terms: int, dtype: torch.dtype, device: str) -> None:
    weights = sparse_weights(2, terms, device)
    weights[:, -1] = 9
    got = check(weights, 10)
    assert got.terms.dtype == dtype
    starts, indices, _ = got.to_host()
    assert indices[starts[1:] - 1].tolist() == [terms - 1] * 2


@pytest.mark.parametrize(("rows", "terms"), [(0, 5), (2, 0), (0, 0), (2, 5)])
def test_nothing_to_keep(rows: int, terms: int, device: str) -> None:
    for options in ({}, {"max_terms": 3}, {"max_weight": 2.0}):
        got = pruned_csr(torch.zeros(rows, terms, dtype=torch.float16, device=device), **options)  # type: ignore[arg-type]
        assert got.starts.tolist() == [0] * (rows + 1)
        assert len(got.terms) == len(got.values) == 0


def test_rows_without_entries_between_others(device: str) -> None:
    weights = sparse_weights(5, 500, device)
    weights[0] = weights[2] = weights[4] = 0
    got = check(weights, 10)
    assert got.starts.tolist() == [0, 0, 10, 10, 20, 20]


@pytest.mark.parametrize("max_weight", [0.5, 3.0, 10.0])
def test_bytes(max_weight: float, device: str) -> None:
    weights = sparse_weights(3, 5000, device)
    weights[0, 0] = 1e-4  # less than half a level: stored as one, for what is stored is not 0
    got, plain = pruned_csr(weights, max_weight=max_weight, max_terms=2400), pruned_csr(weights, max_terms=2400)
    assert got.values.dtype == torch.uint8
    assert got.scale == max_weight / 255
    assert torch.equal(got.starts, plain.starts)
    assert torch.equal(got.terms.to(torch.int64), plain.terms.to(torch.int64))
    levels = plain.values.cpu().numpy().astype(np.float32) * np.float32(255 / max_weight)
    expected = np.clip(np.floor(levels + np.float32(0.5)), 1, 255)
    assert got.values.cpu().numpy().tolist() == expected.astype(np.uint8).tolist()
    data = got.to_host()[2]
    inside = levels <= 255
    assert np.abs(data - plain.to_host()[2])[inside].max() <= got.scale


def test_the_smallest_byte_is_one(device: str) -> None:
    weights = torch.tensor([[1e-4, 1.0, 2.0, 9.0, 0.0]], dtype=torch.float16, device=device)
    assert pruned_csr(weights, max_weight=2.0).values.tolist() == [1, 128, 255, 255]


def test_what_comes_to_the_host_is_a_matrix(device: str) -> None:
    weights = sparse_weights(4, 300, device)
    got = pruned_csr(weights)
    starts, terms, values = got.to_host()
    assert (starts.dtype, terms.dtype, values.dtype) == (np.int64, np.int32, np.float32)
    matrix = sparse.csr_matrix((values, terms, starts), shape=(4, got.n_terms))
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), weights.cpu().numpy().astype(np.float32))


@pytest.mark.parametrize("weights", [torch.zeros(3, 4), torch.zeros(4, dtype=torch.float16),
                                     torch.zeros(4, 3, dtype=torch.float16).T])
def test_weights_that_do_not_fit(weights: torch.Tensor) -> None:
    with pytest.raises(ShapeError) as caught:
        pruned_csr(weights)
    assert caught.value.field == "weights"


@pytest.mark.parametrize("name", ["max_terms", "threshold", "max_weight"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_numbers_that_do_not_fit(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        pruned_csr(torch.zeros(1, 4, dtype=torch.float16), **{name: value})
    assert caught.value.field == name
