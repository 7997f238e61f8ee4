"""SPLADE: weights over the vocabulary from a masked language model's head.

``w_j = max_t log(1 + relu(h_t . E_j + b_j))`` over a text's word pieces t (Formal, Lassance, Piwowarski, Clinchant
2021, "SPLADE v2", arXiv 2109.10086; SPLADE++ and SPLADE-v3 have the same head); special tokens take part, padding does
not. A second logarithm (``log1p_log1p_relu``, Shen, Geng, Yang 2025, arXiv 2504.14839, OpenSearch's models) squeezes
large weights further. The first SPLADE (Formal, Piwowarski, Clinchant 2021, arXiv 2107.05720) added up the tokens'
weights instead of taking the largest (pooling "sum"). SPLADE-v3-Lexical (Lassance, Dejean, Formal, Clinchant 2024,
"SPLADE-v3: New baselines for SPLADE", arXiv 2403.06789) keeps the weights of the text's own word pieces, without
special tokens; SPLADE-doc and SPLADE-v3-Doc have queries of ones (``query`` "bow").

With splade-tiny on SciFact (256 and 64 word pieces) this gives nDCG@10 0.6436. Its weights end at 2.7 (99.9 % quantile
2.34 in documents, 2.46 in queries): 8 bits up to 3.0 keep nDCG@10 within 0.0003.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from sparsight.encoders.base import Mode
from sparsight.encoders.batching import Batch, Progress
from sparsight.encoders.settings import Settings
from sparsight.encoders.sparse import Row, SparseEncoder, keep_largest
from sparsight.errors import CheckpointError
from sparsight.kernels.reference.max_logits import activate

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sparsight.encoders.gpu_encoding import GpuSplade

__all__ = ["SpladeEncoder", "max_logits", "sum_weights"]

HEAD_FLOATS = 1 << 20  # logits in memory at a time (4 MB: about a core's L2 cache), instead of B x T x V


class SpladeEncoder(SparseEncoder):
    """A masked language model whose head weights every term of its vocabulary for a text.

    Attributes
    ----------
    settings.expand_documents, settings.expand_queries : bool
        False keeps the terms of the text itself (SPLADE-v3-Lexical), and computes no others.
    """

    heads = ("splade",)
    auto_bfloat16 = True

    def _load_head(self) -> int:
        import torch

        decoder = _take_decoder(self._model, self.settings)
        self._gpu = self._on_gpu(decoder)  # before the model leaves the CPU
        self._decoder = decoder.to(self._device, torch.bfloat16 if self.precision == "bfloat16" else torch.float32)
        return int(self._decoder.weight.shape[0])

    def _on_gpu(self, decoder: nn.Linear) -> GpuSplade | None:
        """The way through the GPU's kernels, for a BERT with max pooling where there is Triton."""
        if (not self._device.startswith("cuda") or self._asked == "float32" or self.settings.pooling != "max"
                or find_spec("triton") is None):
            return None
        import torch

        from sparsight.encoders.gpu_encoding import GpuSplade, packed_model

        model = packed_model(self._model, decoder, self.settings.config)
        if model is None:
            return None
        dtype = torch.bfloat16 if self._asked == "bfloat16" else torch.float16
        if self._asked == "auto":
            self.precision = "float16"
        return GpuSplade(model, activation=self.settings.activation, device=self._device, dtype=dtype,
                         special=self._tokens.special)

    def _encode(self, texts: Sequence[str], mode: Mode, max_tokens: int, max_terms: int, threshold: float,
                progress: Progress | None) -> csr_matrix:
        if self._gpu is None or not self._expands(mode) or not texts:
            return super()._encode(texts, mode, max_tokens, max_terms, threshold, progress)
        from sparsight.encoders.gpu_encoding import SLICE

        limit = self._check(texts, mode, max_tokens)
        shown = self._shown(texts, mode)
        packed = (self._tokens.packed(shown[at:at + SLICE], limit) for at in range(0, len(shown), SLICE))
        parts, done = [], 0
        for rows in self._gpu.stream(packed, max_terms=max_terms, threshold=threshold):
            parts.append(rows)
            done += rows.shape[0]
            if progress is not None:
                progress(done, len(texts))
        return vstack(parts, format="csr")

    def _expands(self, mode: Mode) -> bool:
        return self.settings.expand_queries if mode == "query" else self.settings.expand_documents

    def _rows(self, batch: Batch, hidden: torch.Tensor, mode: Mode, max_terms: int, threshold: float) -> list[Row]:
        if not self._expands(mode):
            return [self._own_row(batch, hidden, row, max_terms, threshold) for row in range(len(batch.rows))]
        weights = self._weights(hidden, batch.lengths).cpu().numpy()
        weights[batch.lengths <= self._tokens.special] = 0.0  # special tokens alone say nothing about a text
        return [keep_largest(line, max_terms, threshold) for line in weights]

    def _states(self, inputs: dict[str, Any]) -> torch.Tensor:
        states: torch.Tensor = self._model(**inputs)[0]  # of the head's own precision
        return states

    def _weights(self, hidden: torch.Tensor, lengths: NDArray[np.int64], terms: torch.Tensor | None = None,
                 ) -> torch.Tensor:
        """Weights (B, V), or (B, K) of K terms only."""
        weight: torch.Tensor = self._decoder.weight
        bias: torch.Tensor | None = self._decoder.bias
        if terms is not None:
            weight, bias = weight[terms], bias if bias is None else bias[terms]
        if self.settings.pooling == "sum":
            return sum_weights(hidden, lengths, weight, bias, self.settings.activation)
        return activate(max_logits(hidden, lengths, weight, bias), self.settings.activation)

    def _own_row(self, batch: Batch, hidden: torch.Tensor, row: int, max_terms: int, threshold: float) -> Row:
        import torch

        own = self._own_pieces(batch, row)
        length = batch.lengths[row:row + 1]
        weights = self._weights(hidden[row:row + 1, :length[0]], length, torch.from_numpy(own).to(hidden.device))
        at, values = keep_largest(weights[0].cpu().numpy(), max_terms, threshold)
        return own[at].astype(np.int32), values


def max_logits(hidden: torch.Tensor, lengths: NDArray[np.int64], weight: torch.Tensor,
               bias: torch.Tensor | None) -> torch.Tensor:
    """Largest logit of every term over a text's word pieces.

    Parameters
    ----------
    hidden : float32 or bfloat16, shape (B, T, H)
        Input of the head's last layer.
    lengths : int64, shape (B,)
        Word pieces before the padding, at least 1.
    weight, bias : of ``hidden``'s dtype, shapes (V, H) and (V,)
        The last layer. ``bias`` may be None.

    Returns
    -------
    float32, shape (B, V)

    Notes
    -----
    Rounding is monotone, so the bias may be added after the maximum, as the activations may be applied after it. At
    most ``HEAD_FLOATS`` logits (64 terms' at least) exist at a time, a quarter of that in bfloat16. Padding is replaced
    by copies of the first token's vector: that leaves the maximum alone and saves masking B x T x V logits.
    """
    import torch

    with torch.inference_mode():
        counts = torch.from_numpy(lengths).to(hidden.device)
        inside = torch.arange(hidden.shape[1], device=hidden.device)[None, :] < counts[:, None]
        hidden = torch.where(inside[:, :, None], hidden, hidden[:, :1])
        texts, tokens, width = hidden.shape
        flat = hidden.reshape(texts * tokens, width)
        step = max(HEAD_FLOATS // (texts * tokens), 64)
        if hidden.dtype == torch.bfloat16:
            step = max(step // 4, 64)
        out = torch.empty((texts, weight.shape[0]), dtype=torch.float32, device=hidden.device)
        for first in range(0, weight.shape[0], step):
            logits = flat @ weight[first:first + step].T
            out[:, first:first + step] = _largest(logits.view(texts, tokens, -1))
        return out if bias is None else out + bias


def _largest(logits: torch.Tensor) -> torch.Tensor:
    """``logits.amax(1)``.

    That takes bfloat16 apart, 12 times slower than whole numbers, and as long as the product that made them. So the
    bits are compared: they order as the numbers do from 0 on, and the other way round below, where all are negative.
    """
    import torch

    if logits.dtype != torch.bfloat16:
        return logits.amax(1)
    bits = logits.view(torch.int16)
    largest = bits.amax(1)
    return torch.where(largest < 0, bits.amin(1), largest).view(torch.bfloat16)


def sum_weights(hidden: torch.Tensor, lengths: NDArray[np.int64], weight: torch.Tensor, bias: torch.Tensor | None,
                activation: str) -> torch.Tensor:
    """Sum of every term's activated logits over a text's word pieces: float32 (B, V).

    Arguments as for :func:`max_logits` and :func:`activate`; here each logit has to be activated before it is added. At
    most ``HEAD_FLOATS`` of them exist at a time.
    """
    import torch

    with torch.inference_mode():
        counts = torch.from_numpy(lengths).to(hidden.device)
        texts, tokens, width = hidden.shape
        inside = (torch.arange(tokens, device=hidden.device)[None, :] < counts[:, None]).float()
        flat = hidden.reshape(texts * tokens, width)
        step = max(HEAD_FLOATS // (texts * tokens), 64)
        out = torch.empty((texts, weight.shape[0]), dtype=torch.float32, device=hidden.device)
        for first in range(0, weight.shape[0], step):
            logits = (flat @ weight[first:first + step].T).float()
            if bias is not None:
                logits += bias[first:first + step]
            weights = activate(logits, activation).view(texts, tokens, -1)
            out[:, first:first + step] = torch.einsum("btv,bt->bv", weights, inside)
        return out


def _take_decoder(model: nn.Module, settings: Settings) -> nn.Linear:
    """Cut the last layer off the masked-LM head, so that calling the model gives that layer's input.

    Raises CheckpointError if the head does more than one linear layer at its end.
    """
    import torch

    masked_lm: Any = model
    decoder = masked_lm.get_output_embeddings()
    if not isinstance(decoder, torch.nn.Linear):
        raise CheckpointError(f"the head of {type(model).__name__} does not end in a linear layer",
                              folder=settings.folder)
    probe = torch.tensor([[1, 2, 3]]) % decoder.weight.shape[0]
    with torch.inference_mode():
        expected = model(input_ids=probe).logits
        _replace(model, decoder, torch.nn.Identity())
        hidden = model(input_ids=probe).logits
        same = hidden.shape[-1] == decoder.in_features and torch.allclose(decoder(hidden), expected, 1e-4, 1e-4)
        if not same:
            raise CheckpointError(f"the head of {type(model).__name__} does not end in its output embeddings",
                                  folder=settings.folder)
    return decoder


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    # Not model.set_output_embeddings: several architectures reach for the new layer's bias there.
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new)
