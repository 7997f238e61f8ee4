"""One weight for each word piece of the text, none for others: uniCOIL, DeepImpact, BGE-M3's lexical weights.

Each token's vector (T, H) becomes one number; a term's weight is taken from its occurrences in the text. What the three
differ in:

==============  =====================================  ===================  ======================================
head            number of a token                      term's weight        file beside the transformer
==============  =====================================  ===================  ======================================
``unicoil``     ``relu(w . h + b)``                    largest              ``token_weights.safetensors``:
                                                                            ``weight`` (1, H), ``bias`` (1,)
``deepimpact``  ``relu(w . relu(W h + c) + b)``        first occurrence's   ``token_weights.safetensors``: these,
                                                                            ``hidden.weight`` (H, H) and
                                                                            ``hidden.bias`` (H,)
``bge-m3``      ``relu(w . h + b)``                    largest              ``sparse_linear.safetensors``:
                                                                            ``weight`` (1, H), ``bias`` (1,)
==============  =====================================  ===================  ======================================

Special tokens have no weight. The published BGE-M3 keeps its head in ``sparse_linear.pt``, which is pickled and not
read: the error says how to convert it.

These models do not expand a text; it is expanded before: ``text + "\\n" + expansion``, the expansion being what
doc2query or TILDE add. All word pieces of both are weighted, as far as ``max_tokens`` reaches. Queries of DeepImpact
are weights of 1 unless the settings say otherwise, those of the others come from the encoder.

References
----------
Lin, Ma 2021, "A Few Brief Notes on DeepImpact, COIL, and a Conceptual Framework for Information Retrieval Techniques",
arXiv 2106.14807 (uniCOIL). Mallia, Khattab, Suel, Tonellotto 2021, "Learning Passage Impacts for Inverted Indexes",
SIGIR, arXiv 2104.12016 (DeepImpact; its terms are whole words, ours word pieces). Chen, Xiao, Zhang, Luo, Lian, Liu
2024, "BGE M3-Embedding", arXiv 2402.03216.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode
from sparsight.encoders.batching import Batch
from sparsight.encoders.checkpoint import load_head, take
from sparsight.encoders.sparse import Row, SparseEncoder, prune

if TYPE_CHECKING:
    import torch

__all__ = ["TokenWeightEncoder", "TokenWeightHead", "reduce_by_piece"]


@dataclass(frozen=True, slots=True)
class TokenWeightHead:
    """What tells one of these models from another.

    Attributes
    ----------
    hidden_layer : bool
        A layer (H, H) with relu comes before the last.
    first : bool
        A term's weight is its first occurrence's, not the largest.
    """

    hidden_layer: bool
    first: bool


_HEADS = {
    "unicoil": TokenWeightHead(hidden_layer=False, first=False),
    "deepimpact": TokenWeightHead(hidden_layer=True, first=True),
    "bge-m3": TokenWeightHead(hidden_layer=False, first=False),
}


class TokenWeightEncoder(SparseEncoder):
    """A transformer with a weight for each token of the text; dimensions are the vocabulary's word pieces."""

    heads = tuple(_HEADS)

    def _load_head(self) -> int:
        import torch

        self._head = _HEADS[self.settings.head]
        tensors = load_head(self.settings)
        width = int(self._model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        layers: list[torch.nn.Module] = []
        shapes = [("hidden.", width)] * self._head.hidden_layer + [("", 1)]
        for prefix, rows in shapes:
            layer = torch.nn.Linear(width, rows)
            layer.weight.data = take(tensors, f"{prefix}weight", (rows, width), self.settings)
            layer.bias.data = take(tensors, f"{prefix}bias", (rows,), self.settings)
            layers += [layer, torch.nn.ReLU()]
        self._scorer = torch.nn.Sequential(*layers).eval().requires_grad_(False).to(self._device)
        return int(self._model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    def _rows(self, batch: Batch, hidden: torch.Tensor, mode: Mode, max_terms: int, threshold: float) -> list[Row]:
        import torch

        with torch.inference_mode():
            scores: NDArray[np.float32] = self._scorer(hidden)[:, :, 0].cpu().numpy()  # (B, T)
        rows = []
        for pieces, weights, length in zip(batch.ids, scores, batch.lengths, strict=True):
            inside = ~self._special[pieces[:length]]
            terms, values = reduce_by_piece(pieces[:length][inside], weights[:length][inside], first=self._head.first)
            rows.append(prune(terms, values, max_terms, threshold))
        return rows


def reduce_by_piece(pieces: NDArray[np.int64], weights: NDArray[np.float32], *, first: bool) -> Row:
    """Each piece once, ascending, with the largest of its weights, or the first; without those of weight 0.

    Parameters
    ----------
    pieces, weights : shape (T,)
        Word pieces of a text in order, and their weights, at least 0.
    first : bool

    Examples
    --------
    >>> reduce_by_piece(np.array([7, 3, 7, 5]), np.array([1, 0, 2, 4], np.float32), first=False)
    (array([5, 7], dtype=int32), array([4., 2.], dtype=float32))
    """
    terms, at, which = np.unique(pieces, return_index=True, return_inverse=True)
    if first:
        values = weights[at]
    else:
        values = np.zeros(len(terms), np.float32)
        np.maximum.at(values, which, weights)
    kept = values > 0
    return terms[kept].astype(np.int32), values[kept]
