from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError, InvalidArgumentError, InvalidVectorError, ShapeError
from sparsight.index import dense, hnsw
from sparsight.index.dense import DenseHits, DenseIndex, FlatIndex, scores
from sparsight.index.hnsw import HNSWIndex, build_hnsw

F32 = NDArray[np.float32]


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Small integers: every order of additions gives the same float32, and there are many ties."""
    return rng.integers(-3, 4, shape).astype(np.float32)


def grouped(rng: np.random.Generator, passages: int, empty: int) -> NDArray[np.uint32]:
    """Offsets of documents with 1 to 4 passages and some with none."""
    lengths = []
    while sum(lengths) < passages:
        lengths.append(min(int(rng.integers(1, 5)), passages - sum(lengths)))
    lengths += [0] * empty
    rng.shuffle(lengths)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)


def to_mask(allowed: NDArray[np.bool_]) -> NDArray[np.uint64]:
    padded = np.zeros((len(allowed) + 63) // 64 * 64, np.bool_)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint64)


def brute_force(
    vectors: F32, query: F32, k: int, offsets: NDArray[np.uint32], allowed: NDArray[np.bool_] | None
) -> list[tuple[int, float, int]]:
    """(document, score, passage) of the k best documents, with Python's sort."""
    products = (vectors.astype(np.float64) @ query.astype(np.float64)).tolist()
    best = []
    for d in range(len(offsets) - 1):
        own = range(int(offsets[d]), int(offsets[d + 1]))
        if own and (allowed is None or allowed[d]):
            passage = max(own, key=lambda p: (products[p], -p))
            best.append((d, products[passage], passage))
    return sorted(best, key=lambda hit: (-hit[1], hit[0]))[:k]


def as_list(hits: DenseHits) -> list[tuple[int, float, int]]:
    assert hits.documents.dtype == np.int32 and hits.scores.dtype == np.float32 and hits.passages.dtype == np.uint32
    return list(zip(hits.documents.tolist(), hits.scores.tolist(), hits.passages.tolist(), strict=True))


@pytest.mark.parametrize("share", [None, 0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("count", [1, 5])  # below and above the batch path
def test_flat_equals_brute_force_with_ties(share: float | None, single: bool, count: int) -> None:
    rng = np.random.default_rng(7)
    vectors, queries = integers(rng, (500, 12)), integers(rng, (count, 12))
    offsets = np.arange(501, dtype=np.uint32) if single else grouped(rng, 500, 20)
    documents = len(offsets) - 1
    allowed = None if share is None else rng.random(documents) < share
    mask = None if allowed is None else to_mask(allowed)
    index = FlatIndex(vectors)
    for k in (1, 10, documents, 10_000):
        got = index.search_batch(queries, k, passage_offsets=offsets, masks=mask)
        for query, hits in zip(queries, got, strict=True):
            assert as_list(hits) == brute_force(vectors, query, k, offsets, allowed)


def test_every_path_gives_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((3000, 96), dtype=np.float32)
    vectors[1000:1010] = vectors[50]  # exact ties
    queries = np.vstack([vectors[50], rng.standard_normal((9, 96), dtype=np.float32)])
    offsets = grouped(rng, 3000, 10)
    index = FlatIndex(vectors)
    everyone = to_mask(np.ones(len(offsets) - 1, np.bool_))
    batch = index.search_batch(queries, 20, passage_offsets=offsets)
    for query, hits in zip(queries, batch, strict=True):
        alone = index.search(query, 20, passage_offsets=offsets, mask=everyone)
        assert as_list(alone) == as_list(hits)
        chosen = np.zeros(len(offsets) - 1, np.bool_)
        chosen[hits.documents] = True
        assert as_list(index.search(query, 20, passage_offsets=offsets, mask=to_mask(chosen))) == as_list(hits)
        assert np.array_equal(scores(vectors, hits.passages, query), hits.scores)
        assert [d for d, _, _ in brute_force(vectors, query, 20, offsets, None)] == hits.documents.tolist()


def test_batch_finds_documents_that_the_matrix_product_alone_would_swap() -> None:
    # Thousands of scores within a few units in the last place: BLAS's own order differs from that of our scores.
    rng = np.random.default_rng(5)
    base = rng.standard_normal(200).astype(np.float32)
    vectors = np.tile(base, (4000, 1))
    vectors[np.arange(4000), rng.integers(0, 200, 4000)] *= np.float32(1 + 2**-22)
    queries = np.vstack([base, -base, *rng.standard_normal((4, 200), dtype=np.float32)]).astype(np.float32)
    offsets = np.arange(4001, dtype=np.uint32)
    for query, hits in zip(queries, FlatIndex(vectors).search_batch(queries, 15, passage_offsets=offsets), strict=True):
        exact = scores(vectors, None, query)
        order = np.lexsort((np.arange(4000), -exact))[:15]
        assert hits.documents.tolist() == order.tolist()
        assert np.array_equal(hits.scores, exact[order])


@pytest.mark.parametrize("dimension", [1, 3, 8, 100, 384])
def test_scores_are_inner_products_whatever_the_rows(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((2001, dimension), dtype=np.float32)
    query = rng.standard_normal(dimension, dtype=np.float32)
    everything = scores(vectors, None, query)
    np.testing.assert_allclose(everything, vectors.astype(np.float64) @ query, rtol=0, atol=5e-5)
    rows = rng.integers(0, 2001, 777)
    assert np.array_equal(scores(vectors, rows, query), everything[rows])
    assert np.array_equal(scores(vectors, rows[:1], query), everything[rows[:1]])
    assert scores(vectors, [], query).shape == (0,)
    monkeypatch.setattr(dense, "_THREAD_FLOATS", 700 * dimension)  # two threads' worth
    with dense.faiss_threads(3):
        assert np.array_equal(scores(vectors, None, query), everything)


def test_rows_out_of_range() -> None:
    vectors, query = np.zeros((40, 3), np.float32), np.zeros(3, np.float32)
    for bad in ([-1], [40], [[1]]):
        with pytest.raises(ShapeError):
            scores(vectors, bad, query)


def test_read_only_memory_map_is_not_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", integers(rng, (64, 8)))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    graph = build_hnsw(mapped)
    graph.flags.writeable = False
    for index in (FlatIndex(mapped), HNSWIndex(mapped, graph)):
        assert np.shares_memory(index.vectors, mapped)
        got = index.search(np.ones(8), 5, passage_offsets=np.arange(65, dtype=np.uint32))
        assert as_list(got) == brute_force(mapped, np.ones(8, np.float32), 5, np.arange(65, dtype=np.uint32), None)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_empty_segments(kind: str) -> None:
    vectors = np.zeros((0, 4), np.float32)
    index: DenseIndex = FlatIndex(vectors) if kind == "flat" else HNSWIndex(vectors, build_hnsw(vectors))
    for documents in (0, 3):
        offsets = np.zeros(documents + 1, np.uint32)
        for mask in (None, to_mask(np.ones(documents, np.bool_))):
            assert as_list(index.search(np.ones(4), 3, passage_offsets=offsets, mask=mask)) == []
            assert [as_list(h) for h in index.search_batch(np.ones((5, 4)), 3, passage_offsets=offsets)] == [[]] * 5
    assert index.search_batch(np.ones((0, 4)), 3, passage_offsets=np.zeros(1, np.uint32)) == []


def test_masks_per_query() -> None:
    rng = np.random.default_rng(11)
    vectors, queries = integers(rng, (300, 6)), integers(rng, (8, 6))
    offsets = grouped(rng, 300, 5)
    allowed = [None if i % 3 == 0 else rng.random(len(offsets) - 1) < (0.02 if i % 3 == 1 else 0.7) for i in range(8)]
    masks = [None if a is None else to_mask(a) for a in allowed]
    got = FlatIndex(vectors).search_batch(queries, 7, passage_offsets=offsets, masks=masks)
    for query, which, hits in zip(queries, allowed, got, strict=True):
        assert as_list(hits) == brute_force(vectors, query, 7, offsets, which)


def test_arguments() -> None:
    index = FlatIndex(np.zeros((3, 4), np.float32))
    offsets = np.arange(4, dtype=np.uint32)
    with pytest.raises(ShapeError):
        index.search(np.ones(5), 1, passage_offsets=offsets)
    with pytest.raises(ShapeError):
        index.search(np.ones((1, 4)), 1, passage_offsets=offsets)
    with pytest.raises(InvalidVectorError):
        index.search(np.full(4, np.nan), 1, passage_offsets=offsets)
    with pytest.raises(InvalidArgumentError):
        index.search(np.ones(4), 0, passage_offsets=offsets)
    with pytest.raises(ShapeError):
        index.search(np.ones(4), 1, passage_offsets=offsets[:-1])
    with pytest.raises(ShapeError):
        index.search(np.ones(4), 1, passage_offsets=offsets, mask=np.zeros(2, np.uint64))
    with pytest.raises(ShapeError):
        index.search_batch(np.ones((2, 4)), 1, passage_offsets=offsets, masks=[None])
    for vectors in (np.zeros((3, 4)), np.zeros(4, np.float32), np.zeros((4, 3), np.float32).T):
        with pytest.raises(ShapeError):
            FlatIndex(vectors)


# --- HNSW


def clustered(rng: np.random.Generator, count: int, dimension: int) -> F32:
    centres = np.random.default_rng(99).standard_normal((50, dimension), dtype=np.float32)
    found = centres[rng.integers(0, 50, count)] + rng.standard_normal((count, dimension), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def cluster() -> tuple[F32, NDArray[np.uint8], F32]:
    rng = np.random.default_rng(1)
    vectors = clustered(rng, 5000, 32)
    return vectors, build_hnsw(vectors), clustered(rng, 50, 32)


@pytest.fixture()
def graph_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of passages asked of the graph, which is always thought to pay."""
    calls: list[int] = []
    nearest = HNSWIndex._nearest

    def counted(self: HNSWIndex, queries: F32, count: int, width: int, bits: object) -> NDArray[np.int64]:
        calls.append(count)
        return nearest(self, queries, count, width, bits)  # type: ignore[arg-type]

    monkeypatch.setattr(HNSWIndex, "_nearest", counted)
    monkeypatch.setattr(hnsw, "_GRAPH_COST", 0)
    return calls


@pytest.mark.parametrize("share", [None, 0.5, 0.1])
@pytest.mark.parametrize("single", [True, False])
def test_hnsw_recall(
    cluster: tuple[F32, NDArray[np.uint8], F32], graph_calls: list[int], share: float | None, single: bool
) -> None:
    vectors, graph, queries = cluster
    rng = np.random.default_rng(4)
    offsets = np.arange(5001, dtype=np.uint32) if single else grouped(rng, 5000, 50)
    allowed = None if share is None else rng.random(len(offsets) - 1) < share
    mask = None if allowed is None else to_mask(allowed)
    index, flat = HNSWIndex(vectors, graph), FlatIndex(vectors)
    assert flat.exact and not index.exact
    found = 0
    batch = index.search_batch(queries, 10, passage_offsets=offsets, masks=mask)
    for query, hits in zip(queries, batch, strict=True):
        assert as_list(index.search(query, 10, passage_offsets=offsets, mask=mask)) == as_list(hits)
        truth = dict(enumerate(np.maximum.reduceat(scores(vectors, None, query), offsets[:-1][np.diff(offsets) > 0])))
        names = np.flatnonzero(np.diff(offsets))
        exact = {int(names[i]): score for i, score in truth.items()}
        for document, score, passage in as_list(hits):  # what is returned has its exact score and passage
            assert score == exact[document] and offsets[document] <= passage < offsets[document + 1]
            assert allowed is None or allowed[document]
        assert (np.diff(hits.scores) <= 0).all() and len(set(hits.documents.tolist())) == 10
        best = flat.search(query, 10, passage_offsets=offsets, mask=mask)
        found += len(np.intersect1d(best.documents, hits.documents))
    assert found / 500 >= 0.95
    assert graph_calls


def test_hnsw_asks_on_until_there_are_k_documents(
    cluster: tuple[F32, NDArray[np.uint8], F32], graph_calls: list[int]
) -> None:
    vectors, _, queries = cluster
    offsets = np.arange(0, 5001, 50, dtype=np.uint32)  # 100 documents of 50 passages
    vectors = vectors[np.argsort(vectors @ queries[0])]  # neighbours of the query share documents
    index = HNSWIndex(vectors, build_hnsw(vectors))
    hits = index.search(queries[0], 20, passage_offsets=offsets)
    assert len(hits.documents) == 20
    assert len(graph_calls) > 1 and graph_calls[1] == 2 * graph_calls[0]
    assert as_list(hits)[:3] == as_list(FlatIndex(index.vectors).search(queries[0], 3, passage_offsets=offsets))


def test_hnsw_is_exact_where_the_graph_does_not_pay(cluster: tuple[F32, NDArray[np.uint8], F32]) -> None:
    vectors, graph, queries = cluster
    index, flat = HNSWIndex(vectors, graph), FlatIndex(vectors)
    offsets = np.arange(5001, dtype=np.uint32)
    rare = to_mask(np.arange(5000) % 500 == 3)
    for k, mask in ((3, rare), (10_000, None)):
        got = index.search(queries[0], k, passage_offsets=offsets, mask=mask)
        assert as_list(got) == as_list(flat.search(queries[0], k, passage_offsets=offsets, mask=mask))
    assert index._graph_pays(dense._plan(offsets.astype(np.int64), None), 16)


def test_hnsw_falls_back_when_the_graph_comes_up_short(
    cluster: tuple[F32, NDArray[np.uint8], F32], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, graph, queries = cluster
    monkeypatch.setattr(hnsw, "_GRAPH_COST", 0)
    monkeypatch.setattr(HNSWIndex, "_nearest", lambda self, q, count, *_: np.full((len(q), count), -1))
    offsets = np.arange(5001, dtype=np.uint32)
    got = HNSWIndex(vectors, graph).search(queries[0], 5, passage_offsets=offsets)
    assert as_list(got) == as_list(FlatIndex(vectors).search(queries[0], 5, passage_offsets=offsets))


def test_hnsw_bytes_are_deterministic(cluster: tuple[F32, NDArray[np.uint8], F32]) -> None:
    vectors = cluster[0][:800]
    assert np.array_equal(build_hnsw(vectors), build_hnsw(vectors))


def test_damaged_hnsw_bytes(cluster: tuple[F32, NDArray[np.uint8], F32]) -> None:
    vectors = cluster[0][:300].copy()
    graph = build_hnsw(vectors)
    assert len(HNSWIndex(vectors, graph).search(vectors[0], 3, passage_offsets=np.arange(301, dtype=np.uint32))[0]) == 3
    for end in (0, 3, 4, 40, len(graph) // 2, len(graph) - 1):
        with pytest.raises(CorruptIndexError):
            HNSWIndex(vectors, graph[:end])
    for garbage in (np.zeros(1000, np.uint8), np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)):
        with pytest.raises(CorruptIndexError):
            HNSWIndex(vectors, garbage)
    with pytest.raises(CorruptIndexError, match="299 x 32, got 300 x 32"):
        HNSWIndex(vectors[:299], graph)
    with pytest.raises(CorruptIndexError, match="300 x 16"):
        HNSWIndex(vectors[:, :16].copy(), graph)
    with pytest.raises(CorruptIndexError):
        HNSWIndex(np.zeros((0, 32), np.float32), graph)


def test_flipped_bits_in_hnsw_bytes_are_refused_or_harmless(cluster: tuple[F32, NDArray[np.uint8], F32]) -> None:
    vectors = cluster[0][:300].copy()
    graph, offsets = build_hnsw(vectors), np.arange(301, dtype=np.uint32)
    rng = np.random.default_rng(6)
    refused = 0
    size = len(graph)
    places = [rng.integers(0, 120, 150), rng.integers(0, size, 150), rng.integers(size - 40, size, 50)]
    for place in np.concatenate(places):
        damaged = graph.copy()
        damaged[place] ^= np.uint8(1 << rng.integers(8))
        try:
            index = HNSWIndex(vectors, damaged)
        except CorruptIndexError:
            refused += 1
        else:
            index._nearest(vectors[:2], 5, 16, None)
            assert len(index.search(vectors[0], 5, passage_offsets=offsets).documents) == 5
    assert refused > 100


def test_importing_does_not_import_faiss() -> None:
    code = "import sys, sparsight.index.dense; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd="/").returncode == 0
