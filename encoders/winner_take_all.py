"""Binary codes of very many dimensions, in buckets: UHD-BERT's winner-take-all layers.

For each of several hidden layers of the transformer, ``z = max_t (W h_t + b)`` has D dimensions, of which the k largest
are set to 1 and the others to 0. The codes of all layers stand side by side: dimension ``l * D + j``, l counting the
given layers from 0, so a bucket is a range of terms, and a dot product counts the shared ones.

``sparsight.json`` has ``"layers": [2, 4, 6]`` (hidden states as transformers counts them: 0 are the embeddings, n the
output of the n-th block), ``"k"``, and optionally ``"query_k"`` for queries. ``wta.safetensors`` has for each of them
``2.weight`` (D, H) and ``2.bias`` (D,).

References
----------
Jang, Kang, Hong, Myaeng, Park, Yoon, Seo 2021, "Ultra-High Dimensional Sparse Representations with Binarization for
Efficient Text Retrieval", EMNLP, arXiv 2104.07198.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode
from sparsight.encoders.batching import Batch
from sparsight.encoders.checkpoint import load_head, take
from sparsight.encoders.sparse import Row, SparseEncoder, prune
from sparsight.encoders.splade import max_logits
from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["WinnerTakeAllEncoder", "winners"]


class WinnerTakeAllEncoder(SparseEncoder):
    """A transformer whose hidden layers are turned into binary codes; all weights are 1."""

    heads = ("wta",)

    def _load_head(self) -> int:
        width, depth = self._size()
        layers, k = self.settings.options.get("layers"), self.settings.options.get("k")
        if not isinstance(layers, list) or not layers or any(
                type(layer) is not int or not 0 <= layer <= depth for layer in layers):
            raise CheckpointError(f'expected "layers" in sparsight.json: some of 0 to {depth}, got {layers!r} in '
                                  f"{self.settings.folder}", folder=self.settings.folder)
        self._layers: list[int] = layers
        tensors = load_head(self.settings)
        self._weights = [(take(tensors, f"{layer}.weight", (-1, width), self.settings).to(self._device),
                          take(tensors, f"{layer}.bias", (-1,), self.settings).to(self._device)) for layer in layers]
        self._bucket = len(self._weights[0][0])
        for layer, (weight, bias) in zip(layers, self._weights, strict=True):
            if len(weight) != self._bucket or len(bias) != self._bucket:
                raise CheckpointError(f"expected {self._bucket} dimensions of layer {layer} in {self.settings.folder}, "
                                      f"got {len(weight)} and {len(bias)}", folder=self.settings.folder)
        self._document_k = self._checked_k("k", k)
        return self._bucket * len(layers)

    def _read_queries(self) -> None:
        super()._read_queries()
        self._query_k = self._checked_k("query_k", self.settings.options.get("query_k", self._document_k))

    def term(self, index: int) -> str:
        """The bucket and the place in it of a dimension, "layer 4: 17".

        Raises
        ------
        InvalidArgumentError
            If ``index`` is not in ``[0, dimension)``.
        """
        self._check_index(index)
        return f"layer {self._layers[index // self._bucket]}: {index % self._bucket}"

    def _states(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Hidden states of the layers, side by side: float32 (B, T, L H)."""
        import torch

        states = self._model(**inputs, output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self._layers], dim=2)

    def _rows(self, batch: Batch, hidden: torch.Tensor, mode: Mode, max_terms: int, threshold: float) -> list[Row]:
        k = self._query_k if mode == "query" else self._document_k
        states = hidden.chunk(len(self._layers), dim=2)
        scores = [max_logits(state.contiguous(), batch.lengths, weight, bias).cpu().numpy()
                  for state, (weight, bias) in zip(states, self._weights, strict=True)]
        codes = [winners(line, k) + place * self._bucket for place, line in enumerate(scores)]
        terms = np.concatenate(codes, axis=1)  # (B, L k), ascending
        empty = batch.lengths <= self._tokens.special
        return [prune(line[:0] if bare else line, np.ones(0 if bare else len(line), np.float32), max_terms, threshold)
                for line, bare in zip(terms, empty, strict=True)]

    def _size(self) -> tuple[int, int]:
        config: Any = self._model.config
        return int(config.hidden_size), int(config.num_hidden_layers)

    def _checked_k(self, name: str, k: object) -> int:
        if type(k) is not int or not 1 <= k <= self._bucket:
            raise CheckpointError(f'expected "{name}" in sparsight.json from 1 to {self._bucket}, got {k!r} in '
                                  f"{self.settings.folder}", folder=self.settings.folder)
        return k


def winners(scores: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Places of the k largest of each row (B, D), ascending: int32 (B, k). Of equal ones the lower place wins.

    Examples
    --------
    >>> winners(np.array([[0.5, -1, 2, 0.5]], np.float32), 2)
    array([[0, 2]], dtype=int32)
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.sort(order, axis=1).astype(np.int32)
