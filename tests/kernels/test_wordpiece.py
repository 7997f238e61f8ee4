"""Word pieces: by hand, against the specification, what is left to the fallback, threads, and bad input."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels import WordPiece
from sparsight.kernels.reference import bert_spelling, encode_text, encode_word

WORDS = ["[UNK]", "un", "##aff", "##able", "##a", "a", "cat", "##s", ".", ",", "一", "naive", "β", "##β", "-", "#"]
PIECES = {piece: number for number, piece in enumerate(WORDS)}
HIGH_MARK = "\u302e"  # stays in the text and has a combining class: no spelling of its own
ODD = "aβB.,- \t\n\0\x1c\u00a0\u2028\u200b\u0301\u00c9éİß一\U0002f800…“\ud7ff\ue000\U0010ffff" + HIGH_MARK

texts = st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"])), max_size=40)
some_words = st.lists(st.sampled_from([*WORDS, "unaffable", "Cats", "naïve", "x" * 101, "a" * 100]), max_size=12)


def alphabet(**flags: bool) -> Callable[[int], list[str | None]]:
    return lambda page: [bert_spelling(chr(256 * page + place), **flags) for place in range(256)]


def rows(packed: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    ids, starts = packed
    assert (ids.dtype, starts.dtype) == (np.int32, np.int64) and starts[0] == 0 and starts[-1] == len(ids)
    return [ids[start:stop].tolist() for start, stop in pairwise(starts.tolist())]


@pytest.fixture(scope="module")
def plain() -> WordPiece:
    return WordPiece(PIECES, alphabet(), fallback=lambda texts: [[-7]] * len(texts))


def test_by_hand(plain: WordPiece) -> None:
    given = ["unaffable", "Cats, dogs.", "NAÏVE\u00a0cat", "a\u200ba", "a一a", "ββ", "unaff-a", "", " \t\n", "##"]
    assert rows(plain.encode(given)) == [
        [1, 2, 3], [6, 7, 9, 0, 8], [11, 6], [5, 4], [5, 10, 5], [12, 13], [1, 2, 14, 5], [], [], [15, 15],
    ]  # fmt: skip
    assert rows(plain.encode([])) == []


def test_a_word_is_unknown_as_a_whole(plain: WordPiece) -> None:
    assert rows(plain.encode(["unaffx", "catcat", "cats a"])) == [[0], [0], [6, 7, 5]]


@pytest.mark.parametrize("length", [99, 100, 101, 5000])
def test_long_words_are_unknown(plain: WordPiece, length: int) -> None:
    expected = [5] + [4] * (length - 1) if length <= 100 else [0]
    assert rows(plain.encode(["a" * length, "a" * length + "\u0301", "a\u0301" * length])) == [expected] * 3
    expected = [12] + [13] * (length - 1) if length <= 100 else [0]
    assert rows(plain.encode(["β" * length + ".cat"])) == [[*expected, 8, 6]]


@given(text=texts, words=some_words)
def test_as_specified(plain: WordPiece, text: str, words: list[str]) -> None:
    for each in (text, " ".join(words), "".join(words) + text):
        expected = encode_text(each, PIECES)
        assert rows(plain.encode([each])) == [[-7] if expected is None else expected]


@pytest.mark.parametrize("flag", ["clean_text", "chinese", "strip_accents", "lowercase"])
@settings(max_examples=40)
@given(text=texts)
def test_as_specified_without_a_flag(flag: str, text: str) -> None:
    flags = {flag: False}
    tokenizer = WordPiece(PIECES, alphabet(**flags), fallback=lambda texts: [[-7]] * len(texts))
    expected = encode_text(text, PIECES, lambda character: bert_spelling(character, **flags))
    assert rows(tokenizer.encode([text])) == [[-7] if expected is None else expected]


@given(
    pieces=st.lists(st.text("ab#é\U0001f600", min_size=1, max_size=5), max_size=60, unique=True),
    continuation=st.sampled_from(["##", "", "a"]),
    words=st.lists(st.text("abé\U0001f600", min_size=1, max_size=12), max_size=8),
)
def test_longest_match_first(pieces: list[str], continuation: str, words: list[str]) -> None:
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(["?", *pieces]))}
    spell = alphabet(strip_accents=False)
    tokenizer = WordPiece(numbers, spell, unknown="?", continuation=continuation, max_chars=10)
    expected = [encode_word(w, numbers, unknown="?", continuation=continuation, max_chars=10) for w in words]
    assert rows(tokenizer.encode(words)) == expected


def test_pieces_that_fill_many_blocks() -> None:
    rng = np.random.default_rng(5)
    made = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(1, 9))) for _ in range(5000)]
    pieces = dict.fromkeys(["[UNK]", *made, *(f"##{piece}" for piece in made[::2])])
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = WordPiece(numbers, alphabet())
    words = [first + second for first, second in zip(made, reversed(made), strict=True)]
    assert rows(tokenizer.encode(words)) == [encode_word(word, numbers) for word in words]


@given(text=texts, words=some_words, keep=st.integers(0, 9))
def test_cut_between_head_and_tail(plain: WordPiece, text: str, words: list[str], keep: int) -> None:
    whole = rows(plain.encode([text, " ".join(words)]))
    cut = rows(plain.encode([text, " ".join(words)], max_pieces=keep, head=[101, 102], tail=[103]))
    assert cut == [[101, 102, *row[:keep], 103] for row in whole]


def test_what_goes_to_the_fallback() -> None:
    asked: list[str] = []

    def fallback(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return [[90, 91, 92]] * len(texts)

    tokenizer = WordPiece(PIECES, alphabet(), literals=["[SEP]", "[MASK]", "<q>"], fallback=fallback)
    given = ["cat [SEP]", "[ SEP] cat", "a" + HIGH_MARK, "[[MASK]", "cat<q", "[sep", "<q>", "cat", "β[SEP"]
    found = tokenizer.encode(given, head=[1], max_pieces=2)
    assert asked == ["cat [SEP]", "a" + HIGH_MARK, "[[MASK]", "<q>"]
    own = rows(WordPiece(PIECES, alphabet(), fallback=fallback).encode(given, head=[1], max_pieces=2))
    assert rows(found) == [[1, 90, 91] if text in asked[:4] else row for text, row in zip(given, own, strict=True)]
    with pytest.raises(InvalidArgumentError, match="fallback"):
        WordPiece(PIECES, alphabet(), literals=["[SEP]"]).encode(["[SEP]"])


def test_a_page_is_asked_for_once() -> None:
    asked: list[int] = []

    def counted(page: int) -> list[str | None]:
        asked.append(page)
        return alphabet()(page)

    tokenizer = WordPiece(PIECES, counted)
    tokenizer.encode(["cat"])
    assert asked == [0]
    for _ in range(2):
        assert rows(tokenizer.encode(["β “cat”", "cat", "naïve β"])) == [[12, 0, 6, 0], [6], [11, 12]]
    assert asked == [0, 0x03, 0x20]


def test_threads_and_pages_change_nothing() -> None:
    rng = np.random.default_rng(2)
    characters = [c for c in (*range(0x20, 0x7F), *range(0x80, 0x3000, 37), *range(0x4E00, 0x20000, 1111))]
    given = ["".join(map(chr, rng.choice([c for c in characters if not 0xD800 <= c < 0xE000], 60))) for _ in range(900)]
    expected = [encode_text(text, PIECES) or [-7] for text in given]
    tokenizer = WordPiece(PIECES, alphabet(), fallback=lambda texts: [[-7]] * len(texts))
    found: list[list[list[int]]] = []
    # All at once on a tokenizer that knows page 0 only.

    def encode(threads: int) -> None:
        found.append(rows(tokenizer.encode(given, threads=threads)))

    workers = [threading.Thread(target=encode, args=(threads,)) for threads in (1, 2, 4, 8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(each == expected for each in found)


def test_lookup_by_hand(plain: WordPiece) -> None:
    table = np.zeros(len(PIECES), np.float32)
    table[[0, 1, 5, 6, 7, 8, 9]] = [0.5, 9, 2, 3, -1, np.nan, 1e-30]
    terms, weights = plain.lookup("Cats, CAT a cat. dog a", table)
    assert (terms.dtype, weights.dtype) == (np.int32, np.float32)
    assert terms.tolist() == [0, 5, 6, 9] and weights.tolist() == table[[0, 5, 6, 9]].tolist()
    for text in ("", " ", "."):
        assert [len(part) for part in plain.lookup(text, table)] == [0, 0]


@given(text=texts, words=some_words, keep=st.none() | st.integers(0, 9))
def test_lookup_of_any_text(text: str, words: list[str], keep: int | None) -> None:
    tokenizer = WordPiece(PIECES, alphabet(), literals=["un"], fallback=lambda texts: [[3, 1, 3]] * len(texts))
    table = np.linspace(-1, 1, len(PIECES), dtype=np.float32)
    joined = text.join(words)
    ids, _ = tokenizer.encode([joined], max_pieces=keep)
    terms, weights = tokenizer.lookup(joined, table, max_pieces=keep)
    assert terms.tolist() == sorted(i for i in set(ids.tolist()) if table[i] > 0)
    np.testing.assert_array_equal(weights, table[terms])


def test_lookup_of_a_long_text(plain: WordPiece) -> None:
    terms, _ = plain.lookup("cat " * 50_000, np.ones(len(PIECES), np.float32))
    assert terms.tolist() == [6]


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (np.ones(3, np.float32), "more than 6"),
        (np.ones(99), "float32"),
        (np.ones((99, 1), np.float32), "float32"),
        (np.ones(99, np.float32)[::2], "contiguous"),
        ([1.0] * 99, "list"),
    ],
)
def test_bad_tables(plain: WordPiece, table: object, error: str) -> None:
    with pytest.raises(ShapeError, match=error) as caught:
        plain.lookup("cat", table)  # type: ignore[arg-type]
    assert caught.value.field == "table"


@pytest.mark.parametrize("bad", [3, None, b"a", "a\ud800"])
def test_bad_texts(plain: WordPiece, bad: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        plain.encode(["cat", bad])  # type: ignore[list-item]
    assert caught.value.field == "texts[1]"
    with pytest.raises(InvalidArgumentError) as caught:
        plain.lookup(bad, np.ones(99, np.float32))  # type: ignore[arg-type]
    assert caught.value.field == "text"


def test_bad_arguments(plain: WordPiece) -> None:
    for call, field in (
        (lambda: plain.encode("cat"), "texts"),
        (lambda: plain.encode(["cat"], max_pieces=-1), "max_pieces"),
        (lambda: plain.lookup("cat", np.ones(99, np.float32), max_pieces=-1), "max_pieces"),
        (lambda: plain.encode(["cat"], threads=-1), "threads"),
        (lambda: WordPiece({"a": 0}, alphabet()), "pieces"),
        (lambda: WordPiece({"[UNK]": -1}, alphabet()), "pieces"),
        (lambda: WordPiece({"[UNK]": 2**31}, alphabet()), "pieces"),
        (lambda: WordPiece(PIECES, alphabet(), max_chars=-1), "max_chars"),
        (lambda: WordPiece(PIECES, alphabet(), literals=[""]), "literals"),
        (lambda: WordPiece(PIECES, lambda page: ["a"] * 255), "alphabet"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert caught.value.field == field
