"""Sections of the report on autoencoders, systems 1 to 9: rows are well formed, and met as their figures say."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from benches.quality.criteria import asked, row
from benches.sae.data import Data
from benches.sae.l1_relu import L1Run, _better, _between, tuned
from benches.sae.lab import Lab, measured
from benches.sae.sections import find, names
from benches.sae.sections._labels import Labelled, labelled, share_right, v_measure
from benches.sae.sections.archetypal import _agreement
from benches.sae.sections.scaling_law import _between as _ks_between
from benches.sae.sections.sparse_codes import _differing
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.judged_vectors import JudgedVectors

_WIDTH = 32
_CATEGORIES = ("cs.LG", "math.AG", "astro-ph", "stat.ML", "cs.CL", "wiki")
_SYSTEMS = {"sparse_codes": {1, 3}, "scaling_law": {2, 4}, "contrastive": {5, 6}, "matryoshka": {7}, "gradient": {8},
            "archetypal": {9}}  # fmt: skip
_KINDS = {"sparse_codes": {"activations"}, "scaling_law": {"grid", "scaling", "budgets"},
          "contrastive": {"contrast", "few_latents"}, "matryoshka": {"matryoshka"}, "gradient": {"gradient"},
          "archetypal": {"archetypal"}}  # fmt: skip
_KEYS = ["kind", "system", "name", "asks", "asked", "bound", "measured", "unit", "met", "note"]


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _data() -> Data:
    """Rows around a centre a category, each a mix of a few of 40 atoms; queries are rows with noise."""
    rng = np.random.default_rng(0)
    atoms, centres = _unit(rng.standard_normal((40, _WIDTH))), _unit(rng.standard_normal((len(_CATEGORIES), _WIDTH)))
    category = rng.integers(0, len(_CATEGORIES), 800)
    mixes = rng.exponential(size=(800, 40)) * (rng.random((800, 40)) < 0.1)
    x = _unit(centres[category] + mixes @ atoms + 0.05 * rng.standard_normal((800, _WIDTH)))
    own, held = x[:600], x[600:]
    queries = _unit(own[:80] + 0.1 * rng.standard_normal((80, _WIDTH)))
    names = [_CATEGORIES[at] for at in category]

    def judged(name: str) -> JudgedVectors:
        of = rng.permutation(600)[:20]
        qrels = np.stack([np.arange(20), of, np.ones(20, np.int64)], axis=1)
        return JudgedVectors(name, own, _unit(own[of] + 0.15 * rng.standard_normal((20, _WIDTH))), qrels)

    test = {name: judged(name) for name in ("scifact", "cranfield", "cacm", "arxiv_cs", "arxiv_sci")}
    dev = {name: judged(name) for name in ("scitldr", "medquad", "squad_sent", "arxiv_dev")}
    return Data(own, held, names[:600], names[600:], names[:600], names[600:],
                Neighbours(queries, nearest(queries, own, 8).rows), test, dev, "cpu", True, "tiny")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(_data(), tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def rows(lab: Lab) -> Callable[[str], list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}

    def of(name: str) -> list[dict[str, Any]]:
        if name not in found:
            found[name] = find(name)(lab)
        return found[name]

    return of


@pytest.mark.parametrize("name", _SYSTEMS)
def test_rows_are_well_formed(name: str, rows: Any) -> None:
    found = rows(name)
    assert name in names()
    assert {of["kind"] for of in found} == _KINDS[name] | {"systems"}
    json.dumps(found)  # plain values only
    columns = {of["kind"]: set(of) for of in found}
    assert all(set(of) == columns[of["kind"]] for of in found)  # a kind is a table


@pytest.mark.parametrize("name", _SYSTEMS)
def test_met_follows_from_the_figures(name: str, rows: Any) -> None:
    found = [of for of in rows(name) if of["kind"] == "systems"]
    assert {of["system"] for of in found} == _SYSTEMS[name]
    for of in found:
        assert list(of) == _KEYS
        assert of["met"] is ({"at least": of["measured"] >= of["asked"], "at most": of["measured"] <= of["asked"]}
                             [of["bound"]])
        assert of["note"] and of["unit"] and of["asks"]


def _criterion(found: list[dict[str, Any]], system: int, words: str) -> dict[str, Any]:
    (one,) = [of for of in found if of["kind"] == "systems" and of["system"] == system and words in of["asks"]]
    return one


def test_sparse_codes_compare_equal_sparsity(rows: Any) -> None:
    found = rows("sparse_codes")
    of = {(one["activation"], one["k"]): one for one in found if one["kind"] == "activations"}
    ks = sorted({k for _, k in of})
    assert all(of["TopK", k]["l0"] <= k for k in ks)
    off = max(abs(of["BatchTopK", k]["l0"] / k - 1) for k in ks)
    assert _criterion(found, 3, "within 2 %")["measured"] == pytest.approx(100 * off, rel=1e-3)
    worst = max(of["BatchTopK", k]["fvu"] / of["TopK", k]["fvu"] for k in ks)
    assert _criterion(found, 3, "no higher than TopK")["measured"] == pytest.approx(worst, rel=1e-3)
    assert _criterion(found, 3, "same bits")["measured"] == 0
    penalised = _criterion(found, 1, "L1-ReLU")
    if all(of["L1-ReLU", k]["l0"] <= 1.1 * k for k in ks):
        worst = max(of["TopK", k]["fvu"] / of["L1-ReLU", k]["fvu"] for k in ks)
        assert penalised["measured"] == pytest.approx(worst, rel=1e-3)
    else:
        assert np.isnan(penalised["measured"]) and not penalised["met"]


def test_grid_has_every_cell_and_falls(rows: Any) -> None:
    found = rows("scaling_law")
    grid = {(of["n_latents"], of["k"]): of["fvu"] for of in found if of["kind"] == "grid"}
    sizes, ks = ({cell[at] for cell in grid} for at in (0, 1))
    assert len(grid) == len(sizes) * len(ks) == 12
    assert all(grid[n, max(ks)] < grid[n, min(ks)] for n in sizes)
    budgets = {multi: [(of["k"], of["fvu"]) for of in found if of["kind"] == "budgets" and of["multi"] == multi]
               for multi in (True, False)}
    for multi, curve in budgets.items():
        assert curve[0][0] == 1 and curve[-1][0] == 16  # k / 2 and 8 k
        rises = sum(after[1] >= before[1] for before, after in pairwise(curve))
        words = "with multi-TopK" if multi else "without multi-TopK"
        one = next(of for of in found if of["kind"] == "systems" and of["asks"].startswith(words))
        assert one["measured"] == rises


def test_abstracts_are_counted_without_passages(rows: Any, lab: Lab) -> None:
    one = _criterion(rows("scaling_law"), 4, "abstracts")
    assert one["measured"] == sum(category != "wiki" for category in lab.data.categories) and not one["met"]


def test_contrast_takes_the_best_baseline_at_the_worst_k(rows: Any) -> None:
    found = rows("contrastive")
    table = [of for of in found if of["kind"] == "contrast"]
    for equal in ("dimensions", "bytes"):
        over = []
        for k in {of["k"] for of in table}:
            (own,) = [of for of in table if of["k"] == k and of["scorer"] == "decode-all"]
            others = [of for of in table if of["k"] == k and of["equal"] == equal]
            assert {of["model"] for of in others} == {"PCA", "truncation", "random projection"}
            assert all(of[equal] <= own[equal] for of in others)
            over.append(100 * (own["retention"] - max(of["retention"] for of in others)))
        assert _criterion(found, 5, f"equal {equal}")["measured"] == pytest.approx(min(over), abs=0.01)


def test_few_latents_measure_the_choice_of_the_dev_sets(rows: Any) -> None:
    found = rows("contrastive")
    for k in (4, 2):
        tried = [of for of in found if of["kind"] == "few_latents" and of["k"] == k]
        (chosen,) = [of for of in tried if of["mean"] != ""]
        assert chosen["dev_retention"] == max(of["dev_retention"] for of in tried)
        shares = [chosen[name] for name in ("retrieval", "classification", "clustering")]
        assert min(shares) <= chosen["mean"] <= max(shares)
        assert _criterion(found, 6, f"score at k = {k}")["measured"] == pytest.approx(100 * chosen["mean"], rel=1e-3)


def test_matryoshka_is_measured_against_a_model_each(rows: Any) -> None:
    found = rows("matryoshka")
    fvu = {(of["model"], of["k"]): of["fvu"] for of in found if of["kind"] == "matryoshka"}
    one = _criterion(found, 7, "one model's FVU")
    ratios = {name: max(fvu[name, k] / fvu["a model each", k] for _, k in fvu) for name, _ in fvu}
    assert ratios.pop("a model each") == 1 and len(ratios) == 2
    assert any(one["measured"] == pytest.approx(of, rel=1e-3) for of in ratios.values())


def test_gradient_averages_sets_and_seeds(rows: Any) -> None:
    found = rows("gradient")
    table = [of for of in found if of["kind"] == "gradient" and not of["set"].startswith("dev")]
    kept = {name: np.mean([of["retention"] for of in table if of["model"] == name]) for name in ("TopK", "gradient")}
    assert len(table) == 2 * 2 * 5  # models, seeds, sets
    one = _criterion(found, 8, "above plain TopK")
    assert one["measured"] == pytest.approx(100 * (kept["gradient"] - kept["TopK"]), abs=0.01)
    assert 0 < _criterion(found, 8, "more than chance")["measured"] <= 1


def test_archetypal_atoms_agree_more_than_free_ones(rows: Any) -> None:
    found = rows("archetypal")
    by = {of["dictionary"]: of for of in found if of["kind"] == "archetypal"}
    assert by["archetypal"]["stability"] > by["TopK"]["stability"] + 0.05
    assert all(of["lowest_pair"] <= of["stability"] <= 1.0001 for of in by.values())
    gain = by["archetypal"]["stability"] - by["TopK"]["stability"]
    assert _criterion(found, 9, "above TopK")["measured"] == pytest.approx(gain, abs=1e-4)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_asked_rounds_and_refuses() -> None:
    one = asked(1, "a", "b", 0.123456789, "at least", 0.12346, unit="u", note="n")
    assert one["measured"] == 0.12346 and one["met"] is True  # the figure that is shown decides
    assert asked(1, "a", "b", 2, "at most", 1, unit="u", note="n")["met"] is False
    assert asked(1, "a", "b", float("nan"), "at most", 1, unit="u", note="n")["met"] is False
    with pytest.raises(InvalidArgumentError, match="at least or at most, got 'below'"):
        asked(1, "a", "b", 1, "below", 1, unit="u", note="n")
    assert row("kind", a=1 / 3, b=2, c="") == {"kind": "kind", "a": 0.33333, "b": 2, "c": ""}


def test_ks_between() -> None:
    assert _ks_between(8, 128) == [8, 11, 16, 23, 32, 45, 64, 91, 128]
    assert _ks_between(1, 16) == [1, 2, 3, 4, 6, 8, 11, 16] == sorted(set(_ks_between(1, 16)))


@given(labels=st.lists(st.integers(0, 3), min_size=2, max_size=40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_v_measure_does_not_see_names(labels: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    given, clusters, names = np.array(labels), rng.integers(0, 3, len(labels)), rng.permutation(9)
    value = v_measure(given, clusters)
    assert -1e-9 <= value <= 1 + 1e-9
    assert v_measure(given, names[clusters]) == pytest.approx(value, abs=1e-9)
    assert v_measure(clusters, given) == pytest.approx(value, abs=1e-9)  # symmetric


def test_v_measure_by_hand() -> None:
    assert v_measure(np.array([0, 0, 1, 1]), np.array([7, 7, 2, 2])) == pytest.approx(1.0)
    assert v_measure(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    # Labels 1 bit, clusters 1.5 bits (1/2, 1/4, 1/4), 1 bit shared: homogeneity 1, completeness 2/3.
    assert v_measure(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(0.8)


def test_share_right_of_separable_and_of_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = (np.eye(3)[labels] + 0.1 * rng.standard_normal((300, 3))).astype(np.float32)
    rows = Labelled(x[:200], labels[:200], x[200:], labels[200:], 3)
    assert share_right(rows, "cpu") == 1.0
    sparse = rows.of(csr_matrix(rows.train), csr_matrix(rows.test))
    assert share_right(sparse, "cpu") == share_right(rows, "cpu")
    shuffled = rng.permutation(labels)
    assert share_right(Labelled(x[:200], shuffled[:200], x[200:], shuffled[200:], 3), "cpu") < 0.6


def test_labelled_rows_are_abstracts_of_frequent_categories(lab: Lab) -> None:
    found = labelled(lab)
    assert found.count == 4 and set(found.train_labels) == set(range(4)) >= set(found.test_labels)
    assert len(found.train) == len(found.train_labels) and len(found.test) == len(found.test_labels)
    counts = [lab.data.categories.count(name) for name in _CATEGORIES if name != "wiki"]
    assert len(found.train) == sum(sorted(counts)[-4:])


def _sae(seed: int = 0, n: int = 24) -> SAE:
    atoms = _unit(np.random.default_rng(seed).standard_normal((n, _WIDTH)))
    return SAE(4, atoms, np.zeros(n, np.float32), atoms, np.zeros(_WIDTH, np.float32))


def test_differing_finds_codes_that_depend_on_the_batch(lab: Lab) -> None:
    class _Batched:
        def encode(self, x: np.ndarray) -> csr_matrix:
            codes = _sae().encode(x)
            codes.data[codes.indptr[:-1]] += np.float32(1e-3 * len(x))
            return codes

    x = lab.data.held[:50]
    assert _differing(_sae(), x) == 0
    assert _differing(_Batched(), x) == 50  # type: ignore[arg-type]


def test_agreement_of_the_same_atoms_in_another_order() -> None:
    atoms = _sae().W_dec
    order = np.random.default_rng(1).permutation(len(atoms))
    assert _agreement(atoms, atoms[order], device="cpu") == pytest.approx(1.0, abs=1e-6)
    assert _agreement(atoms, atoms[order[:9]], device="cpu") == pytest.approx(1.0, abs=1e-6)
    assert _agreement(atoms, _sae(2).W_dec, device="cpu") < 0.6


# --- the L1 baseline --------------------------------------------------------------------------------------------------


def test_l1_reaches_its_targets(lab: Lab) -> None:
    x, held = lab.data.x, lab.data.held
    few, more = runs = tuned(x, held, 48, (4, 12), steps=150, batch=100)
    assert 4 <= few.l0 <= 5 and 12 <= more.l0 <= 15 and few.penalty > more.penalty
    for run in runs:
        found = measured(run.sae, held, run.sae.encode(held))
        assert found["l0"] == pytest.approx(run.l0, abs=0.01)  # the same codes, once all is folded into the weights
        assert found["fvu"] < 1 and np.allclose(np.linalg.norm(run.sae.W_dec, axis=1), 1, atol=1e-5)


def test_l1_trials_lie_on_the_line_between_the_ends() -> None:
    ends, found = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]), np.array([[5.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    # Half way down; above the dense end; exactly the sparse one: never at an end.
    assert _between(ends, found, np.array([3.0, 6.0, 1.0])) == pytest.approx([1.0, 0.2, 1.8])


def test_l1_prefers_enough_latents_then_few() -> None:
    def run(l0: float) -> L1Run:
        return L1Run(_sae(), 1.0, l0)

    sparse, enough, dense = run(3), run(8.5), run(20)
    assert _better(None, sparse, 8) is sparse
    assert _better(sparse, run(2), 8) is sparse  # neither is enough: the denser one
    assert _better(sparse, dense, 8) is dense and _better(dense, enough, 8) is enough
    assert _better(enough, sparse, 8) is enough and _better(enough, dense, 8) is enough
