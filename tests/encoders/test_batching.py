from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.encoders.batching import PAD_MULTIPLE, TextTokens, check_texts, make_batches
from sparsight.encoders.checkpoint import load_tokenizer, read_settings
from sparsight.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def tokens(splade_folder: Path) -> TextTokens:
    return TextTokens(load_tokenizer(read_settings(splade_folder)), 0)


@given(lengths=st.lists(st.integers(1, 70), max_size=60), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_text_once(lengths: list[int], batch_tokens: int) -> None:
    ids = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    seen: list[int] = []
    widths: list[int] = []
    for batch in make_batches(ids, 0, 64, batch_tokens):
        rows, width = batch.ids.shape
        assert rows * width <= batch_tokens or rows == 1
        widths.append(width)
        for row, line, length in zip(batch.rows.tolist(), batch.ids, batch.lengths, strict=True):
            assert length == lengths[row] and line[:length].tolist() == [row + 1] * length and not line[length:].any()
            # The width depends on the text alone.
            assert width == max(min(-(-length // PAD_MULTIPLE) * PAD_MULTIPLE, 64), length)
        np.testing.assert_array_equal(batch.mask.sum(1), batch.lengths)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(lengths))) and widths == sorted(widths, reverse=True)


def test_ids_are_the_tokenizers_own(tokens: TextTokens) -> None:
    texts = ["The cat sat.", "", "  ", "cats ran to the house", "xyzzy ÿ"]
    assert [ids.tolist() for ids in tokens.ids(texts, 64)] == [
        encoding.ids for encoding in tokens.tokenizer.encode_batch(texts)
    ]
    assert tokens.special == 2


def test_truncation_keeps_the_last_special_token(tokens: TextTokens) -> None:
    whole = tokens.tokenizer.encode("the cat sat on the mat").ids
    assert tokens.ids(["the cat sat on the mat"], 5)[0].tolist() == [*whole[:4], whole[-1]]


@settings(max_examples=30)
@given(texts=st.lists(st.text(max_size=30), max_size=4))
def test_ids_of_any_text(tokens: TextTokens, texts: list[str]) -> None:
    for text, ids in zip(texts, tokens.ids(texts, 8), strict=True):
        whole = tokens.tokenizer.encode(text).ids
        assert ids.tolist() == (whole if len(whole) <= 8 else [*whole[:7], whole[-1]])


@pytest.mark.parametrize("texts", ["one string", ["a", 3], [None], ["\ud800"]])
def test_no_texts(texts: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_texts(texts)
    assert caught.value.field.startswith("texts")
