from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder
from sparsight.encoders.winner_take_all import WinnerTakeAllEncoder, winners
from sparsight.errors import CheckpointError, InvalidArgumentError

from .conftest import write_json

WIDTH, BUCKET, LAYERS, K = 16, 200, [0, 2, 1], 7
TEXTS = ["the cat sat on the mat", "", "a dog ran to the old house and she sat", "big " * 100]


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    return {f"{layer}.{name}": random.normal(size=shape).astype(np.float32)
            for layer in LAYERS for name, shape in {"weight": (BUCKET, WIDTH), "bias": (BUCKET,)}.items()}


@pytest.fixture
def folder(dense_folder: Path, tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(dense_folder, tmp_path / "model"))
    save_file(tensors(), folder / "wta.safetensors")
    write_json(folder / "sparsight.json", {"head": "wta", "layers": LAYERS, "k": K, "query_k": 3})
    return folder


def load(folder: Path) -> Any:
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, WinnerTakeAllEncoder)
    return encoder


def reference(folder: Path, text: str, k: int) -> list[int]:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    model: Any = BertModel.from_pretrained(folder).eval()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= 64 else [*ids[:63], ids[-1]]
    if len(ids) == 2:
        return []
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    out: list[int] = []
    for place, layer in enumerate(LAYERS):
        scores = states[layer][0].numpy() @ tensors()[f"{layer}.weight"].T + tensors()[f"{layer}.bias"]  # (T, D)
        best = sorted((-score, j) for j, score in enumerate(scores.max(0).tolist()))[:k]
        out += sorted(place * BUCKET + j for _, j in best)
    return out


def test_winners_by_hand() -> None:
    scores = np.array([[0.5, -1, 2, 0.5], [-3, -2, -4, -2]], np.float32)
    assert winners(scores, 2).tolist() == [[0, 2], [1, 3]]  # ties by the lower place; below zero too
    assert winners(scores, 4).tolist() == [[0, 1, 2, 3]] * 2 and winners(scores, 1).dtype == np.int32


def test_equals_the_formula(folder: Path) -> None:
    encoder = load(folder)
    assert encoder.dimension == BUCKET * len(LAYERS)
    for mode, k in {"document": K, "query": 3}.items():
        got = encoder.encode(TEXTS, mode=mode)
        assert got.dtype == np.float32 and set(got.data.tolist()) == {1.0}
        for i, text in enumerate(TEXTS):
            assert got[i].indices.tolist() == reference(folder, text, k)


def test_options_and_terms(folder: Path) -> None:
    encoder = load(folder)
    whole = encoder.encode(TEXTS)
    assert encoder.encode(TEXTS[:1], max_terms=2).indices.tolist() == whole[0].indices[:2].tolist()
    assert encoder.encode(TEXTS, threshold=1.0).nnz == 0
    assert [encoder.term(i) for i in (0, 201, 599)] == ["layer 0: 0", "layer 2: 1", "layer 1: 199"]
    with pytest.raises(InvalidArgumentError):
        encoder.term(600)
    with pytest.raises(CheckpointError, match="word pieces"):
        load_encoder(f"{folder}#bow")


def test_what_decides_documents_is_in_the_fingerprint(folder: Path) -> None:
    before = load(folder).fingerprint
    write_json(folder / "sparsight.json", {"head": "wta", "layers": LAYERS, "k": K, "query_k": 5})
    other_queries = load(folder)
    assert other_queries.fingerprint == before
    assert other_queries.encode(TEXTS[:1], mode="query").nnz == 5 * len(LAYERS)
    write_json(folder / "sparsight.json", {"head": "wta", "layers": LAYERS, "k": K + 1})
    assert load(folder).fingerprint != before


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"k": BUCKET + 1}, {"k": None}, {"layers": [3]}, {"layers": []}, {"layers": 1},
              {"layers": [True]}, {"query_k": "7"}, {"expansion": {"query": False}}])
def test_wrong_settings(folder: Path, wrong: dict[str, object]) -> None:
    write_json(folder / "sparsight.json", {"head": "wta", "layers": LAYERS, "k": K} | wrong)
    with pytest.raises(CheckpointError):
        load(folder)


def test_layers_of_other_sizes(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors() | {"1.weight": np.ones((BUCKET - 1, WIDTH), np.float32)}, folder / "wta.safetensors")
    with pytest.raises(CheckpointError, match="200 dimensions of layer 1"):
        load(folder)
    save_file(tensors() | {"1.weight": np.ones((BUCKET, WIDTH + 1), np.float32)}, folder / "wta.safetensors")
    with pytest.raises(CheckpointError, match=r"expected 1\.weight"):
        load(folder)
