"""BERT's word pieces: the specification, one character, one word and one text at a time."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Mapping

__all__ = ["bert_spelling", "encode_text", "encode_word"]

_WHITE_SPACE = frozenset(map(chr, (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                                   0x202F, 0x205F, 0x3000)))  # fmt: skip
# From 0x2B920 as in the tokenizers library; BERT's own code says 0x2B820.
_IDEOGRAPHS = (
    range(0x4E00, 0xA000), range(0x3400, 0x4DC0), range(0x20000, 0x2A6E0), range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820), range(0x2B920, 0x2CEB0), range(0xF900, 0xFB00), range(0x2F800, 0x2FA20),
)  # fmt: skip


def bert_spelling(
    character: str, *, clean_text: bool = True, chinese: bool = True, strip_accents: bool = True, lowercase: bool = True
) -> str | None:
    """What stands for a character in the normalised text, with a blank wherever words part.

    Parameters
    ----------
    character : str
        One character.
    clean_text : bool
        Control characters go, white space becomes a blank.
    chinese : bool
        Ideographs are words of their own.
    strip_accents : bool
        Decompose (NFD) and drop non-spacing marks.
    lowercase : bool

    Returns
    -------
    str or None
        ``"É" -> "e"``, ``"," -> " , "``, ``"\\u00a0" -> " "``, ``"\\u200b" -> ""``. None for a mark that stays and that
        decomposition may exchange with a neighbour: such texts are no sum of their characters.

    Notes
    -----
    By the Unicode data of this Python. A tokenizer of another Unicode version (the ``tokenizers`` library has that of
    2015 for some rules) differs in rare characters: ask it for its spellings instead, see
    :mod:`sparsight.encoders.word_pieces`.

    References
    ----------
    ``BasicTokenizer`` in google-research/bert ``tokenization.py``; ``BertNormalizer`` and ``BertPreTokenizer`` of the
    ``tokenizers`` library, which handle one character without regard to its neighbours but for that reordering.
    """
    removed = character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co")
    if clean_text and removed and character not in "\t\n\r":
        return ""
    decomposed = unicodedata.normalize("NFD", character) if strip_accents else character
    kept = [c for c in decomposed if not (strip_accents and unicodedata.category(c) == "Mn")]
    if strip_accents and any(map(unicodedata.combining, kept)):
        return None
    spelling = "".join(map(_set_apart, "".join(kept).lower() if lowercase else "".join(kept)))
    if chinese and any(ord(character) in block for block in _IDEOGRAPHS):
        return f" {spelling} "
    return spelling


def _set_apart(character: str) -> str:
    if character in _WHITE_SPACE:
        return " "
    alone = character in string.punctuation or unicodedata.category(character).startswith("P")
    return f" {character} " if alone else character


def encode_word(
    word: str, pieces: Mapping[str, int], *, unknown: str = "[UNK]", continuation: str = "##", max_chars: int = 100
) -> list[int]:
    """Pieces of one word, the longest match first; ``unknown`` if they do not cover it, or it is too long.

    References
    ----------
    Wu et al. 2016, "Google's Neural Machine Translation System", section 4.1; ``WordpieceTokenizer`` in
    google-research/bert ``tokenization.py``.

    Examples
    --------
    >>> encode_word("unaffable", {"[UNK]": 0, "un": 1, "##aff": 2, "##able": 3, "##a": 4})
    [1, 2, 3]
    """
    if len(word) > max_chars:
        return [pieces[unknown]]
    ids: list[int] = []
    start = 0
    while start < len(word):
        before = continuation if start else ""
        stop = next((i for i in range(len(word), start, -1) if before + word[start:i] in pieces), start)
        if stop == start:
            return [pieces[unknown]]
        ids.append(pieces[before + word[start:stop]])
        start = stop
    return ids


def encode_text(
    text: str,
    pieces: Mapping[str, int],
    spell: Callable[[str], str | None] = bert_spelling,
    *,
    unknown: str = "[UNK]",
    continuation: str = "##",
    max_chars: int = 100,
) -> list[int] | None:
    """Pieces of a text: the spellings of its characters, joined, cut at blanks, and each word encoded.

    Returns
    -------
    list of int or None
        None where a character has no spelling of its own.
    """
    spellings = [spell(character) for character in text]
    if None in spellings:
        return None
    words = "".join(spelling or "" for spelling in spellings).split(" ")
    settings = {"unknown": unknown, "continuation": continuation}
    return [id_ for word in words for id_ in encode_word(word, pieces, max_chars=max_chars, **settings)]
