"""The largest positive entries of narrow rows, against the specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsight.errors import ShapeError
from sparsight.kernels.gpu.top_positive import top_positive
from sparsight.kernels.reference.topk_encode import topk_positive


def expected(pre_acts: torch.Tensor, names: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The specification's latents by column, padded with -1 and 0."""
    latents, values = topk_positive(pre_acts.float().numpy(), k)
    order = np.argsort(np.where(latents < 0, pre_acts.shape[1], latents), axis=1, kind="stable")
    latents, values = np.take_along_axis(latents, order, 1), np.take_along_axis(values, order, 1)
    return np.where(latents < 0, -1, names.numpy()[latents]), values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("columns", "k"), [(1, 1), (40, 1), (40, 5), (64, 64), (7, 12)])
def test_equals_the_specification(device: str, columns: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns + k)
    pre_acts = torch.randn(4, columns, generator=generator).to(dtype)
    pre_acts[1] = -pre_acts[1].abs()  # none
    pre_acts[2] = -torch.inf  # what padding of dead latents looks like
    pre_acts[2, columns // 2] = 0.5
    names = torch.randperm(1000, generator=generator)[:columns].int()
    got = top_positive(pre_acts.to(device), names.to(device), k)
    for part, wanted in zip(got, expected(pre_acts, names, k), strict=True):
        np.testing.assert_array_equal(part.cpu().numpy(), wanted)


def test_ties_go_to_the_lower_columns(device: str) -> None:
    pre_acts = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0, 0.0, -1.0], [2.0] * 7])
    latents, values = top_positive(pre_acts.to(device), torch.arange(10, 17, dtype=torch.int32, device=device), 4)
    assert latents.tolist() == [[10, 11, 12, 13], [10, 11, 12, 13]]
    assert values.tolist() == [[1, 2, 1, 3], [2, 2, 2, 2]]


def test_room_that_was_used_before(device: str) -> None:
    names = torch.arange(3, dtype=torch.int32, device=device)
    out = torch.full((1, 3), 7, dtype=torch.int32, device=device), torch.full((1, 3), 7.0, device=device)
    got = top_positive(torch.tensor([[-1.0, 4.0, -2.0]], device=device), names, 3, out=out)
    assert got[0] is out[0] and out[0].tolist() == [[1, -1, -1]] and out[1].tolist() == [[4, 0, 0]]


def test_what_does_not_fit() -> None:
    pre_acts, names = torch.zeros(2, 3), torch.zeros(3, dtype=torch.int32)
    latents, values = torch.zeros((2, 2), dtype=torch.int32), torch.zeros(2, 2)
    for wrong in (names[:2], names.long()):
        with pytest.raises(ShapeError, match="expected contiguous"):
            top_positive(pre_acts, wrong, 2)
    with pytest.raises(ShapeError, match="expected contiguous"):
        top_positive(torch.zeros(3, 2).T, names, 2)
    for room in ((latents.long(), values), (latents, values[:, :1]), (latents, torch.zeros(2, 2).T)):
        with pytest.raises(ShapeError, match="expected contiguous"):
            top_positive(pre_acts, names, 2, out=room)
