"""The fused top-k encoder against the specification, by the portable kernel and by the one for the GPU at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.gpu import topk_encode as module
from sparsight.kernels.gpu.topk_encode import Cut, topk_encode
from sparsight.kernels.reference.topk_encode import topk_encode as reference

GPU = torch.cuda.is_available()
WAYS = [(torch.float32, Cut(rows=16)), (torch.float16, Cut(rows=16))]
WAYS += [(torch.bfloat16, Cut(rows=16)), (torch.float16, None), (torch.bfloat16, None)] if GPU else []
Way = tuple[torch.dtype, Cut | None]
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def way_name(way: Way) -> str:
    return f"{str(way[0])[6:]}-{'portable' if way[1] else 'chosen'}"


# The interpreter is slow: there one dtype is enough for most tests.
@pytest.fixture(params=WAYS if GPU else WAYS[:1], ids=way_name)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def make(rows: int, n: int, d: int, seed: int = 0) -> Given:
    """Inputs and weights that are the same in every dtype: of at most 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = ((32 * torch.randn(size, generator=generator)).round().clamp(-255, 255) / 32
                 for size in ((rows, d), (n, d)))
    return x, weight, torch.randn(n, generator=generator)


def encode(given: Given, k: int, device: str, way: Way) -> tuple[torch.Tensor, torch.Tensor]:
    (x, weight, bias), (dtype, cut) = given, way
    return topk_encode(x.to(device, dtype), weight.to(device, dtype), bias.to(device), k, cut=cut)


def same(got: tuple[torch.Tensor, torch.Tensor], given: Given, k: int) -> None:
    latents, values = reference(*(part.numpy() for part in given), k)
    np.testing.assert_array_equal(got[0].cpu().numpy(), latents)
    np.testing.assert_allclose(got[1].cpu().numpy(), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "n", "d", "k"), [
    (4, 300, 64, 3),  # the last tile is partly filled
    (17, 128, 16, 1), (1, 1024, 48, 32), (2, 100, 192, 64), (1, 4, 16, 8), (2, 260, 640, 4),
])  # fmt: skip
@pytest.mark.parametrize("way", WAYS, ids=way_name)
def test_equals_the_specification(device: str, way: Way, rows: int, n: int, d: int, k: int) -> None:
    given = make(rows, n, d)
    same(encode(given, k, device, way), given, k)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize(("rows", "n", "d", "k"), [(1000, 20_000, 384, 32), (300, 9000, 768, 100), (4097, 4000, 64, 5)])
@pytest.mark.parametrize("way", WAYS[2:], ids=str)
def test_many_tiles(way: Way, rows: int, n: int, d: int, k: int) -> None:
    """Rings of chunks go round, and blocks of rows and runs of tiles end anywhere; equal bits each time."""
    x, weight, bias = (part.cuda() for part in make(rows, n, d))
    pre_acts = x.double() @ weight.double().T + bias.double()
    expected = pre_acts.topk(k)
    made = [encode((x, weight, bias), k, "cuda", way) for _ in range(3)]
    for latents, values in made:
        torch.testing.assert_close(values.double(), expected.values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pre_acts.gather(1, latents.long()), expected.values, rtol=1e-5, atol=1e-5)
        assert torch.equal(latents, made[0][0]) and torch.equal(values, made[0][1])


def test_fewer_than_k_are_positive(device: str, way: Way) -> None:
    x, weight, bias = make(4, 256, 64)
    given = x, weight, bias - 18
    got = encode(given, 32, device, way)
    assert ((got[0] < 0) == (got[1] == 0)).all() and 0 < int((got[0] >= 0).sum()) < 64
    same(got, given, 32)
    none = encode((x, weight, bias - 1e3), 4, device, way)
    assert (none[0] == -1).all() and not none[1].any()


def group(at: int) -> torch.Tensor:
    """The latents of a group in their order: pairs of neighbours, every fourth pair of a tile of 128."""
    return torch.arange(128).view(16, 4, 2)[:, at % 4].reshape(-1) + at // 4 * 128


def test_many_of_one_group(device: str, way: Way) -> None:
    """More of the largest in one group than is written of it: all of the group is looked at."""
    given = make(3, 512, 64)
    given[2][group(1)[:7]] += 100
    given[2][group(9)[[0, 5, 31]]] += 100
    given[2][group(15)[31]] += 100
    same(encode(given, 12, device, way), given, 12)
    assert sorted(torch.cat([group(at) for at in range(16)]).tolist()) == list(range(512))


def test_more_candidates_than_there_is_room_for(device: str, way: Way) -> None:
    """640 values in one step of the first look, in which they rise with the latent; the room is 256."""
    given = torch.zeros(1, 64), torch.zeros(640, 64), 1.0 + torch.arange(640) * 2.0**-18
    latents, values = encode(given, 2, device, way)
    assert latents.tolist() == [[639, 638]] and values[0].tolist() == given[2][[639, 638]].tolist()


def test_ties_go_to_the_lower_latent(device: str, way: Way) -> None:
    given = torch.ones(2, 64), torch.zeros(640, 64), torch.zeros(640)
    given[2][[5, 130, 200, 400, 500, 639]] = 1.0
    latents, values = encode(given, 4, device, way)
    assert latents.tolist() == [[5, 130, 200, 400]] * 2 and (values == 1).all()
    assert encode((given[0], given[1][:300], torch.ones(300)), 3, device, way)[0].tolist() == [[0, 1, 2]] * 2


def test_near_ties_are_told_apart(device: str, way: Way) -> None:
    """Values that differ in bits that the first look does not see."""
    given = torch.zeros(1, 64), torch.zeros(512, 64), torch.full((512,), -1.0)
    given[2][::64] = 1.0 + torch.arange(8) * 2.0**-20
    assert encode(given, 3, device, way)[0].tolist() == [[448, 384, 320]]


def test_room_that_was_used_before(device: str) -> None:
    x, weight, bias = given = make(3, 128, 16)
    out = torch.full((3, 8), 9, dtype=torch.int32, device=device), torch.full((3, 8), 9.0, device=device)
    got = topk_encode(x.to(device), weight.to(device), bias.to(device), 8, cut=Cut(rows=16), out=out)
    assert got[0] is out[0] and got[1] is out[1]
    same(out, given, 8)
    for wrong in ((out[0][:2], out[1]), (out[0], out[1].double())):
        with pytest.raises(ShapeError, match="expected contiguous"):
            topk_encode(x.to(device), weight.to(device), bias.to(device), 8, cut=Cut(rows=16), out=wrong)


def test_nothing_to_do(device: str, way: Way) -> None:
    assert encode(make(0, 128, 64), 4, device, way)[0].shape == (0, 4)


@pytest.mark.parametrize(("blocks", "tiles", "runs"), [(1, 8, 1), (1, 64, 2), (64, 512, 1), (3, 512, 2)])
def test_runs_fill_the_processors(blocks: int, tiles: int, runs: int) -> None:
    """Of two: three blocks are cut in two, and a run has 16 tiles at least."""
    assert module.runs_for(blocks, tiles, torch.device("cpu")) == runs


def test_what_does_not_fit() -> None:
    x, weight, bias = make(2, 128, 16)
    for wrong in ((x[:, :8], weight, bias), (x, weight, bias[:5]), (x.half(), weight, bias),
                  (x[:, :8].contiguous(), weight[:, :8].contiguous(), bias)):
        with pytest.raises(ShapeError, match="expected"):
            topk_encode(*wrong, 4)
    for k in (0, 129):
        with pytest.raises(InvalidArgumentError, match="expected k in"):
            topk_encode(x, weight, bias, k)
