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

if TYPE_CHECKING:
    import torch

__all__ = ["DenseEncoder", "pool"]


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
        self._place_model()
        config: Any = self._model.config
        self.dimension = int(config.hidden_size)

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

        def finish(batch: Batch, hidden: torch.Tensor) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = pool(hidden, batch.lengths, self.settings.pooling).cpu().numpy()
            return vectors

        for batch, vectors in self._run(texts, mode, max_tokens, progress, finish):
            out[batch.rows] = vectors
        return out


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
