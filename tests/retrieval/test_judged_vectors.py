from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError
from sparsight.retrieval import judged_vectors
from sparsight.retrieval.evaluation import evaluate
from sparsight.retrieval.judged_vectors import (
    NDCG,
    RECALL,
    JudgedVectors,
    Quality,
    blocks,
    measure,
    query_blocks,
    rank_dense,
    top_documents,
)

torch = pytest.importorskip("torch")


def unit(rows: int, d: int = 4, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def judged(documents: int, queries: int, qrels: list[tuple[int, int, int]]) -> JudgedVectors:
    return JudgedVectors("set", unit(documents), unit(queries, seed=1), np.array(qrels, np.int64).reshape(-1, 3))


def test_measures_by_hand():
    of = judged(5, 4, [(0, 1, 1), (0, 2, 2), (1, 3, 1), (1, -1, 1), (2, 0, 0), (3, 4, 1)])
    found = measure(of, np.array([[1, 0, 2], [0, 3, -1], [0, 1, 2], [0, 1, 2]]))
    # 0: gains 1, 0, 2 at ranks 1, 2, 3 against the ideal 2, 1. 1: one of two at rank 2, the other not in the set.
    first = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    second = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found.ndcg == pytest.approx([first, second, 0.0, 0.0])  # 2 has no relevant document, 3 misses its
    assert found.recall.tolist() == [1.0, 0.5, 0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_measures_equal_those_of_ir_measures(data: st.DataObject):
    documents, queries = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    pairs = [(q, d) for q in range(queries) for d in range(-1, documents) if rng.random() < 0.2]
    grades = [int(rng.integers(-1, 4)) for _ in pairs]
    of = judged(documents, queries, [(*pair, grade) for pair, grade in zip(pairs, grades, strict=True)])
    depth = data.draw(st.integers(1, documents))
    ranked = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)])
    found = measure(of, ranked).evaluation()
    qrels: dict[str, dict[str, int]] = {str(q): {} for q in range(queries)}
    for (q, d), grade in zip(pairs, grades, strict=True):
        qrels[str(q)][str(d)] = grade
    qrels = {q: of_q or {"nothing": 0} for q, of_q in qrels.items()}  # ir-measures asks for a judgement
    run = {str(q): [(str(d), float(-rank)) for rank, d in enumerate(row)] for q, row in enumerate(ranked.tolist())}
    expected = evaluate(run, qrels, [NDCG, RECALL])
    for name in (NDCG, RECALL):
        assert found.per_query[name] == pytest.approx(expected.per_query[name], abs=1e-6)
        assert found.mean[name] == pytest.approx(expected.mean[name], abs=1e-6)


def test_known_items_of_thousands_of_queries():
    of = judged(3000, 3000, [(q, q, 1) for q in range(3000)])
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.choice(3000, 150, replace=False) for _ in range(3000)])
    found = measure(of, ranked)
    place = [np.flatnonzero(row == q) for q, row in enumerate(ranked)]
    assert found.ndcg == pytest.approx([1 / math.log2(p[0] + 2) if len(p) and p[0] < 10 else 0.0 for p in place])
    assert found.recall.tolist() == [float(len(p) and p[0] < 100) for p in place]  # beyond 100 it is not found
    assert 0 < found.recall.mean() < 0.1


def test_ids():
    of = JudgedVectors.from_ids("set", unit(2), unit(2), ["a", "b"], ["x", "y"],
                                {"y": {"b": 2, "gone": 1}, "other": {"a": 1}})
    assert of.qrels.tolist() == [[1, 1, 2], [1, -1, 1]]
    assert of.relevant.tolist() == [0, 2]
    assert JudgedVectors.from_ids("set", unit(2), unit(2), ["a", "b"], ["x", "y"], {}).qrels.shape == (0, 3)


@pytest.mark.parametrize(("change", "kind"), [
    ({"documents": unit(2).astype(np.float64)}, ShapeError),
    ({"documents": unit(2)[0]}, ShapeError),
    ({"queries": unit(2, d=5)}, ShapeError),
    ({"queries": unit(0)}, ShapeError),
    ({"documents": 2 * unit(2)}, InvalidVectorError),
    ({"queries": unit(2) * np.float32(np.nan)}, InvalidVectorError),
    ({"qrels": np.zeros((1, 3), np.int32)}, ShapeError),
    ({"qrels": np.zeros((1, 2), np.int64)}, ShapeError),
    ({"qrels": np.array([[2, 0, 1]])}, InvalidArgumentError),
    ({"qrels": np.array([[0, 2, 1]])}, InvalidArgumentError),
    ({"qrels": np.array([[0, -2, 1]])}, InvalidArgumentError),
    ({"qrels": np.array([[0, 1, 1], [0, 1, 2]])}, InvalidArgumentError),
])
def test_bad_sets_are_refused(change, kind):
    given = {"name": "set", "documents": unit(2), "queries": unit(2), "qrels": np.array([[0, 0, 1]])} | change
    with pytest.raises(kind) as caught:
        JudgedVectors(**given)
    assert caught.value.field in change


@pytest.mark.parametrize("found", [np.zeros((1, 2), np.int64), np.zeros((2, 2), np.int32), np.zeros(2, np.int64)])
def test_bad_rankings_are_refused(found):
    with pytest.raises(ShapeError):
        measure(judged(3, 2, [(0, 0, 1)]), found)


def reference(scores: np.ndarray, depth: int) -> list[list[int]]:
    """Of scores (Q, N)."""
    return [sorted(range(len(row)), key=lambda d: (-row[d], d))[:depth] for row in scores.tolist()]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 45), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_top_documents_are_those_of_sorting(documents: int, queries: int, depth: int, block: int, seed: int):
    # Few different scores, both zeros among them: ties everywhere, in and across blocks.
    scores = np.random.default_rng(seed).choice(np.float32([-2.5, -1, -0.0, 0.0, 1e-30, 1, 3]), (documents, queries))
    parts = [torch.from_numpy(scores[start:start + block]) for start in range(0, documents, block)]
    assert top_documents(parts, depth).tolist() == reference(scores.T, depth)


def test_nothing_to_rank():
    with pytest.raises(InvalidArgumentError):
        top_documents([])


def test_blocks_cover_everything_once(monkeypatch):
    monkeypatch.setattr(judged_vectors, "_BLOCK", 30)
    for rows, width in ((1, 1), (100, 7), (5, 1000)):
        assert np.concatenate([np.arange(rows)[part] for part in blocks(rows, width)]).tolist() == list(range(rows))
    assert [part.stop - part.start for part in query_blocks(5, 2)] == [2, 2, 1]
    assert len(list(query_blocks(5, 0))) == 5  # however little fits, one goes


def test_dense_ranking(monkeypatch):
    documents, queries = unit(300, 8), unit(40, 8, seed=1)
    documents[7] = documents[3]
    expected = reference(queries.astype(np.float64) @ documents.T.astype(np.float64), 100)
    assert rank_dense(documents, queries).tolist() == expected
    monkeypatch.setattr(judged_vectors, "_BLOCK", 200)
    monkeypatch.setattr(judged_vectors, "_QUERIES", 7)
    assert rank_dense(documents, queries).tolist() == expected


def test_the_way_to_significance():
    of = Quality(np.array([0.5, 1.0]), np.array([1.0, 0.0])).evaluation()
    assert of.mean == {NDCG: 0.75, RECALL: 0.5}
    assert of.per_query[NDCG] == {"0": 0.5, "1": 1.0}
