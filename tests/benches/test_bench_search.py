"""The search benchmark's own parts: its vectors, its truth, its choices, its table; and one small run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from benches.search.case import Options
from benches.search.engines import ENGINES
from benches.search.generate import SHAPES, generate
from benches.search.measure import pss_bytes, timed
from benches.search.ordering import cluster_order
from benches.search.plots import plot_all, slope
from benches.search.report import markdown
from benches.search.results import Results
from benches.search.runner import Runner
from benches.search.truth import KS, Judge, best_scores, cached_truth
from benches.search.tuning import Candidate, choose
from benches.search.workloads import TEST, TUNING, Workload, to_levels

N = 1_500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one generated workload."""
    folder = tmp_path_factory.mktemp("vectors")
    generate("splade", N, folder / f"generated_splade_{N}.npz", n_queries=60)
    return folder


@pytest.fixture(scope="module")
def workload(folder: Path) -> Workload:
    return Workload(folder, f"generated_splade_{N}")


class TestGenerate:
    def test_shape_and_statistics(self, workload: Workload) -> None:
        documents, queries = workload.documents, workload.queries
        assert documents.shape == (N, SHAPES["splade"].vocab) and queries.shape[0] == 60
        assert 145 < documents.nnz / N < 155 and 25 < queries.nnz / 60 < 40
        assert documents.has_canonical_format and queries.has_canonical_format  # sorted, without repeats
        assert documents.data.min() > 0 and documents.dtype == np.float32
        share = np.bincount(documents.indices).max() / N
        assert 0.3 < share < 0.7

    def test_sae_has_32_weights_each(self, folder: Path) -> None:
        small = Workload(folder, "generated_sae_300")  # made when it is asked for
        assert np.all(np.diff(small.documents.indptr) == 32)
        assert small.family == "generated_sae"

    def test_same_seed_same_file(self, folder: Path, workload: Workload, tmp_path: Path) -> None:
        generate("splade", N, tmp_path / "again.npz", n_queries=60)
        with np.load(tmp_path / "again.npz") as again, np.load(workload.file) as first:
            assert all(np.array_equal(again[name], first[name]) for name in first)


class TestWorkload:
    def test_splits_do_not_meet(self, workload: Workload) -> None:
        tuning, test = workload.choose(TUNING, 1000), workload.choose(TEST, 1000)
        assert len(tuning) == 20 and len(test) == 40
        assert not set(tuning) & set(test)
        assert np.array_equal(workload.choose(TEST, 7), workload.choose(TEST, 7))

    def test_samples_contain_each_other(self, folder: Path, workload: Workload) -> None:
        small, large = (Workload(folder, f"{workload.name}@{n}") for n in (100, 400))
        assert small.documents.shape[0] == 100 and small.family == workload.family
        of = {row.tobytes() for row in large.documents.toarray()}
        assert all(row.tobytes() in of for row in small.documents.toarray())

    def test_too_large_a_sample_and_a_missing_file_are_refused(self, folder: Path, workload: Workload) -> None:
        with pytest.raises(ValueError, match=f"at most {N}"):
            _ = Workload(folder, f"{workload.name}@{N + 1}").documents
        with pytest.raises(FileNotFoundError, match="make bench-vectors"):
            _ = Workload(folder, "nothing").documents

    def test_levels(self) -> None:
        levels = to_levels(csr_matrix(np.array([[0.001, 1.0, 0], [0, 4.0, 2.0]], np.float32)), 100)
        assert levels.toarray().tolist() == [[1, 25, 0], [0, 100, 50]]
        assert levels.dtype == np.int32


class TestTruth:
    def test_by_hand(self) -> None:
        documents = csr_matrix(np.array([[3, 0], [0, 2], [1, 1], [0, 0]], np.float32))
        queries = csr_matrix(np.array([[2, 1], [0, 5]], np.float32))
        scores, counts = best_scores(documents, queries, (1, 2, 4))
        assert scores.tolist() == [[6, 3, 2], [10, 5, 5]]  # the fourth document scores 0: nothing to be found
        assert counts.tolist() == [[1, 2, 3], [1, 2, 2]]

    @pytest.mark.parametrize("whole", [False, True])
    def test_against_the_dense_product(self, workload: Workload, whole: bool) -> None:
        documents, queries = workload.documents, workload.queries[:10]
        if whole:
            documents, queries = to_levels(documents, 255), to_levels(queries, 100)
        product = queries.toarray().astype(np.float64) @ documents.toarray().astype(np.float64).T
        scores, counts = best_scores(documents, queries)
        assert np.array_equal(counts, np.minimum((product > 0).sum(1)[:, None], KS))
        expected = np.take_along_axis(np.sort(product, axis=1)[:, ::-1], np.maximum(counts - 1, 0), axis=1)
        np.testing.assert_allclose(scores, expected, rtol=0 if whole else 1e-5)

    def test_cache_is_for_these_matrices(self, workload: Workload, tmp_path: Path) -> None:
        path = tmp_path / "truth.npz"
        first = cached_truth(path, workload.documents, workload.queries[:3])
        stamp = path.stat().st_mtime_ns
        assert np.array_equal(cached_truth(path, workload.documents, workload.queries[:3])[0], first[0])
        assert path.stat().st_mtime_ns == stamp
        others = cached_truth(path, workload.documents, workload.queries[3:6])
        assert not np.array_equal(others[0], first[0])

    def test_recall_counts_ties_once_each(self) -> None:
        rows = np.concatenate([[9.0], np.full(19, 5.0), np.full(5, 1.0)]).astype(np.float32)
        documents = csr_matrix(rows[:, None])
        queries = csr_matrix(np.array([[1.0]], np.float32))
        judge = Judge(documents, queries, best_scores(documents, queries))
        assert judge.recall(np.array([[0, *range(11, 20)]]), 10) == 1.0  # any nine of the tied ones
        assert judge.recall(np.array([[0, *[11] * 9]]), 10) == pytest.approx(0.2)  # one document nine times
        assert judge.recall(np.array([[0, 11, 12, *range(20, 25), -1, -1]]), 10) == pytest.approx(0.3)
        assert judge.recall(np.array([[-1] * 5 + [25] * 4 + [2**40]]), 10) == 0.0  # numbers that no document has

    def test_recall_of_nothing_to_find(self) -> None:
        documents, queries = csr_matrix(np.array([[1.0, 0]], np.float32)), csr_matrix(np.array([[0, 1.0]], np.float32))
        judge = Judge(documents, queries, best_scores(documents, queries))
        assert judge.recall(np.array([[0] + [-1] * 9]), 10) == 1.0

    def test_float_slack_and_no_slack_for_integers(self) -> None:
        near = np.array([10_000.0, *[9_999.5] * 10], np.float32)[:, None]
        query = csr_matrix(np.array([[1.0]], np.float32))
        found = np.array([range(1, 11)])
        floats = csr_matrix(np.vstack([near[:1]] * 10 + [near[1:]]))
        assert Judge(floats, query, best_scores(floats, query)).recall(found + 9, 10) == 1.0
        whole = csr_matrix(np.vstack([[[20_000]]] * 10 + [[[19_999]]] * 10).astype(np.int32))
        query = query.astype(np.int32)
        assert Judge(whole, query, best_scores(whole, query)).recall(found + 9, 10) == pytest.approx(0.0)


def test_similar_documents_are_put_together() -> None:
    rng = np.random.default_rng(3)
    n, groups, terms = 3_200, 8, 20  # each group has terms of its own
    group = rng.integers(0, groups, n)
    dense = np.zeros((n, groups * terms), np.float32)
    for row in range(n):
        dense[row, group[row] * terms + rng.choice(terms, 8, replace=False)] = rng.uniform(1, 2, 8)
    order = cluster_order(csr_matrix(dense))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert (group[order][1:] == group[order][:-1]).mean() > 0.6 > 0.2 > (group[1:] == group[:-1]).mean()


def test_times_and_answers_are_of_each_query() -> None:
    times, found = timed(lambda query: list(range(query)), [0, 2, 5], 3)
    assert (times > 0).all() and found.tolist() == [[-1, -1, -1], [0, 1, -1], [0, 1, 2]]
    assert pss_bytes() > 2**20


class TestChoose:
    GRID = (
        Candidate("a", {"x": 1}, 0.91, 10.0),
        Candidate("a", {"x": 2}, 0.96, 20.0),
        Candidate("b", {"x": 1}, 0.98, 15.0),
        Candidate("b", {"x": 2}, 0.985, 40.0),
    )

    def test_fastest_that_reaches_each_target(self) -> None:
        chosen = choose(self.GRID, (0.9, 0.95, 0.97))
        assert [(target, c.build, c.p50_us) for target, c in chosen.items()] == [
            ("0.9", "a", 10.0), ("0.95", "b", 15.0), ("0.97", "b", 15.0),
        ]  # fmt: skip

    def test_best_where_a_target_is_out_of_reach(self) -> None:
        assert choose(self.GRID, (0.9, 0.99))["best"].recall == 0.985
        assert "0.99" not in choose(self.GRID, (0.9, 0.99))
        assert choose([]) == {}


def _row(**changed: object) -> dict[str, object]:
    return {
        "engine": "e", "version": "1", "mode": "approximate", "target": "0.95", "workload": "w@10", "family": "w",
        "documents": 10, "k": 10, "recall_float": 0.96, "recall_u8": None, "p50_us": 1234.5, "p99_us": 2000.0,
        "bytes": 1000, "pss_bytes": 2_000_000, "build_s": 1.5, "queries": 5, "rounds": 1, "machine": "here",
        "parameters": {"build": {"name": "only"}, "search": {"cut": 3, "mode": "approximate"}},
    } | changed  # fmt: skip


def test_table() -> None:
    rows = [_row(), _row(target="exact", mode="exact", recall_u8=1.0), _row(engine="f", p50_us=7.0, recall_float=0.94)]
    lines = [line for line in markdown(rows).splitlines() if line.startswith(("| e", "| f"))][1:]
    assert lines[0] == "| f 1 | approximate | 0.95 | 0.9400* |  | 7 | 2,000 | 100 | 2 | 1.5 | cut=3 |"
    assert lines[1].startswith("| e 1 | approximate | 0.95 | 0.9600 |")
    assert lines[2].startswith("| e 1 | exact | exact | 0.9600 | 1.0000 |")


def test_plots_and_slope(tmp_path: Path) -> None:
    assert slope([10, 100, 1000], [2, 20, 200]) == pytest.approx(1.0)
    assert slope([10, 1000], [3, 30]) == pytest.approx(0.5)
    exact = {"target": "exact", "mode": "exact"}
    rows = [_row(**exact), _row(**exact, workload="w", documents=1000, p50_us=12345.0), _row()]
    written = plot_all(rows, tmp_path)
    assert {path.name for path in written} == {
        "recall-w@10-10.svg", "recall-w-10.svg", "bytes-w@10.svg", "bytes-w.svg", "build-w@10.svg", "build-w.svg",
        "growth-w-10.svg",
    }  # fmt: skip
    assert "e exact: N^0.50" in (tmp_path / "growth-w-10.svg").read_text()


def test_results_are_kept_and_dropped(tmp_path: Path) -> None:
    results = Results(tmp_path / "deep" / "search.json")
    results.add([_row(), _row(k=100)])
    again = Results(results.path)
    assert again.has("e", "w@10", 100) and not again.has("e", "w@10", 1000) and not again.has("e", "w", 10)
    again.drop(lambda row: row["k"] == 100)
    assert [row["k"] for row in Results(results.path).rows] == [10]


def test_every_engine_has_settings_for_each_build() -> None:
    for name, engine in ENGINES.items():
        for build in engine.builds:
            for k in KS:
                grid = engine().settings(build, k)
                assert grid and set(grid) <= {"exact", "approximate"} and all(grid.values()), (name, build)


def exact_row(options: Options) -> dict[str, Any]:
    (row,) = (row for row in json.loads(options.results.read_text()) if row["mode"] == "exact")
    return row


def test_a_run_measures_resumes_and_forgets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"generated_splade_{N}"
    options = Options(folder, tmp_path / "search.json", [name], ["sparsight"], ks=(10,), rounds=2, queries=25, tuning=5)
    first = Runner(options)
    first.run()
    assert first.failures == []
    row = exact_row(options)
    assert row["recall_u8"] == 1.0 and 0.95 < row["recall_float"] <= 1.0
    assert row["queries"] == 25 and len(row["p50_us_rounds"]) == 2 and 0 < row["p50_us"] <= row["p99_us"]
    assert row["bytes"] > 100_000 and row["documents"] == N

    capsys.readouterr()
    Runner(options).run()
    assert "all measured" in capsys.readouterr().out

    Results(options.results).drop(lambda _: True)
    Runner(options).run()  # rows are lost, the rounds are not
    again = exact_row(options)
    assert again["p50_us_rounds"] == row["p50_us_rounds"]
    assert "round-0" not in capsys.readouterr().out


def test_a_failing_engine_is_told(folder: Path, tmp_path: Path) -> None:
    options = Options(folder, tmp_path / "search.json", [f"generated_splade_{N}"], ["qdrant"], ks=(10,), rounds=1,
                      queries=5, tuning=5, peers_python=Path("/bin/false"))  # fmt: skip
    runner = Runner(options)
    runner.run()
    assert len(runner.failures) == 1 and "qdrant: ended with 1" in runner.failures[0]
    assert not options.results.exists()
