"""A tiny random BERT on disk, with a word-piece tokenizer, for encoder tests without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "dog",
    "ran",
    "to",
    "house",
    "red",
    "blue",
    "old",
    "new",
    "small",
    "big",
    "and",
    "a",
    "is",
    "was",
    "he",
    "she",
    "it",
]
PIECES = list(
    dict.fromkeys(
        [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            ".",
            ",",
            "!",
            "?",
            *WORDS,
            "##s",
            "##ing",
            "##ed",
            *"bcdefghijklmnopqrstuvwxyz",
            *[f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"],
        ]
    )
)
MakeModel = Callable[..., Path]


def write_tokenizer(folder: Path, **settings: Any) -> None:
    """A BERT word-piece tokenizer.json over ``PIECES``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    if settings.get("truncated"):
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Writes a random two-layer BERT; ``masked_lm`` chooses between a head and none."""

    def make(*, masked_lm: bool = True, seed: int = 0, truncated: bool = False, **config: Any) -> Path:
        import torch
        from transformers import BertConfig, BertForMaskedLM, BertModel

        folder = tmp_path_factory.mktemp("model")
        settings = BertConfig(
            **(
                {
                    "vocab_size": len(PIECES),
                    "hidden_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                    "max_position_embeddings": 64,
                    "initializer_range": 0.5,
                    "pad_token_id": 0,
                }
                | config
            )
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = (BertForMaskedLM if masked_lm else BertModel)(settings).eval()
            if masked_lm:
                torch.nn.init.normal_(model.cls.predictions.bias)
        model.save_pretrained(folder)
        write_tokenizer(folder, truncated=truncated)
        return folder

    return make


@pytest.fixture(scope="session")
def splade_folder(make_model: MakeModel) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def dense_folder(make_model: MakeModel) -> Path:
    return make_model(masked_lm=False, seed=1)


@pytest.fixture
def change_weights() -> Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None]:
    """Rewrites a folder's model.safetensors through a function of its tensors."""

    def change(folder: Path, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = function(dict(load_file(folder / "model.safetensors")))
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )

    return change


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are compared to 1e-3 and finer: "auto" would be bfloat16 on some processors."""
    monkeypatch.setenv("SPARSIGHT_PRECISION", "float32")


@pytest.fixture(autouse=True)
def _no_shared_encoders() -> Iterator[None]:
    from sparsight.encoders import loading

    loading.clear_cache()
    yield
    loading.clear_cache()
