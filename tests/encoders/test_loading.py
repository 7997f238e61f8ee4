from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import DenseEncoder, SpladeEncoder, load_encoder
from sparsight.errors import CheckpointError, InvalidArgumentError


def test_kind_comes_from_the_files(splade_folder: Path, dense_folder: Path) -> None:
    sparse, dense = load_encoder(str(splade_folder)), load_encoder(str(dense_folder))
    assert isinstance(sparse, SpladeEncoder) and isinstance(dense, DenseEncoder)
    assert (sparse.kind, dense.kind, dense.dimension, dense.max_tokens) == ("sparse", "dense", 16, 64)
    assert sparse.name == str(splade_folder) and sparse.fingerprint[:12] in repr(sparse)


def test_one_per_process(splade_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_encoder(str(splade_folder))
    monkeypatch.chdir(splade_folder.parent)
    assert load_encoder(f"./{splade_folder.name}") is first
    assert load_encoder(str(splade_folder / ".." / splade_folder.name)) is first


def test_threads_get_the_same(splade_folder: Path) -> None:
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(load_encoder(str(splade_folder)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and all(encoder is got[0] for encoder in got)


def test_changed_folder_is_loaded_anew(splade_folder: Path, tmp_path: Path, change_weights: Any) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    before = load_encoder(str(folder))
    change_weights(folder, lambda tensors: tensors | {"cls.predictions.bias": tensors["cls.predictions.bias"] + 1})
    after = load_encoder(str(folder))
    assert after is not before and after.fingerprint != before.fingerprint
    assert not np.array_equal(after.encode(["cat"]).toarray(), before.encode(["cat"]).toarray())


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_encoder(str(tmp_path))
    with pytest.raises(InvalidArgumentError):
        load_encoder("")
