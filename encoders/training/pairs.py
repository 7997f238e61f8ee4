"""Texts to train on: documents of several corpora, and queries of three kinds drawn from them.

- **pair**: a judged query of a corpus, with its relevant document;
- **title**: a document's title, with that document as its answer;
- **sentence**: a random sentence of a document. It has no answer; teachers rank candidates for it, and the document
  it comes from is no candidate.

What is held out for tests is kept out of all three: its queries' texts, and everything made of its documents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.training.corpora import read_corpus, read_judgements, read_queries
from sparsight.errors import InvalidArgumentError

__all__ = ["PAIR", "SENTENCE", "TITLE", "TextSource", "TrainingTexts", "read_training_texts"]

PAIR, TITLE, SENTENCE = range(3)
_SHORT = 3  # beside the kinds: the random numbers of documents that are cut
_MIN_TITLE_WORDS = 3
_SENTENCE_WORDS = (6, 40)
_MAX_SOURCES = 255
# A sentence ends at . ! or ? before white space, unless the next word starts in lower case (then it was an
# abbreviation, or the text has no capitals) or one of the abbreviations of scientific English comes before it.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bal\.)(?<!\b[Ff]ig\.)(?<!\b[Ff]igs\.)(?<!\b[Ee]q\.)(?<!\b[Ee]qs\.)(?<!\b[Rr]ef\.)(?<!\bcf\.)"
    r"(?<!\bvs\.)(?<!\b[Dd]r\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bSt\.)(?<!\b[Nn]o\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\b[A-Z]\.)"
    r"[\"'”’)\]]*\s+(?![a-z])"
)
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class TextSource:
    """A folder in BEIR's layout and what is taken from it.

    Attributes
    ----------
    folder : Path
        With ``corpus.jsonl`` and perhaps ``queries.jsonl`` and ``qrels/``.
    splits : names of judgements
        Their queries are drawn as pairs.
    pairs : int, optional
        How many of them at most; all if left out.
    titles : int
        Titles to draw as queries; fewer if the corpus has fewer.
    sentences : int
        Documents to draw a sentence from.
    held_out : names of judgements
        Their queries' texts are no query of any kind from any source, and their documents give no title or sentence.
    keep_titles : bool
        Whether a document is given as ``title + " " + text``. A document whose title was drawn, or is a held-out
        query, never is: the query would be its first words. False gives all documents of the source without titles,
        so that those with a title query do not stand out by it.
    short : float
        Share of the documents, among those without judgements and title queries, that are cut: half of them to their
        title, half to their first sentence. Collections mix documents of all lengths, and a model that never saw a
        short one scores it too high.
    weight : float
        Share of training batches, relative to other sources'; for the caller.
    """

    folder: Path
    splits: tuple[str, ...] = ()
    pairs: int | None = None
    titles: int = 0
    sentences: int = 0
    held_out: tuple[str, ...] = ("test",)
    keep_titles: bool = True
    short: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTexts:
    """Documents and queries. Q queries, N documents.

    Attributes
    ----------
    documents : list of str, N
        As given to encoders; no text twice.
    queries : list of str, Q
        No text twice (letter case and blanks do not tell texts apart). Sources in their order, and in each pairs,
        titles, sentences; shuffle before use.
    positives : int32, shape (Q,)
        Number of the relevant document, the best if there are several; -1 for sentences.
    also_relevant : int32, shape (M, 2)
        Query and document of all further relevant ones, those of repeated queries too: no negatives. Ascending.
    own : int32, shape (Q,)
        Number of the document a sentence was taken from, which is no candidate; else -1.
    kind : uint8, shape (Q,)
        `PAIR`, `TITLE` or `SENTENCE`.
    source, document_source : uint8, shapes (Q,) and (N,)
        Position in the sources.
    """

    documents: list[str]
    queries: list[str]
    positives: NDArray[np.int32]
    also_relevant: NDArray[np.int32]
    own: NDArray[np.int32]
    kind: NDArray[np.uint8]
    source: NDArray[np.uint8]
    document_source: NDArray[np.uint8]


def read_training_texts(sources: Sequence[TextSource], seed: int = 0) -> TrainingTexts:
    """Read the sources and draw queries.

    Parameters
    ----------
    sources : sequence of TextSource
        At most 255. A document or query that several have belongs to the first.
    seed : int
        Equal seeds, sources and files give equal texts.

    Raises
    ------
    InvalidArgumentError
        If there are no sources, or too many, or a folder cannot be read.

    Notes
    -----
    Documents without any text are left out, with the judgements that name them. Titles of fewer than 3 words, and
    those that several documents of a source share, are no queries. A sentence has 6 to 40 words, counting what has a
    letter in it, so that formulas do not make one long.
    """
    if not 1 <= len(sources) <= _MAX_SOURCES:
        raise InvalidArgumentError(f"expected 1 to {_MAX_SOURCES} sources, got {len(sources)}", field="sources")
    if seed < 0:
        raise InvalidArgumentError(f"expected a seed >= 0, got {seed}", field="seed")
    gathered = _Gathered()
    held_out = [_held_out(source) for source in sources]
    for texts, _ in held_out:
        gathered.taken.update(dict.fromkeys(texts, -1))
    forbidden = frozenset(gathered.taken)
    for position, (source, (_, tested)) in enumerate(zip(sources, held_out, strict=True)):
        _read_source(gathered, source, position, seed, tested, forbidden)
    return gathered.finish()


class _Gathered:
    """Documents and queries so far."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of documents, by text, in order
        self.document_source: list[int] = []
        self.queries: list[str] = []
        self.rows: list[tuple[int, int, int, int]] = []  # positive, own, kind, source
        self.also: list[tuple[int, int]] = []
        self.taken: dict[str, int] = {}  # normalised text: the query that has it, -1 for held-out ones

    def document(self, text: str, source: int) -> int:
        number = self.numbers.setdefault(text, len(self.numbers))
        if number == len(self.document_source):
            self.document_source.append(source)
        return number

    def query(self, text: str, relevant: Iterable[int], own: int, kind: int, source: int) -> bool:
        """Add a query; if there is one of this text, that one gets the relevant documents."""
        text = " ".join(text.split())
        key = _normalised(text)
        known = self.taken.setdefault(key, len(self.queries)) if key else -1
        if known < len(self.queries):
            if known >= 0:
                self.also += ((known, number) for number in relevant)
            return False
        first, *others = [*relevant] or (-1,)
        self.also += ((known, number) for number in others)
        self.queries.append(text)
        self.rows.append((first, own, kind, source))
        return True

    def finish(self) -> TrainingTexts:
        rows = np.asarray(self.rows, np.int32).reshape(-1, 4)
        also = sorted({(query, number) for query, number in self.also if number != rows[query, 0]})
        return TrainingTexts(
            documents=list(self.numbers), queries=self.queries, positives=rows[:, 0].copy(),
            also_relevant=np.asarray(also, np.int32).reshape(-1, 2), own=rows[:, 1].copy(),
            kind=rows[:, 2].astype(np.uint8), source=rows[:, 3].astype(np.uint8),
            document_source=np.asarray(self.document_source, np.uint8))  # fmt: skip


def _held_out(source: TextSource) -> tuple[set[str], set[str]]:
    """Normalised texts of the held-out queries, and ids of their relevant documents. Splits may be missing."""
    texts: set[str] = set()
    documents: set[str] = set()
    present = [split for split in source.held_out if any((source.folder / "qrels").glob(f"{split}.tsv*"))]
    queries = read_queries(source.folder) if present else {}
    for split in present:
        for query, relevant in read_judgements(source.folder, split).items():
            documents.update(relevant)
            texts.add(_normalised(queries.get(query, "")))
    return texts - {""}, documents


def _read_source(gathered: _Gathered, source: TextSource, position: int, seed: int, tested: set[str],
                 forbidden: frozenset[str]) -> None:
    ids, titles, texts = _columns(source.folder)
    generator = _generator(seed, position, TITLE)
    chosen = _chosen_titles(ids, titles, texts, source.titles, tested, gathered.taken, generator)
    hidden = set(chosen)
    numbers = [-1] * len(ids)
    judged = {document for split in source.splits for found in read_judgements(source.folder, split).values()
              for document in found} if source.short and source.splits else set()
    lots = _generator(seed, position, _SHORT).random(len(ids)) if source.short else np.ones(len(ids))
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        may_show = bool(title) and row not in hidden and _normalised(title) not in forbidden
        whole = f"{title} {text}".strip() if (may_show and source.keep_titles) or not text else text
        if lots[row] < source.short and row not in hidden and ids[row] not in judged:
            whole = title if may_show and lots[row] < source.short / 2 else _SENTENCE_END.split(text, maxsplit=1)[0]
        if whole:
            numbers[row] = gathered.document(whole, position)
    _add_pairs(gathered, source, position, seed, dict(zip(ids, numbers, strict=True)))
    for row in chosen:
        gathered.query(titles[row], [numbers[row]], -1, TITLE, position)
    wanted = source.sentences
    generator = _generator(seed, position, SENTENCE)
    for row in generator.permutation(len(ids)).tolist() if wanted else ():
        if wanted == 0:
            break
        if ids[row] in tested or numbers[row] < 0:
            continue
        sentences = _sentences(texts[row])
        if sentences:
            sentence = sentences[int(generator.integers(len(sentences)))]
            wanted -= gathered.query(sentence, [], numbers[row], SENTENCE, position)


def _columns(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, titles and texts of a corpus."""
    ids: list[str] = []
    titles: list[str] = []
    texts: list[str] = []
    for identifier, title, text in read_corpus(folder):
        ids.append(identifier)
        titles.append(title)
        texts.append(text)
    return ids, titles, texts


def _chosen_titles(ids: list[str], titles: list[str], texts: list[str], wanted: int, tested: set[str],
                   taken: dict[str, int], generator: np.random.Generator) -> list[int]:
    """Rows whose titles are drawn as queries, ascending."""
    if not wanted:
        return []
    keys = [_normalised(title) for title in titles]
    counts = Counter(keys)
    fit = [row for row, key in enumerate(keys) if counts[key] == 1 and key not in taken and texts[row]
           and ids[row] not in tested and key.count(" ") + 1 >= _MIN_TITLE_WORDS]
    return np.sort(generator.permutation(np.asarray(fit, np.int64))[:wanted]).tolist()


def _add_pairs(gathered: _Gathered, source: TextSource, position: int, seed: int, numbers: dict[str, int]) -> None:
    if not source.splits:
        return
    queries = read_queries(source.folder)
    judged = [pair for split in source.splits for pair in read_judgements(source.folder, split).items()]
    rows = np.arange(len(judged))
    if source.pairs is not None:
        rows = np.sort(_generator(seed, position, PAIR).permutation(len(judged))[:source.pairs])
    for row in rows.tolist():
        query, relevant = judged[row]
        found = [numbers[document] for document in relevant if numbers.get(document, -1) >= 0]
        if found and query in queries:
            gathered.query(queries[query], found, -1, PAIR, position)


def _sentences(text: str) -> list[str]:
    """Sentences of 6 to 40 words."""
    least, most = _SENTENCE_WORDS
    found = []
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        if least <= sum(1 for word in words if _LETTER.search(word)) <= most:
            found.append(" ".join(words))
    return found


def _generator(seed: int, position: int, kind: int) -> np.random.Generator:
    return np.random.default_rng((seed, position, kind))


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()
