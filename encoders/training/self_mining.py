"""Candidates that the model in training finds itself, through our own exact index.

What a model ranks high and its teachers do not is what it most needs to see (Xiong et al. 2021, "Approximate Nearest
Neighbor Negative Contrastive Learning", ANCE, ICLR; here with learned sparse vectors and an exact search).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from sparsight.encoders.packed import PackedTexts
from sparsight.encoders.training.dataset import Dataset, without_relevant
from sparsight.encoders.training.model import SpladeModel
from sparsight.encoders.training.teachers import best_by_search

__all__ = ["own_candidates", "self_mined"]

_SLICE = 8192
_TOKENS_ON_CPU = 2048


def self_mined(folder: Path, mined_at: int, model: SpladeModel, data: Dataset, k: int) -> NDArray[np.int32]:
    """The candidates mined at a step, from ``folder`` if they are there: a resumed run must not mine anew."""
    path = folder / f"self-mined-{mined_at}.npy"
    if not path.exists():
        found = own_candidates(model, data, k)
        with path.with_name("unfinished-" + path.name).open("wb") as file:
            np.save(file, found)
        path.with_name("unfinished-" + path.name).replace(path)
    made: NDArray[np.int32] = np.load(path)
    return made


def own_candidates(model: SpladeModel, data: Dataset, k: int) -> NDArray[np.int32]:
    """Documents (Q, k) that the model ranks first for each query through the encoder, -1 for relevant ones."""
    found = best_by_search(_rows(model, data.queries), _rows(model, data.documents), k)
    return without_relevant(found, data.texts)


def _rows(model: SpladeModel, texts: PackedTexts) -> csr_matrix:
    parts = _on_gpu(model, texts) if model.bert.word.is_cuda else _on_cpu(model, texts)
    return vstack(list(parts), format="csr")


def _slices(texts: PackedTexts, size: int) -> Iterator[PackedTexts]:
    for first in range(0, len(texts), size):
        bounds = texts.starts[first:first + size + 1]
        yield PackedTexts(texts.ids[bounds[0]:bounds[-1]], bounds - bounds[0])


def _on_gpu(model: SpladeModel, texts: PackedTexts) -> Iterator[csr_matrix]:
    from sparsight.encoders.gpu_encoding import GpuSplade

    # A copy: the encoder takes the gradients off the model it is given.
    encoder = GpuSplade(copy.deepcopy(model.bert), activation=model.activation, device=str(model.bert.word.device))
    packed = ((part.ids.astype(np.int32), part.starts) for part in _slices(texts, _SLICE))
    yield from encoder.stream(packed, max_terms=256)


def _on_cpu(model: SpladeModel, texts: PackedTexts) -> Iterator[csr_matrix]:
    with torch.inference_mode():
        for part in _slices(texts, 16):
            hidden, packing = model.hidden(part)
            yield csr_matrix(model.weights(model.logits(hidden, packing)).cpu().numpy())
