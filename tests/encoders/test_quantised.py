from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder, save_int8
from sparsight.encoders.checkpoint import load_model
from sparsight.encoders.quantised import load_int8, quantise_rows
from sparsight.encoders.settings import read_settings
from sparsight.errors import CheckpointError, InvalidVectorError

from .conftest import write_json, write_tokenizer

Change = Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None]
TEXTS = ["the cat sat on the mat", "a dog ran to the old house", ""]


def state_of(folder: Path) -> dict[str, Any]:
    model: Any = load_model(read_settings(folder))
    return dict(model.state_dict())


@pytest.fixture
def small(splade_folder: Path, tmp_path: Path) -> Path:
    """The masked LM of the other tests, its matrices as int8."""
    folder = tmp_path / "int8"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(splade_folder / name, folder)
    save_int8(state_of(splade_folder), folder, smallest=256)
    return folder


def test_rows_by_hand() -> None:
    import torch

    whole, scale = quantise_rows(torch.tensor([[0.0, -127.0, 63.6], [0.0, 0.0, 0.0], [1.27, 0.014, 0.016]]))
    assert whole.tolist() == [[0, -127, 64], [0, 0, 0], [127, 1, 2]]
    assert scale.dtype == torch.float16 and scale.tolist() == pytest.approx([1, 0, 0.01], rel=1e-3)
    tiny, wide = quantise_rows(torch.tensor([[1e-9, -1e-9]]))  # below what float16 holds
    assert wide.dtype == torch.float32 and tiny.tolist() == [[127, -127]]


def test_no_entry_is_off_by_more_than_half_a_scale(splade_folder: Path, small: Path) -> None:
    before, after = state_of(splade_folder), state_of(small)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        error = (tensor - after[name]).abs().numpy()
        if tensor.ndim == 2 and tensor.numel() >= 256:
            half = tensor.abs().amax(1).numpy() / 127 * 0.502  # a float16 scale is off by 2**-11 itself
            assert (error <= half[:, None] + 1e-7).all(), name
        else:
            np.testing.assert_allclose(after[name], tensor, rtol=1e-3, atol=1e-6)


def test_what_is_stored(splade_folder: Path, small: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(small / "model.safetensors")
    assert not [name for name in stored if "decoder" in name]  # tied: once
    words = stored["bert.embeddings.word_embeddings.weight"]
    assert str(words.dtype) == "torch.int8"
    assert stored["bert.embeddings.word_embeddings.weight.scale"].shape == words.shape[:1]
    kinds = {str(tensor.dtype) for tensor in stored.values()}
    assert kinds == {"torch.int8", "torch.float16"}
    assert json.loads((small / "sparsight.json").read_text()) == {"quantisation": "int8"}
    assert load_int8([small / "model.safetensors"]).keys() == {name for name in stored if not name.endswith(".scale")}
    assert (small / "model.safetensors").stat().st_size < (splade_folder / "model.safetensors").stat().st_size / 2


def test_vectors_are_close(splade_folder: Path, small: Path) -> None:
    expected, got = load_encoder(str(splade_folder)).encode(TEXTS), load_encoder(str(small)).encode(TEXTS)
    assert 0 < abs(got - expected).max() < 0.1
    assert load_encoder(str(small)).fingerprint != load_encoder(str(splade_folder)).fingerprint


def test_a_copy_of_the_tied_matrix_is_dropped(splade_folder: Path, small: Path) -> None:
    state = {name: tensor.clone() for name, tensor in state_of(splade_folder).items()}
    write_json(small / "sparsight.json", {"max_tokens": 20})
    path = save_int8(state, str(small), smallest=256)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert "cls.predictions.decoder.weight" not in file.keys()  # noqa: SIM118
    assert json.loads((small / "sparsight.json").read_text()) == {"max_tokens": 20, "quantisation": "int8"}
    assert load_encoder(str(small)).max_tokens == 20


def test_dense_models_and_fewer_positions(make_model: Any, tmp_path: Path) -> None:
    folder = make_model(masked_lm=False, seed=2)
    config = json.loads((folder / "config.json").read_text())
    state = state_of(folder)
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][:32]
    write_json(tmp_path / "config.json", config | {"max_position_embeddings": 32})
    write_tokenizer(tmp_path)
    save_int8(state, tmp_path, smallest=256)
    encoder, before = load_encoder(str(tmp_path)), load_encoder(str(folder))
    assert (encoder.kind, encoder.max_tokens, before.max_tokens) == ("dense", 32, 64)
    assert (np.asarray(encoder.encode(TEXTS)) * np.asarray(before.encode(TEXTS))).sum(1).min() > 0.99


def test_whole_folders_in_float16(splade_folder: Path, tmp_path: Path, change_weights: Change) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "half"))
    change_weights(folder, lambda tensors: {name: array.astype(np.float16) for name, array in tensors.items()})
    expected, got = load_encoder(str(splade_folder)).encode(TEXTS), load_encoder(str(folder)).encode(TEXTS)
    assert 0 < abs(got - expected).max() < 0.01


def test_int8_that_nobody_announced(small: Path) -> None:
    (small / "sparsight.json").unlink()
    with pytest.raises(CheckpointError, match="quantisation") as caught:
        load_encoder(str(small))
    assert caught.value.reason == "WEIGHTS_DO_NOT_FIT"
    write_json(small / "sparsight.json", {"quantisation": "int4"})
    with pytest.raises(CheckpointError, match="int4"):
        load_encoder(str(small))


@pytest.mark.parametrize("damage", ["no scale", "short scale", "whole scale", "nan scale", "missing", "truncated"])
def test_damaged(small: Path, change_weights: Change, damage: str) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    scale = f"{name}.scale"
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "no scale": lambda tensors: {key: array for key, array in tensors.items() if key != scale},
        "short scale": lambda tensors: tensors | {scale: tensors[scale][:-1]},
        "whole scale": lambda tensors: tensors | {scale: tensors[scale].astype(np.int32)},
        "nan scale": lambda tensors: tensors | {scale: np.full_like(tensors[scale], np.nan)},
        "missing": lambda tensors: {key: array for key, array in tensors.items() if key not in (name, scale)},
    }
    if damage == "truncated":
        path = small / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-7])
    else:
        change_weights(small, changes[damage])
    with pytest.raises(CheckpointError, match=r"query\.weight|model\.safetensors"):
        load_encoder(str(small))


def test_what_cannot_be_stored(tmp_path: Path) -> None:
    import torch

    for wrong in (torch.full((4,), 1e6), torch.full((64, 64), torch.inf), torch.full((64, 64), torch.nan)):
        with pytest.raises(InvalidVectorError, match="thing"):
            save_int8({"thing": wrong}, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    path = save_int8({"position_ids": torch.arange(5), "none": torch.zeros((0, 3))}, tmp_path)
    assert load_int8([path])["position_ids"].tolist() == [0, 1, 2, 3, 4]
