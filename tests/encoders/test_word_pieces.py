"""The native kernel against the Hugging Face tokenizer it was made from: every text, the same word pieces."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from sparsight.encoders.batching import TextTokens
from sparsight.encoders.checkpoint import load_tokenizer, read_settings
from sparsight.encoders.word_pieces import native_word_pieces
from sparsight.errors import CheckpointError, InvalidArgumentError
from sparsight.kernels import WordPiece

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZàéßαβγσςΣ一二가ñ"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "##ing", *LETTERS, *",.-#[]“”–…·'\"!"]
PIECES += [f"##{letter}" for letter in LETTERS] + ["\u0301", "##\u0301", "##\u0307", "\u1112", "##\u1161", "##\u302e"]
PIECES = list(dict.fromkeys(PIECES))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Marks that stay in the text and may change places (Hangul tone marks, a Balinese and a musical sign, marks that the
# library takes for letters), letters whose lower case is longer or depends on context elsewhere, compatibility
# ideographs, white space and controls of all kinds, and characters of no Unicode version.
TRAPS = (
    "\u302e\u302f\u1b44\U0001d165\U0001d16d\u0898\u0899\u0c3c\u0307\u0327\u0301\u0345\u0f71\u0f72İſΣςǅKÅ\ufb03가각"
    "\u1112\u1161\U0002f800\uf900豈㐀\U0002b820\U0002b920\U0001d15e\0\x01\x07\x0b\x0c\x1c\x1f\x7f\x85\xa0\xad\u180e\u1680"
    "\u2000\u200b\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\ufffd\ue000\U000f0000\u0378\U0001fae8\U0010ffff[]#"
)
characters = st.one_of(
    st.sampled_from(TRAPS), st.characters(max_codepoint=0x7F), st.characters(exclude_categories=["Cs"]),
    st.sampled_from(LETTERS), st.sampled_from(" \t\n"),
)  # fmt: skip
words = st.sampled_from(["the", "cats", "a" * 100, "a" * 101, "é" * 100, "β-cat", "“the", "[SEP]", "[sep]", "[MASK] "])
any_text = st.lists(st.one_of(st.text(characters, max_size=12), words), max_size=6).map("".join)


def make_tokenizer(**flags: bool | None) -> Tokenizer:
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**flags)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    return made


def native(tokenizer: Tokenizer) -> WordPiece:
    made = native_word_pieces(tokenizer)
    assert made is not None
    return made


def assert_same(word_pieces: WordPiece, tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, starts = word_pieces.encode(texts)
    # "Fast" leaves out where in the text each piece stands, which takes most of the time in a long one.
    expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for text, found, (start, stop) in zip(texts, expected, pairwise(starts.tolist()), strict=True):
        assert ids[start:stop].tolist() == found.ids, repr(text)


FLAGS = [
    {},
    {"strip_accents": True},
    {"lowercase": False},
    {"strip_accents": False},
    {"lowercase": False, "strip_accents": True},
    {"clean_text": False},
    {"handle_chinese_chars": False},
]
MADE = [(tokenizer, native(tokenizer)) for tokenizer in (make_tokenizer(**flags) for flags in FLAGS)]


@pytest.mark.parametrize(("tokenizer", "word_pieces"), MADE, ids=[str(flags) for flags in FLAGS])
@settings(max_examples=100, deadline=None)
@given(text=any_text)
def test_any_text(tokenizer: Tokenizer, word_pieces: WordPiece, text: str) -> None:
    assert_same(word_pieces, tokenizer, [text])


@pytest.mark.parametrize(("tokenizer", "word_pieces"), MADE, ids=[str(flags) for flags in FLAGS])
def test_pairs_of_traps(tokenizer: Tokenizer, word_pieces: WordPiece) -> None:
    assert_same(word_pieces, tokenizer, [f"a{one}{two}b" for one in TRAPS for two in TRAPS])


def test_every_character_of_the_first_planes() -> None:
    tokenizer, word_pieces = MADE[0]
    codes = [code for code in range(0x3200) if code != 0x20]
    assert_same(word_pieces, tokenizer, [f"a{chr(code)}b" for code in codes])


def test_threads() -> None:
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(0)
    alphabet = [*TRAPS, *LETTERS, *" ,.-" * 8]
    texts = ["".join(rng.choice(alphabet, 80)) for _ in range(300)]
    expected = [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
    word_pieces = native(tokenizer)
    table = np.ones(len(PIECES), np.float32)

    def encode(threads: int) -> bool:
        ids, starts = word_pieces.encode(texts, threads=threads)
        same = [ids[start:stop].tolist() for start, stop in pairwise(starts.tolist())] == expected
        looked_up = [word_pieces.lookup(text, table)[0].tolist() for text in texts[::7]]
        return same and looked_up == [sorted(set(ids)) for ids in expected[::7]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(encode, [1, 2, 3, 4] * 4))


def other_schemes() -> dict[str, Tokenizer]:
    made = {name: make_tokenizer() for name in ("normaliser", "none", "split", "truncation", "padding", "added")}
    made["normaliser"].normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])
    made["none"].normalizer = None
    made["split"].pre_tokenizer = pre_tokenizers.Whitespace()
    made["truncation"].enable_truncation(5)
    made["padding"].enable_padding()
    made["added"].add_tokens([AddedToken("cat", normalized=True)])
    made["literal"] = make_tokenizer()
    made["literal"].encode_special_tokens = True
    made["model"] = Tokenizer(models.BPE())
    made["unknown"] = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    for name in ("model", "unknown"):
        made[name].normalizer = normalizers.BertNormalizer()
        made[name].pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


@pytest.mark.parametrize(("name", "tokenizer"), other_schemes().items(), ids=list(other_schemes()))
def test_other_schemes_have_no_kernel(name: str, tokenizer: Tokenizer) -> None:
    assert native_word_pieces(tokenizer) is None


def test_added_tokens() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<|x|>", lstrip=True, rstrip=True), AddedToken("éa", single_word=True)])
    texts = ["the <|x|> cat", "the<|X|>", "a <| x|>", "éa", "béa éa the", "e\u0301a"]
    assert_same(native(tokenizer), tokenizer, texts)
    assert tokenizer.encode("the <|x|> cat").ids[1] == len(PIECES)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(any_text, max_size=4), max_tokens=st.integers(0, 12))
def test_packed_with_and_without_the_kernel(
    both_tokens: Callable[[], tuple[TextTokens, TextTokens]], texts: list[str], max_tokens: int
) -> None:
    fast, slow = both_tokens()
    ids, starts = fast.packed(texts, max_tokens)
    slow_ids, slow_starts = slow.packed(texts, max_tokens)
    assert (ids.dtype, starts.dtype) == (slow_ids.dtype, slow_starts.dtype) == (np.int32, np.int64)
    assert (ids.tolist(), starts.tolist()) == (slow_ids.tolist(), slow_starts.tolist())
    by_text = [[row.tolist() for row in tokens.ids(texts, max_tokens)] for tokens in (fast, slow)]
    assert by_text[0] == by_text[1] and len(by_text[0]) == len(texts)


@pytest.fixture(scope="module")
def both_tokens(splade_folder: Path) -> Callable[[], tuple[TextTokens, TextTokens]]:
    tokenizer = load_tokenizer(read_settings(splade_folder))
    fast, slow = TextTokens(tokenizer, 0), TextTokens(tokenizer, 0)
    slow.word_pieces = None
    assert fast.word_pieces is not None
    return lambda: (fast, slow)


def test_bad_texts(both_tokens: Callable[[], tuple[TextTokens, TextTokens]]) -> None:
    for bad in (["a", 3], ["\ud800"]):
        with pytest.raises(InvalidArgumentError):
            both_tokens()[0].packed(bad, 8)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_vocabulary_of_bert() -> None:
    from sparsight.encoders import load_encoder

    try:
        tokenizer = load_encoder("splade-tiny").tokenizer
    except CheckpointError as error:
        if error.reason == "DOWNLOAD_FAILED":
            pytest.skip(str(error))
        raise
    word_pieces = native(tokenizer)
    assert_same(word_pieces, tokenizer, [f"a{one}{two}b" for one in TRAPS for two in TRAPS])
    # Every character, each a word of a text of 64: a text for each takes six times as long.
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert_same(word_pieces, tokenizer, [" ".join(every[at : at + 64]) for at in range(0, len(every), 64)])
    assert_same(word_pieces, tokenizer, list(tokenizer.get_vocab()))

    @settings(max_examples=1000, deadline=None)
    @given(texts=st.lists(any_text, max_size=4))
    def check(texts: list[str]) -> None:
        assert_same(word_pieces, tokenizer, texts)

    check()
