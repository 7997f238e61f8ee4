"""The GPU's path on a CPU, through Triton's interpreter: in a process of its own, for Triton reads the switch once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton (the gpu extra)")
interpreted = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not interpreted or find_spec("triton") is None, reason="run by test_interpreted")
TEXTS = [
    "the cat sat on the mat",
    "",
    "a dog ran to the old house and the small red cat sat on it",
    "cats",
    " \n ",
    "big " * 100,
    "he was old. she was new!",
]


@needs_triton
@pytest.mark.skipif(interpreted, reason="this is that process")
def test_interpreted() -> None:
    """Runs the tests below with the interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], check=False,
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "failed" not in done.stdout


def make(folder: Path, **options: Any) -> tuple[Any, Any]:
    """An encoder with the present path, and the GPU's over the same weights."""
    import torch

    from sparsight.encoders.checkpoint import load_model
    from sparsight.encoders.gpu_encoding import GpuSplade, packed_model
    from sparsight.encoders.settings import read_settings
    from sparsight.encoders.splade import SpladeEncoder, _take_decoder

    settings = read_settings(folder)
    model = load_model(settings)
    packed = packed_model(model, _take_decoder(model, settings), settings.config)
    assert packed is not None
    options = {"activation": settings.activation, "device": "cpu", "dtype": torch.float32} | options
    return SpladeEncoder(settings), GpuSplade(packed, **options)


def assert_close(got: Any, expected: Any) -> None:
    assert got.dtype == np.float32 and got.indices.dtype == np.int32 and got.has_sorted_indices
    assert got.shape == expected.shape and (got.data > 0).all()
    got, expected = got.toarray(), expected.toarray()
    # Weights pass through float16: 11 significant bits.
    np.testing.assert_allclose(got, expected, rtol=2**-10, atol=1e-3)
    assert ((got > 0) >= (expected > 1e-3)).all() and ((expected > 0) >= (got > 1e-3)).all()


@inside
@pytest.mark.parametrize("batch_tokens", [1, 20, 65_536])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[1:2], TEXTS[:1], TEXTS[::-1]])
def test_same_rows(splade_folder: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, texts: list[str]) -> None:
    from sparsight.encoders import gpu_encoding

    monkeypatch.setattr(gpu_encoding, "BATCH_TOKENS", batch_tokens)
    encoder, gpu = make(splade_folder)
    got = gpu.encode(*encoder._tokens.packed(texts, 64))
    assert_close(got, encoder.encode(texts))
    assert [got[i].nnz > 0 for i in range(len(texts))] == [bool(text.strip()) for text in texts]


@inside
@pytest.mark.parametrize(("max_terms", "threshold"), [(5, 0.0), (0, 0.5), (3, 0.5)])
def test_pruned(splade_folder: Path, max_terms: int, threshold: float) -> None:
    encoder, gpu = make(splade_folder)
    got = gpu.encode(*encoder._tokens.packed(TEXTS, 64), max_terms=max_terms, threshold=threshold)
    full = gpu.encode(*encoder._tokens.packed(TEXTS, 64)).toarray()
    assert (got.data > threshold).all()
    for row, dense in zip(got, full, strict=True):
        kept = sorted((-weight, term) for term, weight in enumerate(dense) if weight > threshold)
        expected = sorted(term for _, term in (kept[:max_terms] if max_terms else kept))
        assert row.indices.tolist() == expected
        assert row.data.tolist() == dense[expected].tolist()


@inside
def test_encoder_takes_the_path(splade_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsight.encoders import gpu_encoding
    from sparsight.encoders.splade import SpladeEncoder

    expected, gpu = make(splade_folder)
    monkeypatch.setattr(gpu_encoding, "SLICE", 2)
    monkeypatch.setattr(SpladeEncoder, "_on_gpu", lambda self, decoder: gpu)
    encoder = SpladeEncoder(expected.settings)
    seen: list[tuple[int, int]] = []
    got = encoder.encode(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert_close(got, expected.encode(TEXTS))
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert encoder.encode([]).shape == (0, expected.dimension)
    assert encoder.encode([TEXTS[0]], max_tokens=4).nnz
    with pytest.raises(ZeroDivisionError):
        encoder.encode(TEXTS, progress=lambda done, total: done // 0)
    assert not any(thread.name == "sparsight-ahead" for thread in threading.enumerate())


@inside
def test_overflow_goes_to_wider_numbers(splade_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sparsight.encoders.gpu_encoding import GpuSplade

    monkeypatch.setattr(GpuSplade, "wider", torch.float32)  # the interpreter cannot multiply bfloat16
    encoder, gpu = make(splade_folder, dtype=torch.float16)
    ids, starts = encoder._tokens.packed(TEXTS, 64)
    gpu.encode(ids, starts)
    assert gpu.dtype == torch.float16
    gpu._model_in(torch.float16).layers[0].up.bias.fill_(float("inf"))  # as if products had grown beyond 65504
    got = gpu.encode(ids, starts)
    assert gpu.dtype == torch.float32
    assert_close(got, encoder.encode(TEXTS))


@inside
@pytest.mark.parametrize("config", [{"hidden_act": "relu"}, {"hidden_size": 24, "num_attention_heads": 2},
                                    {"tie_word_embeddings": False}])
def test_other_models_have_no_packed_one(make_model: Any, config: dict[str, Any]) -> None:
    from sparsight.encoders.checkpoint import load_model
    from sparsight.encoders.gpu_encoding import packed_model
    from sparsight.encoders.settings import read_settings
    from sparsight.encoders.splade import _take_decoder

    settings = read_settings(make_model(**config))
    model = load_model(settings)
    assert packed_model(model, _take_decoder(model, settings), settings.config) is None


@inside
def test_ahead() -> None:
    from sparsight.encoders.ahead import ahead

    made: list[int] = []

    def items(fails_at: int = -1) -> Iterator[int]:
        for i in range(10):
            if i == fails_at:
                raise ValueError("here")
            made.append(i)
            yield i

    assert list(ahead(items(), 2)) == list(range(10))
    with pytest.raises(ValueError, match="here"):
        list(ahead(items(5), 2))
    made.clear()
    some = ahead(items(), 2)
    assert next(some) == 0
    time.sleep(0.2)
    some.close()
    assert len(made) <= 5
