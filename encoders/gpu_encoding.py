"""SPLADE on a GPU: word pieces to sparse rows, with every stage at work at once.

Texts are packed without padding (:mod:`sparsight.encoders.packed`), the head is fused with its maximum
(:mod:`sparsight.kernels.gpu.max_logits`) and rows are pruned where they are made
(:mod:`sparsight.kernels.gpu.pruned_csr`): word pieces go up and compressed rows come down. Three threads share the
work: one tokenises and uploads the next slice of texts, one launches kernels for this slice, and the caller's puts the
rows of the last one in order. Copies have streams of their own.

Numbers are float16: 11 significant bits, where bfloat16 has 8. A model whose token vectors overflow in it (none of the
BERT ones here does) goes over to bfloat16 for good, and the batch in which that showed is made again.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from sparsight.encoders.ahead import ahead
from sparsight.encoders.packed import PackedBert, Packing, take
from sparsight.errors import CheckpointError
from sparsight.kernels.gpu.max_logits import TokenTiles, max_logits
from sparsight.kernels.gpu.pruned_csr import DeviceRows, pruned_csr

__all__ = ["BATCH_TOKENS", "SLICE", "GpuSplade", "packed_model"]

BATCH_TOKENS = 65_536  # word pieces the GPU gets at once
BATCH_TEXTS = 4096  # and texts: of 30,522 terms, these are 250 MB of float16 weights
SLICE = 8192  # texts that are tokenised, sorted by length and put back in order together


@dataclass(slots=True)
class _Slice:
    """Texts on their way through: batches on the device first, then rows on the host."""

    texts: int
    order: NDArray[np.int64]  # which texts are in the batches, longest first; those left out get empty rows
    batches: list[tuple[torch.Tensor, Packing, TokenTiles]]
    uploaded: torch.cuda.Event | None = None
    rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    downloaded: torch.cuda.Event | None = None


class GpuSplade:
    """A packed BERT with a SPLADE head (max pooling).

    Parameters
    ----------
    model : PackedBert
        With a head, float32; it is copied.
    activation : str
        As in :mod:`sparsight.encoders.settings`.
    device : str
        A torch device. The kernels need a GPU, or Triton's interpreter on "cpu" for tests.
    dtype : torch.dtype
        Of weights and token vectors: float16 (bfloat16 once that overflows), bfloat16 or float32. Rows have passed
        through float16 in any case.
    special : int
        Special tokens around a text: one with no others gets an empty row.

    Attributes
    ----------
    wider : torch.dtype
        What follows float16 if that overflows.

    Notes
    -----
    Threads may share one.
    """

    wider: ClassVar[torch.dtype] = torch.bfloat16

    def __init__(self, model: PackedBert, *, activation: str, device: str = "cuda", dtype: torch.dtype = torch.float16,
                 special: int = 2) -> None:
        self.activation = activation
        self.device = torch.device(device)
        self.dtype = dtype
        self.special = special
        self.dimension = int(model.word.shape[0])
        self._model = model.eval().requires_grad_(False)
        self._copies: dict[torch.dtype, PackedBert] = {}
        self._lock = threading.Lock()
        self._model_in(dtype)

    def encode(self, ids: NDArray[np.int32], starts: NDArray[np.int64], *, max_terms: int = 0,
               threshold: float = 0.0) -> csr_matrix:
        """Rows of the texts ``ids[starts[i]:starts[i + 1]]``; :meth:`stream` for many."""
        (rows,) = self.stream([(ids, starts)], max_terms=max_terms, threshold=threshold)
        return rows

    def stream(self, packed: Iterable[tuple[NDArray[np.int32], NDArray[np.int64]]], *, max_terms: int = 0,
               threshold: float = 0.0) -> Iterator[csr_matrix]:
        """Rows of slices of texts, in their order.

        Parameters
        ----------
        packed : iterable of (int32 (T,), int64 (B + 1,))
            Word pieces of a slice, as ``TextTokens.packed`` gives them. It is run in another thread, ahead of the GPU.
        max_terms, threshold
            As for ``SparseEncoder.encode``.

        Yields
        ------
        csr_matrix, float32, shape (B, dimension)
            One for each slice; int32 indices sorted in each row, values > 0.
        """
        up, down = self._new_stream(), self._new_stream()
        prepared = ahead((self._prepare(ids, starts, up) for ids, starts in packed), 2)
        with closing(ahead((self._run(part, down, max_terms, threshold) for part in prepared), 2)) as done:
            for part in done:
                yield self._collect(part)

    def _prepare(self, ids: NDArray[np.int32], starts: NDArray[np.int64], stream: torch.cuda.Stream | None) -> _Slice:
        lengths = np.diff(starts)
        order = np.argsort(-lengths, kind="stable")
        order = order[:np.count_nonzero(lengths > self.special)]
        at, bounds = take(starts, order)
        ids = ids[at]
        part = _Slice(len(lengths), order, [])
        with _on(stream):
            for first, last in _cut(bounds):
                own = bounds[first:last + 1] - bounds[first]
                pieces = torch.from_numpy(ids[bounds[first]:bounds[last]])
                if stream is not None:
                    pieces = pieces.pin_memory()
                pieces = pieces.to(self.device, non_blocking=stream is not None)
                width = int(self._model.word.shape[1])
                part.batches.append((pieces, Packing(own, self.device), TokenTiles(own, width, self.device)))
            if stream is not None:
                part.uploaded = stream.record_event()
        return part

    @torch.inference_mode()
    def _run(self, part: _Slice, down: torch.cuda.Stream | None, max_terms: int, threshold: float) -> _Slice:
        if part.uploaded is not None:
            compute = torch.cuda.current_stream(self.device)
            compute.wait_event(part.uploaded)
            for pieces, packing, tiles in part.batches:
                for tensor in (pieces, packing.bounds, packing.positions, tiles.table):
                    tensor.record_stream(compute)
        for batch in part.batches:
            rows = self._rows(*batch, max_terms, threshold)
            made = (rows.starts, rows.terms, rows.values)
            if down is not None:
                down.wait_stream(torch.cuda.current_stream(self.device))
                for tensor in made:
                    tensor.record_stream(down)
            with _on(down):
                # torch takes pinned memory for a copy to the host that does not block.
                starts, terms, values = (tensor.to("cpu", non_blocking=down is not None) for tensor in made)
            part.rows.append((starts, terms, values))
        part.batches = []
        if down is not None:
            part.downloaded = down.record_event()
        return part

    def _rows(self, ids: torch.Tensor, packing: Packing, tiles: TokenTiles, max_terms: int,
              threshold: float) -> DeviceRows:
        dtype = self.dtype
        model = self._model_in(dtype)
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            hidden = model(ids, packing)
            finite = torch.isfinite(hidden).all()
            weights = max_logits(hidden, tiles, model.word, model.bias, activation=self.activation,
                                 dtype=torch.float16)
            rows = pruned_csr(weights, max_terms=max_terms, threshold=threshold)
        # Read here, where the host has waited for the device anyway.
        if dtype == torch.float16 and not bool(finite):
            self.dtype = self.wider
            return self._rows(ids, packing, tiles, max_terms, threshold)
        return rows

    def _collect(self, part: _Slice) -> csr_matrix:
        if part.downloaded is not None:
            part.downloaded.synchronize()
        counts = [starts.diff().numpy() for starts, _, _ in part.rows]
        # One more row, empty, stands for all texts without word pieces of their own.
        indptr = np.concatenate([[0], *counts, [0]]).cumsum()
        terms = [terms.numpy().astype(np.int32) for _, terms, _ in part.rows]
        values = [values.numpy().astype(np.float32) for _, _, values in part.rows]
        sorted_rows = csr_matrix(
            (np.concatenate([*values, np.zeros(0, np.float32)]), np.concatenate([*terms, np.zeros(0, np.int32)]),
             indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)), shape=(len(indptr) - 1, self.dimension))
        place = np.full(part.texts, len(part.order))
        place[part.order] = np.arange(len(part.order))
        return sorted_rows[place]

    def _new_stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def _model_in(self, dtype: torch.dtype) -> PackedBert:
        with self._lock:
            if dtype not in self._copies:
                self._copies = {dtype: copy.deepcopy(self._model).to(self.device, dtype)}
            return self._copies[dtype]


def packed_model(model: nn.Module, decoder: nn.Linear, config: Mapping[str, Any]) -> PackedBert | None:
    """transformers' masked LM as a packed one; None if it is none that the packed one and the kernels can run.

    Parameters
    ----------
    model : BertForMaskedLM
        On the CPU, its last layer replaced by the identity.
    decoder : nn.Linear
        That layer.
    config : mapping
        Its ``config.json``.
    """
    try:
        packed = PackedBert(config, head=True)
        bias = torch.zeros(len(decoder.weight)) if decoder.bias is None else decoder.bias.detach()
        packed.load({**model.state_dict(), "cls.predictions.bias": bias})
    except (CheckpointError, KeyError):
        return None
    width = int(packed.word.shape[1])
    if width % 16 or width > 1024 or width // packed.heads % 8 or width // packed.heads > 256:
        return None
    if not torch.equal(packed.word, decoder.weight):
        return None  # a head that is not tied to the word embeddings
    ids = torch.arange(min(8, len(decoder.weight)))
    with torch.inference_mode():
        expected = model(input_ids=ids[None])[0][0]
        got = packed(ids, Packing(np.array([0, len(ids)]), "cpu"))
    return packed if got.shape == expected.shape and torch.allclose(got, expected, 1e-3, 1e-3) else None


def _cut(bounds: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of texts with about BATCH_TOKENS word pieces, one text at least."""
    first, texts = 0, len(bounds) - 1
    while first < texts:
        last = int(np.searchsorted(bounds, bounds[first] + BATCH_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), first + BATCH_TEXTS)
        yield first, last
        first = last


def _on(stream: torch.cuda.Stream | None) -> Any:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
