"""The fused head, forward and backward, against its specification.

Most inputs are small whole numbers: their logits are exact in any order of summation, and stay exact when nine bits of
the mantissa give way to a token's number, so that both sides agree on every winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.reference import max_logits as reference

pytest.importorskip("triton")

from sparsight.kernels.gpu import max_logits as fused
from sparsight.kernels.gpu.max_logits import MAX_TOKENS, MaxLogits, TokenTiles, blocks_for, max_logits

# The interpreter is slow: there each width comes with one of the dtypes.
PAIRS = [(16, torch.float32), (48, torch.float16), (128, torch.float16), (384, torch.float32)]
if torch.cuda.is_available():
    PAIRS = list(product([16, 48, 128, 384], [torch.float32, torch.float16]))
each_pair = pytest.mark.parametrize(("width", "dtype"), PAIRS, ids=[f"{pair[0]}-{str(pair[1])[6:]}" for pair in PAIRS])
TERMS = 300  # no multiple of a block of 64 or 128 terms


class Head:
    """Random whole numbers as token vectors, weights and bias of texts of these lengths."""

    def __init__(self, lengths: Sequence[int], width: int, device: str, *, terms: int = TERMS,
                 dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def whole(*shape: int) -> torch.Tensor:
            return torch.randint(-3, 4, shape, generator=generator).to(device, dtype)

        self.starts = np.cumsum([0, *lengths])
        self.hidden, self.weight, self.bias = whole(sum(lengths), width), whole(terms, width), whole(terms)
        self.tiles = TokenTiles(self.starts, width, device, gradients=True)

    def expected(self, bias: torch.Tensor | None = None) -> torch.Tensor:
        return reference.max_logits(self.hidden.float(), torch.from_numpy(self.starts), self.weight.float(),
                                    None if bias is None else bias.float())

    def leaves(self) -> list[torch.Tensor]:
        return [tensor.clone().requires_grad_() for tensor in (self.hidden, self.weight, self.bias)]


def edges(width: int) -> list[int]:
    """Lengths on both sides of a tile's end, and 1 and 200."""
    size = blocks_for(width, np.array([200])).tokens
    return sorted({1, size - 1, size, size + 1, min(2 * size, 199), min(2 * size + 1, 200), 200})


# --- forward --------------------------------------------------------------------------------------------------


@each_pair
def test_forward(width: int, dtype: torch.dtype, device: str) -> None:
    head = Head(edges(width), width, device, dtype=dtype)
    got = max_logits(head.hidden, head.tiles, head.weight, head.bias, dtype=torch.float32)
    assert torch.equal(got, head.expected(head.bias))
    assert torch.equal(MaxLogits.apply(head.hidden, head.tiles, head.weight, head.bias).round(), got)


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_forward_of_wide_vectors(width: int, device: str) -> None:
    head = Head([1, 33, 64, 65], width, device, terms=70)
    got = max_logits(head.hidden, head.tiles, head.weight, head.bias, dtype=torch.float32)
    assert torch.equal(got, head.expected(head.bias))


@pytest.mark.parametrize("terms", [1, 127, 128, 129])
def test_vocabulary_at_the_edge_of_a_block(terms: int, device: str) -> None:
    head = Head([5, 1], 16, device, terms=terms)
    assert torch.equal(max_logits(head.hidden, head.tiles, head.weight, dtype=torch.float32), head.expected())


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", ["", "log1p_relu", "log1p_log1p_relu"])
def test_activations_and_bias(activation: str, with_bias: bool, device: str) -> None:
    head = Head([3, 130, 1], 48, device)
    bias = head.bias if with_bias else None
    expected = head.expected(bias)
    if activation:
        expected = reference.activate(expected, activation)
    got = max_logits(head.hidden, head.tiles, head.weight, bias, activation=activation)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), expected, rtol=1e-3, atol=1e-3)
    got = max_logits(head.hidden, head.tiles, head.weight, bias, activation=activation, dtype=torch.float32)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_real_numbers(device: str) -> None:
    torch.manual_seed(0)
    starts = np.cumsum([0, *edges(48)])
    hidden, weight, bias = (torch.randn(*shape, device=device) for shape in ((starts[-1], 48), (TERMS, 48), (TERMS,)))
    tiles = TokenTiles(starts, 48, device, gradients=True)
    expected = reference.max_logits(hidden, torch.from_numpy(starts), weight, bias)
    got = max_logits(hidden, tiles, weight, bias, dtype=torch.float32)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got = MaxLogits.apply(hidden, tiles, weight, bias)
    assert ((got - expected).abs() <= 1e-4 * (expected - bias).abs() + 1e-5).all()


def test_texts_are_split_between_programs(device: str) -> None:
    lengths = [1 + i % 5 for i in range(70)]
    head = Head(lengths, 16, device, terms=40)
    assert fused._even_splits(1, head.tiles, head.hidden.device) > 1
    got = max_logits(head.hidden, head.tiles, head.weight, head.bias, dtype=torch.float32)
    assert torch.equal(got, head.expected(head.bias))


def test_a_text_does_not_depend_on_its_neighbours(device: str) -> None:
    torch.manual_seed(1)
    lengths = [7, 128, 1, 129]
    hidden, weight = torch.randn(sum(lengths), 48, device=device), torch.randn(TERMS, 48, device=device)
    starts = np.cumsum([0, *lengths])
    together = max_logits(hidden, TokenTiles(starts, 48, device), weight, dtype=torch.float32)
    for text, (first, last) in enumerate(pairwise(starts)):
        tiles = TokenTiles(np.array([0, last - first]), 48, device)
        alone = max_logits(hidden[first:last], tiles, weight, dtype=torch.float32)[0]
        if device == "cpu":  # the interpreter multiplies with numpy, whose sums depend on shapes on some processors
            torch.testing.assert_close(alone, together[text], rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(alone, together[text])


# --- tiles ----------------------------------------------------------------------------------------------------


def test_tiles() -> None:
    tiles = TokenTiles(np.array([0, 3, 133]), 128, "cpu", cut=fused.Blocks(128, 128, 128, 3, 8))
    assert (tiles.texts, tiles.tokens, tiles.ends.tolist()) == (2, 133, [1, 3])
    assert tiles.table.tolist() == [[0, 2, 0, 3], [3, 132, 1, 1], [131, 132, 1, 2 + 4 * 128]]
    assert tiles.first_tokens().tolist() == [0, 3]
    assert tiles.splits(1).tolist() == [0, 3]
    assert tiles.splits(2).tolist() == [0, 1, 3]


def test_the_size_of_a_tile_follows_the_lengths() -> None:
    assert [blocks_for(384, np.full(9, length)).tokens for length in (10, 64, 128, 200)] == [32, 64, 128, 128]


@pytest.mark.parametrize("starts", [[0], [0, 3, 3], [0, 3, 2]])
def test_tiles_refuse_empty_texts(starts: list[int]) -> None:
    with pytest.raises(ShapeError, match="at least one token"):
        TokenTiles(np.array(starts), 16, "cpu")


@pytest.mark.parametrize("width", [8, 40, 1040])
def test_widths_that_do_not_fit(width: int) -> None:
    with pytest.raises(ShapeError, match="multiple of 16"):
        blocks_for(width, np.array([5]))


# --- gradients ------------------------------------------------------------------------------------------------


def backward(leaves: list[torch.Tensor], logits: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of a loss that is flat for half of the entries; the other half keeps rounding off relu's corner."""
    pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).relu().to(logits.device)
    pull[1::2] *= -1
    (torch.log1p(torch.relu(logits + 0.5)) * pull).sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@each_pair
def test_gradients(width: int, dtype: torch.dtype, device: str) -> None:
    tolerance = {torch.float32: 1e-4, torch.float16: 2e-3}[dtype]
    head = Head(edges(width), width, device, dtype=dtype, terms=140)
    ours, theirs = head.leaves(), [leaf.detach().float().requires_grad_() for leaf in head.leaves()]
    expected = reference.max_logits(theirs[0], torch.from_numpy(head.starts), theirs[1], theirs[2])
    got = backward(ours, MaxLogits.apply(ours[0], head.tiles, *ours[1:]))
    want = backward(theirs, expected)
    assert len(got) == len(want) == 3
    for ours_, theirs_ in zip(got, want, strict=True):
        assert ours_.dtype == dtype
        assert theirs_.abs().max() > 0
        assert torch.equal(ours_ == 0, theirs_ == 0) or dtype == torch.float16  # tiny ones become 0
        assert (ours_.float() - theirs_).abs().max() <= tolerance * theirs_.abs().max()


def test_two_backward_passes_agree_in_every_bit(device: str) -> None:
    head = Head([3, 130, 64, 1, 65], 48, device)
    passes = []
    for _ in range(2):
        leaves = head.leaves()
        passes.append(backward(leaves, MaxLogits.apply(leaves[0], head.tiles, *leaves[1:])))
    assert all(torch.equal(first, second) for first, second in zip(*passes, strict=True))


def one_term(logits: Sequence[float], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A text whose tokens have these logits for one term: what comes out, and the tokens with a gradient."""
    hidden = torch.zeros(len(logits), 16, device=device)
    hidden[:, 0] = torch.tensor(logits)
    hidden.requires_grad_()
    weight = torch.eye(1, 16, device=device, requires_grad=True)
    tiles = TokenTiles(np.array([0, len(logits)]), 16, device, gradients=True)
    out = MaxLogits.apply(hidden, tiles, weight, torch.full((1,), 10.0, device=device))
    out.sum().backward()
    assert hidden.grad is not None
    return out.detach(), hidden.grad.any(1).nonzero().ravel()


@pytest.mark.parametrize(("logits", "winner"), [
    ([2.0] * 3, 0),
    ([1.0, 2.0, 2.0], 1),
    ([2.0] * 300, 0),  # a tie between tiles
    ([1.0] * 129 + [2.0] * 171, 129),
    ([1.0] * (MAX_TOKENS - 1) + [2.0], MAX_TOKENS - 1),
    ([2.0] * MAX_TOKENS, 0),
    ([0.0] * 5, 0),
    ([-1.0, -2.0, -3.0], 0),
    ([-3.0, -2.0, -1.0], 2),
    ([-2.0] * 3, 2),  # more low bits make a negative logit smaller
])
def test_which_of_equal_tokens_wins(logits: list[float], winner: int, device: str) -> None:
    out, winners = one_term(logits, device)
    assert out.item() == pytest.approx(10 + max(logits), rel=1e-4)
    assert winners.tolist() == [winner]


def test_no_gradient_where_the_activation_is_flat(device: str) -> None:
    head = Head([3, 5], 16, device)
    leaves = head.leaves()
    torch.relu(MaxLogits.apply(leaves[0], head.tiles, *leaves[1:]) - 1e6).sum().backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "change"), [
    ("hidden", {"hidden": torch.zeros(4, 16)}),  # a token too many
    ("hidden", {"hidden": torch.zeros(3, 32)}),
    ("hidden", {"hidden": torch.zeros(3, 1, 16)}),
    ("weight", {"hidden": torch.zeros(3, 16, dtype=torch.float16)}),
    ("weight", {"hidden": torch.zeros(16, 3).T}),
    ("weight", {"weight": torch.zeros(16, 7).T}),
    ("bias", {"bias": torch.zeros(8)}),
])
def test_shapes_that_do_not_fit(field: str, change: dict[str, torch.Tensor]) -> None:
    given = {"hidden": torch.zeros(3, 16), "weight": torch.zeros(7, 16), "bias": torch.zeros(7)} | change
    tiles = TokenTiles(np.array([0, 1, 3]), 16, "cpu", gradients=True)
    for call in (max_logits, MaxLogits.apply):
        with pytest.raises(ShapeError) as caught:
            call(given["hidden"], tiles, given["weight"], given["bias"])
        assert caught.value.field == field


def test_tiles_must_fit(device: str) -> None:
    head = Head([3, 5], 48, device)
    with pytest.raises(ShapeError, match="width 48, got 128"):
        max_logits(head.hidden, TokenTiles(head.starts, 128, device), head.weight)
    with pytest.raises(ShapeError, match="gradients=True"):
        MaxLogits.apply(head.hidden, TokenTiles(head.starts, 48, device), head.weight, head.bias)
    with pytest.raises(ShapeError, match="at most 512 tokens"):
        TokenTiles(np.array([0, MAX_TOKENS + 1]), 48, device, gradients=True)
    with pytest.raises(InvalidArgumentError, match="activation"):
        max_logits(head.hidden, head.tiles, head.weight, activation="gelu")
