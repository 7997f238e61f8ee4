from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import base, load_encoder
from sparsight.encoders.precision import PRECISION_VARIABLE, bfloat16_is_fast, chosen_precision
from sparsight.encoders.splade import max_logits
from sparsight.errors import InvalidArgumentError

TEXTS = ["the cat sat on the mat", "", "a dog ran to the old house and the small red cat sat on it", "cats"]


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRECISION_VARIABLE, raising=False)
    assert chosen_precision(None) == "auto"
    monkeypatch.setenv(PRECISION_VARIABLE, "float32")
    assert chosen_precision(None) == "float32"
    assert chosen_precision("bfloat16") == "bfloat16"
    with pytest.raises(InvalidArgumentError, match="float16"):
        chosen_precision("float16")
    monkeypatch.setenv(PRECISION_VARIABLE, "double")
    with pytest.raises(InvalidArgumentError, match="double"):
        load_encoder("splade-tiny")
    assert isinstance(bfloat16_is_fast(), bool)


@pytest.mark.parametrize("fast", [False, True])
def test_auto(splade_folder: Path, dense_folder: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(base, "bfloat16_is_fast", lambda: fast)
    for folder in (splade_folder, dense_folder):
        encoder = load_encoder(str(folder), precision="auto")
        assert encoder.precision == ("bfloat16" if fast and encoder.kind == "sparse" else "float32")
        exact = load_encoder(str(folder), precision="float32")
        assert exact.precision == "float32" and exact is not encoder
        assert exact.fingerprint == encoder.fingerprint
        assert load_encoder(str(folder), precision="auto") is encoder


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("lexical", [False, True])
def test_sparse_bfloat16(make_model: Any, pooling: str, lexical: bool) -> None:
    folder = make_model(seed=3)
    (folder / "sparsight.json").write_text(
        f'{{"pooling": "{pooling}", "expansion": {{"document": {str(not lexical).lower()}}}}}')
    exact, rounded = (load_encoder(str(folder), precision=name) for name in ("float32", "bfloat16"))  # type: ignore
    expected, got = exact.encode(TEXTS), rounded.encode(TEXTS)
    assert got.dtype == np.float32 and got[1].nnz == 0 and (got.data > 0).all()
    assert 0 < abs(got - expected).max() < 0.05 * expected.max()


def test_dense_bfloat16(dense_folder: Path) -> None:
    exact, rounded = (load_encoder(str(dense_folder), precision=name).encode(TEXTS)  # type: ignore
                      for name in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, rtol=1e-5)
    assert 0 < abs(rounded - exact).max() < 0.05


def test_max_logits_in_bfloat16() -> None:
    """Whole numbers, which bfloat16 holds: equal to float32, all negative, zeros of both signs and positive ones."""
    import torch

    generator = np.random.default_rng(0)
    hidden = generator.integers(-3, 4, size=(5, 7, 16)).astype(np.float32)
    weight = generator.integers(-2, 3, size=(300, 16)).astype(np.float32)
    weight[0], weight[1] = 0, -0.0
    hidden[1], weight[2] = 1, -1  # all of its logits are -16
    lengths = np.array([7, 7, 1, 3, 2], np.int64)
    tensors = torch.from_numpy(hidden), lengths, torch.from_numpy(weight)
    expected = max_logits(*tensors, None)
    got = max_logits(tensors[0].bfloat16(), lengths, tensors[2].bfloat16(), None)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert (expected < 0).any() and (expected == 0).any() and expected[1, 2] == -16
