from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.checkpoint import load_model, load_tokenizer, read_settings
from sparsight.errors import CheckpointError

Change = Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None]
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}


@pytest.fixture
def splade(splade_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(splade_folder, tmp_path / "splade"))


@pytest.fixture
def dense(dense_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense_folder, tmp_path / "dense"))


def put(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path: Path, **changes: object) -> None:
    put(path, json.loads(path.read_text()) | changes)


def test_plain_folders(splade: Path, dense: Path) -> None:
    settings = read_settings(splade)
    assert (settings.kind, settings.activation, settings.pooling, settings.max_tokens) == (
        "sparse",
        "log1p_relu",
        "max",
        64,
    )
    settings = read_settings(dense)
    assert (settings.kind, settings.activation, settings.pooling, settings.max_tokens) == ("dense", "", "mean", 64)


def test_sentence_transformers_dense(dense: Path) -> None:
    put(
        dense / "modules.json",
        [
            TRANSFORMER,
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    )
    put(
        dense / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    )
    put(dense / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    put(dense / "config_sentence_transformers.json", {"prompts": {"query": "find: ", "other": "x"}})
    settings = read_settings(dense)
    assert (settings.kind, settings.pooling, settings.max_tokens, settings.lower_case) == ("dense", "cls", 32, True)
    assert settings.prompts == {"query": "find: "}
    put(dense / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    assert read_settings(dense).pooling == "mean"
    put(dense / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(CheckpointError, match="'max'"):
        read_settings(dense)


@pytest.mark.parametrize(("given", "expected"), [("relu", "log1p_relu"), ("log1p_relu", "log1p_log1p_relu")])
def test_sentence_transformers_sparse(splade: Path, given: str, expected: str) -> None:
    put(
        splade / "modules.json",
        [
            TRANSFORMER | {"type": "sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer"},
            {
                "path": "1_SpladePooling",
                "type": "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling",
            },
        ],
    )
    put(splade / "1_SpladePooling" / "config.json", {"pooling_strategy": "max", "activation_function": given})
    settings = read_settings(splade)
    assert (settings.kind, settings.activation) == ("sparse", expected)
    put(splade / "1_SpladePooling" / "config.json", {"pooling_strategy": "sum"})
    assert read_settings(splade).pooling == "sum"
    put(splade / "1_SpladePooling" / "config.json", {"pooling_strategy": "mean"})
    with pytest.raises(CheckpointError, match="'mean'"):
        read_settings(splade)


def test_module_outside_the_folder(dense: Path) -> None:
    put(dense / "modules.json", [TRANSFORMER | {"path": "../splade"}, {"path": "1_Pooling", "type": "x.Pooling"}])
    with pytest.raises(CheckpointError, match="outside"):
        read_settings(dense)


@pytest.mark.parametrize(
    "modules",
    [
        [TRANSFORMER, {"path": "1", "type": "x.Pooling"}, {"path": "2", "type": "x.Dense"}],
        [{"path": "", "type": "x.WordEmbeddings"}],
        [{}],
        [3],
    ],
)
def test_other_modules_are_refused(dense: Path, modules: list[Any]) -> None:
    put(dense / "modules.json", modules)
    with pytest.raises(CheckpointError):
        read_settings(dense)


def test_own_settings_win(splade: Path) -> None:
    put(
        splade / "sparsight.json",
        {"kind": "sparse", "activation": "log1p_log1p_relu", "max_tokens": 24, "prompts": {"document": "passage: "}},
    )
    settings = read_settings(splade)
    assert (settings.activation, settings.max_tokens, settings.prompts) == (
        "log1p_log1p_relu",
        24,
        {"document": "passage: "},
    )
    for wrong in (
        {"activation": "tanh"},
        {"kind": "graph"},
        {"prompts": {"query": 3}},
        {"kind": "dense", "pooling": "x"},
    ):
        put(splade / "sparsight.json", wrong)
        with pytest.raises(CheckpointError):
            read_settings(splade)


def test_positions_of_roberta(splade: Path) -> None:
    edit(splade / "config.json", model_type="roberta", pad_token_id=1, max_position_embeddings=514)
    assert read_settings(splade).max_tokens == 512


@pytest.mark.parametrize("damage", ["missing", "no json", "a list", "no architecture"])
def test_unusable_config(splade: Path, damage: str) -> None:
    path = splade / "config.json"
    if damage == "missing":
        path.unlink()
    elif damage == "no architecture":
        edit(path, architectures=None)
    else:
        path.write_text({"no json": "{", "a list": "[]"}[damage])
    with pytest.raises(CheckpointError):
        read_settings(splade)


def test_old_layer_norm_names(splade: Path, change_weights: Change) -> None:
    change_weights(splade, lambda tensors: tensors | {"bert.embeddings.LayerNorm.weight": np.full(16, 1.5, np.float32)})
    new = load_model(read_settings(splade)).state_dict()
    change_weights(
        splade,
        lambda tensors: {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in tensors.items()
        },
    )
    old = load_model(read_settings(splade)).state_dict()
    assert old["bert.embeddings.LayerNorm.weight"].tolist() == [1.5] * 16
    assert new.keys() == old.keys() and all(bool((new[name] == old[name]).all()) for name in new)


def test_head_is_tied_and_biased(splade: Path) -> None:
    from safetensors.numpy import load_file

    stored = load_file(splade / "model.safetensors")
    decoder: Any = load_model(read_settings(splade)).get_output_embeddings()  # type: ignore[operator]
    np.testing.assert_array_equal(decoder.weight.numpy(), stored["bert.embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(decoder.bias.numpy(), stored["cls.predictions.bias"])
    assert np.abs(stored["cls.predictions.bias"]).max() > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "bert.encoder.layer.1.output.dense.weight",
        "bert.embeddings.word_embeddings.weight",
    ],
)
def test_missing_weights(splade: Path, change_weights: Change, name: str) -> None:
    change_weights(splade, lambda tensors: {key: array for key, array in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        load_model(read_settings(splade))
    assert caught.value.reason == "WEIGHTS_DO_NOT_FIT"


def test_untied_head_needs_its_own_matrix(splade: Path, change_weights: Change) -> None:
    edit(splade / "config.json", tie_word_embeddings=False)
    change_weights(splade, lambda tensors: {key: array for key, array in tensors.items() if "decoder" not in key})
    with pytest.raises(CheckpointError, match=r"decoder\.weight"):
        load_model(read_settings(splade))


def test_tying_never_replaces_a_stored_head(splade: Path, change_weights: Change) -> None:
    other = (
        np.random.default_rng(0)
        .normal(size=(len(json.loads((splade / "tokenizer.json").read_text())["model"]["vocab"]), 16))
        .astype(np.float32)
    )
    change_weights(splade, lambda tensors: tensors | {"cls.predictions.decoder.weight": other})
    try:
        decoder: Any = load_model(read_settings(splade)).get_output_embeddings()  # type: ignore[operator]
    except CheckpointError as error:
        assert error.reason == "WEIGHTS_DO_NOT_FIT"
    else:
        np.testing.assert_array_equal(decoder.weight.numpy(), other)


@pytest.mark.parametrize("damage", ["shape", "nan", "truncated", "pickle", "none"])
def test_damaged_weights(splade: Path, change_weights: Change, damage: str) -> None:
    path = splade / "model.safetensors"
    if damage == "shape":
        change_weights(
            splade, lambda tensors: tensors | {"cls.predictions.transform.dense.bias": np.ones(8, np.float32)}
        )
    elif damage == "nan":
        change_weights(
            splade, lambda tensors: tensors | {"cls.predictions.transform.dense.bias": np.full(16, np.nan, np.float32)}
        )
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        path.rename(splade / "pytorch_model.bin")
    else:
        path.unlink()
    with pytest.raises(CheckpointError):
        load_model(read_settings(splade))


def test_remote_code_is_not_run(splade: Path) -> None:
    (splade / "evil.py").write_text("raise SystemExit('ran')")
    edit(splade / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForMaskedLM": "evil.M"})
    with pytest.raises(CheckpointError):
        load_model(read_settings(splade))


def test_loading_is_silent(splade: Path, change_weights: Change, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    level = logging.get_verbosity()
    change_weights(splade, lambda tensors: tensors | {"idle.weight": np.ones(3, np.float32)})
    load_model(read_settings(splade))
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == level and logging.is_progress_bar_enabled()


def test_tokenizer_truncation_is_off(make_model: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(read_settings(make_model(truncated=True)))
    assert len(tokenizer.encode("the cat sat on the mat and ran").ids) == 10
    assert len(tokenizer.encode("cat").ids) == 3


def test_unusable_tokenizers(splade: Path) -> None:
    edit(splade / "config.json", vocab_size=10)
    with pytest.raises(CheckpointError, match="word pieces"):
        load_tokenizer(read_settings(splade))
    (splade / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError):
        load_tokenizer(read_settings(splade))
    (splade / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError):
        load_tokenizer(read_settings(splade))
