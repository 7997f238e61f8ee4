"""Queries without a model: a weight for each word piece, looked up.

``q_j = table_j`` if word piece j is in the query, else 0, however often it occurs; special tokens are left out. The
table holds inverse document frequencies (Geng et al. 2024, "Towards Competitive Search Relevance for
Inference-Free Learned Sparse Retrievers", arXiv 2411.04403) or weights learned with the document encoder (Nardini,
Nguyen, Rulli, Venturini, Yates 2025, "Effective Inference-Free Retrieval for Learned Sparse Representations", Li-LSR,
arXiv 2505.01452). A table of ones gives bags of words: the queries of SPLADE-doc (Formal, Lassance, Piwowarski,
Clinchant 2021, arXiv 2109.10086) and of DeepImpact.

Three files are understood: ``query_weights.safetensors`` with ``weights`` (V,), the ``model.safetensors`` with
``weight`` (V,) of sentence-transformers' SparseStaticEmbedding, and JSON objects from word pieces to weights, as
OpenSearch's ``idf.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.layouts import read_json
from sparsight.encoders.settings import QUERY_WEIGHTS
from sparsight.errors import CheckpointError, InvalidVectorError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["read_query_weights", "save_query_weights", "special_pieces"]

F32 = NDArray[np.float32]


def read_query_weights(path: Path, dimension: int, tokenizer: Tokenizer) -> F32:
    """The table in a file, float32 (V,), V = ``dimension``.

    Raises
    ------
    CheckpointError
        If it cannot be read, has another length, or is not finite.
    """
    weights = _from_json(path, dimension, tokenizer) if path.suffix == ".json" else _from_tensors(path)
    if weights.shape != (dimension,):
        raise CheckpointError(f"expected weights ({dimension},) in {path}, got {weights.shape}",
                              reason="WEIGHTS_DO_NOT_FIT", path=path)
    if not np.isfinite(weights).all():
        raise CheckpointError(f"the weights in {path} are not finite", path=path)
    return weights


def save_query_weights(weights: F32, folder: str | Path, dtype: type[np.floating] = np.float16) -> Path:
    """Write a table (V,) as ``query_weights.safetensors`` into a model's folder; returns the file.

    float16 is exact to 3 digits and holds weights up to 65504; InvalidVectorError if a weight is not finite in it.
    """
    from safetensors.numpy import save_file

    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(weights, dtype)
    if stored.ndim != 1 or not np.isfinite(stored).all():
        raise InvalidVectorError(f"expected finite weights (V,), got {stored.dtype} {stored.shape}", field="weights")
    path = Path(folder) / QUERY_WEIGHTS
    save_file({"weights": stored}, path)
    return path


def special_pieces(tokenizer: Tokenizer, dimension: int) -> NDArray[np.bool_]:
    """bool (V,), true for special tokens: padding, unknown, begin and end of a text, mask."""
    special = np.zeros(dimension, bool)
    added = tokenizer.get_added_tokens_decoder().items()
    special[[id for id, token in added if token.special and id < dimension]] = True
    return special


def _from_tensors(path: Path) -> F32:
    from safetensors.torch import load_file  # numpy has no bfloat16

    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}", path=path) from error
    for name in ("weights", "weight"):
        if name in tensors:
            weights: F32 = tensors[name].float().numpy()
            return weights
    raise CheckpointError(f"expected a tensor 'weights' or 'weight' in {path}, got {sorted(tensors)}", path=path)


def _from_json(path: Path, dimension: int, tokenizer: Tokenizer) -> F32:
    weights = np.zeros(dimension, np.float32)
    for piece, weight in read_json(path).items():
        id = tokenizer.token_to_id(piece)
        if id is None or id >= dimension or not isinstance(weight, int | float):
            raise CheckpointError(f"expected word pieces of the tokenizer with numbers in {path}, got "
                                  f"{piece!r}: {weight!r}", path=path)
        weights[id] = weight
    return weights
