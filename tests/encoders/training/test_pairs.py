from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.training.pairs import (
    PAIR,
    SENTENCE,
    TITLE,
    TextSource,
    TrainingTexts,
    _sentences,
    read_training_texts,
)
from sparsight.errors import InvalidArgumentError

LONG = "The {n} cats of this house like to sleep. They often eat {n} mice before the evening comes."


def corpus(folder: Path, documents: Sequence[tuple[str, str, str]], queries: dict[str, str] | None = None,
           **qrels: Sequence[tuple[str, str, int]]) -> Path:
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(
        json.dumps({"_id": i, "title": title, "text": text}) + "\n" for i, title, text in documents))
    if queries is not None:
        (folder / "queries.jsonl").write_text("".join(
            json.dumps({"_id": i, "text": text}) + "\n" for i, text in queries.items()))
    (folder / "qrels").mkdir()
    for split, rows in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in rows))
    return folder


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """Thirty papers; the first three are a known-item test."""
    documents = [(f"p{n}", f"On the study number {n}", LONG.format(n=n)) for n in range(30)]
    queries = {f"q{n}": f"on the study  number {n}" for n in range(3)}
    return corpus(tmp_path / "papers", documents, queries, test=[(f"q{n}", f"p{n}", 1) for n in range(3)])


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    documents = [("a", "Colds", "Drink tea."), ("b", "Colds", "Stay in bed."), ("c", "", "Walk."), ("d", "", " "),
                 ("e", "Colds", "Drink tea.")]
    queries = {"1": "What helps?", "2": "what  HELPS?", "3": "What else?", "4": "Nothing", "5": "Test me",
               "6": "test me", "7": "Twice?"}
    return corpus(tmp_path / "answers", documents, queries,
                  train=[("1", "a", 1), ("2", "b", 1), ("3", "b", 1), ("3", "c", 2), ("4", "d", 1), ("6", "c", 1),
                         ("7", "a", 1), ("7", "e", 1), ("8", "a", 1)],
                  test=[("5", "a", 1)])


def of_kind(texts: TrainingTexts, kind: int) -> list[int]:
    return np.flatnonzero(texts.kind == kind).tolist()


# --- pairs ----------------------------------------------------------------------------------------------------


def test_pairs_by_hand(answers: Path) -> None:
    texts = read_training_texts([TextSource(answers, splits=("train",))])
    # d is empty, e is a again.
    assert texts.documents == ["Colds Drink tea.", "Colds Stay in bed.", "Walk."]
    # 2 repeats 1; 4 has no document left; 6 is a held-out query; 8 has no text.
    assert texts.queries == ["What helps?", "What else?", "Twice?"]
    assert texts.positives.tolist() == [0, 2, 0]  # the higher grade first
    assert texts.also_relevant.tolist() == [[0, 1], [1, 1]]  # 2's answer belongs to 1; e is no further one of 7
    assert texts.own.tolist() == [-1, -1, -1] and texts.kind.tolist() == [PAIR] * 3
    assert texts.source.tolist() == [0] * 3 and texts.document_source.tolist() == [0] * 3
    assert (texts.positives.dtype, texts.own.dtype, texts.also_relevant.dtype) == (np.int32,) * 3
    assert (texts.kind.dtype, texts.source.dtype, texts.document_source.dtype) == (np.uint8,) * 3


def test_fewer_pairs(answers: Path) -> None:
    assert len(read_training_texts([TextSource(answers, splits=("train",), pairs=1)]).queries) <= 1
    assert read_training_texts([TextSource(answers, splits=("train",), pairs=0)]).queries == []
    assert read_training_texts([TextSource(answers)]).queries == []


def test_an_unknown_split(answers: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no qrels/dev\.tsv"):
        read_training_texts([TextSource(answers, splits=("dev",))])
    read_training_texts([TextSource(answers, held_out=("dev", "test"))])  # nothing to hold out is fine


# --- titles ---------------------------------------------------------------------------------------------------


def test_titles_point_at_their_documents_without_the_title(papers: Path) -> None:
    texts = read_training_texts([TextSource(papers, titles=10)])
    assert len(texts.queries) == 10 == len(of_kind(texts, TITLE))
    for query, positive in zip(texts.queries, texts.positives.tolist(), strict=True):
        n = int(query.removeprefix("On the study number "))
        assert n >= 3, "a title of the known-item test"
        assert texts.documents[positive] == LONG.format(n=n)
    # The rest keep theirs, but for those whose title is a held-out query.
    bare = {int(text.split()[1]) for text in texts.documents if text.startswith("The ")}
    assert bare == {0, 1, 2} | {int(query.split()[-1]) for query in texts.queries}
    assert sum(text.startswith("On the study number ") for text in texts.documents) == 17


def test_titles_may_be_left_out_everywhere(papers: Path) -> None:
    texts = read_training_texts([TextSource(papers, titles=5, keep_titles=False)])
    assert texts.documents == [LONG.format(n=n) for n in range(30)]


def test_more_titles_than_there_are(papers: Path) -> None:
    assert len(read_training_texts([TextSource(papers, titles=1000)]).queries) == 27


def test_titles_that_are_no_queries(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "odd", [
        ("1", "Two words", "a text"), ("2", "A shared title", "b text"), ("3", "a shared  TITLE", "c text"),
        ("4", "Nothing but a title", ""), ("5", "The only good title", "d text"), ("6", "", "e text")])
    texts = read_training_texts([TextSource(folder, titles=10)])
    assert texts.queries == ["The only good title"]
    assert texts.documents == ["Two words a text", "A shared title b text", "a shared  TITLE c text",
                               "Nothing but a title", "d text", "e text"]


# --- sentences ------------------------------------------------------------------------------------------------


def test_sentences_know_their_document(papers: Path) -> None:
    texts = read_training_texts([TextSource(papers, sentences=20)])
    assert len(of_kind(texts, SENTENCE)) == 20 and (texts.positives == -1).all()
    assert len(set(texts.own.tolist())) == 20
    for query, own in zip(texts.queries, texts.own.tolist(), strict=True):
        assert query in texts.documents[own] and query.endswith(".") and own >= 3
        assert query.count(".") == 1
    assert {query.split()[0] for query in texts.queries} == {"The", "They"}  # any sentence, not always the first


def test_what_a_sentence_is() -> None:
    text = ("We follow Smith et al. 2019 in all of this work. Too short. See Fig. 3 and Eq. 4 for what we found there! "
            'He asked: "Is it true that nobody knows?" The rate is 3.5 times higher e.g. in the second group. '
            "$x = 1$ $y = 2$ $z$ + - = here.  In\nsome cases   this holds as well")
    assert _sentences(text) == [
        "We follow Smith et al. 2019 in all of this work.", "See Fig. 3 and Eq. 4 for what we found there!",
        'He asked: "Is it true that nobody knows?', "The rate is 3.5 times higher e.g. in the second group.",
        "In some cases this holds as well"]
    assert _sentences("word " * 41) == [] and len(_sentences("word " * 40)) == 1
    assert _sentences("one two three four five") == [] and len(_sentences("one two three four five six")) == 1
    assert _sentences("") == []
    lower = "the game was played in january. it was won by the broncos in the end."
    assert _sentences(lower) == [lower]  # without capitals no end can be told from an abbreviation


# --- several sources ------------------------------------------------------------------------------------------


def test_sources_share_documents_queries_and_what_is_held_out(tmp_path: Path, papers: Path) -> None:
    other = corpus(tmp_path / "other", [
        ("x", "On the study number 1", "Held out over there."), ("y", "On the study number 9", LONG.format(n=9)),
        ("z", "Something quite new here", LONG.format(n=99))],
        {"q": "On the study number 2", "r": "On the study number 20"}, train=[("q", "z", 1), ("r", "z", 1)])
    texts = read_training_texts([TextSource(papers, titles=27, keep_titles=False),
                                 TextSource(other, splits=("train",), titles=3, sentences=3)])
    assert len(set(texts.queries)) == len(texts.queries)
    assert "On the study number 1" not in texts.queries and "On the study number 2" not in texts.queries
    assert "Held out over there." in texts.documents  # without its title, which is a held-out query
    z = texts.documents.index(LONG.format(n=99))
    assert texts.document_source[z] == 1 and texts.document_source[:30].tolist() == [0] * 30
    twenty = texts.queries.index("On the study number 20")
    assert texts.source[twenty] == 0 and [twenty, z] in texts.also_relevant.tolist()  # no negative of the title
    assert set(texts.source.tolist()) == {0, 1}
    assert texts.also_relevant.tolist() == sorted(texts.also_relevant.tolist())


def same(a: TrainingTexts, b: TrainingTexts) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in TrainingTexts.__slots__)


def test_equal_seeds_equal_texts(papers: Path, answers: Path) -> None:
    sources = [TextSource(papers, titles=9, sentences=9), TextSource(answers, splits=("train",), pairs=3)]
    first = read_training_texts(sources, seed=5)
    assert same(first, read_training_texts(sources, seed=5))
    assert not same(first, read_training_texts(sources, seed=6))


def test_numbers_are_of_documents(papers: Path, answers: Path) -> None:
    texts = read_training_texts([TextSource(papers, titles=9, sentences=9), TextSource(answers, splits=("train",))])
    count = len(texts.queries)
    assert {len(getattr(texts, name)) for name in ("positives", "own", "kind", "source")} == {count}
    assert len(set(texts.documents)) == len(texts.documents) == len(texts.document_source)
    assert ((texts.positives >= 0) == (texts.kind != SENTENCE)).all()
    assert ((texts.own >= 0) == (texts.kind == SENTENCE)).all()
    assert max(texts.positives.max(), texts.own.max()) < len(texts.documents)


@pytest.mark.parametrize(("arguments", "problem"), [
    ({"sources": []}, "1 to 255 sources, got 0"),
    ({"sources": [TextSource(Path("nowhere"))] * 256}, "got 256"),
    ({"sources": [TextSource(Path("nowhere"))]}, r"nowhere has no corpus\.jsonl"),
    ({"sources": [TextSource(Path("nowhere"))], "seed": -1}, "seed >= 0"),
])
def test_arguments_are_checked(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        read_training_texts(**arguments)


def test_short_documents(papers: Path, answers: Path) -> None:
    whole = read_training_texts([TextSource(papers, titles=5)])
    cut = read_training_texts([TextSource(papers, titles=5, short=1.0)])
    titles = {text for text in cut.documents if text.startswith("On the study number")}
    sentences = {text for text in cut.documents if text.endswith("like to sleep.")}
    queried = {cut.documents[i] for i in cut.positives if i >= 0}
    assert len(titles) > 3 and len(sentences) > 3 and len(queried) == 5
    assert titles | sentences | queried == set(cut.documents)
    assert queried == {whole.documents[i] for i in whole.positives if i >= 0}  # positives of titles stay whole
    held_out = {f"On the study number {n}" for n in range(3)}
    assert not titles & held_out
    judged = read_training_texts([TextSource(answers, splits=("train",), short=1.0)])
    assert {"Colds Drink tea.", "Colds Stay in bed."} <= set(judged.documents)  # and so do judged ones
