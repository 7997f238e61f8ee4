from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sparsight.encoders.passages import clip_title, split
from sparsight.errors import InvalidArgumentError
from sparsight.types import PassageSpec

SENTENCE = "the cat sat on the mat. "  # 7 word pieces


@pytest.fixture(scope="module")
def tokenizer(splade_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(splade_folder / "tokenizer.json"))


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


# Words of the vocabulary, words that fall into many pieces, words that are none, sentence ends, any characters.
WORDS = st.one_of(
    st.sampled_from(["the", "cat", "sat.", "mats!", "ran,", "house?", "\n\n", "it. ", "中文字", "句子。", "e\u0301"]),
    st.text("abcdexyz", min_size=1, max_size=40),
    st.text(max_size=8),
)
TEXTS = st.lists(WORDS, max_size=80).map(" ".join)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=TEXTS,
    title=st.lists(WORDS, max_size=12).map(" ".join),
    max_tokens=st.integers(10, 40),
    overlap=st.integers(0, 50),
)
def test_spans_cover_and_fit(tokenizer: Tokenizer, text: str, title: str, max_tokens: int, overlap: int) -> None:
    spec = PassageSpec(max_tokens, overlap)
    spans = split(text, title, spec, tokenizer)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    for (start, stop), (next_start, next_stop) in pairwise(spans):
        assert start < next_start <= stop < next_stop
    shown = clip_title(title, max_tokens, tokenizer)
    for start, stop in spans:
        assert len(tokenizer.encode(f"{shown} {text[start:stop]}").ids) <= max_tokens


@settings(max_examples=50)
@given(text=TEXTS, max_passages=st.integers(1, 3))
def test_max_passages_only_drops_the_end(tokenizer: Tokenizer, text: str, max_passages: int) -> None:
    whole = split(text, "", PassageSpec(16, 4), tokenizer)
    cut = split(text, "", PassageSpec(16, 4, max_passages), tokenizer)
    assert len(cut) == min(len(whole), max_passages)
    assert cut[:-1] == whole[: len(cut) - 1]
    assert cut[-1][0] == whole[len(cut) - 1][0] and cut[-1][1] >= whole[len(cut) - 1][1]


def test_short_and_empty_texts(tokenizer: Tokenizer) -> None:
    spec = PassageSpec(16, 4)
    assert split("", "", spec, tokenizer) == [(0, 0)]
    assert split("  \n ", "cat", spec, tokenizer) == [(0, 4)]
    assert split(SENTENCE, "", spec, tokenizer) == [(0, len(SENTENCE))]


def test_sentences_stay_whole(tokenizer: Tokenizer) -> None:
    text = SENTENCE * 5
    spans = split(text, "", PassageSpec(18, 0), tokenizer)  # 16 pieces of text: two sentences and a bit
    assert [text[start:stop] for start, stop in spans] == [SENTENCE * 2, SENTENCE * 2, SENTENCE]
    spans = split(text, "", PassageSpec(18, 8), tokenizer)  # and one sentence shared
    assert [text[start:stop] for start, stop in spans] == [SENTENCE * 2] * 4


def test_title_takes_its_part(tokenizer: Tokenizer) -> None:
    text = SENTENCE * 5
    spans = split(text, "the old red dog", PassageSpec(18, 0), tokenizer)  # 12 pieces are left: one sentence and a bit
    assert [text[start:stop] for start, stop in spans] == [SENTENCE] * 5


def test_words_stay_whole_without_sentences(tokenizer: Tokenizer) -> None:
    text = "cats mats " * 20  # two pieces a word
    for start, stop in split(text, "", PassageSpec(13, 3), tokenizer):
        assert text[start:stop].strip().split() == [
            word for word in text[start:stop].split() if word in ("cats", "mats")
        ]


def test_truncation_fills_the_passage(tokenizer: Tokenizer) -> None:
    text = SENTENCE * 5
    ((start, stop),) = split(text, "", PassageSpec(18, 4, 1), tokenizer)
    assert start == 0 and count(tokenizer, text[:stop]) == 16


def test_one_endless_word(tokenizer: Tokenizer) -> None:
    text = "b" * 90  # ninety pieces, no place between words
    spans = split(text, "", PassageSpec(12, 2), tokenizer)
    assert len(spans) > 8 and all(count(tokenizer, text[start:stop]) <= 10 for start, stop in spans)


def test_clip_title(tokenizer: Tokenizer) -> None:
    assert clip_title("the cat", 16, tokenizer) == "the cat"
    assert clip_title("", 16, tokenizer) == ""
    assert clip_title("the cat sat on the mat and it was old", 16, tokenizer) == "the cat sat on the mat and"
    long = "the " * 500
    (_, stop), *_ = split(SENTENCE * 9, long, PassageSpec(16, 0), tokenizer)
    assert stop == len(SENTENCE)  # half of the budget is left: seven pieces


@pytest.mark.parametrize("spec", [PassageSpec(9, 0), PassageSpec(0, 0), PassageSpec(64, -1), PassageSpec(64, 0, -1)])
def test_wrong_specs(tokenizer: Tokenizer, spec: PassageSpec) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        split("x", "", spec, tokenizer)
    assert caught.value.field.startswith("passages")
