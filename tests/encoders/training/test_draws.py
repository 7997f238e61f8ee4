from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.draws import Draws
from sparsight.encoders.training.pairs import TextSource
from sparsight.errors import InvalidArgumentError

QUERIES, DOCUMENTS = 10, 12
CONFIG = SpladeTrainingConfig(sources=(TextSource(Path("a")), TextSource(Path("b"))), batch_queries=4,
                              documents_per_query=3, seed=3)


def data(**changes: Any) -> Any:
    """Queries 0 to 6 have the document of their number; 7 to 9 are sentences of theirs. 8 and 9 are of source 1."""
    numbers = np.arange(QUERIES, dtype=np.int32)
    given = {
        "positives": np.where(numbers < 7, numbers, -1), "own": np.where(numbers < 7, -1, numbers),
        "source": (numbers >= 8).astype(np.uint8), "also_relevant": np.array([[0, 11], [2, 10], [2, 11]], np.int32),
        "candidates": np.stack([np.where(np.arange(DOCUMENTS) == n, -1, np.arange(DOCUMENTS)) for n in numbers]),
    } | changes
    candidates = given.pop("candidates")
    return SimpleNamespace(texts=SimpleNamespace(**given), candidates=candidates, documents=range(DOCUMENTS))


def test_shapes_and_positives() -> None:
    draw = Draws(CONFIG, data()).draw(0)
    assert draw.queries.shape == (4,) and draw.documents.shape == (12,) and draw.allowed.shape == (4, 12)
    for row, query in enumerate(draw.queries.tolist()):
        assert draw.positives[row] == (3 * row if query < 7 else -1)
        if query < 7:
            assert draw.documents[draw.positives[row]] == query


def test_what_is_masked() -> None:
    draws = Draws(CONFIG, data())
    texts = data().texts
    also = {0: {11}, 2: {10, 11}}
    for step in range(30):
        draw = draws.draw(step)
        for row, query in enumerate(draw.queries.tolist()):
            positive = draw.positives[row]
            forbidden = also.get(query, set()) | ({int(texts.own[query])} if query >= 7 else set())
            kept = draw.documents[draw.allowed[row]]
            assert not set(kept.tolist()) & forbidden
            assert len(set(kept.tolist())) == len(kept), "a document counts once"
            assert set(kept.tolist()) == set(draw.documents.tolist()) - forbidden, "and nothing else is lost"
            assert positive < 0 or draw.allowed[row, positive]


def test_an_epoch_covers_all_queries_once() -> None:
    draws = Draws(CONFIG, data())
    seen = np.concatenate([draws.draw(step).queries for step in range(10)])  # 40 = 4 epochs
    epochs = seen.reshape(4, QUERIES)
    assert (np.sort(epochs, axis=1) == np.arange(QUERIES)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_processes_share_an_epoch() -> None:
    parts = [Draws(CONFIG, data(), rank, 5) for rank in range(5)]
    seen = np.concatenate([part.draw(step).queries for step in range(2) for part in parts])
    assert (np.bincount(seen, minlength=QUERIES) == 4).all()
    alone = Draws(CONFIG, data())
    assert seen.tolist() == np.concatenate([alone.draw(step).queries for step in range(10)]).tolist()


@pytest.mark.parametrize(("weight", "times"), [(0.0, 0), (1.0, 1), (3.0, 3)])
def test_weights_of_sources(weight: float, times: int) -> None:
    sources = (TextSource(Path("a")), TextSource(Path("b"), weight=weight))
    deck = Draws(replace(CONFIG, sources=sources), data()).deck
    assert np.bincount(deck, minlength=QUERIES).tolist() == [1] * 8 + [times] * 2


def test_fractions_are_chances() -> None:
    sources = (TextSource(Path("a")), TextSource(Path("b"), weight=1.5))
    decks = [Draws(replace(CONFIG, sources=sources, seed=seed), data()).deck for seed in range(100)]
    counts = np.array([np.bincount(deck, minlength=QUERIES)[8:] for deck in decks])
    assert set(counts.ravel().tolist()) == {1, 2} and 1.3 < counts.mean() < 1.7


def test_steps_decide_alone() -> None:
    first, second = Draws(CONFIG, data()), Draws(CONFIG, data())
    wanted = [first.draw(step) for step in range(6)]
    for step in (5, 0, 3):
        found = second.draw(step)
        for name in ("queries", "documents", "positives", "allowed"):
            assert np.array_equal(getattr(found, name), getattr(wanted[step], name))
    other = Draws(replace(CONFIG, seed=4), data()).draw(0)
    assert not np.array_equal(other.queries, wanted[0].queries) or not np.array_equal(other.documents,
                                                                                     wanted[0].documents)


@pytest.mark.parametrize("width", [0, 1])
def test_too_few_candidates_are_filled_up(width: int) -> None:
    draw = Draws(CONFIG, data(candidates=np.full((QUERIES, width), -1, np.int32))).draw(0)
    assert ((draw.documents >= 0) & (draw.documents < DOCUMENTS)).all()


def test_nothing_to_draw() -> None:
    sources = (TextSource(Path("a"), weight=0.0), TextSource(Path("b"), weight=0.0))
    with pytest.raises(InvalidArgumentError, match="weight above 0, got none of 10"):
        Draws(replace(CONFIG, sources=sources), data())
