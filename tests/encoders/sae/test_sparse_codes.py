"""Sparse products and their gradients against dense ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsight.encoders.sae.sparse_codes import LatentOrder, chosen_pre_acts, decode, taken

B, D, N, K = 9, 6, 20, 4


def make(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(B, D, generator=generator, requires_grad=True),
            "w_enc": torch.randn(N, D, generator=generator, requires_grad=True),
            "b_enc": torch.randn(N, generator=generator, requires_grad=True),
            "w_dec": torch.randn(N, D, generator=generator, requires_grad=True)}


def dense(given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (B, N) and reconstructions through matrices of all latents."""
    pre_acts = given["x"] @ given["w_enc"].T + given["b_enc"]
    found = pre_acts.topk(K, dim=1)
    codes = torch.zeros_like(pre_acts).scatter(1, found.indices, found.values.relu())
    return codes, codes @ given["w_dec"]


def sparse(given: dict[str, Any], device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, values and reconstructions by the products of this module."""
    with torch.no_grad():
        found = (given["x"] @ given["w_enc"].T + given["b_enc"]).topk(K, dim=1)
    order = LatentOrder(found.indices, N)
    values = chosen_pre_acts(found.values, given["x"], given["w_enc"], given["b_enc"], found.indices, order).relu()
    return found.indices, values, decode(values, given["w_dec"], found.indices, order)


def test_forward() -> None:
    given = make()
    codes, expected = dense(given)
    latents, values, got = sparse(given)
    torch.testing.assert_close(torch.zeros(B, N).scatter(1, latents, values), codes)
    torch.testing.assert_close(got, expected)


def test_gradients() -> None:
    target = torch.randn(B, D, generator=torch.Generator().manual_seed(5))
    gradients = []
    for way in (dense, sparse):
        given = make()
        *_, codes, rebuilt = way(given)
        ((rebuilt - target).square().sum() + codes.square().sum() * 0.3).backward()
        gradients.append({name: tensor.grad for name, tensor in given.items()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_two_groups_of_latents_add_up() -> None:
    """What AuxK does: a second choice of the same pre-activations, with an order of its own."""
    given, other = make(), make()
    latents, _, first = sparse(given)
    with torch.no_grad():
        pre_acts = given["x"] @ given["w_enc"].T + given["b_enc"]
        rest = pre_acts.scatter(1, latents, -torch.inf).topk(3, dim=1)
    order = LatentOrder(rest.indices, N)
    values = chosen_pre_acts(rest.values, given["x"], given["w_enc"], given["b_enc"], rest.indices, order)
    (first.sum() + decode(values, given["w_dec"], rest.indices, order).square().sum()).backward()
    _, expected = dense(other)
    pre_acts = other["x"] @ other["w_enc"].T + other["b_enc"]
    kept = torch.zeros(B, N).scatter(1, rest.indices, 1.0)
    (expected.sum() + ((pre_acts * kept) @ other["w_dec"]).square().sum()).backward()
    for name in given:
        torch.testing.assert_close(given[name].grad, other[name].grad, rtol=1e-4, atol=1e-4, msg=name)


def test_only_what_is_wanted_is_computed() -> None:
    given = make()
    frozen = given | {"w_enc": given["w_enc"].detach(), "x": given["x"].detach()}
    *_, rebuilt = sparse(frozen)
    rebuilt.sum().backward()
    assert given["w_enc"].grad is None and given["w_dec"].grad is not None and given["b_enc"].grad is not None


def test_order() -> None:
    latents = torch.tensor([[3, 0], [3, 5], [0, 3]])
    order = LatentOrder(latents, 7)
    assert order.starts.tolist() == [0, 2, 2, 2, 5, 5, 6, 6]
    assert order.rows.tolist() == [0, 2, 0, 1, 2, 1]
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    assert order.sums(scale).tolist() == [18, 0, 0, 37, 0, 8, 0]
    table = torch.eye(3)
    assert order.spread(scale, table)[3].tolist() == [1, 4, 32]


@pytest.mark.parametrize("k", [1, 3])
def test_equal_bits(k: int) -> None:
    """Whatever the number of threads."""
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            given = make(k)
            *_, rebuilt = sparse(given)
            rebuilt.square().sum().backward()
            made.append([given[name].grad.clone() for name in ("w_enc", "b_enc", "w_dec")])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)


def test_taken() -> None:
    latents = torch.tensor([[3, 0], [3, 5], [0, 3]])
    values = torch.arange(7.0, requires_grad=True)
    found = taken(values, latents, LatentOrder(latents, 7))
    assert found.tolist() == [[3, 0], [3, 5], [0, 3]]
    (found * torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [18, 0, 0, 37, 0, 8, 0]


def test_taken_has_equal_bits_with_several_threads() -> None:
    """Half a million entries of 64 latents: indexing's own gradient differs from call to call."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randint(0, 64, (4096, 128), generator=generator)
    scale, order = torch.randn(4096, 128, generator=generator), LatentOrder(latents, 64)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            values = torch.zeros(64, requires_grad=True)
            (taken(values, latents, order) * scale).sum().backward()
            made.append(values.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, made[0]) for one in made)
