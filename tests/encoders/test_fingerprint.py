from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.checkpoint import read_settings
from sparsight.encoders.fingerprint import digest_json, fingerprint


@pytest.fixture
def folder(splade_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(splade_folder, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def flip_weight(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


CHANGES: dict[str, Callable[[Path], None]] = {
    "one bit of a weight": flip_weight,
    "tokenizer": lambda folder: edit(folder / "tokenizer.json", version="1.1"),
    "architecture": lambda folder: edit(folder / "config.json", hidden_act="relu"),
    "activation": lambda folder: edit(folder / "sparsight.json", activation="log1p_log1p_relu"),
    "length": lambda folder: edit(folder / "sparsight.json", max_tokens=32),
    "prompt": lambda folder: edit(folder / "sparsight.json", prompts={"query": "q: "}),
    "kind": lambda folder: edit(folder / "sparsight.json", kind="dense"),
}
IDLE: dict[str, Callable[[Path], None]] = {
    "origin": lambda folder: edit(folder / "config.json", _name_or_path="elsewhere", transformers_version="9.9"),
    "other files": lambda folder: edit(folder / "notes.json", by="me"),
    "tokenizer's spare files": lambda folder: edit(folder / "tokenizer_config.json", note="x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_with_what_matters(folder: Path, name: str) -> None:
    before = fingerprint(read_settings(folder))
    CHANGES[name](folder)
    after = fingerprint(read_settings(folder))
    assert before != after and len(after) == 64 and int(after, 16) >= 0


@pytest.mark.parametrize("name", IDLE)
def test_stays_with_what_does_not(folder: Path, name: str) -> None:
    before = fingerprint(read_settings(folder))
    IDLE[name](folder)
    assert fingerprint(read_settings(folder)) == before


def test_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert fingerprint(read_settings(copy)) == fingerprint(read_settings(folder))


def test_digest_json_is_canonical() -> None:
    first: dict[str, Any] = {"b": [1, 2.5], "a": "ä"}
    assert digest_json(first) == digest_json({"a": "ä", "b": [1, 2.5]}) != digest_json({"a": "ä", "b": [1, 2]})
    with pytest.raises(ValueError, match="JSON"):
        digest_json({"a": float(np.nan)})
