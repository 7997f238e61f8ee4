"""Texts to vectors on the device at hand, in shards that an interrupted run keeps.

Weights are stored as bfloat16 (8 significant bits), and what is stored is what every engine is given: the truth is
exact for these numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.vectors.planes import save_planes
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.splade import SpladeEncoder

__all__ = ["MAX_TOKENS", "SHARD", "dense_vectors", "round_to_bfloat16", "splade_shards"]

MAX_TOKENS = 192
SHARD = 24_000  # documents; about 13 MB on disk


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 numbers with the lower 16 bits rounded away (to nearest)."""
    rounded: NDArray[np.float32] = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    return rounded


def splade_matrix(encoder: SpladeEncoder, texts: Sequence[str]) -> csr_matrix:
    """SPLADE weights (B, V) as float32 rounded to bfloat16, sorted indices."""
    made = encoder.encode(texts, max_tokens=MAX_TOKENS)
    made.data = round_to_bfloat16(made.data)
    made.eliminate_zeros()
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
            save_planes(path, splade_matrix(encoder, texts[start:start + SHARD]))
        paths.append(path)
        done = min(start + SHARD, len(texts))
        print(f"splade: {done:,} of {len(texts):,} documents, {time.monotonic() - began:.0f} s", flush=True)
    return paths


def dense_vectors(texts: Sequence[str], device: str) -> NDArray[np.float32]:
    """Unit vectors (B, 384) of all-MiniLM-L6-v2, at most MAX_TOKENS word pieces."""
    encoder = load_encoder("all-MiniLM-L6-v2", device=device)
    assert isinstance(encoder, DenseEncoder)
    return encoder.encode(texts, max_tokens=MAX_TOKENS)
