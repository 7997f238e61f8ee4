from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder, splade
from sparsight.encoders.sae_latents import SAELatentEncoder
from sparsight.errors import CheckpointError, InvalidArgumentError

from .conftest import write_json

WIDTH, LATENTS, LAYER = 16, 500, 1
TEXTS = ["the cat sat on the mat", "", "a dog ran to the old house and she sat", "big " * 100]


def tensors(latents: int = LATENTS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(6)
    shapes = {"W_enc": (latents, WIDTH), "b_enc": (latents,), "b_dec": (WIDTH,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | {
        "threshold": np.full(latents, 2, np.float32)}


def save(folder: Path, values: dict[str, np.ndarray], **settings: object) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in values.items()}, folder / "sae.safetensors")
    write_json(folder / "sparsight.json", {"head": "sae", "layer": LAYER} | settings)


@pytest.fixture
def folder(dense_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense_folder, tmp_path / "model"))


def load(folder: Path) -> Any:
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, SAELatentEncoder)
    return encoder


def reference(folder: Path, text: str, sae: dict[str, np.ndarray]) -> np.ndarray:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    model: Any = BertModel.from_pretrained(folder).eval()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= 64 else [*ids[:63], ids[-1]]
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER][0].numpy()
    pre_acts = (states - sae.get("b_dec", 0)) @ sae["W_enc"].T + sae["b_enc"]  # (T, F)
    latent_acts = pre_acts * (pre_acts > np.maximum(sae.get("threshold", 0), 0))
    weights: np.ndarray = np.log1p(latent_acts).max(0) * (len(ids) > 2)
    return weights


@pytest.mark.parametrize("left_out", [(), ("b_dec",), ("threshold",), ("b_dec", "threshold")])
def test_equals_the_formula(folder: Path, left_out: tuple[str, ...]) -> None:
    sae = {name: array for name, array in tensors().items() if name not in left_out}
    save(folder, sae)
    encoder = load(folder)
    got = encoder.encode(TEXTS)
    assert encoder.dimension == LATENTS and got.has_canonical_format and got.indices.dtype == np.int32
    expected = np.array([reference(folder, text, sae) for text in TEXTS])
    np.testing.assert_allclose(got.toarray(), expected, rtol=1e-4, atol=1e-4)
    assert (encoder.encode(TEXTS, mode="query") != got).nnz == 0 and got.nnz > 100


def test_saelens_orientation(folder: Path) -> None:
    save(folder, tensors())
    expected = load(folder).encode(TEXTS)
    save(folder, tensors() | {"W_enc": tensors()["W_enc"].T})
    # Products may sum in another order.
    np.testing.assert_allclose(load(folder).encode(TEXTS).toarray(), expected.toarray(), atol=1e-5)


def test_more_latents_than_16_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """131,072 latents, with never more than some logits at a time."""
    many = 131_072
    sae = tensors(many)
    save(folder, sae)
    encoder = load(folder)
    monkeypatch.setattr(splade, "HEAD_FLOATS", 1 << 16)
    got = encoder.encode(TEXTS[:1])
    assert encoder.dimension == many and got.shape == (1, many) and got.indices.max() > 65_536
    np.testing.assert_allclose(got.toarray()[0], reference(folder, TEXTS[0], sae), rtol=1e-4, atol=1e-4)
    assert encoder.encode(TEXTS[:1], max_terms=400).nnz == 400


def test_terms(folder: Path) -> None:
    save(folder, tensors())
    encoder = load(folder)
    assert encoder.term(17) == "latent 17"
    with pytest.raises(InvalidArgumentError):
        encoder.term(LATENTS)
    with pytest.raises(CheckpointError, match="word pieces"):
        load_encoder(f"{folder}#bow")


def test_the_layer_counts(folder: Path) -> None:
    save(folder, tensors())
    before = load(folder)
    save(folder, tensors(), layer=2)
    after = load(folder)
    assert after.fingerprint != before.fingerprint
    assert (after.encode(TEXTS) != before.encode(TEXTS)).nnz > 0


@pytest.mark.parametrize("wrong", [None, -1, 3, "1", True])
def test_wrong_layers(folder: Path, wrong: object) -> None:
    save(folder, tensors(), layer=wrong)
    with pytest.raises(CheckpointError, match="from 0 to 2"):
        load(folder)


@pytest.mark.parametrize("damage", ["missing", "W_enc", "b_enc", "b_dec", "threshold", "not finite", "negative"])
def test_wrong_weights(folder: Path, damage: str) -> None:
    values = tensors()
    if damage == "not finite":
        values["b_enc"][3] = np.nan
    elif damage == "negative":
        values["threshold"][3] = -1
    elif damage == "b_dec":
        values["b_dec"] = values["b_dec"][:-1]
    elif damage != "missing":
        values[damage] = values[damage][:-1]
    save(folder, values)
    if damage == "missing":
        (folder / "sae.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"sae|threshold"):
        load(folder)
