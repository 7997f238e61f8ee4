from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.checkpoint import read_settings
from sparsight.encoders.dense import DenseEncoder, pool, pool_packed
from sparsight.errors import CheckpointError, InvalidArgumentError

from .conftest import PIECES, write_tokenizer

TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the old house and sat",
    "cats",
    "",
    "he was old. she was new!",
    "big " * 90,
]


@pytest.fixture(scope="module")
def encoder(dense_folder: Path) -> DenseEncoder:
    return DenseEncoder(read_settings(dense_folder))


@pytest.fixture(scope="module")
def mpnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MPNet, which is no BERT: its positions are relative, and 1 is what fills up."""
    import torch
    from transformers import MPNetConfig, MPNetModel

    folder = tmp_path_factory.mktemp("mpnet")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        MPNetModel(MPNetConfig(
            vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=66, initializer_range=0.5, pad_token_id=1)).eval().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def oracle(folder: Path, text: str, pooling: str) -> np.ndarray:
    """Pooling over transformers' own hidden states, without padding."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    model: Any = BertModel.from_pretrained(folder).eval()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= 64 else [*ids[:63], ids[-1]]
    with torch.inference_mode():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    vector = hidden[0] if pooling == "cls" else hidden.mean(0)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_packed_texts_give_the_same(encoder: DenseEncoder, dense_folder: Path, pooling: str) -> None:
    """The GPU's way, on the CPU."""
    from sparsight.encoders.packed import PackedBert, PackedTexts

    model = PackedBert(encoder.settings.config, head=False).load(encoder._model.state_dict()).eval()
    vectors = pool_packed(model, PackedTexts(*encoder._tokens.packed(TEXTS, 64)), pooling)
    np.testing.assert_allclose(vectors, [oracle(dense_folder, text, pooling) for text in TEXTS], atol=1e-5)
    encoder._packed = model
    try:
        seen: list[tuple[int, int]] = []
        packed = encoder.encode(TEXTS, progress=lambda *done: seen.append(done))
    finally:
        encoder._packed = None
    np.testing.assert_allclose(packed, encoder.encode(TEXTS), atol=1e-5)
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_pool_by_hand() -> None:
    import torch

    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[0.0, 5.0], [7.0, 7.0], [7.0, 7.0]]])
    lengths = np.array([2, 1])
    np.testing.assert_allclose(pool(hidden, lengths, "mean"), [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(pool(hidden, lengths, "cls"), [[1.0, 0.0], [0.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_the_formula(dense_folder: Path, tmp_path: Path, pooling: str) -> None:
    folder = Path(shutil.copytree(dense_folder, tmp_path / "model"))
    (folder / "sparsight.json").write_text(json.dumps({"pooling": pooling}))
    got = DenseEncoder(read_settings(folder)).encode(TEXTS)
    assert got.shape == (6, 16) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)
    for row, text in zip(got, TEXTS, strict=True):
        np.testing.assert_allclose(row, oracle(folder, text, pooling), rtol=1e-4, atol=1e-5)


def test_alone_as_among_others(encoder: DenseEncoder) -> None:
    among = encoder.encode(TEXTS * 9)
    for i, text in enumerate(TEXTS * 9):
        np.testing.assert_allclose(among[i], encoder.encode([text])[0], rtol=0, atol=1e-5)


def test_no_texts(encoder: DenseEncoder) -> None:
    assert encoder.encode([]).shape == (0, 16)


def test_missing_pooler_does_not_matter(
    dense_folder: Path, tmp_path: Path, change_weights: Any, encoder: DenseEncoder
) -> None:
    folder = Path(shutil.copytree(dense_folder, tmp_path / "model"))
    change_weights(folder, lambda tensors: {name: a for name, a in tensors.items() if not name.startswith("pooler.")})
    np.testing.assert_array_equal(DenseEncoder(read_settings(folder)).encode(TEXTS), encoder.encode(TEXTS))
    change_weights(folder, lambda tensors: {name: a for name, a in tensors.items() if "layer.0.output" not in name})
    with pytest.raises(CheckpointError, match="missing"):
        DenseEncoder(read_settings(folder))


def test_masked_lm_weights_serve_a_dense_encoder(splade_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    (folder / "sparsight.json").write_text('{"kind": "dense"}')
    got = DenseEncoder(read_settings(folder)).encode(TEXTS[:1])
    np.testing.assert_allclose(got[0], oracle(folder, TEXTS[0], "mean"), rtol=1e-4, atol=1e-5)


def test_lower_case(dense_folder: Path, tmp_path: Path, encoder: DenseEncoder) -> None:
    folder = Path(shutil.copytree(dense_folder, tmp_path / "model"))
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    np.testing.assert_array_equal(DenseEncoder(read_settings(folder)).encode(["THE CAT"]), encoder.encode(["the cat"]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pooled_from_token_states(dense_folder: Path, tmp_path: Path, pooling: str) -> None:
    folder = Path(shutil.copytree(dense_folder, tmp_path / "model"))
    (folder / "sparsight.json").write_text(json.dumps({"pooling": pooling, "prompts": {"query": "he is "}}))
    encoder = DenseEncoder(read_settings(folder))
    states = encoder.token_states(TEXTS)
    assert [len(rows) for rows in states] == [8, 11, 4, 2, 10, 64]
    assert all(rows.dtype == np.float32 and rows.shape[1] == 16 for rows in states)
    pooled = np.array([rows[0] if pooling == "cls" else rows.mean(0) for rows in states])
    np.testing.assert_allclose(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), encoder.encode(TEXTS), atol=1e-6)
    assert len(encoder.token_states(TEXTS[:1], mode="query")[0]) == 10
    assert len(encoder.token_states(TEXTS[:1], max_tokens=5)[0]) == 5
    assert encoder.token_states([]) == []
    with pytest.raises(InvalidArgumentError):
        encoder.token_states(TEXTS, max_tokens=2)


def test_what_is_no_bert_gives_transformers_own_vectors(mpnet_folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import MPNetModel

    found = DenseEncoder(read_settings(mpnet_folder)).encode(TEXTS[:3])
    model: Any = MPNetModel.from_pretrained(mpnet_folder).eval()
    tokenizer = Tokenizer.from_file(str(mpnet_folder / "tokenizer.json"))
    for text, vector in zip(TEXTS[:3], found, strict=True):
        with torch.inference_mode():
            mean = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(0).numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.gpu
def test_an_mpnet_in_16_bits_on_a_gpu(mpnet_folder: Path) -> None:
    exact = DenseEncoder(read_settings(mpnet_folder)).encode(TEXTS * 40)
    half = DenseEncoder(read_settings(mpnet_folder), device="cuda", precision="auto")
    assert half.precision == "float16"
    assert (half.encode(TEXTS * 40) * exact).sum(1).min() > 0.999
