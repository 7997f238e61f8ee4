"""Texts to vectors on the device at hand, in shards that an interrupted run keeps.

A GPU runs in bfloat16; a CPU takes the project's own encoders. Weights are stored as bfloat16 (8 significant bits), and
what is stored is what every engine is given: the truth is exact for these numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from benches.vectors.planes import save_planes
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.splade import SpladeEncoder

__all__ = ["MAX_TOKENS", "SHARD", "dense_vectors", "round_to_bfloat16", "splade_shards"]

MAX_TOKENS = 192
SHARD = 24_000  # documents; about 13 MB on disk
GPU_TOKENS = 24_576  # word pieces in a GPU's batch: 1.5 GB of logits in bfloat16


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 numbers with the lower 16 bits rounded away (to nearest)."""
    rounded: NDArray[np.float32] = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    return rounded


def _batches(ids: Sequence[NDArray[np.int32]]) -> Iterator[NDArray[np.int64]]:
    """Rows of similar length, long ones first, at most GPU_TOKENS padded word pieces together."""
    order = np.argsort([-len(row) for row in ids], kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, GPU_TOKENS // len(ids[order[start]]))
        yield order[start:stop]
        start = stop


def _hidden(encoder: SpladeEncoder | DenseEncoder, rows: Sequence[NDArray[np.int32]],
            device: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    on_device = torch.from_numpy(mask).to(device)
    model = encoder._model
    return model(input_ids=torch.from_numpy(ids).to(device), attention_mask=on_device)[0], on_device


@torch.inference_mode()
def _splade_on_gpu(encoder: SpladeEncoder, texts: Sequence[str], device: str) -> csr_matrix:
    ids = encoder._tokens.ids(texts, MAX_TOKENS)
    parts, order = [], []
    head = encoder._decoder
    for rows in _batches(ids):
        with torch.autocast("cuda", torch.bfloat16):
            hidden, mask = _hidden(encoder, [ids[row] for row in rows], device)
            logits = head(hidden)
        logits.masked_fill_(mask[:, :, None] == 0, 0)
        weights = torch.log1p(torch.relu(logits.amax(1).float()))
        found = torch.nonzero(weights)
        values = weights[found[:, 0], found[:, 1]].cpu().numpy()
        line, term = found.to(torch.int32).cpu().numpy().T
        indptr = np.concatenate([[0], np.cumsum(np.bincount(line, minlength=len(rows)))])
        parts.append(csr_matrix((values, np.ascontiguousarray(term), indptr), shape=(len(rows), encoder.dimension)))
        order.append(rows)
    stacked = vstack(parts, format="csr")
    return stacked[np.argsort(np.concatenate(order))]


def splade_matrix(encoder: SpladeEncoder, texts: Sequence[str], device: str) -> csr_matrix:
    """SPLADE weights (B, V) as float32 rounded to bfloat16, sorted indices."""
    made = (_splade_on_gpu(encoder, texts, device) if device.startswith("cuda")
            else encoder.encode(texts, max_tokens=MAX_TOKENS))
    made.data = round_to_bfloat16(made.data.astype(np.float32))
    made.eliminate_zeros()
    made.sort_indices()
    return made


def splade_shards(texts: Sequence[str], folder: Path, device: str) -> list[Path]:
    """Encode ``texts`` to ``folder/splade-NNN.npz``; shards that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder("splade-tiny", device=device)
    assert isinstance(encoder, SpladeEncoder)
    paths, began = [], time.monotonic()
    for start in range(0, len(texts), SHARD):
        path = folder / f"splade-{start // SHARD:03d}.npz"
        if not path.exists():
            save_planes(path, splade_matrix(encoder, texts[start:start + SHARD], device))
        paths.append(path)
        done = min(start + SHARD, len(texts))
        print(f"splade: {done:,} of {len(texts):,} documents, {time.monotonic() - began:.0f} s", flush=True)
    return paths


@torch.inference_mode()
def dense_vectors(texts: Sequence[str], device: str) -> NDArray[np.float32]:
    """Unit vectors (B, 384) of all-MiniLM-L6-v2, at most MAX_TOKENS word pieces."""
    encoder = load_encoder("all-MiniLM-L6-v2", device=device)
    assert isinstance(encoder, DenseEncoder)
    if not device.startswith("cuda"):
        return encoder.encode(texts, max_tokens=MAX_TOKENS)
    ids = encoder._tokens.ids(texts, MAX_TOKENS)
    out = np.empty((len(texts), encoder.dimension), np.float32)
    for rows in _batches(ids):
        with torch.autocast("cuda", torch.bfloat16):
            hidden, mask = _hidden(encoder, [ids[row] for row in rows], device)
        mean = (hidden.float() * mask[:, :, None]).sum(1)
        out[rows] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
    return out
