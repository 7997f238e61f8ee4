from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders import splade
from sparsight.encoders.checkpoint import read_settings
from sparsight.encoders.sparse import keep_largest
from sparsight.encoders.splade import SpladeEncoder, max_logits
from sparsight.errors import CheckpointError, InvalidArgumentError
from sparsight.kernels.reference.max_logits import activate

TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the old house and the small red cat sat on it",
    "cats",
    "",
    "he was old. she was new!",
    " \n ",
    "big " * 100,
    "xyzzy",
]


@pytest.fixture(scope="module")
def encoder(splade_folder: Path) -> SpladeEncoder:
    return SpladeEncoder(read_settings(splade_folder), name="tiny")


def oracle(folder: Path, texts: list[str], max_tokens: int = 64) -> np.ndarray:
    """The formula over transformers' own logits, one text at a time and without padding."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertForMaskedLM

    model: Any = BertForMaskedLM.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = []
    for text in texts:
        encoding = tokenizer.encode(text)
        ids = encoding.ids if len(encoding.ids) <= max_tokens else [*encoding.ids[: max_tokens - 1], encoding.ids[-1]]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        weights = np.log1p(np.maximum(logits, 0)).max(0)
        rows.append(weights if len(ids) > 2 else np.zeros_like(weights))
    return np.array(rows)


def test_max_logits_by_hand() -> None:
    import torch

    # Two texts of two and one tokens; three terms. Logits of text 0: (1, 0, -3), (0, 2, -3); of text 1: (-1, -1, -1).
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, -1.0], [50.0, 50.0]]])  # the last one is padding
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    bias = torch.tensor([0.0, 0.0, -3.0])
    got = max_logits(hidden, np.array([2, 1]), weight, bias)
    assert got.tolist() == [[1.0, 2.0, -3.0], [-1.0, -1.0, -3.0]]
    assert max_logits(hidden, np.array([2, 1]), weight, None).tolist() == [[1.0, 2.0, 0.0], [-1.0, -1.0, 0.0]]


def test_activations_by_hand() -> None:
    import torch

    logits = torch.tensor([-2.0, 0.0, 1.0, math.e - 1])
    np.testing.assert_allclose(activate(logits, "log1p_relu"), [0, 0, math.log(2), 1], rtol=1e-6)
    np.testing.assert_allclose(
        activate(logits, "log1p_log1p_relu"), [0, 0, math.log1p(math.log(2)), math.log(2)], rtol=1e-6
    )


def test_keep_largest_by_hand() -> None:
    weights = np.array([0, 2, 1, 2, 3, 0.5], np.float32)
    for (terms, threshold), expected in {
        (0, 0.0): [1, 2, 3, 4, 5],
        (2, 0.0): [1, 4],
        (9, 0.5): [1, 2, 3, 4],
        (3, 2.5): [4],
        (0, 3.0): [],
    }.items():
        kept, values = keep_largest(weights, terms, threshold)
        assert kept.tolist() == expected and kept.dtype == np.int32
        assert values.tolist() == weights[expected].tolist()


@pytest.mark.parametrize("head_floats", [1, 700, 1 << 20])
def test_equals_the_formula(
    splade_folder: Path, encoder: SpladeEncoder, head_floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade, "HEAD_FLOATS", head_floats)
    got = encoder.encode(TEXTS)
    assert isinstance(got, csr_matrix) and got.shape == (len(TEXTS), encoder.dimension)
    assert got.dtype == np.float32 and got.indices.dtype == np.int32
    assert got.has_canonical_format and (got.data > 0).all()
    np.testing.assert_allclose(got.toarray(), oracle(splade_folder, TEXTS), rtol=1e-5, atol=1e-5)
    assert np.diff(got.indptr)[[3, 5]].tolist() == [0, 0] and got.nnz > 20


def test_double_logarithm(splade_folder: Path, encoder: SpladeEncoder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    (folder / "sparsight.json").write_text('{"activation": "log1p_log1p_relu"}')
    twice = SpladeEncoder(read_settings(folder))
    np.testing.assert_allclose(twice.encode(TEXTS).toarray(), np.log1p(encoder.encode(TEXTS).toarray()), rtol=1e-6)
    assert twice.fingerprint != encoder.fingerprint


def test_max_tokens(splade_folder: Path, encoder: SpladeEncoder) -> None:
    np.testing.assert_allclose(
        encoder.encode(TEXTS, max_tokens=6).toarray(), oracle(splade_folder, TEXTS, 6), atol=1e-5
    )
    assert (encoder.encode(TEXTS, max_tokens=1000) != encoder.encode(TEXTS)).nnz == 0


def test_pruning(encoder: SpladeEncoder) -> None:
    whole = encoder.encode(TEXTS).toarray()
    pruned = encoder.encode(TEXTS, max_terms=3, threshold=0.4).toarray()
    for row, kept in zip(whole, pruned, strict=True):
        best = sorted((-w, t) for t, w in enumerate(row) if w > 0.4)[:3]
        assert {t: row[t] for _, t in best} == {int(t): kept[t] for t in np.flatnonzero(kept)}


def test_alone_as_among_others(encoder: SpladeEncoder) -> None:
    among = encoder.encode(TEXTS * 9)
    for i, text in enumerate(TEXTS * 9):
        alone = encoder.encode([text])
        np.testing.assert_allclose(among[i].toarray(), alone.toarray(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(among[i].indices, alone.indices)


def test_modes_and_prompts(splade_folder: Path, encoder: SpladeEncoder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    (folder / "sparsight.json").write_text('{"prompts": {"query": "the cat "}}')
    prompted = SpladeEncoder(read_settings(folder))
    assert (prompted.encode(["sat", ""], mode="query") != encoder.encode(["the cat sat", ""])).nnz == 0
    assert (prompted.encode(["sat"]) != encoder.encode(["sat"], mode="query")).nnz == 0


def test_terms(encoder: SpladeEncoder) -> None:
    assert encoder.term(2) == "[CLS]" and encoder.term(10) == "cat"
    for index in (-1, encoder.dimension):
        with pytest.raises(InvalidArgumentError):
            encoder.term(index)


def test_progress_and_empty_input(encoder: SpladeEncoder) -> None:
    calls: list[tuple[int, int]] = []
    encoder.encode(TEXTS, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8) and [done for done, _ in calls] == sorted({done for done, _ in calls})
    empty = encoder.encode([])
    assert empty.shape == (0, encoder.dimension) and empty.dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [
        {"max_terms": -1},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"max_tokens": -1},
        {"max_tokens": 2},
        {"mode": "both"},
    ],
)
def test_wrong_options(encoder: SpladeEncoder, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encoder.encode(["x"], **options)
    assert caught.value.field in options


def test_threads_share_an_encoder(encoder: SpladeEncoder) -> None:
    expected = encoder.encode(TEXTS).toarray()
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.extend(encoder.encode(TEXTS).toarray() for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_not_a_masked_language_model(dense_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="dense"):
        SpladeEncoder(read_settings(dense_folder))


def test_callers_torch_mode_is_left_alone(encoder: SpladeEncoder) -> None:
    import torch

    modes: list[bool] = []
    encoder.encode(TEXTS, progress=lambda *_: modes.append(torch.is_inference_mode_enabled()))
    assert modes and not any(modes)


@pytest.mark.parametrize("architecture", ["DistilBert", "Roberta"])
def test_other_architectures(architecture: str, splade_folder: Path, tmp_path: Path) -> None:
    """Heads that are built differently: the last layer is cut off where it really is."""
    import torch
    import transformers

    sizes = {
        "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
        "Roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    }
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=100, max_position_embeddings=64, pad_token_id=0, initializer_range=0.5, **sizes[architecture]
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = getattr(transformers, f"{architecture}ForMaskedLM")(config).eval()
    model.save_pretrained(tmp_path)
    shutil.copy(splade_folder / "tokenizer.json", tmp_path)
    encoder = SpladeEncoder(read_settings(tmp_path))
    ids = encoder.tokenizer.encode("the cat sat").ids
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(
        encoder.encode(["the cat sat"]).toarray()[0], np.log1p(np.maximum(logits, 0)).max(0), rtol=1e-5, atol=1e-5
    )
