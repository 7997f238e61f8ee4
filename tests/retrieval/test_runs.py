from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.runs import read_qrels, read_run, write_qrels, write_run

WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8)


def test_the_line_of_a_run(tmp_path):
    path = tmp_path / "new" / "bm25.trec"
    write_run(path, {"q1": [("d2", 2.5), ("d1", 1)], "q2": []}, "bm25")
    assert path.read_text() == "q1 Q0 d2 1 2.5 bm25\nq1 Q0 d1 2 1.0 bm25\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["bm25.trec"]


@given(
    st.dictionaries(
        WORDS,
        st.lists(
            st.tuples(WORDS, st.floats(allow_nan=False, allow_infinity=False)),
            min_size=1,
            max_size=5,
            unique_by=lambda entry: entry[0],
        ),
        max_size=4,
    )
)
def test_runs_round_trip(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run)
    assert read_run(path) == run


def test_a_run_is_read_by_rank_not_by_line(tmp_path):
    (tmp_path / "run").write_text("q Q0 b 2 1.0 t\nq\tQ0\ta\t1\t3.0\tt\n\nr Q0 a 1 0.5 t\n")
    assert read_run(tmp_path / "run") == {"q": [("a", 3.0), ("b", 1.0)], "r": [("a", 0.5)]}


def test_gzip(tmp_path):
    write_run(tmp_path / "run.gz", {"q": [("d", 1.0)]})
    assert gzip.decompress((tmp_path / "run.gz").read_bytes()) == b"q Q0 d 1 1.0 sparsight\n"
    assert read_run(tmp_path / "run.gz") == {"q": [("d", 1.0)]}


def test_qrels_round_trip(tmp_path):
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert (tmp_path / "qrels").read_text().splitlines()[0] == "q1 0 d1 2"
    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q Q0 d 1 1.0", "line 1: expected 6 parts"),
        ("q Q0 d one 1.0 t", "expected numbers"),
        ("q Q0 d 1 nan t", "finite"),
        ("q Q0 d 1 2.0 t\nq Q0 d 2 1.0 t", "line 2: query 'q' lists document 'd' twice"),
    ],
)
def test_bad_runs_are_named(tmp_path, text, problem):
    (tmp_path / "run").write_text(text)
    with pytest.raises(InvalidArgumentError) as caught:
        read_run(tmp_path / "run")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["q 0 d", "q 0 d x"])
def test_bad_qrels_are_named(tmp_path, text):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(InvalidArgumentError, match="line 1"):
        read_qrels(tmp_path / "qrels")


def test_what_the_format_cannot_hold_leaves_no_file(tmp_path):
    for run in ({"a b": [("d", 1.0)]}, {"q": [("d\t", 1.0)]}, {"q": [("", 1.0)]}):
        with pytest.raises(InvalidArgumentError, match="cannot hold"):
            write_run(tmp_path / "run", run)
    assert list(tmp_path.iterdir()) == []
