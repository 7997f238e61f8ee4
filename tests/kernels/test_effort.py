"""Approximate searches: what they return is true, what they may leave out was asked for, and work is counted."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.kernels import EXACT, Effort, available_paths

NATIVE = [path for path in available_paths() if path != "reference"]
each_native_path = pytest.mark.parametrize("path", NATIVE)

UNCHECKED = -1.0
AMPLE = 10**12  # A budget that nothing needs. Without one, a search is exact where that is predicted to be quicker.


def assert_true(corpus, weights, found, k, allowed=None, min_score=0):
    """Every hit is what the rows say of its passage, in order, and allowed."""
    scores = corpus.scores(weights)
    ends = np.cumsum(corpus.lengths)
    documents = [document for document, _, _ in found]
    assert len(found) <= k
    assert len(set(documents)) == len(documents)
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    for document, score, passage in found:
        assert score == scores[passage] > max(0, min_score)
        assert ends[document] - corpus.lengths[document] <= passage < ends[document]
        assert allowed is None or document in allowed


@pytest.fixture(scope="module")
def corpus(random_corpus):
    """40 terms from rare to dense over four windows."""
    densities = np.random.default_rng(1).choice([0.002, 0.02, 0.05, 0.3], (4, 40))
    return random_corpus(1, 30_000, densities, grouped=False)


@pytest.fixture(scope="module")
def skewed(corpus):
    """A query of a few heavy terms and many light ones, all positive; the heaviest are frequent."""
    by_frequency = corpus.postings.term_ids[np.argsort(corpus.postings.frequencies, kind="stable")[::-1]]
    return {term: 1 + int(3_000 / (1 + rank) ** 1.2) for rank, term in enumerate(by_frequency.tolist())}


def recall(found, expected):
    return len({document for document, _, _ in found} & {document for document, _, _ in expected}) / len(expected)


# --- by hand ----------------------------------------------------------------------------------------------

# A term of weight 100, and one of weight 60 that only passage 1 has.
HAND = [{1: 10}, {1: 9, 2: 5}, {1: 8}, {1: 7}, {1: 6}]


@each_native_path
def test_the_pool_is_what_all_terms_score(corpus_of, path):
    few = corpus_of(HAND, [1] * 5)
    weights = {1: 100, 2: 60}  # 1000, 1200, 800, 700, 600
    found, work = few.search(weights, 1, path=path, effort=Effort(0.5, 0, UNCHECKED))
    assert (found, work.mode, work.terms, work.rescored) == ([(0, 1000, 0)], "approximate", 1, 1)
    for pool in (2, 3, 5, 1000):
        found, work = few.search(weights, 1, path=path, effort=Effort(0.5, pool, UNCHECKED))
        assert (found, work.mode, work.rescored) == ([(1, 1200, 1)], "approximate", min(pool, 5))
    found, work = few.search(weights, 3, path=path, effort=Effort(0.5, 1, UNCHECKED))  # at least k are scored
    assert (found, work.rescored) == ([(1, 1200, 1), (0, 1000, 0), (2, 800, 2)], 3)


@each_native_path
def test_mass_chooses_terms_by_their_bounds(corpus_of, path):
    """Bounds of 1000 (weight 100), 300 (weight 60) and 200 (weight 1): two thirds, and more, and all."""
    few = corpus_of([*HAND, {3: 200}], [1] * 6)
    weights = {1: 100, 2: 60, 3: 1}
    for mass, terms in [(0.01, 1), (0.66, 1), (0.67, 2), (0.86, 2), (0.88, 3)]:
        work = few.search(weights, 2, path=path, effort=Effort(mass, 0, UNCHECKED))[1]
        assert work.terms == terms
        assert work.mode == ("approximate" if terms < 3 else "exact")


@each_native_path
def test_the_check_starts_again_where_a_passage_might_have_been_missed(corpus_of, path):
    few = corpus_of(HAND, [1] * 5)
    # The pool of two gained 0 and 300, 150 on average: that would not lift 900 above 1200.
    found, work = few.search({1: 100, 2: 60}, 1, path=path, effort=Effort(0.5, 2, 0.0, AMPLE))
    assert (found, work.mode, work.terms) == ([(1, 1200, 1)], "approximate", 1)
    # The k-th best of two has 1000, which 900 and half of 300 would pass: it is searched again, exactly.
    found, work = few.search({1: 100, 2: 60}, 2, path=path, effort=Effort(0.5, 2, 0.0, AMPLE))
    assert (found, work.mode, work.terms) == ([(1, 1200, 1), (0, 1000, 0)], "exact", 2)
    # Fewer documents than k hold the strong term: the others may be anywhere.
    few = corpus_of([*HAND, {2: 1}], [1] * 6)
    found, work = few.search({1: 100, 2: 60}, 6, path=path, effort=Effort(0.5, 0, 0.0, AMPLE))
    assert (found[-1], len(found), work.mode, work.terms) == ((5, 60, 5), 6, "exact", 2)


@each_native_path
def test_small_segments_are_searched_exactly(corpus_of, path):
    """Where scoring the pool would take longer than scanning the remaining terms, unless told not to check."""
    few = corpus_of(HAND, [1] * 5)
    for recall in (0.9, 0.99, 1.0):
        found, work = few.search({1: 100, 2: 60}, 2, path=path, effort=Effort.for_recall(recall, 2))
        assert (found, work.mode) == (few.best({1: 100, 2: 60}, 2), "exact")


def test_effort_for_a_recall():
    assert Effort.for_recall(1.0, 10) == EXACT
    efforts = [Effort.for_recall(recall, 10) for recall in (0.5, 0.9, 0.95, 0.96, 0.999)]
    for lower, higher in pairwise(efforts):
        assert 0 < lower.mass <= higher.mass < 1
        assert 0 <= lower.deviations <= higher.deviations
        assert 10 <= lower.pool <= higher.pool
    assert efforts[0].mass < efforts[-1].mass
    assert Effort.for_recall(0.9, 1_000).pool >= 1_000


# --- recall -----------------------------------------------------------------------------------------------


@each_native_path
def test_all_the_mass_is_exact(corpus, skewed, path):
    expected = corpus.best(skewed, 20)
    for effort in (EXACT, Effort(1.0), Effort(1.0, 500, 3.0), Effort(mass=1.0, deviations=UNCHECKED)):
        found, work = corpus.search(skewed, 20, path=path, effort=effort)
        assert (found, work.mode, work.terms) == (expected, "exact", 40)
        assert work.postings == corpus.postings.n_postings
        assert work.passages == 30_000
        assert 20 <= work.rescored < 2_000


@each_native_path
def test_negative_weights_are_searched_exactly(corpus, skewed, path):
    mixed = {term: weight if rank % 3 else -weight for rank, (term, weight) in enumerate(skewed.items())}
    found, work = corpus.search(mixed, 20, path=path, effort=Effort(0.3, 20, UNCHECKED))
    assert (found, work.mode, work.terms) == (corpus.best(mixed, 20), "exact", 40)


@each_native_path
def test_less_mass_is_less_work_and_a_larger_pool_more_recall(corpus, skewed, path):
    expected = corpus.best(skewed, 20)
    terms, recalls = [], []
    for mass in (0.2, 0.5, 0.8, 0.95):
        for pool in (0, 100, 2_000):
            found, work = corpus.search(skewed, 20, path=path, effort=Effort(mass, pool, UNCHECKED))
            assert_true(corpus, skewed, found, 20)
            assert work.mode == "approximate"
            assert work.rescored >= max(20, pool)
            recalls.append(recall(found, expected))
        terms.append(work.terms)
    assert 1 <= terms[0] < terms[1] < terms[2] < terms[3] < 40
    by_mass = np.reshape(recalls, (4, 3))
    assert (by_mass[:, 2] >= by_mass[:, 0]).all()
    assert by_mass[0, 0] < 1  # or nothing was approximate
    assert by_mass[3, 2] == 1


@each_native_path
def test_many_deviations_find_everything(corpus, skewed, path):
    expected = corpus.best(skewed, 20)
    for mass in (0.3, 0.6, 0.9):
        assert corpus.search(skewed, 20, path=path, effort=Effort(mass, 100, 1e9, AMPLE))[0] == expected


@each_native_path
def test_a_strict_check_has_the_whole_answer(random_corpus, path):
    """With boundless deviations what the other terms could add at most is what counts, and nothing may be missed."""
    modes = set()
    for seed in range(25):
        rng = np.random.default_rng(seed)
        densities = rng.choice([0.05, 0.4, 1], (1, int(rng.integers(2, 8))))
        made = random_corpus(seed, 2_000, densities, grouped=bool(seed % 2), top=int(rng.choice([2, 7, 255])))
        weights = {t: int(rng.choice([1, 2, 3, 200, 210, 30_000])) for t in made.term_ids.tolist()}
        for k, mass, pool in product((1, 10, 100), (0.3, 0.7, 0.99), (0, 100)):
            effort = Effort(mass, pool, math.inf, AMPLE)
            found, work = made.search(weights, k, path=path, effort=effort)
            assert found == made.best(weights, k), (seed, k, effort, work)
            modes.add(work.mode)
    assert {"approximate", "exact"} <= modes


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_passages=st.sampled_from([1, 500, 8_193, 20_000]),
    densities=st.lists(st.sampled_from([0.0005, 0.02, 0.05, 0.6, 1]), min_size=1, max_size=12),
    grouped=st.booleans(),
    low=st.sampled_from([1, -50]),
    mass=st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
    pool=st.sampled_from([0, 1, 30, 2**40]),
    deviations=st.sampled_from([-1.0, 0.0, 2.0, math.inf, -math.inf]),
    budget_ns=st.sampled_from([0, 0, 1, 5_000, 10**12, 2**62]),
    share=st.sampled_from([None, 0.3, 0.001]),
    min_score=st.sampled_from([0, 1_000]),
    k=st.sampled_from([1, 10, 70, 30_000]),
)
def test_no_effort_misjudges_a_passage(
    random_corpus, seed, n_passages, densities, grouped, low, mass, pool, deviations, budget_ns, share, min_score, k
):
    made = random_corpus(seed, n_passages, densities, grouped=grouped)
    rng = np.random.default_rng(seed)
    weights = {term: int(rng.integers(low, 1_000)) for term in made.term_ids.tolist()}
    allowed = None if share is None else set(np.flatnonzero(rng.random(len(made.lengths)) < share).tolist())
    whole = made.best(weights, k, allowed=allowed, min_score=min_score)
    for path in NATIVE:
        found, work = made.search(weights, k, path=path, allowed=allowed, min_score=min_score,
                                  effort=Effort(mass, pool, deviations, budget_ns))  # fmt: skip
        assert_true(made, weights, found, k, allowed, min_score)
        assert work.terms <= len(weights)
        if work.mode in ("exact", "exact-32", "chosen"):
            assert found == whole
        else:
            assert mass < 1 or budget_ns > 0


# --- budget -----------------------------------------------------------------------------------------------


@each_native_path
@pytest.mark.parametrize("deviations", [UNCHECKED, 0.0, 100.0])
def test_a_budget_that_ends_at_once_cuts_the_search(corpus, skewed, path, deviations):
    found, work = corpus.search(skewed, 20, path=path, effort=Effort(0.9, 0, deviations, 1))
    assert_true(corpus, skewed, found, 20)
    assert (work.mode, work.terms) == ("cut", 1)
    assert work.passages < 30_000


@each_native_path
def test_a_large_budget_leaves_nothing_out(corpus, skewed, path):
    found, work = corpus.search(skewed, 20, path=path, effort=Effort(1.0, 1_000, 3.0, AMPLE))
    assert (found, work.terms, work.passages) == (corpus.best(skewed, 20), 40, 30_000)
    assert work.mode in ("approximate", "exact")


@each_native_path
def test_a_budget_never_takes_away_what_was_found(corpus, skewed, path):
    """A check that fails calls for a second scan; where the budget ends within it, the first one's answer stands."""
    expected = corpus.best(skewed, 20)
    modes = set()
    for budget_us in np.geomspace(1, 3_000, 60).tolist():
        found, work = corpus.search(skewed, 20, path=path, effort=Effort(0.5, 20, math.inf, int(budget_us * 1_000)))
        assert_true(corpus, skewed, found, 20)
        modes.add(work.mode)
        if work.mode in ("exact", "exact-32"):
            assert found == expected
        elif work.passages >= 30_000:
            assert len(found) == 20  # a whole scan was made
    assert "cut" in modes
