"""uniCOIL, DeepImpact and BGE-M3 against the formulas over transformers' own hidden states, one text at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import SparseEncoder, load_encoder
from sparsight.encoders.token_weights import TokenWeightEncoder, reduce_by_piece
from sparsight.errors import CheckpointError

from .conftest import PIECES, write_json

WIDTH = 16
TEXTS = ["the cat sat on the mat and the cat ran", "", "dogs running to xyzzy [MASK] \u2603", "big " * 100, "old"]
HEADS = ("unicoil", "deepimpact", "bge-m3")
FILES = {"unicoil": "token_weights", "deepimpact": "token_weights", "bge-m3": "sparse_linear"}


def head_tensors(head: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {"weight": (1, WIDTH), "bias": (1,)}
    if head == "deepimpact":
        shapes |= {"hidden.weight": (WIDTH, WIDTH), "hidden.bias": (WIDTH,)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors | {"bias": np.ones(1, np.float32)}  # some weights above 0, some not


def save_head(folder: Path, head: str, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / f"{FILES[head]}.safetensors")


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(head: str, splade_folder: Path, tmp_path: Path) -> Path:
    """A BERT (with a masked-LM head that is not used) and the head's file."""
    folder = Path(shutil.copytree(splade_folder, tmp_path / "model"))
    save_head(folder, head, head_tensors(head))
    write_json(folder / "sparsight.json", {"head": head})
    return folder


def load(folder: Path) -> Any:
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, TokenWeightEncoder) and isinstance(encoder, SparseEncoder)
    return encoder


def reference(folder: Path, head: str, text: str, max_tokens: int = 64) -> dict[int, float]:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tensors = head_tensors(head)
    model: Any = BertModel.from_pretrained(folder).eval()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]
    with torch.inference_mode():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    out: dict[int, float] = {}
    for piece, state in zip(ids, states, strict=True):
        if head == "deepimpact":
            state = np.maximum(tensors["hidden.weight"] @ state + tensors["hidden.bias"], 0)
        weight = max(float(tensors["weight"][0] @ state + tensors["bias"][0]), 0.0)
        if PIECES[piece].startswith("["):
            continue
        if head == "deepimpact":
            out.setdefault(piece, weight)
        else:
            out[piece] = max(out.get(piece, 0.0), weight)
    return {piece: weight for piece, weight in out.items() if weight > 0}


def test_equals_the_formula(folder: Path, head: str) -> None:
    encoder = load(folder)
    got = encoder.encode(TEXTS)
    assert got.shape == (len(TEXTS), len(PIECES)) and got.has_canonical_format and got.indices.dtype == np.int32
    for i, text in enumerate(TEXTS):
        row = dict(zip(got[i].indices.tolist(), got[i].data.tolist(), strict=True))
        assert row == pytest.approx(reference(folder, head, text), rel=1e-4, abs=1e-5)
    assert got[0].nnz >= 2 and encoder.term(int(got[0].indices[0])) in TEXTS[0]


def test_expansions_are_weighted_too(folder: Path, head: str) -> None:
    text, expansion = "the cat sat", "small dog"
    got = load(folder).encode([f"{text}\n{expansion}"])[0]
    assert dict(zip(got.indices.tolist(), got.data.tolist(), strict=True)) == pytest.approx(
        reference(folder, head, f"{text} {expansion}"), rel=1e-4, abs=1e-5)
    assert {PIECES.index(word) for word in ("small", "dog")} & set(got.indices.tolist())


def test_queries(folder: Path, head: str) -> None:
    encoder = load(folder)
    got = encoder.encode(TEXTS[:1], mode="query")
    if head == "deepimpact":
        assert set(got.data.tolist()) == {1.0} and encoder.settings.query == "bow"
        write_json(folder / "sparsight.json", {"head": head, "query": "encoder"})
        got = load(folder).encode(TEXTS[:1], mode="query")
    assert (got != encoder.encode(TEXTS[:1])).nnz == 0


def test_options(folder: Path) -> None:
    encoder = load(folder)
    whole = encoder.encode(TEXTS)
    best = float(whole[0].data.max())
    assert encoder.encode(TEXTS[:1], max_terms=1).data.tolist() == [best]
    assert encoder.encode(TEXTS[:1], threshold=best).nnz == 0
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]).toarray(), whole.toarray()[::-1], atol=1e-5)


def test_the_head_counts_in_the_fingerprint(folder: Path, head: str, splade_folder: Path) -> None:
    before = load(folder).fingerprint
    assert before != load_encoder(str(splade_folder)).fingerprint
    tensors = head_tensors(head)
    save_head(folder, head, tensors | {"bias": tensors["bias"] + 1})
    assert load(folder).fingerprint != before


def test_reduce_by_hand() -> None:
    pieces, weights = np.array([7, 3, 7, 5]), np.array([1, 0, 2, 4], np.float32)
    terms, values = reduce_by_piece(pieces, weights, first=False)
    assert (terms.tolist(), values.tolist()) == ([5, 7], [4.0, 2.0])
    terms, values = reduce_by_piece(pieces, weights, first=True)
    assert (terms.tolist(), values.tolist()) == ([5, 7], [4.0, 1.0])
    terms, values = reduce_by_piece(pieces[:0], weights[:0], first=True)
    assert terms.dtype == np.int32 and not len(terms) and not len(values)


def test_a_pickled_head_says_how_to_convert_it(folder: Path, head: str) -> None:
    import torch

    path = folder / f"{FILES[head]}.safetensors"
    torch.save({name: torch.from_numpy(array) for name, array in head_tensors(head).items()}, path.with_suffix(".pt"))
    path.unlink()
    with pytest.raises(CheckpointError, match="convert") as caught:
        load(folder)
    assert caught.value.reason == "NO_HEAD" and f"'{FILES[head]}.pt'" in str(caught.value)
    path.with_suffix(".pt").unlink()
    with pytest.raises(CheckpointError, match=r"\.safetensors, which is not there$"):
        load(folder)


@pytest.mark.parametrize("damage", ["shape", "missing", "not finite", "truncated"])
def test_damaged_heads(folder: Path, head: str, damage: str) -> None:
    tensors = head_tensors(head)
    changed = {"shape": tensors | {"weight": np.ones((2, WIDTH), np.float32)},
               "missing": {name: array for name, array in tensors.items() if name != "bias"},
               "not finite": tensors | {"bias": np.array([np.nan], np.float32)}, "truncated": tensors}[damage]
    save_head(folder, head, changed)
    path = folder / f"{FILES[head]}.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=FILES[head]):
        load(folder)


def test_bge_m3_over_xlm_roberta(splade_folder: Path, tmp_path: Path) -> None:
    """Its own architecture, in sentence-transformers' layout of a dense encoder."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = XLMRobertaModel(XLMRobertaConfig(
            vocab_size=100, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=66, pad_token_id=0, initializer_range=0.5)).eval()
    model.save_pretrained(tmp_path)
    shutil.copy(splade_folder / "tokenizer.json", tmp_path)
    write_json(tmp_path / "modules.json", [{"path": "", "type": "x.Transformer"}, {"path": "1", "type": "x.Pooling"},
                                           {"path": "2", "type": "x.Normalize"}])
    assert load_encoder(str(tmp_path)).kind == "dense"
    tensors = head_tensors("bge-m3")
    save_head(tmp_path, "bge-m3", tensors)
    write_json(tmp_path / "sparsight.json", {"head": "bge-m3"})
    encoder = load(tmp_path)
    ids = encoder.tokenizer.encode("the cat sat").ids
    with torch.inference_mode():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    weights = np.maximum(states @ tensors["weight"][0] + tensors["bias"][0], 0)
    expected = {id: weight for id, weight in zip(ids[1:-1], weights[1:-1].tolist(), strict=True) if weight > 0}
    got = encoder.encode(["the cat sat"])[0]
    assert dict(zip(got.indices.tolist(), got.data.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)
    assert encoder.dimension == 100 and encoder.max_tokens == 65
