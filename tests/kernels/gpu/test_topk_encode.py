"""The fused top-k encoder against the specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.gpu import topk_encode as module
from sparsight.kernels.gpu.topk_encode import topk_encode
from sparsight.kernels.reference.topk_encode import topk_encode as reference


def make(rows: int, n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((rows, d), (n, d)))
    return x, weight, torch.randn(n, generator=generator)


def same(got: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
         k: int) -> None:
    latents, values = reference(x.float().numpy(), weight.float().numpy(), bias.float().numpy(), k)
    np.testing.assert_array_equal(got[0].cpu().numpy(), latents)
    np.testing.assert_allclose(got[1].cpu().numpy(), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "n", "d", "k"), [
    (5, 300, 32, 8),  # the last tile is partly filled
    (17, 128, 16, 1), (3, 1024, 48, 32), (2, 100, 16, 64), (1, 4, 16, 8),
])
def test_equals_the_specification(device: str, rows: int, n: int, d: int, k: int) -> None:
    given = make(rows, n, d)
    same(topk_encode(*(part.to(device) for part in given), k, cut=module.Cut(rows=16)), *given, k)


@pytest.mark.parametrize("dtype", [torch.float16] + ([torch.bfloat16] if torch.cuda.is_available() else []))
def test_short_numbers(device: str, dtype: torch.dtype) -> None:
    given = make(9, 512, 64, dtype)
    same(topk_encode(*(part.to(device) for part in given), 16, cut=module.Cut(rows=16)), *given, 16)


def test_fewer_than_k_are_positive(device: str) -> None:
    x, weight, bias = make(4, 256, 16)
    bias = bias - 8
    got = topk_encode(x.to(device), weight.to(device), bias.to(device), 32, cut=module.Cut(rows=16))
    assert ((got[0] < 0) == (got[1] == 0)).all() and 0 < int((got[0] >= 0).sum()) < 64
    same(got, x, weight, bias, 32)
    none = topk_encode(x.to(device), weight.to(device), bias.to(device) - 1e3, 4, cut=module.Cut(rows=16))
    assert (none[0] == -1).all() and not none[1].any()


def test_many_of_one_group(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than three of the largest in one group: the row is done again in full."""
    x, weight, bias = make(3, 256, 16)
    group = [8 * a + b for a in range(16) for b in (2, 3)]
    bias[group[:7]] += 100
    rows: list[int] = []
    in_full = module._in_full
    monkeypatch.setattr(module, "_in_full", lambda some, *rest: (rows.append(len(some)), in_full(some, *rest))[1])
    same(topk_encode(x.to(device), weight.to(device), bias.to(device), 8, cut=module.Cut(rows=16)), x, weight, bias, 8)
    assert rows == [3]


def test_ties_go_to_the_lower_latent(device: str) -> None:
    x = torch.ones(2, 16)
    weight, bias = torch.zeros(640, 16), torch.zeros(640)
    bias[[5, 130, 200, 400, 500, 639]] = 1.0
    latents, values = topk_encode(x.to(device), weight.to(device), bias.to(device), 4, cut=module.Cut(rows=16))
    assert latents.tolist() == [[5, 130, 200, 400]] * 2 and (values == 1).all()


def test_near_ties_are_told_apart(device: str) -> None:
    """Values that differ in bits that the first look does not see."""
    x, weight, bias = torch.zeros(1, 16), torch.zeros(512, 16), torch.full((512,), -1.0)
    bias[::64] = 1.0 + torch.arange(8) * 2.0**-20
    latents, _ = topk_encode(x.to(device), weight.to(device), bias.to(device), 3, cut=module.Cut(rows=16))
    assert latents.tolist() == [[448, 384, 320]]


def test_nothing_to_do(device: str) -> None:
    x, weight, bias = make(0, 128, 16)
    assert topk_encode(x.to(device), weight.to(device), bias.to(device), 4)[0].shape == (0, 4)


def test_what_does_not_fit() -> None:
    x, weight, bias = make(2, 128, 16)
    for wrong in ((x[:, :8], weight, bias), (x, weight, bias[:5]), (x.half(), weight, bias),
                  (x[:, :8].contiguous(), weight[:, :8].contiguous(), bias)):
        with pytest.raises(ShapeError, match="expected"):
            topk_encode(*wrong, 4)
    for k in (0, 129):
        with pytest.raises(InvalidArgumentError, match="expected k in"):
            topk_encode(x, weight, bias, k)
