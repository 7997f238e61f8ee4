"""BERT over texts laid end to end, against transformers' over padded ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.packed import PackedBert, Packing, attention, check_config
from sparsight.errors import CheckpointError

from .conftest import PIECES, MakeModel

LENGTHS = [5, 1, 64, 2, 17, 63]


def load(folder: Path, *, head: bool) -> tuple[PackedBert, Any]:
    """Ours and transformers' model of a folder."""
    from transformers import BertForMaskedLM, BertModel

    theirs = (BertForMaskedLM if head else BertModel).from_pretrained(folder).eval()
    ours = PackedBert(json.loads((folder / "config.json").read_text()), head=head).load(theirs.state_dict())
    return ours.eval(), theirs


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # From 1: [PAD] is in no packed text, and transformers keeps the gradient from its embedding.
    return [torch.randint(1, len(PIECES), (length,), generator=generator) for length in lengths]


def pack(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Packing]:
    return torch.cat(list(texts)), Packing(np.cumsum([0, *map(len, texts)]), "cpu")


def logits_of(model: PackedBert, texts: Sequence[torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(*pack(texts)) @ model.word.T + model.bias
    return logits


def test_packing() -> None:
    packing = Packing(np.array([0, 3, 4]), "cpu")
    assert (packing.texts, packing.longest) == (2, 3)
    assert packing.positions.tolist() == [0, 1, 2, 0]
    assert (packing.bounds.tolist(), packing.bounds.dtype) == ([0, 3, 4], torch.int32)
    assert Packing(np.array([0]), "cpu").texts == 0


@pytest.mark.parametrize("config", [
    {},
    {"num_hidden_layers": 1, "num_attention_heads": 1},
    {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 100, "layer_norm_eps": 1e-3},
], ids=["tiny", "one-head", "wider"])
def test_equals_masked_lm(make_model: MakeModel, config: dict[str, Any]) -> None:
    ours, theirs = load(make_model(**config), head=True)
    texts = texts_of(LENGTHS)
    with torch.inference_mode():
        expected = torch.cat([theirs(text[None]).logits[0] for text in texts])
        torch.testing.assert_close(logits_of(ours, texts), expected, rtol=1e-4, atol=1e-4)


def test_equals_transformers_on_a_padded_batch(splade_folder: Path) -> None:
    ours, theirs = load(splade_folder, head=True)
    texts = texts_of(LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor(LENGTHS)[:, None]
    with torch.inference_mode():
        expected = theirs(padded, attention_mask=mask.long()).logits[mask]
        torch.testing.assert_close(logits_of(ours, texts), expected, rtol=1e-4, atol=1e-4)


def test_equals_transformers_after_each_layer(dense_folder: Path) -> None:
    ours, theirs = load(dense_folder, head=False)
    texts = texts_of(LENGTHS)
    with torch.inference_mode():
        states = [theirs(text[None], output_hidden_states=True).hidden_states for text in texts]
        for layers in range(3):
            expected = torch.cat([state[layers][0] for state in states])
            torch.testing.assert_close(ours(*pack(texts), layers), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours(*pack(texts)), ours(*pack(texts), 2))


def test_layers_are_counted_before_the_head(splade_folder: Path) -> None:
    ours, theirs = load(splade_folder, head=True)
    text = texts_of([9])[0]
    with torch.inference_mode():
        expected = theirs.bert(text[None]).last_hidden_state[0]
        torch.testing.assert_close(ours(*pack([text]), 2), expected, rtol=1e-4, atol=1e-4)


def test_a_text_does_not_depend_on_its_neighbours(splade_folder: Path) -> None:
    ours, _ = load(splade_folder, head=True)
    texts, others = texts_of(LENGTHS), texts_of(LENGTHS, seed=1)
    starts = np.cumsum([0, *LENGTHS])
    with torch.inference_mode():
        together = ours(*pack(texts))
        for i, text in enumerate(texts):
            own = slice(starts[i], starts[i + 1])
            changed = ours(*pack([text if i == j else other for j, other in enumerate(others)]))
            assert torch.equal(changed[own], together[own])  # same shapes: the same bits
            torch.testing.assert_close(ours(*pack([text])), together[own], rtol=1e-4, atol=1e-5)


def test_attention_looks_at_its_own_text() -> None:
    packing = Packing(np.array([0, 2, 3]), "cpu")
    q = torch.zeros(3, 2, 4)  # equal scores: the mean of the text's values
    v = torch.arange(24.0).view(3, 2, 4)
    got = attention(q, q, v, packing)
    torch.testing.assert_close(got, torch.stack([v[:2].mean(0), v[:2].mean(0), v[2]]))


# --- gradients ------------------------------------------------------------------------------------------------


def test_gradients_equal_those_of_transformers(splade_folder: Path) -> None:
    ours, theirs = load(splade_folder, head=True)
    texts = texts_of(LENGTHS)
    pull = torch.randn(sum(LENGTHS), len(PIECES), generator=torch.Generator().manual_seed(0))
    (logits_of(ours, texts) * pull).sum().backward()
    (torch.cat([theirs(text[None]).logits[0] for text in texts]) * pull).sum().backward()
    expected = {name.removeprefix("bert."): parameter.grad for name, parameter in theirs.named_parameters()}
    for name, names in ours._names().items():
        gradient = ours.get_parameter(name).grad
        assert gradient is not None, name
        wanted = torch.cat([expected[their] for their in names])
        scale = max(1.0, float(wanted.abs().max()))
        assert (gradient - wanted).abs().max() <= 1e-4 * scale, name
    moved = [name for name, parameter in ours.named_parameters() if parameter.grad.any()]  # type: ignore[union-attr]
    assert set(moved) == set(ours._names())


# --- weights in and out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [True, False])
def test_round_trip(make_model: MakeModel, head: bool) -> None:
    ours, theirs = load(make_model(masked_lm=head, seed=2), head=head)
    weights = ours.to_transformers()
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[name]) and tensor.is_contiguous() for name, tensor in weights.items())
    unsaved = {name for name in state if name not in weights}
    assert all(name.startswith(("cls.predictions.decoder", "pooler", "bert.embeddings.position_ids",
                                "embeddings.position_ids")) for name in unsaved)
    other = PackedBert(ours.config, head=head).load(weights)
    for name, parameter in ours.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter), name


def test_transformers_takes_what_a_fresh_model_gives(splade_folder: Path) -> None:
    _, theirs = load(splade_folder, head=True)
    torch.manual_seed(0)
    ours = PackedBert(json.loads((splade_folder / "config.json").read_text()), head=True).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.5)
    loaded = theirs.load_state_dict(ours.to_transformers(), strict=False)
    assert not loaded.unexpected_keys
    text = texts_of([11])[0]
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(ours, [text]), theirs(text[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_weights_that_are_missing_or_of_another_shape(splade_folder: Path) -> None:
    ours, _ = load(splade_folder, head=True)
    weights = ours.to_transformers()
    for name in weights:
        with pytest.raises(CheckpointError, match="expected weights") as caught:
            ours.load({other: tensor for other, tensor in weights.items() if other != name})
        assert caught.value.reason == "MISSING"
        assert name.removeprefix("bert.") in caught.value.message
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias \(\d+,\), got \(3,\)"):
        ours.load(weights | {"cls.predictions.bias": torch.zeros(3)})


def test_an_encoder_has_no_head_to_load(dense_folder: Path) -> None:
    ours, _ = load(dense_folder, head=False)
    assert ours.transform is ours.head_norm is ours.bias is None
    with pytest.raises(CheckpointError, match="cls"):
        PackedBert(ours.config, head=True).load(ours.to_transformers())


@pytest.mark.parametrize(("key", "value"), [("model_type", "roberta"), ("hidden_act", "relu"),
                                            ("position_embedding_type", "relative_key")])
def test_models_that_are_no_bert(key: str, value: str) -> None:
    check_config({})
    with pytest.raises(CheckpointError, match=value) as caught:
        PackedBert({key: value}, head=False)
    assert (caught.value.reason, caught.value.details) == ("NOT_BERT", {"key": key})
