"""BERT over texts laid end to end, without padding: what runs on GPUs and what is trained.

A batch is one array of word pieces (T,) and where each text begins; every product is of T rows, attention looks at each
text alone (:func:`attention`: FlashAttention's variable-length form on a GPU, a padded product elsewhere). The numbers
are those of transformers' ``BertModel`` and ``BertForMaskedLM``; their weights go in and out by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PackedBert", "PackedTexts", "Packing", "attention", "take"]


class Packing:
    """Where texts lie in a packed batch.

    Attributes
    ----------
    starts : int64, shape (B + 1,)
        On the host; text b has the tokens ``starts[b]:starts[b + 1]``.
    bounds : int32, shape (B + 1,)
        The same on the device.
    positions : int64, shape (T,)
        Each token's place in its text, on the device.
    longest : int
        Tokens of the longest text.
    """

    def __init__(self, starts: NDArray[np.int64], device: torch.device | str) -> None:
        self.starts = np.asarray(starts, np.int64)
        lengths = np.diff(self.starts)
        self.longest = int(lengths.max(initial=1))
        positions = np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], lengths)
        self.bounds = torch.from_numpy(self.starts.astype(np.int32)).to(device, non_blocking=True)
        self.positions = torch.from_numpy(positions).to(device, non_blocking=True)

    @property
    def texts(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedTexts:
    """Word pieces of N texts, one text after another.

    Attributes
    ----------
    ids : uint16 or int32, shape (T,)
    starts : int64, shape (N + 1,)
    """

    ids: NDArray[np.uint16] | NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, rows: NDArray[np.int64]) -> PackedTexts:
        """The texts ``rows``, in that order."""
        at, starts = take(self.starts, rows)
        return PackedTexts(self.ids[at], starts)

    def joined(self, other: PackedTexts) -> PackedTexts:
        """These texts, then the other's."""
        return PackedTexts(np.concatenate([self.ids, other.ids]),
                           np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]))

    def on(self, device: torch.device | str) -> tuple[torch.Tensor, Packing]:
        """What :class:`PackedBert` takes."""
        ids = torch.from_numpy(self.ids.astype(np.int64))
        return ids.to(device, non_blocking=True), Packing(self.starts, device)

    def batches(self, tokens: int) -> Iterator[NDArray[np.int64]]:
        """Rows in batches of about ``tokens`` word pieces, long texts first."""
        order = np.argsort(-np.diff(self.starts), kind="stable")
        ends = np.cumsum(np.diff(self.starts)[order])
        first = 0
        while first < len(order):
            done = ends[first - 1] if first else 0
            last = max(int(np.searchsorted(ends, done + tokens, "right")), first + 1)
            yield order[first:last]
            first = last


def take(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the entries of ``rows`` lie in a ragged array, one row after another, and the starts of what that makes.

    Examples
    --------
    >>> take(np.array([0, 2, 5]), np.array([1, 0]))
    (array([2, 3, 4, 0, 1]), array([0, 3, 5]))
    """
    lengths = starts[rows + 1] - starts[rows]
    made = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=made[1:])
    return np.arange(made[-1]) + np.repeat(starts[rows] - made[:-1], lengths), made


class PackedBert(nn.Module):
    """BERT, with the transform of a masked-LM head after it if it has one.

    Parameters
    ----------
    config : mapping
        A BERT ``config.json``: vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
        max_position_embeddings, layer_norm_eps, hidden_act (gelu).
    head : bool
        With the masked-LM head's transform and bias; its last layer is the word embeddings (tied).

    Attributes
    ----------
    word : float, shape (V, H)
        Word embeddings, and the head's last layer.
    bias : float, shape (V,)
        Of the head's last layer; absent without a head.

    References
    ----------
    Devlin et al. 2019, "BERT", NAACL.
    """

    def __init__(self, config: Mapping[str, Any], *, head: bool) -> None:
        super().__init__()
        check_config(config)
        width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        self.config = dict(config)
        self.heads = int(config["num_attention_heads"])
        self.eps = float(config.get("layer_norm_eps", 1e-12))
        self.word = nn.Parameter(torch.empty(int(config["vocab_size"]), width))
        self.position = nn.Parameter(torch.empty(int(config["max_position_embeddings"]), width))
        self.segment = nn.Parameter(torch.empty(int(config.get("type_vocab_size", 2)), width))
        self.norm = nn.LayerNorm(width, self.eps)
        self.layers = nn.ModuleList(_Layer(width, inner, self.heads, self.eps)
                                    for _ in range(int(config["num_hidden_layers"])))
        self.transform = nn.Linear(width, width) if head else None
        self.head_norm = nn.LayerNorm(width, self.eps) if head else None
        self.bias = nn.Parameter(torch.zeros(int(config["vocab_size"]))) if head else None
        for parameter in (self.word, self.position, self.segment):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: torch.Tensor, packing: Packing, layers: int = -1) -> torch.Tensor:
        """Token vectors (T, H) of packed word pieces ``ids`` (T,): the head's transform of the last layer, if any.

        ``layers`` of at least 0 stops after that many layers, before the head.
        """
        x = F.embedding(ids, self.word) + F.embedding(packing.positions, self.position) + self.segment[0]
        x = self.norm(x)
        for layer in self.layers if layers < 0 else self.layers[:layers]:
            x = layer(x, packing)
        if self.transform is None or self.head_norm is None or layers >= 0:
            return x
        hidden: torch.Tensor = self.head_norm(F.gelu(self.transform(x)))
        return hidden

    def load(self, state: Mapping[str, torch.Tensor]) -> PackedBert:
        """Take weights by transformers' names, with or without the prefix "bert."; returns itself.

        Raises
        ------
        CheckpointError
            If one is missing or has another shape.
        """
        state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
        with torch.no_grad():
            for ours, theirs in self._names().items():
                parts = [state.get(name) for name in theirs]
                if any(part is None for part in parts):
                    raise CheckpointError(f"expected weights {theirs}, got {sorted(state)[:5]} ...", reason="MISSING")
                joined = torch.cat([part for part in parts if part is not None])
                parameter = self.get_parameter(ours)
                if joined.shape != parameter.shape:
                    raise CheckpointError(f"expected {theirs[0]} {tuple(parameter.shape)}, got {tuple(joined.shape)}")
                parameter.copy_(joined)
        return self

    def to_transformers(self) -> dict[str, torch.Tensor]:
        """Weights by the names that ``BertForMaskedLM`` (with a head) or ``BertModel`` gives them; tied ones once."""
        out = {}
        prefix = "bert." if self.transform is not None else ""
        for ours, theirs in self._names().items():
            parts = self.get_parameter(ours).detach().chunk(len(theirs))
            for name, part in zip(theirs, parts, strict=True):
                out[name if name.startswith("cls.") else prefix + name] = part.contiguous()
        return out

    def _names(self) -> dict[str, list[str]]:
        """Our parameter to transformers' (several: joined along the first axis)."""
        names = {"word": ["embeddings.word_embeddings.weight"], "position": ["embeddings.position_embeddings.weight"],
                 "segment": ["embeddings.token_type_embeddings.weight"]}
        pairs = {"norm": "embeddings.LayerNorm"}
        for i in range(len(self.layers)):
            layer = f"encoder.layer.{i}"
            for kind in ("weight", "bias"):
                names[f"layers.{i}.qkv.{kind}"] = [f"{layer}.attention.self.{part}.{kind}"
                                                   for part in ("query", "key", "value")]
            pairs |= {f"layers.{i}.out": f"{layer}.attention.output.dense",
                      f"layers.{i}.norm1": f"{layer}.attention.output.LayerNorm",
                      f"layers.{i}.up": f"{layer}.intermediate.dense", f"layers.{i}.down": f"{layer}.output.dense",
                      f"layers.{i}.norm2": f"{layer}.output.LayerNorm"}
        if self.transform is not None:
            pairs |= {"transform": "cls.predictions.transform.dense",
                      "head_norm": "cls.predictions.transform.LayerNorm"}
            names["bias"] = ["cls.predictions.bias"]
        for ours, theirs in pairs.items():
            for kind in ("weight", "bias"):
                names[f"{ours}.{kind}"] = [f"{theirs}.{kind}"]
        return names


class _Layer(nn.Module):
    """One layer: attention and two products, each added to its input and normalised."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: torch.Tensor, packing: Packing) -> torch.Tensor:
        tokens, width = x.shape
        q, k, v = self.qkv(x).view(tokens, 3, self.heads, width // self.heads).unbind(1)
        x = _add_norm(x, self.out(attention(q, k, v, packing).reshape(tokens, width)), self.norm1)
        return _add_norm(x, self.down(_gelu_product(x, self.up)), self.norm2)


def _gelu_product(x: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    if x.is_cuda and not torch.is_grad_enabled():
        # One kernel of cuBLAS; its GELU is the tanh form, which is within 5e-4 of erf's: less than 16 bits show.
        fused: torch.Tensor = torch._addmm_activation(linear.bias, x, linear.weight.T, use_gelu=True)
        return fused
    return F.gelu(linear(x))


def _add_norm(x: torch.Tensor, y: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    if x.is_cuda and not torch.is_grad_enabled():
        from sparsight.kernels.gpu.add_norm import add_norm

        return add_norm(x, y, norm.weight, norm.bias, norm.eps)
    normed: torch.Tensor = norm(x + y)
    return normed


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Softmax attention (T, heads, D) of each text over its own tokens.

    References
    ----------
    Dao 2023, "FlashAttention-2", arXiv 2307.08691 (the kernel on GPUs, through torch).
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        out: torch.Tensor = _variable_length()(q, k, v, packing.bounds, packing.bounds, packing.longest,
                                               packing.longest)
        return out
    texts, longest = packing.texts, packing.longest
    inside = torch.zeros((texts, longest), dtype=torch.bool, device=q.device)
    row = torch.repeat_interleave(torch.arange(texts, device=q.device), packing.bounds.diff().long())
    inside[row, packing.positions] = True
    empty = q.new_zeros((texts, longest, *q.shape[1:]))
    q, k, v = (empty.index_put((row, packing.positions), part).transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None, :])
    return mixed.transpose(1, 2)[row, packing.positions]


def _variable_length() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def check_config(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless ``config`` is of a BERT that :class:`PackedBert` computes as transformers does."""
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"expected {key} {value!r} of a packed BERT, got {config[key]!r}",
                                  reason="NOT_BERT", key=key)
