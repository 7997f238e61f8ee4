"""What the steering report's later sections compute, on small data with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from benches.sae.recipes import STABLE, Recipe
from benches.steering import control
from benches.steering.classifiers import against_spread, corrected_difference, erasure, fit, groups_right, to_ablate
from benches.steering.control import year_of
from benches.steering.dictionaries import (
    discriminant,
    greedy_union,
    single_f1,
    sums_of_values,
    supervised,
    supervised_edit,
    towards_length,
)
from benches.steering.known import COSINES, answerable, coverage, joined, nearest, picked, shares, support
from benches.steering.neutral import CATEGORY, drawn_unrelated, lost_at, moved_along, ndcg_after
from benches.steering.papers import Paper, Papers
from benches.steering.report import write_page
from benches.steering.shift import ABLATED, ORACLE, OURS, UNNAMED, Cell, cells_of, difference_near, means, triples
from benches.steering.systems import system_rows
from benches.steering.targets import target_rows
from benches.steering.trained import dictionary_of
from sparsight.encoders.resolver import resolve
from sparsight.encoders.sae.auroc import auroc
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.judged_vectors import JudgedVectors


def _made(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings with the label in the first component, a stronger attribute in the second, and noise."""
    drawn = np.random.default_rng(seed)
    label, attribute = drawn.random(rows) < 0.5, drawn.random(rows) < 0.5
    x = drawn.standard_normal((rows, 6)).astype(np.float32)
    x[:, 0] += 3 * (2.0 * label - 1)
    x[:, 1] += 6 * (2.0 * attribute - 1)
    return x, label, attribute


def test_shift_cells_are_apart_and_balanced() -> None:
    _, label, attribute = _made(2_000)
    usable = np.arange(2_000) < 900
    cell = cells_of(label, attribute, usable, np.random.default_rng(1))
    assert (label[cell.biased] == attribute[cell.biased]).all() and len(cell.biased) == len(cell.balanced)
    for rows in (cell.examples, cell.balanced, cell.test):
        assert set(np.bincount(2 * label[rows] + attribute[rows])) == {len(rows) // 4}
        assert usable[rows].all() and len(set(rows.tolist())) == len(rows)
    trained = set(cell.biased.tolist()) | set(cell.balanced.tolist())
    assert not trained & set(cell.test.tolist()) and not trained & set(cell.examples.tolist())
    assert not set(cell.test.tolist()) & set(cell.examples.tolist()) and len(cell.examples) == 20


def test_ablating_what_tells_the_attribute_puts_a_classifier_right() -> None:
    x, label, attribute = _made(4_000)
    cell = cells_of(label, attribute, np.ones(4_000, bool), np.random.default_rng(1))
    weights, constant = fit(x[cell.biased], label[cell.biased])

    def right(w: np.ndarray, c: float) -> tuple[float, float, float]:
        return groups_right(x[cell.test] @ w + c > 0, label[cell.test], attribute[cell.test])

    gone = to_ablate(np.eye(6, dtype=np.float32), weights * np.ones(6), x[cell.examples], label[cell.examples],
                     attribute[cell.examples])
    assert 1 in gone and 0 not in gone
    without = np.where(np.isin(np.arange(6), gone), 0, x[cell.biased])
    again, its = fit(without, label[cell.biased])
    before, after = right(weights, constant), right(np.where(np.isin(np.arange(6), gone), 0, again), its)
    assert before[0] < 0.7 and before[2] > 0.6
    assert after[0] > 0.95 and after[2] == pytest.approx(0.5, abs=0.05)


def test_features_to_ablate_by_hand() -> None:
    label, attribute = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    examples = np.stack([1.0 * attribute + 3.0 * label, 2.0 * attribute + label], 1).astype(np.float32)
    W_dec, effect = np.array([[1, 0], [0, 1], [0, 1], [0, -1]], np.float32), np.array([1.0, 1.0, -1.0, -1.0])
    # the first tells the label three times as much; the third pushes the other way; the fourth does both backwards
    assert to_ablate(W_dec, effect, examples, label, attribute).tolist() == [1, 3]


def test_groups_by_hand() -> None:
    label, attribute = np.array([0, 0, 1, 1, 1], bool), np.array([0, 1, 0, 1, 1], bool)
    assert groups_right(np.array([0, 1, 1, 1, 0], bool), label, attribute) == (0.0, pytest.approx(2.5 / 4), 0.6)


def test_regression_by_products_of_rows_equals_the_plain_one() -> None:
    x, label, _ = _made(40)
    wide = np.concatenate([x, np.zeros((40, 60), np.float32)], 1)  # more columns than rows: the other way
    weights, constant = fit(x, label)
    others, other = fit(wide, label)
    np.testing.assert_allclose(others[:6], weights, atol=1e-6)
    assert other == pytest.approx(constant, abs=1e-6) and np.abs(others[6:]).max() < 1e-9


def test_corrected_difference_is_the_labels_own() -> None:
    """Exactly, where attribute and label add up; and nearer to it than the examples', where these are noisy."""
    drawn = np.random.default_rng(0)
    of_label, of_attribute = np.array([1.0, 2, 0, 0]), np.array([0.0, 3, 1, 0])
    label, attribute = np.array([True, True, False, False] * 5), np.array([True, False] * 10)
    biased = np.arange(400) < 200
    errors: dict[str, list[float]] = {"corrected": [], "examples": []}
    for noise in (0.0, *(0.5,) * 50):
        x, examples = (np.outer(y, of_label) + np.outer(has, of_attribute) + noise * drawn.standard_normal((len(y), 4))
                       for y, has in ((biased, biased), (label, attribute)))
        x, examples = x.astype(np.float32), examples.astype(np.float32)
        found = corrected_difference(x, biased, examples, label, attribute)
        if not noise:
            np.testing.assert_allclose(found, of_label, atol=1e-6)
        own = examples[label].mean(0) - examples[~label].mean(0)
        errors["corrected"].append(float(((found - of_label) ** 2).sum()))
        errors["examples"].append(float(((own - of_label) ** 2).sum()))
    assert 0.4 < sum(errors["corrected"]) / sum(errors["examples"]) < 0.65


def test_directions_of_much_spread_count_less() -> None:
    background = np.random.default_rng(0).standard_normal((5_000, 4)).astype(np.float32) * [3.0, 1.0, 1.0, 1.0]
    found = against_spread(np.ones(4), background)  # variances 9, 1, 1, 1: a mean of 3
    assert found == pytest.approx(1 / (np.array([9, 1, 1, 1]) / 3 + 8), rel=0.02)


def test_names_stand_for_the_rows_near_them_but_those_of_the_experiment() -> None:
    x = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [50, 40, 30])]
    x[:25] *= 5  # nearest to the first name, and all in the experiment
    none = np.zeros(0, np.int64)
    cell = Cell(examples=np.arange(5), biased=np.arange(5, 15), balanced=none, test=np.arange(15, 25))
    found = difference_near(x, np.arange(len(x)), np.eye(3, dtype=np.float32)[:2], cell)
    assert found == pytest.approx(np.array([1, -1, 0]) / np.sqrt(2))
    assert difference_near(x, np.arange(len(x)), x[[60, 60]], cell) == pytest.approx(np.zeros(3))


def test_erasure_leaves_no_difference_of_means_and_changes_little() -> None:
    x, _, attribute = _made(3_000)
    x[:, 2] *= 10
    away = x[attribute].mean(0) - x[~attribute].mean(0)
    projected, erased = erasure(away)(x), erasure(away, x)(x)
    for y in (projected, erased):
        assert np.linalg.norm(y[attribute].mean(0) - y[~attribute].mean(0)) < 1e-3
    assert np.linalg.norm(erased - x) <= np.linalg.norm(projected - x) * 1.0001


def test_triples_prefer_the_attribute_that_moves_most() -> None:
    drawn = np.random.default_rng(0)
    members = drawn.random((4_000, 4)) < 0.5
    x = drawn.standard_normal((4_000, 3)).astype(np.float32) * 0.1
    x[:, 0] += members[:, 0]
    x[:, 1] += 9 * members[:, 3]
    found = triples(x, members, 3, least=50)
    assert found[0][2] == 3 and all(c not in (a, b) for a, b, c in found)
    assert len({one[:2] for one in found}) == len(found) and triples(x, members, 3, least=9_000) == []


def test_unrelated_features_and_what_moving_costs() -> None:
    common = np.array([[1, 0, 2], [0, 5, 1]])
    assert drawn_unrelated(common, np.random.default_rng(0)).tolist() == [1, 0]
    assert len(set(drawn_unrelated(np.zeros((40, 3), np.float32), np.random.default_rng(0)).tolist())) == 3
    assert moved_along(np.array([[2.0, 1.0]], np.float32), np.eye(2, dtype=np.float32)).tolist() == [[2.0, 1.0]]
    judged = JudgedVectors("s", np.eye(20, dtype=np.float32), np.eye(20, dtype=np.float32)[:1], np.array([[0, 0, 1]]))
    assert ndcg_after(judged, np.zeros((1, 20), np.float32)) == 1
    swapped = np.zeros((1, 20), np.float32)
    swapped[0, 5] = 2
    assert ndcg_after(judged, swapped) == pytest.approx(1 / np.log2(3))


def _neutral() -> list[dict[str, object]]:
    return [{"kind": "neutral", "set": name, "queries": 5, "way": way, "step": step, "draws": 10, "before": 0.5,
             "after": 0.5 - factor * step, "shared": 0.4} for name, factor in (("a", 0.1), ("b", 0.2))
            for way in (CATEGORY, "noise") for step in (0.2, 0.6)]


def test_neutral_loss_is_the_mean_of_the_sets_at_the_step_of_equal_overlap(tmp_path: Path) -> None:
    rows = _neutral()
    assert lost_at(rows, "a", CATEGORY, 0.0) == 0 and lost_at(rows, "b", CATEGORY, 0.4) == pytest.approx(0.16)
    towards = [{"kind": "towards", "way": way, "step": step, "pairs": 7, "before": 0.1, "after": 0.3, "gain": 0.2,
                "rbo": overlap} for way in ("features", "mean difference", "oracle", "noise")
               for step, overlap in ((0.1, 0.7), (0.3, 0.3))]
    towards.append(towards[0] | {"way": "label behind the query", "rbo": 0.6})
    target = target_rows({"neutral": rows, "towards": towards})[-1]
    assert target["measured"] == pytest.approx(6) and not target["met"] and "a 4.0 %" in target["note"]
    write_page({"rows": {"neutral": rows}}, tmp_path / "steering.json")
    assert "| b | noise | 8.0 % | 24.0 % |" in (tmp_path / "steering.md").read_text()


def test_answerable_nearest_and_coverage() -> None:
    used, yes = answerable([frozenset("a"), frozenset("ab"), frozenset("b"), frozenset("cd")], frozenset("a"))
    assert used.tolist() == [0, 2, 3] and yes.tolist() == [False, True, True]
    x = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0.5, 0.2, 0]], np.float32)
    cosines, rows = nearest(queries, x, np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool), depth=2)
    assert rows[:, 0].tolist() == [[0, 1], [1, 2]] and cosines[1, 0].tolist() == pytest.approx([0.5, 0.2])
    codes, documents = csr_matrix(np.array([[3.0, 1.0, 0.0]])), csr_matrix(np.array([[1.0, 0, 0], [0, 0, 2.0]]))
    assert coverage(codes, documents, np.array([[0, 1]])).tolist() == [0.75]
    assert coverage(codes, documents, np.array([[1, 1]])).tolist() == [0.0]


def test_features_that_left_the_index_lower_the_support() -> None:
    codes = csr_matrix(np.array([[1.0, 0.0], [0.0, 1.0]]))
    indexed = csr_matrix(np.array([[1.0, 0.0]] * 9 + [[0.0, 0.0]]))
    here = shares(indexed)
    assert here == pytest.approx([9.5 / 11, 0.5 / 11])
    usual = np.array([0.5, 0.5])
    plain, strongest = support(codes, np.array([[2.0, 1.0], [-2.0, 1.0]], np.float32), here, usual).values()
    assert plain == pytest.approx(np.log(2 * here)) and strongest[1] == pytest.approx(np.log(2 * here[1]))
    assert strongest[0] == pytest.approx(np.log((32 * here[0] + here[1]) / (33 * 0.5)))
    told = {"good": np.arange(8.0), "noise": np.array([1.0, -1] * 4)}
    asked = (np.arange(8), np.arange(8) >= 4)
    weights = joined([told], [asked], ["good", "noise"])
    assert weights["good"] > 0 and abs(weights["noise"]) < weights["good"]
    scores = sum(weight * told[name] for name, weight in weights.items())
    assert auroc(np.asarray(scores)[:, None], asked[1][:, None])[0, 0] == 1


def test_supervised_dictionary_changes_one_attribute() -> None:
    drawn = np.random.default_rng(0)
    values = np.stack([drawn.integers(3, size=900), drawn.integers(2, size=900)], 1)
    values[:300, 1] = values[:300, 0] > 0  # correlated: means by value alone would mix the two
    truth = [np.eye(5)[:3], 2 * np.eye(5)[3:]]
    x = (sums_of_values(truth, values) + 0.01 * drawn.standard_normal((900, 5))).astype(np.float32)
    mean, directions = supervised(x, values)
    np.testing.assert_allclose(mean + sums_of_values(directions, values), x, atol=0.1)
    edit = supervised_edit(directions[0], values[:, 0], (values[:, 0] + 1) % 3)
    weights, constants = discriminant(x, values[:, 0])
    assert ((x @ weights + constants).argmax(1) == values[:, 0]).all()
    assert (((x + edit) @ weights + constants).argmax(1) == (values[:, 0] + 1) % 3).all()
    other, its = discriminant(x, values[:, 1])
    assert (((x + edit) @ other + its).argmax(1) == values[:, 1]).all()
    assert np.linalg.norm(towards_length(edit, np.full(900, 0.5)), axis=1) == pytest.approx(0.5)


def test_discriminant_divides_halfway() -> None:
    x = np.array([[0.0], [2.0], [5.0], [7.0]], np.float32)
    weights, constants = discriminant(x, np.array([0, 0, 1, 1]))
    assert (np.array([[3.4], [3.6]]) @ weights + constants).argmax(1).tolist() == [0, 1]


def test_a_value_in_three_pieces_takes_three_latents() -> None:
    has = np.arange(60) < 30
    fires = np.zeros((60, 5), bool)
    fires[:10, 0] = fires[10:20, 1] = fires[20:30, 2] = fires[25:60, 3] = True
    assert single_f1(fires, has)[[0, 4]].tolist() == [0.5, 0.0]
    assert sorted(greedy_union(csr_matrix(fires), has)) == [0, 1, 2]
    assert greedy_union(csr_matrix(has[:, None]), has) == [0]


def test_year_is_in_the_id() -> None:
    years = [year_of(Paper(one, "", "", frozenset())) for one in ("1802.05162", "astro-ph/9301001", "math/0701123")]
    assert years == [2018, 1993, 2007]


def test_criteria_of_the_sections(tmp_path: Path) -> None:
    shift = [{"kind": "shift", "label": "a or b", "attribute": "c", "way": way, "train": 9, "test": 9, "worst": worst,
              "average": 0.8, "readout": 0.5, "ablated": 3}
             for way, worst in ((OURS, 0.72), (UNNAMED, 0.7), (ORACLE, 0.8), ("codes, as trained", 0.4),
                                ("codes, picked ablated", 0.5), (ABLATED, 0.6),
                                ("codes, random ablated, retrained", 0.4), ("embeddings, the 20 examples alone", 0.6),
                                ("embeddings, attribute erased (LEACE), retrained", 0.5))]
    assert means([*shift, shift[0] | {"worst": 0.52}])[OURS]["worst"] == pytest.approx(0.62)
    edits = [{"kind": "control", "attribute": name, "values": 3, "texts": 7, "way": way, "success": share, "kept": 0.9}
             for name in ("years", "length") for way, share in ((control.SUPERVISED, 0.8), (control.OURS, 0.6))]
    known = [{"kind": "known", "signal": name, "removals": 4, "answerable": 5, "unanswerable": 6, "choice": choice,
              "test": test} for name, choice, test in (("x", 0.9, 0.7), ("y", 0.8, 0.95), (COSINES[0], 0.99, 0.98))]
    assert picked(known)["signal"] == "x"
    rows = {"shift": shift, "control": edits, "known": known}
    systems = system_rows(rows)
    assert [(row["system"], row["measured"], row["met"]) for row in systems] == [
        (16, pytest.approx(75), False), (20, pytest.approx(90), False), (23, 0.7, False)]
    write_page({"rows": {"systems": systems, **rows}}, tmp_path / "steering.json")
    page = (tmp_path / "steering.md").read_text()
    assert "0 of 3 are met." in page and f"| {OURS} | 0.720 |" in page and "| supervised | 0.800 (0.900) |" in page


def test_another_encoder_gets_a_dictionary_from_texts_that_are_not_taken(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = ("galaxies and their redshift", "recurrent networks for text", "groups and their representations")
    for name, start, count in (("arxiv_cs", 0, 150), ("arxiv_sci", 150, 150)):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"_id": str(at), "title": f"On {topics[at % 3]}", "metadata": {"cat": "cs.LG"},
                             "text": f"We study {topics[at % 3]}, {at}."}) for at in range(start, start + count)]
        (tmp_path / name / "corpus.jsonl").write_text("\n".join(lines))
    for name, value in {"_POOL": 240, "_DRAWN": 160, "_ASIDE": 40}.items():
        monkeypatch.setattr(f"benches.steering.papers.{name}", value)
    recipe = Recipe(SAEConfig(n_latents=8, k=2, epochs=3, batch=32, held_out=0.0), "pursuit", pool=4)
    monkeypatch.setattr("benches.steering.trained.RECIPES", {STABLE: recipe})
    papers = Papers(tmp_path, tmp_path / "work", encoder=str(resolve("all-MiniLM-L6-v2")))
    taken = {paper.id for paper in papers.papers}
    assert len(taken) == 160 and papers.others().shape == (80, 384)
    folder = dictionary_of(papers)
    assert Path(folder).parent == tmp_path / "work" / resolve("all-MiniLM-L6-v2").name
    sae = SAE.load(Path(folder))
    assert (sae.document_mode, sae.pool) == ("pursuit", 4) and len(sae.labels) == 8 and any(sae.labels)
    with papers.open() as database:
        collection = papers.collection(database, folder)
        assert [info.documents for info in database.list_collections()] == [120]
        assert any(feature.label for feature in collection.features().features)
    written = (Path(folder) / "sae.safetensors").stat().st_mtime_ns
    assert dictionary_of(papers) == folder and (Path(folder) / "sae.safetensors").stat().st_mtime_ns == written
    assert dictionary_of(Papers(tmp_path, tmp_path / "work")) == "sparsight-minilm-sae"
