"""What sparse and dense encoders share: files, tokens, limits, and the loop over batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sparsight.encoders.batching import BATCH_TOKENS, Batch, Progress, TextTokens, check_texts, make_batches
from sparsight.encoders.checkpoint import load_model, load_tokenizer
from sparsight.encoders.fingerprint import fingerprint as fingerprint_of
from sparsight.encoders.precision import Precision, bfloat16_is_fast
from sparsight.encoders.settings import Settings
from sparsight.errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import nn

__all__ = ["Mode", "TransformerEncoder"]

Mode = Literal["document", "query"]
T = TypeVar("T")
_GPU_BATCH_TOKENS = 32_768  # word pieces in a batch, padding included, of a model that is not packed


@cache
def workers() -> ThreadPoolExecutor:
    """The threads that batches run on, one a processor, each computing alone.

    A batch for each thread instead of all threads for a batch: nobody waits for others inside a layer (which on busy
    machines cost a factor of 3), and a text's numbers do not depend on how many threads there are.
    """
    import torch

    count = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(count, "sparsight-encode", initializer=lambda: torch.set_num_threads(1))


class TransformerEncoder:
    """Base of :class:`SparseEncoder` and :class:`DenseEncoder`.

    Attributes
    ----------
    name : str
        As it was asked for.
    kind : "sparse" or "dense"
    dimension : int
        Terms, or vector components.
    max_tokens : int
        Most word pieces of a text that count, special tokens included.
    fingerprint : str
        Hexadecimal SHA-256 over what decides the output.
    precision : "float32", "bfloat16" or "float16"
        Of what the model computes; what comes back is float32.
    settings : Settings
    tokenizer : tokenizers.Tokenizer
        Fast, without truncation and padding; do not change its state.

    Notes
    -----
    Threads may share an encoder: nothing in it changes after it is made. On a CPU batches run beside each other, one
    thread each (:func:`workers`).
    """

    kind: ClassVar[Literal["sparse", "dense"]]
    dimension: int
    auto_bfloat16: ClassVar[bool] = False
    """Whether "auto" means bfloat16 on a CPU that is fast at it: where rankings were found to stay as they are."""

    def __init__(self, settings: Settings, *, name: str = "", device: str = "cpu", fingerprint: str = "",
                 precision: Precision = "float32") -> None:
        if settings.kind != self.kind:
            raise CheckpointError(f"{settings.folder} is a {settings.kind} encoder, expected a {self.kind} one",
                                  folder=settings.folder)
        self.settings = settings
        self.name = name or str(settings.folder)
        self.max_tokens = settings.max_tokens
        self.fingerprint = fingerprint or fingerprint_of(settings)
        self.tokenizer: Tokenizer = load_tokenizer(settings)
        self._tokens = TextTokens(self.tokenizer, int(settings.config.get("pad_token_id") or 0))
        self._device = device
        self._asked = precision
        fast = self.auto_bfloat16 and device == "cpu" and bfloat16_is_fast()
        self.precision: str = ("bfloat16" if fast else "float32") if precision == "auto" else precision
        self._model: nn.Module = load_model(settings)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.name!r}, dimension={self.dimension}, fingerprint={self.fingerprint[:12]!r})"

    def count_tokens(self, text: str) -> int:
        """Word pieces of a text, without special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _run(self, texts: Sequence[str], mode: Mode, max_tokens: int, progress: Progress | None,
             finish: Callable[[Batch, torch.Tensor], T]) -> Iterator[tuple[Batch, T]]:
        """Batches with what ``finish`` makes of the model's output (B, T, H) for them; ``progress`` after each."""
        limit = self._check(texts, mode, max_tokens)
        shown = self._shown(texts, mode)
        done = 0
        at_once = BATCH_TOKENS if self._device == "cpu" else _GPU_BATCH_TOKENS
        batches = list(make_batches(self._tokens.ids(shown, limit), self._tokens.pad_id, self.max_tokens, at_once))
        run = workers().map if self._device == "cpu" else map
        for batch, made in zip(batches, run(lambda batch: finish(batch, self._forward(batch)), batches), strict=True):
            yield batch, made
            done += len(batch.rows)
            if progress is not None:
                progress(done, len(texts))

    def _check(self, texts: Sequence[str], mode: Mode, max_tokens: int) -> int:
        """Most word pieces of a text that count; InvalidArgumentError if an argument is out of range."""
        check_texts(texts)
        if mode not in ("document", "query"):
            raise InvalidArgumentError(f"expected mode 'document' or 'query', got {mode!r}", field="mode")
        if max_tokens < 0 or 0 < max_tokens <= self._tokens.special:
            raise InvalidArgumentError(f"expected max_tokens 0 or more than {self._tokens.special}, got {max_tokens}",
                                       field="max_tokens")
        return min(max_tokens or self.max_tokens, self.max_tokens)

    def _shown(self, texts: Sequence[str], mode: Mode) -> Sequence[str]:
        """The texts as the tokenizer shall see them: with the mode's prompt before those that are not blank."""
        prompt = self.settings.prompts.get(mode, "")
        shown = [prompt + text if text.strip() else text for text in texts] if prompt else texts
        return [text.lower() for text in shown] if self.settings.lower_case else shown

    def _forward(self, batch: Batch) -> torch.Tensor:
        import torch

        # Not a decorator on the generator above: it would leave the caller's code between batches in inference mode.
        with torch.inference_mode():
            inputs: dict[str, Any] = {"input_ids": torch.from_numpy(batch.ids).to(self._device),
                                      "attention_mask": torch.from_numpy(batch.mask).to(self._device, torch.int64)}
            return self._states(inputs)

    def _place_model(self) -> None:
        """Bring the model to its device and precision."""
        import torch

        self._model.to(self._device, getattr(torch, self.precision))

    def _states(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The token vectors that a batch's rows are made of: float32 (B, T, H), the model's last."""
        states: torch.Tensor = self._model(**inputs)[0]
        return states.float()
