"""Latents of a sparse autoencoder as terms: SPLADE's formula over an SAE instead of a vocabulary head.

``w_j = max_t log(1 + relu((h_t - b_dec) . W_enc_j + b_enc_j))``, h_t being token t's hidden state at one layer of the
transformer (SPLARE, ICLR 2026, arXiv 2603.13277). There may be more than 65,536 latents; the B x T x F activations
never exist at once (:func:`sparsight.encoders.splade.max_logits`).

``sparsight.json`` has ``"layer"`` (0 are the embeddings, n the output of the n-th block). ``sae.safetensors`` has
``W_enc`` (F, H), or (H, F) as SAELens and Gemma Scope store it, ``b_enc`` (F,), optionally ``b_dec`` (H,), and
optionally ``threshold`` (F,), at least 0: a JumpReLU's, up to which a pre-activation counts as 0 (Rajamanoharan et al.
2024, arXiv 2407.14435).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsight.encoders.base import Mode
from sparsight.encoders.batching import Batch
from sparsight.encoders.checkpoint import load_head, take
from sparsight.encoders.sparse import Row, SparseEncoder, keep_largest
from sparsight.encoders.splade import max_logits
from sparsight.errors import CheckpointError
from sparsight.kernels.reference.max_logits import activate

if TYPE_CHECKING:
    import torch

__all__ = ["SAELatentEncoder"]


class SAELatentEncoder(SparseEncoder):
    """A transformer with the encoder of a token-level SAE at one of its layers; dimensions are the SAE's latents."""

    heads = ("sae",)

    def _load_head(self) -> int:
        config: Any = self._model.config
        width, depth, layer = int(config.hidden_size), int(config.num_hidden_layers), self.settings.options.get("layer")
        if type(layer) is not int or not 0 <= layer <= depth:
            raise CheckpointError(f'expected "layer" in sparsight.json from 0 to {depth}, got {layer!r} in '
                                  f"{self.settings.folder}", folder=self.settings.folder)
        self._layer = layer
        tensors = load_head(self.settings)
        bias = take(tensors, "b_enc", (-1,), self.settings)
        latents = len(bias)
        weight = take(tensors, "W_enc", (-1, -1), self.settings)
        if weight.shape == (width, latents) and width != latents:
            weight = weight.T.contiguous()
        weight = take({"W_enc": weight}, "W_enc", (latents, width), self.settings)
        if "b_dec" in tensors:
            bias = bias - weight @ take(tensors, "b_dec", (width,), self.settings)
        self._W_enc, self._b_enc = weight.to(self._device), bias.to(self._device)
        threshold = take(tensors, "threshold", (latents,), self.settings) if "threshold" in tensors else None
        if threshold is not None and bool((threshold < 0).any()):
            raise CheckpointError(f"expected thresholds of at least 0 in {self.settings.folder}",
                                  folder=self.settings.folder)
        self._jump: torch.Tensor | None = None if threshold is None else threshold.to(self._device)
        return latents

    def term(self, index: int) -> str:
        """The name of a dimension, "latent 17".

        Raises
        ------
        InvalidArgumentError
            If ``index`` is not in ``[0, dimension)``.
        """
        self._check_index(index)
        return f"latent {index}"

    def _states(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The layer's hidden states, float32 (B, T, H)."""
        states: torch.Tensor = self._model(**inputs, output_hidden_states=True).hidden_states[self._layer]
        return states

    def _rows(self, batch: Batch, hidden: torch.Tensor, mode: Mode, max_terms: int, threshold: float) -> list[Row]:
        logits = max_logits(hidden, batch.lengths, self._W_enc, self._b_enc)
        if self._jump is not None:  # after the maximum, because a jump is monotone too
            logits = logits * (logits > self._jump)
        weights = activate(logits, "log1p_relu").cpu().numpy()
        weights[batch.lengths <= self._tokens.special] = 0.0
        return [keep_largest(line, max_terms, threshold) for line in weights]
