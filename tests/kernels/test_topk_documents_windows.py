"""The exact search at the edges of windows and blocks, under masks, and in each mode: always the oracle's answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsight.kernels import available_paths, topk_documents

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
each_path = pytest.mark.parametrize("path", PATHS)
each_native_path = pytest.mark.parametrize("path", NATIVE)

WINDOW, BLOCK = 8_192, 65_536


# --- edges ------------------------------------------------------------------------------------------------

SIZES = [0, 1, 2, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1]


@pytest.fixture(scope="module", params=SIZES)
def n_passages(request):
    return request.param


@pytest.fixture(scope="module", params=[1, 3], ids=["single", "three-passages"])
def edges(request, n_passages, corpus_of_matrix):
    """Terms in all passages (0), one of 60 (1), the last (2), at the edges of windows (3) and of groups of 64 (4)."""
    rng = np.random.default_rng(n_passages)
    passages = np.arange(n_passages)
    rows = np.zeros((n_passages, 5), np.int64)
    rows[:, 0] = rng.integers(1, 256, n_passages)
    rows[:, 1] = np.where(rng.random(n_passages) < 1 / 60, rng.integers(1, 256, n_passages), 0)
    rows[-1:, 2] = 200
    rows[np.isin(passages % WINDOW, [0, 1, WINDOW - 2, WINDOW - 1]), 3] = 9
    rows[np.isin(passages % 64, [0, 31, 32, 63]), 4] = 255
    lengths = [request.param] * (n_passages // request.param)
    if n_passages % request.param:  # 8,192 is no multiple of 3: documents straddle windows, and blocks
        lengths.append(n_passages % request.param)
    return corpus_of_matrix(rows, [0, 1, 2, 3, 4], lengths)


QUERIES = {
    "all": {0: 1, 1: 2, 2: 3, 3: 4, 4: 5},
    "dense": {0: 7},
    "rare": {1: 300, 2: 1},
    "last": {2: 1},
    "edges": {3: 1},  # nothing but ties
    "groups": {4: 32_767},
    "mixed": {0: -3, 1: 5, 3: 100, 4: -1},
    "negative": {0: -1, 2: -5},
    "heavy": {0: 32_767, 1: 32_767, 2: -32_767, 3: 32_767, 4: 32_767},  # 16 bits would overflow
}


@pytest.mark.parametrize("name", QUERIES)
def test_every_size_agrees_with_the_oracle(edges, name):
    weights = QUERIES[name]
    ks = [1, 10, 100, 1_000]
    if edges.rows.shape[0] <= WINDOW + 1:
        ks += [len(edges.lengths) + 1, 100_000]
    whole = edges.best(weights, max(ks))
    for path in PATHS:
        for k in ks:
            assert edges.search(weights, k, path=path)[0] == whole[:k], (path, k)


@each_path
def test_ties_across_windows_and_blocks(corpus_of_matrix, path):
    """Equal scores everywhere but for one better passage in the second block: the lowest numbers win."""
    n = BLOCK + 300
    rows = np.zeros((n, 2), np.int64)
    rows[::7, 0] = 5
    rows[BLOCK + 77, 1] = 5
    for length in (1, 4):
        corpus = corpus_of_matrix(rows, [1, 2], [length] * (n // length))
        for k in (1, 2, 60, 2_000, 20_000):
            assert corpus.search({1: 10, 2: 11}, k, path=path)[0] == corpus.best({1: 10, 2: 11}, k)


@each_path
def test_a_document_over_several_windows(corpus_of_matrix, path):
    """One document of 20,000 passages, its best one in the middle of equals; neighbours of one passage each."""
    rows = np.ones((20_100, 1), np.int64)
    rows[[9_000, 9_500, 17_000]] = 9
    rows[0], rows[20_099] = 7, 8
    corpus = corpus_of_matrix(rows, [1], [1] * 50 + [20_000] + [1] * 50)
    found, _ = corpus.search({1: 1}, 3, path=path)
    assert found == [(50, 9, 9_000), (100, 8, 20_099), (0, 7, 0)]
    assert corpus.search({1: 1}, 101, path=path)[0] == corpus.best({1: 1}, 101)


@each_path
def test_rare_terms_far_apart(corpus_of_matrix, path):
    """Blocks that no term touches are passed over, by terms that have postings behind them too."""
    n = 3 * BLOCK
    rows = np.zeros((n, 3), np.int64)
    rows[[3, n - 1], 0] = 4
    rows[n - 1, 1] = 9
    rows[2 * BLOCK :, 2] = 1
    corpus = corpus_of_matrix(rows, [1, 2, 5], [1] * n)
    found, work = corpus.search({1: 10, 2: 1, 5: -2}, 5, path=path)
    assert found == [(n - 1, 47, n - 1), (3, 40, 3)]
    if path != "reference":
        assert work.passages == 2 * 2 * BLOCK  # twice: two matches are fewer than k, hence another scan
        assert corpus.search({1: 10, 5: -2}, 1, path=path)[1].passages == 2 * BLOCK


# --- numbers of terms -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_corpus(random_corpus):
    rng = np.random.default_rng(7)
    return random_corpus(7, 20_000, rng.choice([0.002, 0.03, 0.05, 0.4], (3, 300)), grouped=False)


@each_path
@pytest.mark.parametrize("n_terms", [1, 2, 3, 7, 8, 64, 300])
def test_any_number_of_terms(wide_corpus, path, n_terms):
    rng = np.random.default_rng(n_terms)
    for low, high in [(1, 1000), (-300, 1000), (-28_000, 28_000)]:
        chosen = rng.choice(wide_corpus.term_ids, n_terms, replace=False).tolist()
        weights = {term: int(rng.integers(low, high)) for term in chosen}
        for k in (1, 10, 100):
            found, work = wide_corpus.search(weights, k, path=path)
            assert found == wide_corpus.best(weights, k)
            if path != "reference" and low == 1 and n_terms > 1:
                assert work.terms == n_terms
                assert work.mode == "exact"
                assert work.rescored < 20_000  # the scan left out most
                assert (work.postings, work.passages) == (postings_of_terms(wide_corpus, chosen), 20_000)


def postings_of_terms(corpus, terms):
    return int(corpus.postings.frequencies[np.isin(corpus.postings.term_ids, terms)].sum())


# --- modes ------------------------------------------------------------------------------------------------


@each_native_path
def test_scores_too_small_for_fixed_point_are_found_in_32_bits(corpus_of_matrix, path):
    """Beside weights of 32,767 a score of 1 is less than a step of the 16-bit sums."""
    rows = np.zeros((20_000, 3), np.int64)
    rows[:30, :2] = 255
    rows[10_000:, 2] = np.arange(10_000) % 255 + 1
    corpus = corpus_of_matrix(rows, [1, 2, 3], [1] * 20_000)
    weights = {1: 32_767, 2: 32_767, 3: 1}
    for k, mode in [(30, "exact"), (31, "exact-32"), (200, "exact-32"), (20_000, "exact-32")]:
        found, work = corpus.search(weights, k, path=path)
        assert (found, work.mode) == (corpus.best(weights, k), mode)
    # A threshold that is clear of the small scores needs them no more, and 16 bits will do.
    found, work = corpus.search(weights, 200, min_score=10**6, path=path)
    assert (found, work.mode) == (corpus.best(weights, 30), "exact")


@each_native_path
def test_fewer_matches_than_k(random_corpus, path):
    corpus = random_corpus(2, 30_000, [[0.001, 0, 0.0005, 0.002]], grouped=True)
    weights = {term: 5 for term in corpus.term_ids.tolist()}
    matches = len(corpus.best(weights, 30_000))
    for k in (matches - 1, matches, matches + 1, 30_000):
        assert corpus.search(weights, k, path=path)[0] == corpus.best(weights, k)
    assert corpus.search(weights, matches + 1, path=path)[1].mode == "exact-32"


@each_native_path
def test_very_many_terms_are_summed_in_32_bits(corpus_of, path):
    """The rounding of 5,000 terms would fill the 16-bit sums."""
    rows = [{term: 1 + (term * passage) % 7 for term in range(passage, 5_000)} for passage in range(1, 40)]
    corpus = corpus_of(rows, [1] * 19 + [20])
    weights = {term: 1 + term % 300 for term in range(5_000)}
    for k in (1, 5, 50):
        found, work = corpus.search(weights, k, path=path)
        assert (found, work.mode) == (corpus.best(weights, k), "exact-32")


@each_native_path
@pytest.mark.parametrize("signs", [(1, 1000), (-1000, 1000)], ids=["positive", "both"])
@pytest.mark.parametrize("grouped", [False, True], ids=["single", "grouped"])
def test_queries_of_many_more_terms_than_a_passage_holds(corpus_of, path, signs, grouped):
    """Rounding and the largest sum are by what a passage can hold, so few have to be scored again."""
    rng = np.random.default_rng(5)
    n, terms, held = WINDOW + 3_000, 300, 8
    rows = [dict(zip(rng.choice(terms, held, replace=False).tolist(), rng.integers(1, 256, held).tolist(), strict=True))
            for _ in range(n)]
    corpus = corpus_of(rows, [1] * (n - 100) + [50, 50] if grouped else [1] * n)
    weights = {term: int(rng.integers(*signs)) or 1 for term in range(terms)}
    unknown = replace(corpus, postings=replace(corpus.postings, most_terms=2**32 - 1))
    assert corpus.postings.most_terms == held
    for k in (1, 10, 100):
        found, work = corpus.search(weights, k, path=path)
        without, more = unknown.search(weights, k, path=path)
        assert found == without == corpus.best(weights, k)
        assert (work.mode, more.mode) == ("exact", "exact")
        assert k <= work.rescored < k + 40
        assert more.rescored > 3 * work.rescored


@each_path
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_all_terms_that_a_passage_can_hold_fit(corpus_of, path, sign):
    """The strongest terms at their largest impacts, in bitmaps and in a list, and passages that lack one of them."""
    full = dict.fromkeys(range(6), 255)
    rows = [full if p % 900 == 0 else dict.fromkeys(range(5), 250) if p % 20 == 0 else {6 + p % 40: 255}
            for p in range(9_000)]
    corpus = corpus_of(rows, [1] * len(rows))
    weights = {term: 900 * sign if term < 6 else 700 for term in range(46)}
    for k in (1, 9, 200):
        found, work = corpus.search(weights, k, path=path)
        assert found == corpus.best(weights, k)
        assert path == "reference" or work.mode == "exact"


# --- masks ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["single", "grouped"])
def masked(request, random_corpus):
    return random_corpus(4, BLOCK + 5_000, np.full((9, 12), 0.05), grouped=request.param)


@each_path
@pytest.mark.parametrize(
    ("allow", "mode"),
    [(0.1, "exact"), (0.01, "exact"), (0.001, None), (10, "chosen"), (1, "chosen"), (0, "chosen"), (1.0, "exact")],
)
def test_masks(masked, path, allow, mode):
    """Where the filter allows few, these are scored one by one; elsewhere it is looked at within the scan."""
    n = len(masked.lengths)
    rng = np.random.default_rng(11)
    allowed = rng.choice(n, allow if isinstance(allow, int) else int(allow * n), replace=False).tolist()
    for low in (1, -300):
        weights = {term: int(rng.integers(low, 1000)) for term in masked.term_ids.tolist()}
        for k, min_score in [(1, 0), (10, 0), (10, 50_000)]:
            found, work = masked.search(weights, k, allowed=allowed, min_score=min_score, path=path)
            assert found == masked.best(weights, k, allowed=allowed, min_score=min_score)
            if path != "reference" and mode is not None:
                assert work.mode == mode
            if work.mode == "chosen":
                assert work.rescored == masked.lengths[allowed].sum()


@each_native_path
def test_windows_without_an_allowed_document_are_not_scanned(masked, path):
    first = np.cumsum(masked.lengths) - masked.lengths  # first passage of each document
    inside = np.flatnonzero((first >= 3 * WINDOW) & (first + masked.lengths <= 4 * WINDOW))
    weights = {term: 3 for term in masked.term_ids.tolist()}
    found, work = masked.search(weights, 20, allowed=inside.tolist(), path=path)
    assert found == masked.best(weights, 20, allowed=inside.tolist())
    assert (work.mode, work.passages) == ("exact", WINDOW)


@each_native_path
@pytest.mark.parametrize("n", [64, 65, WINDOW - 1, WINDOW + 63, BLOCK + 1])
def test_bits_beyond_the_last_document_mean_nothing(corpus_of_matrix, path, n):
    corpus = corpus_of_matrix(np.full((n, 1), 3), [1], [1] * n)
    mask = np.full(-(-n // 64), 2**64 - 1, np.uint64)
    assert corpus.search({1: 2}, n + 5, path=path)[0] == [(d, 6, d) for d in range(n)]
    found = topk_documents(corpus.postings, *corpus.arrays({1: 2}), n + 5, mask=mask, path=path)
    assert found.documents.tolist() == list(range(n))
