"""Queries from the encoder, a table, or as bags of words; terms limited to a text's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import SparseEncoder, load_encoder, save_query_weights
from sparsight.encoders.fingerprint import fingerprint
from sparsight.encoders.query_table import special_pieces
from sparsight.encoders.settings import read_settings
from sparsight.encoders.sparse import prune
from sparsight.encoders.splade import SpladeEncoder
from sparsight.errors import CheckpointError, InvalidArgumentError, InvalidVectorError

from .conftest import PIECES, write_json

TEXTS = ["the cat sat on the cat", "", "dogs running!", "xyzzy \u2603 [SEP] cat", " "]
DOCUMENTS = ["the cat sat on the mat", "a big dog ran to the house", "", "she was old."]


@pytest.fixture
def weights() -> np.ndarray:
    weights = np.random.default_rng(5).uniform(0.1, 9, len(PIECES)).astype(np.float32)
    weights[PIECES.index("on")] = 0
    weights[PIECES.index("sat")] = -1  # a learned table may end below zero
    return weights


@pytest.fixture
def folder(splade_folder: Path, tmp_path: Path, weights: np.ndarray) -> Path:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    save_query_weights(weights, folder, np.float32)
    return folder


def load(name: object) -> Any:
    encoder = load_encoder(str(name))
    assert isinstance(encoder, SparseEncoder)
    return encoder


def by_hand(text: str, weights: np.ndarray) -> dict[int, float]:
    words = {"the cat sat on the cat": ["the", "cat"], "dogs running!": ["dog", "##s", "ran", "##n", "##ing", "!"]}
    return {PIECES.index(word): float(weights[PIECES.index(word)]) for word in words[text]}


def row(matrix: Any, i: int) -> dict[int, float]:
    return dict(zip(matrix[i].indices.tolist(), matrix[i].data.tolist(), strict=True))


def test_table_by_hand(folder: Path, weights: np.ndarray) -> None:
    encoder = load(f"{folder}#table")
    got = encoder.encode(TEXTS, mode="query")
    assert got.shape == (5, len(PIECES)) and got.dtype == np.float32 and got.indices.dtype == np.int32
    assert got.has_sorted_indices and (got.data > 0).all()
    assert row(got, 0) == by_hand(TEXTS[0], weights)  # each once; without weights of 0 and less
    assert not got[1].nnz and not got[4].nnz
    assert row(got, 3).keys() >= {PIECES.index("cat")}
    specials = {PIECES.index(piece) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    assert not specials & row(got, 3).keys()


def test_one_query_as_many(folder: Path) -> None:
    for choice in ("siamese", "table", "bow"):
        encoder = load(f"{folder}#{choice}")
        matrix = encoder.encode(TEXTS, mode="query")
        for i, text in enumerate(TEXTS):
            terms, values = encoder.encode_query(text)
            assert (terms.dtype, values.dtype) == (np.int32, np.float32)
            np.testing.assert_array_equal(terms, matrix[i].indices)
            np.testing.assert_allclose(values, matrix[i].data, rtol=1e-5)
        with pytest.raises(InvalidArgumentError):
            encoder.encode_query(3)


def test_bag_of_words(folder: Path) -> None:
    got = load(f"{folder}#bow").encode(TEXTS[:1], mode="query")
    assert row(got, 0) == dict.fromkeys(sorted(PIECES.index(word) for word in ("the", "cat", "sat", "on")), 1.0)


def test_options_of_queries(folder: Path, weights: np.ndarray) -> None:
    encoder = load(f"{folder}#table")
    largest = max(by_hand(TEXTS[0], weights).items(), key=lambda item: item[1])
    assert row(encoder.encode(TEXTS[:1], mode="query", max_terms=1), 0) == dict([largest])
    assert row(encoder.encode(TEXTS[:1], mode="query", threshold=largest[1] - 1e-3), 0) == dict([largest])
    assert row(encoder.encode(TEXTS[:1], mode="query", max_tokens=3), 0).keys() == {PIECES.index("the")}
    calls: list[tuple[int, int]] = []
    encoder.encode(TEXTS, mode="query", progress=lambda *done: calls.append(done))
    assert calls == [(5, 5)]
    assert encoder.encode([], mode="query").shape == (0, len(PIECES))
    for wrong in ({"max_terms": -1}, {"threshold": np.nan}, {"max_tokens": 2}):
        with pytest.raises(InvalidArgumentError):
            encoder.encode(["x"], mode="query", **wrong)
    with pytest.raises(InvalidArgumentError):
        encoder.encode("x", mode="query")


def test_documents_do_not_care(folder: Path) -> None:
    expected = load(f"{folder}#siamese").encode(DOCUMENTS)
    for choice in ("table", "bow"):
        got = load(f"{folder}#{choice}").encode(DOCUMENTS)
        assert (got != expected).nnz == 0


def test_one_model_and_one_fingerprint(folder: Path, splade_folder: Path) -> None:
    encoders = [load(f"{folder}{suffix}") for suffix in ("", "#siamese", "#table", "#bow")]
    assert encoders[0] is encoders[1]  # that is what the folder says when it says nothing
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    assert all(encoder._model is encoders[0]._model for encoder in encoders)
    assert [encoder.name for encoder in encoders[1:]] == [str(folder), f"{folder}#table", f"{folder}#bow"]
    assert load(f"{folder}#table") is encoders[2]
    assert encoders[0].fingerprint == load(splade_folder).fingerprint  # the table does not decide documents
    assert load(f"{splade_folder}#bow").fingerprint == encoders[0].fingerprint


def test_the_folder_chooses(folder: Path) -> None:
    write_json(folder / "sparsight.json", {"query": "table", "prompts": {"query": "q "}})
    encoder = load(folder)
    assert encoder.settings.query == "table"
    assert load(f"{folder}#table") is encoder and load(f"{folder}#siamese") is not encoder
    before = encoder.fingerprint
    write_json(folder / "sparsight.json", {"query": "bow", "prompts": {"query": "to "}})
    changed = load(f"{folder}#table")  # prompts of queries are no part of a fingerprint where there is a table
    assert changed.fingerprint == before and changed is not encoder
    assert PIECES.index("to") in row(changed.encode(["cat"], mode="query"), 0)


def test_a_changed_table_is_read_anew(folder: Path, weights: np.ndarray) -> None:
    before = load(f"{folder}#table")
    save_query_weights(weights + 1, folder)
    after = load(f"{folder}#table")
    assert after is not before and after.fingerprint == before.fingerprint and after._model is before._model
    cat = PIECES.index("cat")
    difference = row(after.encode(["cat"], mode="query"), 0)[cat] - row(before.encode(["cat"], mode="query"), 0)[cat]
    assert difference == pytest.approx(1, abs=0.01)  # kept as float16


def test_opensearchs_table(splade_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    write_json(folder / "idf.json", {"cat": 2.5, "the": 0.25, "[SEP]": 3})
    assert load(folder).settings.query == "encoder"
    got = load(f"{folder}#table").encode(["the cat [SEP] sat"], mode="query")
    assert row(got, 0) == {PIECES.index("the"): 0.25, PIECES.index("cat"): 2.5}
    write_json(folder / "idf.json", {"aardvark": 2.5})
    with pytest.raises(CheckpointError, match="aardvark"):
        load(f"{folder}#table")


def test_choices_that_are_not_there(splade_folder: Path, dense_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="query_weights") as caught:
        load(f"{splade_folder}#table")
    assert caught.value.reason == "NO_QUERY_TABLE"
    with pytest.raises(CheckpointError, match="word pieces"):
        load_encoder(f"{dense_folder}#bow")
    with pytest.raises(InvalidArgumentError):
        load_encoder("#bow")
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    write_json(folder / "sparsight.json", {"query": "oracle"})
    with pytest.raises(CheckpointError, match="oracle"):
        load(folder)


@pytest.mark.parametrize("damage", ["short", "not finite", "another name", "truncated"])
def test_damaged_tables(folder: Path, weights: np.ndarray, damage: str) -> None:
    from safetensors.numpy import save_file

    path = folder / "query_weights.safetensors"
    damages: dict[str, Callable[[], object]] = {
        "short": lambda: save_file({"weights": weights[:-1]}, path),
        "not finite": lambda: save_file({"weights": np.where(weights > 5, np.inf, weights).astype(np.float32)}, path),
        "another name": lambda: save_file({"idf": weights}, path),
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-9]),
    }
    damages[damage]()
    with pytest.raises(CheckpointError, match="query_weights"):
        load(f"{folder}#table")


def test_weights_that_cannot_be_saved(tmp_path: Path) -> None:
    for wrong in (np.full(3, 1e6, np.float32), np.ones((2, 2), np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(InvalidVectorError):
            save_query_weights(wrong, tmp_path)


def test_only_a_texts_own_terms(splade_folder: Path, tmp_path: Path) -> None:
    whole = load(splade_folder)
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    special = special_pieces(whole.tokenizer, whole.dimension)
    own = np.zeros((len(DOCUMENTS), whole.dimension), bool)
    for i, text in enumerate(DOCUMENTS):
        own[i, whole.tokenizer.encode(text).ids] = True
    expected = np.where(own & ~special, whole.encode(DOCUMENTS).toarray(), 0)

    write_json(folder / "sparsight.json", {"expansion": {"document": False, "query": False}})
    lexical = load(folder)
    np.testing.assert_allclose(lexical.encode(DOCUMENTS).toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(lexical.encode(DOCUMENTS, mode="query").toarray(), expected, atol=1e-6)
    assert lexical.encode(DOCUMENTS, max_terms=2).nnz < lexical.encode(DOCUMENTS).nnz > 0
    assert lexical.fingerprint != whole.fingerprint

    write_json(folder / "sparsight.json", {"expansion": {"query": False}})
    queries = load(folder)
    np.testing.assert_allclose(queries.encode(DOCUMENTS).toarray(), whole.encode(DOCUMENTS).toarray(), atol=1e-6)
    np.testing.assert_allclose(queries.encode(DOCUMENTS, mode="query").toarray(), expected, atol=1e-6)
    assert queries.fingerprint == whole.fingerprint


@pytest.mark.parametrize("wrong", [False, {"documents": True}, {"query": 1}])
def test_wrong_expansion(splade_folder: Path, tmp_path: Path, wrong: object) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    write_json(folder / "sparsight.json", {"expansion": wrong})
    with pytest.raises(CheckpointError, match="expansion"):
        read_settings(folder)


@pytest.mark.parametrize("activation", ["log1p_relu", "log1p_log1p_relu"])
def test_sum_pooling(splade_folder: Path, tmp_path: Path, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPLADE's first pooling, whatever the number of logits computed at a time."""
    import torch
    from transformers import BertForMaskedLM

    from sparsight.encoders import splade

    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    write_json(folder / "sparsight.json", {"pooling": "sum", "activation": activation})
    encoder = load(folder)
    model: Any = BertForMaskedLM.from_pretrained(folder).eval()
    expected = np.zeros((len(DOCUMENTS), encoder.dimension), np.float32)
    for i, text in enumerate(DOCUMENTS):
        ids = encoder.tokenizer.encode(text).ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        weights = np.log1p(np.maximum(logits, 0))
        expected[i] = (np.log1p(weights) if activation == "log1p_log1p_relu" else weights).sum(0) * (len(ids) > 2)
    for head_floats in (1 << 20, 500, 1):
        monkeypatch.setattr(splade, "HEAD_FLOATS", head_floats)
        np.testing.assert_allclose(encoder.encode(DOCUMENTS).toarray(), expected, rtol=1e-5, atol=1e-5)
    assert encoder.fingerprint != load(splade_folder).fingerprint


def test_prune_by_hand() -> None:
    terms, weights = np.array([2, 4, 6, 9], np.int32), np.array([1, 3, 3, 0.5], np.float32)
    for (most, threshold), expected in {(0, 0.0): [2, 4, 6, 9], (1, 0.0): [4], (3, 0.0): [2, 4, 6], (0, 1.0): [4, 6],
                                        (9, 3.0): []}.items():
        kept, values = prune(terms, weights, most, threshold)
        assert kept.tolist() == expected and values.tolist() == [float(weights[terms == t][0]) for t in expected]


def test_a_class_reads_its_own_heads(splade_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    write_json(folder / "sparsight.json", {"head": "unicoil"})
    with pytest.raises(CheckpointError, match="unicoil"):
        SpladeEncoder(read_settings(folder))
    assert fingerprint(read_settings(folder)) != fingerprint(read_settings(splade_folder))
