"""Dense encoders: one unit vector per text, the mean or the first of its word pieces' last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode, TransformerEncoder
from sparsight.encoders.batching import Batch, Progress
from sparsight.encoders.precision import Precision
from sparsight.encoders.settings import Settings
from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from sparsight.encoders.packed import PackedBert, PackedTexts

__all__ = ["DenseEncoder", "pool", "pool_packed"]

GPU_BATCH_TOKENS = 65_536
GPU_SLICE = 65_536  # texts that are tokenised and sorted by length together
_HALF = frozenset({"mpnet"})  # what is not packed and was found to be as good in float16


class DenseEncoder(TransformerEncoder):
    """A transformer whose pooled token vectors, scaled to length 1, are compared by inner product.

    References
    ----------
    Reimers, Gurevych 2019, "Sentence-BERT", EMNLP (mean pooling).
    """

    kind: ClassVar[Literal["sparse", "dense"]] = "dense"

    def __init__(self, settings: Settings, *, name: str = "", device: str = "cpu", fingerprint: str = "",
                 precision: Precision = "float32") -> None:
        super().__init__(settings, name=name, device=device, fingerprint=fingerprint, precision=precision)
        self._packed = self._on_gpu()
        if (self._packed is None and self._asked == "auto" and self._device.startswith("cuda")
                and settings.config.get("model_type") in _HALF):
            self.precision = "float16"
        self._place_model()
        config: Any = self._model.config
        self.dimension = int(config.hidden_size)

    def _on_gpu(self) -> PackedBert | None:
        """The model without padding, for a BERT on a GPU that need not be float32; None otherwise."""
        if not self._device.startswith("cuda") or self._asked == "float32":
            return None
        import torch

        from sparsight.encoders.packed import PackedBert

        try:
            packed = PackedBert(self.settings.config, head=False).load(self._model.state_dict())
        except CheckpointError:
            return None
        if self._asked == "auto":
            self.precision = "float16"
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return packed.eval().requires_grad_(False).to(self._device, dtype)

    def encode(self, texts: Sequence[str], *, mode: Mode = "document", max_tokens: int = 0,
               progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit vectors of texts.

        Parameters
        ----------
        texts : sequence of str
            An empty text gets the vector of the special tokens alone, which is a unit vector like any other.
        mode : "document" or "query"
            Chooses the prompt that the model's settings put before the text, if any.
        max_tokens : int
            Word pieces that count, special tokens included; 0 or more than the model's own limit is that limit.
        progress : callable, optional
            Called with (done, total) after each batch.

        Returns
        -------
        float32, shape (B, D), C-contiguous
            Rows of Euclidean norm 1.

        Raises
        ------
        InvalidArgumentError
            If ``texts`` are no strings, or another argument is out of range.
        """
        out = np.zeros((len(texts), self.dimension), np.float32)
        if self._packed is not None:
            return self._encode_packed(self._packed, texts, mode, max_tokens, progress, out)

        def finish(batch: Batch, hidden: torch.Tensor) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = pool(hidden, batch.lengths, self.settings.pooling).cpu().numpy()
            return vectors

        for batch, vectors in self._run(texts, mode, max_tokens, progress, finish):
            out[batch.rows] = vectors
        return out

    def token_states(self, texts: Sequence[str], *, mode: Mode = "document", max_tokens: int = 0,
                     ) -> list[NDArray[np.float32]]:
        """What the vectors of texts are pooled from: a state for every word piece, special tokens and prompt included.

        Parameters
        ----------
        texts, mode, max_tokens
            As for :meth:`encode`.

        Returns
        -------
        list of float32 arrays, length B, shapes (T, D)
            In the order of the pieces; T differs from text to text. The mean (or the first) of a text's rows, scaled to
            length 1, is its vector, up to rounding.

        Raises
        ------
        InvalidArgumentError
            As :meth:`encode`.

        Notes
        -----
        On a GPU the states of a BERT are float32's, where :meth:`encode` may compute in 16 bits.
        """
        out = [np.zeros((0, self.dimension), np.float32)] * len(texts)
        for batch, states in self._run(texts, mode, max_tokens, None, lambda _, hidden: hidden.cpu().numpy()):
            for row, length, found in zip(batch.rows.tolist(), batch.lengths.tolist(), states, strict=True):
                out[row] = found[:length]
        return out

    def _encode_packed(self, model: PackedBert, texts: Sequence[str], mode: Mode, max_tokens: int,
                       progress: Progress | None, out: NDArray[np.float32]) -> NDArray[np.float32]:
        from sparsight.encoders.packed import PackedTexts

        limit = self._check(texts, mode, max_tokens)
        shown = self._shown(texts, mode)
        done = 0
        for first in range(0, len(shown), GPU_SLICE):
            packed = PackedTexts(*self._tokens.packed(shown[first:first + GPU_SLICE], limit))
            for rows in packed.batches(GPU_BATCH_TOKENS):
                out[first + rows] = pool_packed(model, packed.rows(rows), self.settings.pooling).cpu().numpy()
                done += len(rows)
                if progress is not None:
                    progress(done, len(texts))
        return out


def pool_packed(model: PackedBert, texts: PackedTexts, pooling: str) -> torch.Tensor:
    """Unit vectors, float32 (B, D), of packed texts on the model's device; ``pooling`` as for :func:`pool`."""
    import torch

    with torch.inference_mode():
        ids, packing = texts.on(model.word.device)
        hidden = model(ids, packing)
        if pooling == "cls":
            pooled = hidden[packing.bounds[:-1].long()].float()
        else:
            counts = packing.bounds.diff()
            owner = torch.repeat_interleave(torch.arange(len(texts), device=hidden.device), counts.long(),
                                            output_size=len(hidden))
            sums = hidden.new_zeros((len(texts), hidden.shape[1]), dtype=torch.float32)
            pooled = sums.index_add_(0, owner, hidden.float()) / counts[:, None]
        return torch.nn.functional.normalize(pooled, dim=1)


def pool(hidden: torch.Tensor, lengths: NDArray[np.int64], pooling: str) -> torch.Tensor:
    """Unit vectors (B, D) from token vectors (B, T, D); padding beyond ``lengths`` (B,) does not count.

    ``pooling`` is "mean" or "cls" (the first token).
    """
    import torch

    with torch.inference_mode():
        if pooling == "cls":
            pooled = hidden[:, 0]
        else:
            counts = torch.from_numpy(lengths).to(hidden.device)
            mask = (torch.arange(hidden.shape[1], device=hidden.device)[None, :] < counts[:, None]).to(hidden.dtype)
            pooled = (hidden * mask[:, :, None]).sum(1) / counts[:, None].to(hidden.dtype)
        return torch.nn.functional.normalize(pooled, dim=1)
