"""The fused sum and layer normalisation, against torch's."""

from __future__ import annotations

import pytest
import torch

from sparsight.errors import ShapeError

pytest.importorskip("triton")

from sparsight.kernels.gpu.add_norm import add_norm

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("width", [16, 48, 384, 1000])
def test_add_norm(width: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    weight, bias = (torch.randn(width, device=device).to(dtype) for _ in range(2))
    for tokens in (1, 3, 4, 5, 9):  # a program takes four
        x, y = (torch.randn(tokens, width, device=device).to(dtype) for _ in range(2))
        expected = torch.nn.functional.layer_norm(x.float() + y.float(), (width,), weight.float(), bias.float(), 1e-12)
        got = add_norm(x, y, weight, bias, 1e-12)
        assert (got.dtype, got.shape) == (dtype, x.shape)
        torch.testing.assert_close(got.float(), expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_by_hand(device: str) -> None:
    x, y = torch.tensor([[1.0, 2.0, 3.0, 4.0]], device=device), torch.tensor([[0.0, 1.0, 2.0, 3.0]], device=device)
    one, none = torch.ones(4, device=device), torch.zeros(4, device=device)
    got = add_norm(x, y, 2 * one, none, 4.0)  # 1 3 5 7: mean 4, variance 5
    assert got[0].tolist() == pytest.approx([-2, -2 / 3, 2 / 3, 2])


def test_a_large_mean_and_equal_components(device: str) -> None:
    torch.manual_seed(0)
    x, y = 1000 + torch.randn(4, 48, device=device), torch.zeros(4, 48, device=device)
    one, none = torch.ones(48, device=device), torch.zeros(48, device=device)
    expected = torch.nn.functional.layer_norm(x.double(), (48,), eps=1e-12).float()
    torch.testing.assert_close(add_norm(x, y, one, none, 1e-12), expected, rtol=1e-3, atol=1e-3)
    # Not 0: a GPU's quotient of 144 and 48 may miss 3 by its last bit, which is divided by sqrt(eps).
    assert add_norm(x * 0 + 3, y, one, none, 1e-5).abs().max() < 1e-4


def test_no_tokens(device: str) -> None:
    empty, one = torch.zeros(0, 16, device=device), torch.ones(16, device=device)
    assert add_norm(empty, empty, one, one, 1e-5).shape == (0, 16)


@pytest.mark.parametrize(("x", "y"), [
    (torch.zeros(3, 16), torch.zeros(2, 16)),
    (torch.zeros(3, 16), torch.zeros(3, 17)),
    (torch.zeros(16), torch.zeros(16)),
    (torch.zeros(16, 3).T, torch.zeros(3, 16)),
    (torch.zeros(3, 16), torch.zeros(16, 3).T),
])
def test_shapes_that_do_not_fit(x: torch.Tensor, y: torch.Tensor) -> None:
    with pytest.raises(ShapeError):
        add_norm(x, y, torch.ones(16), torch.zeros(16), 1e-5)
