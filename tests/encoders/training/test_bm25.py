from __future__ import annotations

import math
import random
import zlib

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders.training import bm25
from sparsight.encoders.training.bm25 import bm25_impacts
from sparsight.errors import InvalidArgumentError
from sparsight.index.bm25 import BM25, STOP_WORDS, Analyzer

DOCUMENTS = ["The cat sat on the mat; cats sat", "A dog ran", "", "the dogs and a cat", "dog dog dog dog"]
QUERIES = ["cats", "dog cat dog", "unicorn", "", "the"]


def random_texts(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    words = [f"w{int(generator.paretovariate(0.7)) % 5000}" for _ in range(20_000)]
    words += ["running", "Runs", "the", "Größe", "naïve", "x", "don't", "snake_case", "2-fold", "日本語テキスト"] * 200
    return [" ".join(generator.choices(words, k=generator.randrange(40))) for _ in range(count)]


def reference(documents: list[str], queries: list[str], k1: float, b: float) -> np.ndarray:
    """Scores (Q, N) from the index's own analyser and formula."""
    analysed = [Analyzer().terms(text) for text in documents]
    lengths = np.array([len(terms) for terms in analysed], float)
    found = np.zeros((len(queries), len(documents)))
    for i, query in enumerate(queries):
        for term in Analyzer().terms(query):
            tf = np.array([terms.count(term) for terms in analysed])
            weight = BM25.idf((tf > 0).sum(), len(documents)) * BM25(k1, b).impact(tf, lengths, lengths.mean())
            found[i] += weight / (k1 + 1)  # the index keeps the factor
    return found


def scores(impacts: bm25.BM25Impacts) -> np.ndarray:
    return (impacts.queries @ impacts.documents.T).toarray()


def check(matrix: csr_matrix) -> None:
    assert matrix.dtype == np.float32 and matrix.indices.dtype == np.int32
    assert matrix.has_canonical_format and (matrix.data > 0).all() and np.isfinite(matrix.data).all()


def test_by_hand() -> None:
    impacts = bm25_impacts(DOCUMENTS, QUERIES, k1=1.2, b=0.75, buckets=0)
    # cat and dog: cat in documents 0 and 3; dog in 1, 3 and 4; then by the alphabet.
    assert impacts.terms == ["dog", "cat", "mat", "ran", "sat"]
    average = (5 + 2 + 0 + 2 + 4) / 5
    expected = 2 / (2 + 1.2 * (0.25 + 0.75 * 5 / average))
    assert impacts.documents[0, 1] == pytest.approx(expected)
    assert impacts.queries[1, 0] == pytest.approx(2 * math.log(1 + 2.5 / 3.5))
    assert impacts.queries[0, 1] == pytest.approx(math.log(1 + 3.5 / 2.5))
    assert np.diff(impacts.documents.indptr).tolist() == [3, 2, 0, 2, 1]
    assert np.diff(impacts.queries.indptr).tolist() == [1, 2, 0, 0, 0]


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0.0, 0.4), (2.0, 0.0)])
def test_it_is_the_bm25_of_the_index(k1: float, b: float) -> None:
    documents, queries = random_texts(200), random_texts(30, seed=1)
    impacts = bm25_impacts(documents, queries, k1=k1, b=b)
    check(impacts.documents)
    check(impacts.queries)
    np.testing.assert_allclose(scores(impacts), reference(documents, queries, k1, b), rtol=1e-5, atol=1e-6)


def test_the_analysis_is_that_of_the_index() -> None:
    assert bm25.STOP_WORDS == STOP_WORDS
    texts = [*random_texts(300), *DOCUMENTS, "The U.S.A.'s e-mail; İstanbul STRASSE x1 _a__b 3.14 naïve cafés"]
    impacts = bm25_impacts(texts, [], buckets=0, terms=1 << 20)
    for row, text in enumerate(texts):
        found = {impacts.terms[column] for column in impacts.documents[row].indices}
        assert found == set(Analyzer().terms(text))


def test_rare_terms_share_buckets() -> None:
    documents, queries = random_texts(300), random_texts(20, seed=1)
    whole = bm25_impacts(documents, queries, buckets=0, terms=1 << 20)
    some = bm25_impacts(documents, queries, terms=50, buckets=7)
    assert some.terms == whole.terms[:50] and some.documents.shape == (300, 57) and some.queries.shape == (20, 57)
    check(some.documents)
    np.testing.assert_array_equal(some.documents[:, :50].toarray(), whole.documents[:, :50].toarray())
    np.testing.assert_array_equal(some.queries[:, :50].toarray(), whole.queries[:, :50].toarray())
    bucket = [50 + zlib.crc32(term.encode()) % 7 for term in whole.terms[50:]]
    has = np.zeros((300, 57), bool)
    for term, column in enumerate(bucket, start=50):
        has[:, column] |= whole.documents[:, [term]].toarray()[:, 0] > 0
    np.testing.assert_array_equal(some.documents[:, 50:].toarray() > 0, has[:, 50:])
    dropped = bm25_impacts(documents, queries, terms=50, buckets=0)
    np.testing.assert_array_equal(dropped.documents.toarray(), whole.documents[:, :50].toarray())


def test_a_bucket_is_one_term() -> None:
    impacts = bm25_impacts(["aa aa aa", "aa bb cc", "bb"], ["cc", "bb cc"], terms=1, buckets=1, k1=1.0, b=0.0)
    assert impacts.terms == ["aa"]
    np.testing.assert_allclose(impacts.documents.toarray(), [[3 / 4, 0], [1 / 2, 2 / 3], [0, 1 / 2]])
    idf = math.log(1 + 1.5 / 2.5)  # in two of three
    np.testing.assert_allclose(impacts.queries.toarray(), [[0, idf], [0, 2 * idf]], rtol=1e-6)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_nothing(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, queries = random_texts(500), random_texts(50, seed=1)
    expected = bm25_impacts(documents, queries, terms=100, buckets=10)
    monkeypatch.setattr(bm25, "_TEXTS_AT_ONCE", 64)
    found = bm25_impacts(documents, queries, terms=100, buckets=10, processes=processes)
    assert found.terms == expected.terms
    for mine, theirs in ((found.documents, expected.documents), (found.queries, expected.queries)):
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(mine, part), getattr(theirs, part))


@pytest.mark.parametrize(("documents", "queries"), [([], []), ([], ["cat"]), ([""], ["the"]), (["cat"], [])])
def test_next_to_nothing(documents: list[str], queries: list[str]) -> None:
    impacts = bm25_impacts(documents, queries, buckets=4)
    assert impacts.documents.shape[0] == len(documents) and impacts.queries.shape[0] == len(queries)
    assert impacts.documents.shape[1] == impacts.queries.shape[1] == len(impacts.terms) + 4
    assert scores(impacts).shape == (len(queries), len(documents))


@pytest.mark.parametrize("arguments", [{"k1": -1.0}, {"k1": math.nan}, {"b": 1.1}, {"terms": 0}, {"buckets": -1},
                                       {"processes": 0}])
def test_settings_are_checked(arguments: dict[str, float]) -> None:
    (value,) = arguments.values()
    with pytest.raises(InvalidArgumentError, match=f"got .*{value}"):
        bm25_impacts(DOCUMENTS, QUERIES, **arguments)  # type: ignore[arg-type]
