"""A native tokenizer in place of a Hugging Face one, where that one is BERT's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sparsight.kernels.wordpiece import PAGE_SIZE, Alphabet, WordPiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["native_word_pieces"]

# Marks that stay in the text and have combining classes of 224 and 9: beside one of them every character that has a
# class between, below or above changes places in normalisation.
_HIGH_MARK, _LOW_MARK = "\u302e", "\u1b44"
_SURROGATES = range(0xD800, 0xE000)


def native_word_pieces(tokenizer: Tokenizer) -> WordPiece | None:
    """The kernel that gives the same word pieces as this tokenizer, or None if there is none.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        It is asked for spellings, and for texts with special tokens written out, later too: do not change it.

    Returns
    -------
    WordPiece or None
        Without special tokens around a text. There is one for ``BertNormalizer`` (any flags), ``BertPreTokenizer`` and
        ``WordPiece``, without truncation and padding, whose added tokens are all matched before normalisation (as those
        of BERT are).

    Notes
    -----
    Takes some 0.06 s for 30,522 pieces. The scheme is read from the tokenizer's JSON; spellings come from its
    normaliser and pre-tokenizer, character by character, so the kernel has their Unicode version, whichever it is.
    """
    try:
        scheme: dict[str, Any] = json.loads(tokenizer.to_str())
    except Exception:  # a component written in Python cannot be serialised: whatever it does, it is not this scheme
        return None
    model = scheme["model"]
    added = scheme["added_tokens"]
    plain = (
        _type(scheme["normalizer"]) == "BertNormalizer"
        and _type(scheme["pre_tokenizer"]) == "BertPreTokenizer"
        and _type(model) == "WordPiece"
        and model["unk_token"] in model["vocab"]
        and scheme["truncation"] is None
        and scheme["padding"] is None
        and not tokenizer.encode_special_tokens
        and not any(token["normalized"] for token in added)
    )
    if not plain:
        return None

    def encode_whole(texts: list[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return WordPiece(
        model["vocab"],
        _alphabet_of(tokenizer),
        unknown=model["unk_token"],
        continuation=model["continuing_subword_prefix"],
        max_chars=model["max_input_chars_per_word"],
        literals=[token["content"] for token in added if token["content"]],
        fallback=encode_whole,
    )


def _type(component: dict[str, Any] | None) -> str | None:
    return component.get("type") if component else None


def _alphabet_of(tokenizer: Tokenizer) -> Alphabet:
    """Spellings of 256 characters, as the tokenizer's own normaliser and pre-tokenizer treat them."""
    normalise = tokenizer.normalizer.normalize_str
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    high, low = normalise(_HIGH_MARK), normalise(_LOW_MARK)

    def set_apart(character: str) -> str:
        words = len(split(f"a{character}a"))  # one: part of a word; two: a gap; three: a word of its own
        return (character, " ", f" {character} ")[words - 1]

    def spell(character: str) -> str | None:
        normal = normalise(character)
        if normalise(character + _LOW_MARK) != normal + low or normalise(_HIGH_MARK + character) != high + normal:
            return None
        return "".join(map(set_apart, normal))

    def page_of(page: int) -> list[str | None]:
        codes = range(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
        return [None if code in _SURROGATES else spell(chr(code)) for code in codes]

    return page_of
