"""Sections of the report, the page and the pictures, on a small planted set."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sparsight.encoders import SAE, SAEConfig, train_sae
from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.judged_vectors import NDCG, RECALL, JudgedVectors
from sparsight.retrieval.sae_baselines import ProductQuantiser
from sparsight.retrieval.sae_evaluation import write_report
from sparsight.retrieval.sae_pages import PICTURES, draw, markdown, table
from sparsight.retrieval.sae_report import Report, Subject, make_report
from sparsight.retrieval.sae_retention import dense_quality, retention
from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, parse_scorer
from sparsight.retrieval.sae_sections import SECTIONS

SCORERS = tuple(map(parse_scorer, ("decode-16", "symmetric")))


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def planted(name: str, documents: int, seed: int) -> JudgedVectors:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, 16))[rng.integers(0, 8, documents)]
    rows = unit(centres + 0.6 * rng.standard_normal((documents, 16)))
    return JudgedVectors(name, rows, unit(rows[:30] + 0.1 * rng.standard_normal((30, 16))),
                         np.array([(q, q, 1) for q in range(30)]))


@pytest.fixture(scope="module")
def models() -> dict[str, SAE]:
    rows = planted("a", 300, 0).documents
    return {f"seed {seed}": train_sae(rows, SAEConfig(n_latents=32, k=4, epochs=20, batch=64, seed=seed))[0]
            for seed in (0, 1)}


@pytest.fixture(scope="module")
def subject(models) -> Subject:
    return Subject(models, [planted("a", 300, 0), planted("b", 100, 1)], ks=(2, 8), scorers=SCORERS)


@pytest.fixture(scope="module")
def report(subject) -> Report:
    return make_report(subject, SECTIONS)


def test_models_and_sets(subject, report):
    assert [(row["model"], row["n_latents"], row["k"], row["mode"], row["bytes"]) for row in report["models"]] == [
        ("seed 0", 32, 4, "topk", 6.5), ("seed 1", 32, 4, "topk", 6.5)]  # 4 (5 + 8) bits
    assert [(row["set"], row["documents"], row["queries"]) for row in report["sets"]] == [
        ("a", 300, 30), ("b", 100, 30)]
    dense = dense_quality(subject.sets[1])
    assert (report["sets"][1][NDCG], report["sets"][1][RECALL]) == (dense.ndcg.mean(), dense.recall.mean())


def test_reconstruction(subject, report):
    assert [(row["model"], row["set"]) for row in report["reconstruction"]] == [
        ("seed 0", "a"), ("seed 1", "a"), ("seed 0", "b"), ("seed 1", "b")]
    x, sae = subject.sets[0].documents, subject.models["seed 0"]
    codes = sae.encode(x)
    wrong = np.square(x - sae.decode(codes)).sum() / np.square(x - x.mean(0)).sum()
    assert report["reconstruction"][0]["fvu"] == pytest.approx(wrong, rel=1e-4)
    assert report["reconstruction"][0]["l0"] == codes.nnz / len(x)


def test_retention(subject, report):
    rows = report["retention"]
    named = ["seed 0", "seed 1", "random atoms (32)", "centroids (32)"]
    assert [(row["model"], row["set"], row["scorer"], row["k"]) for row in rows] == [
        (model, of, scorer.name, k) for of in ("a", "b") for model in named for scorer in SCORERS for k in (2, 8, 4)]
    wanted = {"model": "seed 1", "set": "b", "scorer": "symmetric", "k": 8}
    (row,) = (row for row in rows if wanted.items() <= row.items())
    expected = retention(subject.models["seed 1"], subject.sets[1], 8, SCORERS[1])
    assert row["retention"] == expected.ndcg and row[NDCG] == expected.quality.ndcg.mean()
    assert row["low"] <= row["retention"] <= row["high"] and (row["bits"], row["bytes"]) == (8, 13.0)
    assert (row["recall_retention"], row["postings"], row["l0"]) == (expected.recall, expected.postings, expected.l0)


def test_baselines(subject, report):
    of_a = {(row["system"], row["k"]): row for row in report["baselines"] if row["set"] == "a"}
    assert {name for name, _ in of_a} == {"truncation", "PCA", "PCA, 8 bits", "PQ", "OPQ", "int8", "binary",
                                          "binary, float query"}
    # At k = 8 there are 8 (5 + 8) bits: 13 bytes, of which a quantiser of 16 dimensions uses 8.
    assert [of_a[name, 8]["dimensions"] for name in ("truncation", "PCA", "PCA, 8 bits", "PQ")] == [8, 8, 13, 8]
    assert [of_a[name, 8]["bytes"] for name in ("truncation", "PCA", "PCA, 8 bits", "PQ")] == [32.0, 32.0, 13.0, 8.0]
    assert [of_a[name, 8]["n_latents"] for name in ("truncation", "PCA", "PCA, 8 bits", "PQ")] == [None, None, 32, 32]
    dense = dense_quality(subject.sets[0])
    found = ProductQuantiser.fit(subject.sets[0].documents, 8).shorten(subject.sets[0]).quality(subject.sets[0])
    assert of_a["PQ", 8]["retention"] == found.ndcg.mean() / dense.ndcg.mean()
    assert (of_a["int8", None]["bytes"], of_a["binary", None]["bytes"]) == (16.0, 2.0)
    # 100 rows are too few to train a quantiser on.
    assert {row["system"] for row in report["baselines"] if row["set"] == "b"} == (
        {name for name, _ in of_a} - {"PQ", "OPQ"})


def test_comparisons(subject, report):
    rows = [row for row in report["comparisons"] if (row["set"], row["model"]) == ("a", "seed 0")]
    against = {k: {row["against"] for row in rows if row["k"] == k} for k in (2, 4, 8)}
    sized = {"random atoms (32)", "centroids (32)", "truncation at equal dimensions", "PCA at equal dimensions",
             "PCA, 8 bits at equal bytes", "PQ at equal bytes", "OPQ at equal bytes"}
    assert against[2] == against[8] == sized
    # The model's own k: untrained dictionaries were measured there too, and what has one size meets it.
    assert against[4] == {"random atoms (32)", "centroids (32)", "int8", "binary", "binary, float query"}
    assert {row["scorer"] for row in rows} == {"decode-16"}
    value = {(row["model"], row["k"]): row[NDCG] for row in report["retention"]
             if (row["set"], row["scorer"]) == ("a", "decode-16")}
    for row in rows:
        if row["against"] == "random atoms (32)":
            assert row["difference"] == pytest.approx(value["seed 0", row["k"]] - value["random atoms (32)", row["k"]])
        assert row["low"] <= row["difference"] <= row["high"] and row["wins"] + row["losses"] + row["ties"] == 30


def test_baselines_fitted_elsewhere(models):
    of, elsewhere = planted("a", 300, 0), planted("a", 300, 9).documents
    given = {"ks": (4,), "scorers": SCORERS[:1], "baselines": ("pca", "pq", "centroids")}
    own, other = (make_report(Subject(models, [of], train=train, **given), SECTIONS) for train in (None, elsewhere))
    assert [row["retention"] for row in own["baselines"]] != [row["retention"] for row in other["baselines"]]
    assert {row["model"] for row in own["retention"]} == {"seed 0", "seed 1", "centroids (32)"}


def test_what_cannot_be_fitted_to_few_rows_is_left_out(models):
    given = {"ks": (4,), "scorers": SCORERS[:1], "baselines": ("random", "centroids", "pca", "pq", "opq")}
    few = make_report(Subject(models, [planted("few", 31, 0)], **given), SECTIONS)
    assert {row["model"] for row in few["retention"]} == {"seed 0", "seed 1", "random atoms (32)"}
    assert {row["system"] for row in few["baselines"]} == {"PCA", "PCA, 8 bits"}


def test_none_of_the_baselines(models):
    made = make_report(Subject(models, [planted("a", 50, 0)], ks=(4,), baselines=()), SECTIONS)
    assert (made["baselines"], made["comparisons"]) == ([], [])
    assert len(made["retention"]) == 2 * len(DEFAULT_SCORERS)


@pytest.mark.parametrize(("change", "field"), [
    ({"models": {}}, "models"), ({"sets": []}, "sets"), ({"ks": ()}, "ks"), ({"scorers": ()}, "scorers"),
    ({"ks": (0,)}, "ks"), ({"train": np.zeros((9, 4), np.float32)}, "train"),
    ({"baselines": ("pca", "other")}, "baselines")])
def test_subjects_that_are_none(models, change, field):
    with pytest.raises(InvalidArgumentError) as caught:
        Subject(**({"models": models, "sets": [planted("a", 50, 0)]} | change))
    assert caught.value.field == field


def test_sections_are_functions(subject):
    """One more is a function in the tuple; lists of one name are joined, and unknown ones are shown."""
    def stability(of: Subject) -> Report:
        return {"stability": [{"models": " and ".join(of.models), "shared": 0.25}], "sets": [{"set": "c"}]}

    made = make_report(subject, [SECTIONS[1], stability])
    assert [row["set"] for row in made["sets"]] == ["a", "b", "c"]
    page = markdown(made, {"how": "by hand"})
    assert "## Stability" in page and "| seed 0 and seed 1 | 0.250 |" in page and "- how: by hand" in page


def test_the_page(report):
    page = markdown(report, {})
    for name in report:
        assert f"## {name.capitalize()}" in page
    line = next(row for row in page.splitlines() if row.startswith("| seed 0 | symmetric | topk |"))
    of_k = {row["k"]: row for row in report["retention"]
            if (row["model"], row["set"], row["scorer"]) == ("seed 0", "a", "symmetric")}
    kept = [f"{of_k[k]['retention']:.3f}" for k in (2, 4, 8)]
    assert line.split(" | ")[3:6] == kept and line.split(" | ")[6].startswith(f"{of_k[8]['postings']:,.1f}")


def test_tables():
    assert table(("a|b", "c"), [("x", 1.5), ("y", None), ("z", 12345), ("w", 1234.56)]) == [
        "| a\\|b | c |", "| --- | ---: |", "| x | 1.500 |", "| y | – |", "| z | 12,345 |", "| w | 1,234.6 |", ""]


def test_pictures(report, tmp_path):
    pytest.importorskip("matplotlib")
    first = draw(report, tmp_path)
    assert [path.name for path in first] == [f"{name}.svg" for name in PICTURES]
    before = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in draw(report, tmp_path)] == before
    for path, shown in zip(first, (["seed 0", "PCA"], ["OPQ", "int8"], ["symmetric"]), strict=True):
        texts = {"".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")}
        assert {"a", "b", *shown} <= texts
    assert draw({"retention": [], "sets": report["sets"]}, tmp_path) == []


def test_files(report, tmp_path):
    files = write_report(report, {"encoder": "x"}, tmp_path / "new" / "folder")
    assert [path.name for path in files][:2] == ["sae.json", "sae.md"]
    assert json.loads(files[0].read_text()) == {"about": {"encoder": "x"}, "rows": report}
    assert files[1].read_text() == markdown(report, {"encoder": "x"}, files[2:]) + "\n"
    assert all(f"]({path.name})" in files[1].read_text() for path in files[2:])
