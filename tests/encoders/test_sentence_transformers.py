"""The same texts through sentence-transformers and through us: equal weights, whoever wrote the folder.

With a tiny random BERT always, with the two real models where they can be had (mark ``slow``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import DenseEncoder, SparseEncoder, load_encoder, resolve
from sparsight.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [
    "The cat sat on the mat.",
    "Aspirin lowers the risk of a second heart attack, says a study of 12,000 patients in Denmark.",
    "Stock markets fell sharply after the bank's announcement.",
    "a",
    "a big dog ran to the old red house and she sat on it",
    "Schrödinger's café: naïve résumé, ÆØÅ and 東京 ∑x² ≠ ½",
    "word " * 300,
    "sparse sparser sparsest retrieval of documents by learned weights over the vocabulary " * 4,
]
ROUTED = "routed"
TOLERANCE = 1e-3


@pytest.fixture(params=["tiny", pytest.param("splade-tiny", marks=pytest.mark.slow)])
def checkpoint(request: pytest.FixtureRequest, splade_folder: Path) -> Path:
    return splade_folder if request.param == "tiny" else real(request.param)


def real(name: str) -> Path:
    try:
        return resolve(name)
    except CheckpointError as error:
        if error.reason == "DOWNLOAD_FAILED":
            pytest.skip(str(error))
        raise


def save_theirs(checkpoint: Path, folder: Path, pooling: str, activation: str) -> Any:
    """sentence-transformers' model of a checkpoint; ``pooling`` "routed" is max pooling with a table for queries."""
    import torch
    from sentence_transformers import SparseEncoder as Theirs
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SparseStaticEmbedding, SpladePooling

    transformer = MLMTransformer(str(checkpoint))
    splade: list[Any] = [transformer, SpladePooling("max" if pooling == ROUTED else pooling,  # type: ignore[arg-type]
                                                    activation_function=activation)]  # type: ignore[arg-type]
    if pooling == ROUTED:
        table = torch.rand(transformer.model.config.vocab_size, generator=torch.Generator().manual_seed(1)) + 0.01
        model = Theirs(modules=[Router.for_query_document(
            query_modules=[SparseStaticEmbedding(transformer.tokenizer, table)], document_modules=splade)],
            device="cpu")
    else:
        model = Theirs(modules=splade, device="cpu")
    model.max_seq_length = 64
    model.save_pretrained(str(folder))
    return model


def assert_equal(ours: Any, theirs: Any) -> None:
    expected = theirs.to_dense().numpy()
    got = ours.toarray()
    assert got.shape == expected.shape
    assert abs(got - expected).max() < TOLERANCE
    # The same support: whoever has more than the tolerance has it in both.
    assert ((got > 2 * TOLERANCE) <= (expected > 0)).all() and ((expected > 2 * TOLERANCE) <= (got > 0)).all()
    assert (np.maximum(got, expected) > 0.05).sum() > len(expected)


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_splade(checkpoint: Path, tmp_path: Path, pooling: str, activation: str) -> None:
    theirs = save_theirs(checkpoint, tmp_path, pooling, activation)
    ours = load_encoder(str(tmp_path))
    assert isinstance(ours, SparseEncoder)
    assert (ours.settings.pooling, ours.settings.query, ours.max_tokens) == (pooling, "encoder", 64)
    assert_equal(ours.encode(TEXTS), theirs.encode_document(TEXTS))
    assert_equal(ours.encode(TEXTS, mode="query"), theirs.encode_query(TEXTS))


def test_inference_free(checkpoint: Path, tmp_path: Path) -> None:
    theirs = save_theirs(checkpoint, tmp_path, ROUTED, "log1p_relu")
    ours = load_encoder(str(tmp_path))
    assert isinstance(ours, SparseEncoder) and ours.settings.query == "table"
    assert_equal(ours.encode(TEXTS), theirs.encode_document(TEXTS))
    # They weight the token for unknown words, we do not; and they count max_seq_length without special tokens.
    unknown = ours.tokenizer.token_to_id("[UNK]")
    known = [text for text in TEXTS if unknown not in ours.tokenizer.encode(text).ids and len(text) < 200]
    assert len(known) >= 3
    got = ours.encode(known, mode="query")
    expected = theirs.encode_query(known).to_dense().numpy()
    np.testing.assert_allclose(got.toarray(), expected, atol=1e-6)
    terms, weights = ours.encode_query(known[0])
    np.testing.assert_allclose(weights, expected[0][terms], atol=1e-6)


def test_dense(dense_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    for mode in ("mean", "cls"):
        transformer = Transformer(str(dense_folder))
        model = SentenceTransformer(modules=[transformer, Pooling(16, pooling_mode=mode), Normalize()], device="cpu")
        model.save_pretrained(str(tmp_path / mode))
        ours = load_encoder(str(tmp_path / mode))
        assert isinstance(ours, DenseEncoder) and ours.settings.pooling == mode
        np.testing.assert_allclose(ours.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_all_minilm() -> None:
    from sentence_transformers import SentenceTransformer

    folder = real("all-MiniLM-L6-v2")
    ours, theirs = load_encoder("all-MiniLM-L6-v2"), SentenceTransformer(str(folder), device="cpu")
    assert isinstance(ours, DenseEncoder)
    assert ours.max_tokens == theirs.max_seq_length
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS, normalize_embeddings=True), atol=1e-4)
