"""Text to vectors: learned sparse and dense encoders, passages, and k-sparse autoencoders over dense embeddings.

Names are loaded when they are first used, so that importing the package pulls in neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.encoders.dense import DenseEncoder
    from sparsight.encoders.loading import load_encoder
    from sparsight.encoders.passages import clip_title
    from sparsight.encoders.passages import split as split_passages
    from sparsight.encoders.quantised import save_int8
    from sparsight.encoders.query_table import save_query_weights
    from sparsight.encoders.resolver import resolve
    from sparsight.encoders.sae.checkpoints import read_sae
    from sparsight.encoders.sae.labels import label_features, top_examples
    from sparsight.encoders.sae.model import SAE
    from sparsight.encoders.sae.training import SAEConfig, default_n_latents, train_sae
    from sparsight.encoders.sparse import SparseEncoder
    from sparsight.encoders.splade import SpladeEncoder

__all__ = [
    "SAE",
    "DenseEncoder",
    "SAEConfig",
    "SparseEncoder",
    "SpladeEncoder",
    "clip_title",
    "default_n_latents",
    "label_features",
    "load_encoder",
    "read_sae",
    "resolve",
    "save_int8",
    "save_query_weights",
    "split_passages",
    "top_examples",
    "train_sae",
]

_HOMES = {
    "DenseEncoder": ("dense", "DenseEncoder"),
    "SAE": ("sae.model", "SAE"),
    "SAEConfig": ("sae.config", "SAEConfig"),
    "SparseEncoder": ("sparse", "SparseEncoder"),
    "SpladeEncoder": ("splade", "SpladeEncoder"),
    "clip_title": ("passages", "clip_title"),
    "default_n_latents": ("sae.config", "default_n_latents"),
    "label_features": ("sae.labels", "label_features"),
    "load_encoder": ("loading", "load_encoder"),
    "read_sae": ("sae.checkpoints", "read_sae"),
    "resolve": ("resolver", "resolve"),
    "save_int8": ("quantised", "save_int8"),
    "save_query_weights": ("query_table", "save_query_weights"),
    "split_passages": ("passages", "split"),
    "top_examples": ("sae.labels", "top_examples"),
    "train_sae": ("sae.training", "train_sae"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
