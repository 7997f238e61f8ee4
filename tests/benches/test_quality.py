"""The quality report: its numbers against ones worked by hand, its samples, and that a second run encodes nothing."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from benches.quality import __main__ as command
from benches.quality import targets, vectors
from benches.quality.__main__ import main
from benches.quality.results import merge, read_results
from benches.quality.runs import best, fuse, single_run
from benches.quality.sets import JudgedSet, read_set
from benches.quality.systems import Scorer, System, models_of, parse_model
from benches.quality.targets import SOURCES, target_rows
from sparsight.encoders.base import TransformerEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.query_table import save_query_weights
from sparsight.errors import InvalidArgumentError

WORDS = ["cat", "dog", "red", "blue", "old", "house", "mat", "bird"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
DOCUMENTS = {
    "d0": ("cat", "red red house"), "d1": ("dog", "blue mat"), "d2": ("bird", "old old old house"),
    "d3": ("", "cat dog bird"), "d4": ("mat", ""), "d5": ("blue", "cat"),
}  # fmt: skip
QUERIES = {"q0": "red cat", "q1": "old house", "q2": "blue dog", "q3": "not judged"}
QRELS = {"q0": {"d0": 2, "d5": 1}, "q1": {"d2": 1}, "q2": {"d1": 1, "d4": 0}}


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSIGHT_PRECISION", "float32")


def make_model(folder: Path, *, masked_lm: bool, table: bool = False) -> Path:
    """A tiny random BERT with a word-piece tokenizer over ``PIECES``."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        (BertForMaskedLM if masked_lm else BertModel)(config).eval().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
                                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(PIECES[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    if table:
        save_query_weights(np.linspace(0.5, 2, len(PIECES)).astype(np.float32), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set "tiny" below data/, and the models sparse/model and dense."""
    folder = tmp_path_factory.mktemp("quality")
    write_set(folder / "data/tiny")
    make_model(folder / "sparse/model", masked_lm=True, table=True)
    make_model(folder / "dense", masked_lm=False)
    return folder


def write_set(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in DOCUMENTS.items()]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in corpus)
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in QUERIES.items()))
    lines = [f"{query}\t{name}\t{grade}\n" for query, grades in QRELS.items() for name, grade in grades.items()]
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def run(folder: Path, results: Path, *more: str) -> dict[str, Any]:
    assert main(["--data", str(folder / "data"), "--sets", "tiny", "--models", str(folder / "sparse/model"),
                 "--reference", "", "--dense", str(folder / "dense"), "--cache", str(folder / "cache"),
                 "--results", str(results), "--speed-texts", "0", *more]) == 0
    return read_results(results)


def ndcg(scores: Sequence[np.ndarray]) -> float:
    """nDCG@10 of score rows, from its definition; scores without ties."""
    figures = []
    for query, row in zip(QRELS, scores, strict=True):
        order = [list(DOCUMENTS)[at] for at in np.argsort(-row) if row[at] > -np.inf][:10]
        gain = sum(QRELS[query].get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(order))
        ideal = sorted(QRELS[query].values(), reverse=True)
        figures.append(gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal)))
    return float(np.mean(figures))


class TestReport:
    def test_numbers_and_files(self, folder: Path, tmp_path: Path) -> None:
        results = run(folder, tmp_path / "quality.json")
        rows = {row["system"]: row for row in results["rows"]["quality"]}
        texts = [f"{title} {text}".strip() for title, text in DOCUMENTS.values()]
        questions = [QUERIES[query] for query in QRELS]
        dense = load_encoder(str(folder / "dense"))
        second = np.asarray(dense.encode(questions, mode="query")) @ np.asarray(dense.encode(texts)).T
        assert rows["dense"]["nDCG@10"] == pytest.approx(ndcg(second), abs=1e-4)
        assert rows["dense"]["document_nonzeros"] == 16
        firsts = {}
        for way in ("siamese", "table"):
            encoder = load_encoder(f"{folder}/sparse/model#{way}")
            documents, queries = encoder.encode(texts), encoder.encode(questions, mode="query")
            firsts[way] = queries.toarray() @ documents.toarray().T
            row = rows[f"sparse#{way}"]
            assert row["nDCG@10"] == pytest.approx(ndcg(np.where(firsts[way] > 0, firsts[way], -np.inf)), abs=1e-4)
            assert row["document_nonzeros"] == pytest.approx(documents.nnz / 6, abs=0.06)
            assert row["query_nonzeros"] == pytest.approx(queries.nnz / 3, abs=0.06)
        for way, first in firsts.items():
            hybrid = [sum((row - row.min()) / (row.max() - row.min()) for row in pair)
                      for pair in zip(first, second, strict=True)]
            assert rows[f"sparse#{way} + dense"]["nDCG@10"] == pytest.approx(ndcg(hybrid), abs=1e-4)
        assert len(rows) == 6
        difference = rows["dense"]["nDCG@10"] - rows["bm25"]["nDCG@10"]
        assert rows["dense"]["against"]["difference"] == pytest.approx(difference, abs=2e-4)
        assert "against" not in rows["bm25"]
        page = (tmp_path / "quality.md").read_text()
        assert "| sparse#table |" in page and str(folder) not in page + json.dumps(results)
        assert "sparse#table" in (tmp_path / "quality.svg").read_text()
        assert not list(tmp_path.glob("*.part"))

    def test_bm25_by_hand(self, folder: Path, tmp_path: Path) -> None:
        row = run(folder, tmp_path / "quality.json")["rows"]["quality"][0]
        # q0 "red cat": d0 has both, d5 "blue cat" is shorter than d3 "cat dog bird": 2, 1 in the ideal order.
        # q1 "old house": d2 has both. q2 "blue dog": d1 has both.
        assert (row["system"], row["nDCG@10"], row["R@100"]) == ("bm25", 1.0, 1.0)
        assert row["document_nonzeros"] == pytest.approx((3 + 3 + 3 + 3 + 1 + 2) / 6)
        assert row["query_nonzeros"] == 2

    def test_a_second_run_encodes_nothing_and_a_lost_part_alone_is_made_again(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vectors, "PART", 2)  # three parts of documents, two of queries
        first = run(folder, tmp_path / "a.json", "--cache", str(tmp_path / "cache"))
        parts = sorted((tmp_path / "cache").glob("*.npz"))
        assert len(parts) == 2 * (3 + 2)
        forward, calls = TransformerEncoder._run, []

        def counted(self: Any, texts: Any, *more: Any) -> Any:
            calls.append(list(texts))
            return forward(self, texts, *more)

        monkeypatch.setattr(TransformerEncoder, "_run", counted)
        again = run(folder, tmp_path / "b.json", "--cache", str(tmp_path / "cache"))
        assert calls == [] and again["rows"] == first["rows"]
        next(part for part in parts if "documents" in part.name and part.name.endswith("-0001.npz")).write_bytes(b"PK")
        assert run(folder, tmp_path / "b.json", "--cache", str(tmp_path / "cache"))["rows"] == first["rows"]
        assert calls == [["bird old old old house", "cat dog bird"]]

    def test_other_measurements_stay(self, folder: Path, tmp_path: Path) -> None:
        other, path = tmp_path / "gpu.json", tmp_path / "quality.json"
        other.write_text('{"rows": {"gpu_head": [{"texts_per_s": 123}]}}')
        run(folder, path, "--merge", str(other))
        results = run(folder, path)
        assert results["rows"]["gpu_head"] == [{"texts_per_s": 123}]
        assert "## gpu_head" in path.with_suffix(".md").read_text()
        for wrong in ('{"rows": {"quality": []}}', '{"rows": {"targets": []}}', "[]", "{"):
            other.write_text(wrong)
            with pytest.raises(InvalidArgumentError):
                merge(results, other)

    def test_merging_alone(self, tmp_path: Path) -> None:
        (tmp_path / "in.json").write_text('{"rows": {"gpu_head": [{"texts_per_s": 123}]}}')
        assert main(["--merge", str(tmp_path / "in.json"), "--results", str(tmp_path / "out.json")]) == 0
        assert read_results(tmp_path / "out.json")["rows"] == {"gpu_head": [{"texts_per_s": 123}]}

    @pytest.mark.slow
    def test_speed(self, folder: Path, tmp_path: Path) -> None:
        results = run(folder, tmp_path / "quality.json", "--speed-texts", "6", "--speed-rounds", "1")
        speed = {row["system"]: row for row in results["rows"]["speed"]}
        assert set(speed) == {"bm25", "sparse#siamese", "sparse#table", "dense"}
        assert all(row["texts_per_s"] > 0 and row["threads"] == 1 for row in speed.values())
        assert 0 < speed["sparse#table"]["query_p50_us"] < speed["sparse#siamese"]["query_p50_us"]
        assert speed["bm25"]["query_p50_us"] is None

    def test_only_speed_keeps_the_quality(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = run(folder, tmp_path / "quality.json", "--baseline", "dense")
        before["rows"]["gpu_head"] = [{"texts_per_s": 123}]
        (tmp_path / "quality.json").write_text(json.dumps(before))
        given: list[Any] = []

        def measured(systems: Sequence[System], *job: Any) -> list[dict[str, Any]]:
            given.append(job)
            return [{"system": system.name, "kind": system.kind, "texts_per_s": 1000.0 + at, "precision": "float32",
                     "query_p50_us": 12.5, "query_p99_us": 4321.0} for at, system in enumerate(systems)]

        monkeypatch.setattr(command, "measure_speed", measured)
        monkeypatch.setattr(command, "measure_quality", lambda *arguments: pytest.fail("quality was measured again"))
        after = run(folder, tmp_path / "quality.json", "--only", "speed", "--speed-texts", "4", "--speed-rounds", "7")
        texts, questions, max_tokens, rounds = given[0]
        assert (len(texts), questions, max_tokens, rounds) == (4, [QUERIES[query] for query in QRELS], 256, 7)
        speed = after["rows"].pop("speed")
        assert after == before
        assert [(row["system"], row["texts_per_s"]) for row in speed] == [
            ("bm25", 1000.0), ("sparse#siamese", 1001.0), ("sparse#table", 1002.0), ("dense", 1003.0)]
        for row in speed:
            assert row["set"] == "tiny" and row["machine"] and row["date"] and "commit" in row
            assert "--speed-rounds 7" in row["command"] and row["command"].endswith("--only speed")
        page = (tmp_path / "quality.md").read_text()
        assert "| 1,001 | 12.5 | 4,321 | float32 |" in page and f"Speed: `{speed[0]['command']}`" in page
        assert str(folder) not in page

    @pytest.mark.parametrize("options", [("--only", "speed"), ("--only", "targets"), ("--only", "speed", "--data", "."),
                                         ("--only", "speed", "--data", ".", "--speed-texts", "0"), ()])  # fmt: skip
    def test_what_cannot_be_measured_is_refused(self, tmp_path: Path, options: Sequence[str]) -> None:
        results = tmp_path / "quality.json"
        if "0" in options:
            results.write_text('{"rows": {"quality": [{"system": "bm25"}]}}')
        with pytest.raises(SystemExit):
            main([*options, "--results", str(results)])
        assert not results.with_suffix(".md").exists()


ABOUT = {"command": "measure it", "machine": "a GPU", "commit": "abc", "date": "2026-01-02"}


def small_report() -> dict[str, Any]:
    """A report of our model: on the three sets 0.6 each, by table 0.5, BM25 0.4, the others 0.3; hybrid 0.7."""
    small, dense = "sparsight-small", "all-MiniLM-L6-v2"
    figures = {"bm25": 0.4, f"{small}#siamese": 0.6, f"{small}#table": 0.5, dense: 0.3, "splade-tiny": 0.3,
               f"{small}#siamese + {dense}": 0.7, f"splade-tiny + {dense}": 0.5}  # fmt: skip
    names = ("scifact", "cranfield", "cacm")
    sets = [{"name": name, "documents": 1, "queries": 1, "all_documents": 1, "all_queries": 1, "sampled": False,
             "titles": True} for name in names]  # fmt: skip
    quality = [{"set": name, "system": system, "kind": "hybrid" if "+" in system else "sparse", "nDCG@10": figure,
                "R@100": 1.0, "document_nonzeros": 10.0, "query_nonzeros": 2.0}
               for name in names for system, figure in figures.items()]  # fmt: skip
    speed = [{"system": f"{small}#{way}", "texts_per_s": 10.0, "precision": "float32", "query_p50_us": median,
              "query_p99_us": 99.0, **ABOUT, "command": "time it"}
             for way, median in (("siamese", 5000.0), ("table", 25.0))]  # fmt: skip
    return {**ABOUT, "versions": {}, "options": {"max_tokens": 256},
            "rows": {"sets": sets, "quality": quality, "speed": speed}}  # fmt: skip


def write_sources(folder: Path) -> None:
    """What the other benchmarks leave, with round figures: 100 texts and 1,000 terms, so an output of 0.2 MB."""

    def head(tokens: int, fused: int, plain: int, peak_mb: float) -> dict[str, Any]:
        rates = {"plain": plain, "plain, max first": 2 * plain, "torch.compile": 100, "torch.compile, max first": 200}
        ours = {"texts_per_s": fused, "share_of_peak": 0.5, "peak_mb": peak_mb}
        return {"tokens": tokens, "texts": 100, "fused": ours,
                **{name: {"texts_per_s": rate, "peak_mb": 40} for name, rate in rates.items()}}

    steps = [{"tokens": tokens, "texts": 8, "plain, max first": {"ms": 30.0, "peak_mb": 400},
              "fused": {"ms": 20.0, "peak_mb": 100}} for tokens in (128, 256)]  # fmt: skip
    rates = {"tokenising": 900_000, "encoder": 100_000, "head": 100_000, "CSR": 900_000, "overlapped": 40_000}
    runs = [{"threads": threads, "max_tokens": 256, **ABOUT, "command": f"run on {threads}",
             "models": {"sparsight-tiny": {"float32": 20.0, "bfloat16": 80.0, "sentence_transformers": 10.0,
                                           "ratios": {"float32": ratio, "bfloat16": 8.0}}}}
            for threads, ratio in ((1, 2.1), (2, 1.4))]  # fmt: skip
    made = ({"peak_tflops": 800, "terms": 1000, "training_step": steps,
             "forward": [head(128, 400, 100, 0.2), head(256, 140, 70, 0.4)]},
            {"models": {"random MiniLM": {"texts_per_s": rates, "non_zeros": 130.0}}}, {"runs": runs})  # fmt: skip
    for name, report in zip(SOURCES, made, strict=True):
        (folder / name).write_text(json.dumps(ABOUT | report))


class TestTargets:
    def test_by_hand(self, tmp_path: Path) -> None:
        write_sources(tmp_path)
        rows = {row["what"]: row for row in target_rows(small_report(), tmp_path)}
        expected = {  # measured, asked, over what was asked, met
            "sparsight-small, queries by model: SciFact": (0.6, 0.69, 0.86957, False),
            "sparsight-small, queries by table: SciFact": (0.5, 0.67, 0.74627, False),
            "sparsight-small, queries by table: encoding one, p50 on one CPU core": (25, 20, 0.8, False),
            "sparsight-small, queries by model, mean of three sets: above BM25 (k1 1.2, b 0.75)":
                (0.6, 0.534, 1.1236, True),
            "sparsight-small, queries by model, mean of three sets: above all-MiniLM-L6-v2": (0.6, 0.494, 1.2146, True),
            "sparsight-small, queries by model, mean of three sets: above splade-tiny": (0.6, 0.49, 1.2245, True),
            "sparsight-small, sparse + dense, mean of three sets: above the best hybrid without it":
                (0.7, 0.553, 1.2658, True),
            "fused head, 128 tokens: speed of plain PyTorch": (4, 3, 1.3333, True),
            "fused head, 128 tokens: speed of torch.compile": (4, 1.5, 2.6667, True),
            "fused head, 128 tokens: share of the matrix peak": (0.5, None, 0.5, None),
            "fused head, 128 tokens: peak memory": (1, 1.05, 1.05, True),
            "fused head, 256 tokens: speed of plain PyTorch": (2, 3, 0.66667, False),
            "fused head, 256 tokens: speed of torch.compile": (1.4, 1.5, 0.93333, False),
            "fused head, 256 tokens: share of the matrix peak": (0.5, None, 0.5, None),
            "fused head, 256 tokens: peak memory": (2, 1.05, 0.525, False),
            "text to CSR, 23 M shape, 128 tokens, one GPU": (40_000, 45_000, 0.88889, False),
            "training step, 128 tokens, without over with the fused head: time": (1.5, None, 1.5, None),
            "training step, 128 tokens, without over with the fused head: peak memory": (4, None, 4, None),
            "training step, 256 tokens, without over with the fused head: time": (1.5, None, 1.5, None),
            "training step, 256 tokens, without over with the fused head: peak memory": (4, None, 4, None),
            "sparsight-tiny on 1 CPU core: speed of sentence-transformers": (2.1, 1.5, 1.4, True),
            "sparsight-tiny on 2 CPU cores: speed of sentence-transformers": (1.4, 1.5, 0.93333, False),
        }  # fmt: skip
        controller = rows.pop("sparsight-small: mean non-zeros of a document in training")  # of the card itself
        assert (controller["asked"], controller["bound"], controller["met"]) == (135, "within 5 % of", True)
        keys = ("measured", "asked", "times", "met")
        assert {what: tuple(row[key] for key in keys) for what, row in rows.items()} == expected
        # Encoder and head one after the other: 1 / (1 / 100,000 + 1 / 100,000).
        assert "in series give 50,000, of which 80 % is reached" in rows[
            "text to CSR, 23 M shape, 128 tokens, one GPU"]["note"]
        assert "2.00 times the 200 of one that takes the maximum first" in rows[
            "fused head, 128 tokens: speed of torch.compile"]["note"]
        commands = {row["source"]: set() for row in rows.values()}
        for row in rows.values():
            commands[row["source"]].add(row["command"])
            assert (row["machine"], row["commit"], row["date"]) == ("a GPU", "abc", "2026-01-02")
        assert commands == {"quality": {"measure it"}, "speed": {"time it"}, "max_logits.json": {"measure it"},
                            "encode_gpu.json": {"measure it"}, "encode_cpu.json": {"run on 1", "run on 2"}}

    def test_missed_and_not_measured_are_shown(self, tmp_path: Path) -> None:
        write_sources(tmp_path)
        (tmp_path / "encode_cpu.json").unlink()
        path = tmp_path / "quality.json"
        path.write_text(json.dumps(small_report()))
        assert main(["--only", "targets", "--results", str(path)]) == 0
        rows = read_results(path)["rows"]["targets"]
        page = path.with_suffix(".md").read_text()
        for row in rows:
            line = next(line for line in page.splitlines() if line.startswith(f"| {row['what']} |"))
            assert ("**missed**" in line) == (row["met"] is False) and (" met " in line) == (row["met"] is True)
            assert ("not measured" in line) == (row["source"].endswith("threads"))
        assert sum(row["measured"] is None for row in rows) == 2
        drawn = (tmp_path / "quality_targets.svg").read_text()
        assert ">missed<" in drawn and drawn.count(">not measured<") == 2
        assert all(f">{row['what']}<" in drawn for row in rows)

    @pytest.mark.parametrize("change", [{"sampled": True}, {"name": "another"}])
    def test_a_mean_needs_the_three_whole_sets(self, tmp_path: Path, change: dict[str, Any]) -> None:
        report = small_report()
        report["rows"]["sets"][1] |= change
        rows = [row for row in target_rows(report, tmp_path) if row["source"] == "quality" or "mean of" in row["what"]]
        assert len(rows) == 6
        assert all((row["measured"] is None) == ("mean of three sets" in row["what"]) for row in rows)

    @pytest.mark.parametrize(("held", "met"), [("128.3", True), ("128.2", False), ("141.7", True), ("142", False),
                                               ("many", None)])  # fmt: skip
    def test_what_the_card_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str,
                                met: bool | None) -> None:  # fmt: skip
        (tmp_path / "README.md").write_text(
            "`sparsight train-splade a.toml`, with a controller that holds 135 non-zeros a document "
            f"(mean of the last 1,000 steps:\n{held}). 9 s of training on one B9.")
        monkeypatch.setattr(targets, "_CARD", tmp_path)
        row = next(row for row in target_rows(small_report(), tmp_path) if row["bound"] == "within 5 % of")
        assert row["met"] is met and row["measured"] == (None if met is None else float(held))
        found = ("", "") if met is None else ("sparsight train-splade a.toml", "one B9")
        assert (row["command"], row["machine"]) == found

    def test_none_of_a_report_on_other_models(self, folder: Path, tmp_path: Path) -> None:
        assert "targets" not in run(folder, tmp_path / "quality.json")["rows"]
        assert not (tmp_path / "quality_targets.svg").exists()

    def test_the_report_has_what_the_files_say(self) -> None:
        path = Path(command.__file__).parents[1] / "results/quality.json"
        results = read_results(path)
        written = results["rows"]["targets"]
        keys = set(written[0]) - {"commit", "date"}  # the card's are git's, whose history a checkout may lack
        made = target_rows(results, path.parent)
        assert [{key: row[key] for key in keys} for row in made] == [{key: row[key] for key in keys} for row in written]
        page = path.with_suffix(".md").read_text()
        for row in written:
            assert row["measured"] is not None and row["command"] and row["machine"] and row["commit"] and row["date"]
            assert f"| {row['what']} |" in page and row["command"] in page


class TestSets:
    def test_whole(self, folder: Path) -> None:
        judged = read_set(folder / "data/tiny")
        assert judged.texts[0] == "cat red red house" and judged.texts[3] == "cat dog bird"
        assert judged.queries == ["q0", "q1", "q2"] and not judged.sampled and judged.qrels == QRELS
        assert read_set(folder / "data/tiny", titles=False).texts[0] == "red red house"

    def test_sample_keeps_what_is_judged(self, folder: Path) -> None:
        judged = read_set(folder / "data/tiny", max_documents=4, max_queries=2)
        assert judged.sampled and (judged.all_documents, judged.all_queries) == (6, 3)
        assert len(judged.documents) == 4 and len(judged.queries) == 2
        assert {name for grades in judged.qrels.values() for name in grades} <= set(judged.documents)
        assert judged.documents == sorted(judged.documents)
        again = read_set(folder / "data/tiny", max_documents=4, max_queries=2)
        assert (again.documents, again.queries) == (judged.documents, judged.queries)


class TestParts:
    def test_documents_that_share_an_id_count_once(self) -> None:
        judged = JudgedSet("s", ["a", "b", "a"], [""] * 3, ["q"], [""], {"q": {"a": 1}}, 3, 1)
        scorer = Scorer(csr_matrix(np.array([[1], [2], [3]], np.float32)), csr_matrix(np.array([[1]], np.float32)))
        assert judged.repeated == 1 and single_run(judged, scorer) == {"q": [("a", 3.0), ("b", 2.0)]}

    def test_best(self) -> None:
        scores = np.array([0.0, 2.0, 1.0, 2.0, -1.0])
        assert best(scores, 3, positive=True).tolist() == [1, 3, 2]
        assert best(scores, 1, positive=True).tolist() == [1]  # equal ones: the first
        assert best(scores, 9, positive=False).tolist() == [1, 3, 2, 0, 4]
        assert best(np.zeros(3), 2, positive=True).tolist() == []

    def test_fuse_by_hand(self) -> None:
        # Candidates are the best of each: 1 and 2. Sparse 4, 0 stretches to 1, 0 and dense 0.5, 0.9 to 0, 1.
        found, totals = fuse(np.array([1.0, 4.0, 0.0]), np.array([0.1, 0.5, 0.9]), candidates=1)
        assert found.tolist() == [1, 2] and totals.tolist() == [0.5, 0.5]

    def test_scorer_by_hand(self) -> None:
        documents = csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], np.float32))
        scorer = Scorer(documents, csr_matrix(np.array([[1, 1, 1], [0, 0, 2]], np.float32)))
        assert scorer.scores(0, 2).tolist() == [[3, 3], [4, 0]]
        assert (scorer.document_nonzeros, scorer.query_nonzeros) == (1.5, 2.0)

    def test_names(self, folder: Path) -> None:
        assert parse_model("a=splade-tiny") == ("a", "splade-tiny")
        assert parse_model(str(folder / "sparse/model"))[0] == "sparse"
        assert parse_model("pypi:x==1#y") == ("pypi:x==1#y", "pypi:x==1#y")
        assert [system.name for system in models_of("m", f"{folder}/sparse/model")] == ["m#siamese", "m#table"]
        assert [system.name for system in models_of("m", f"{folder}/sparse/model#table")] == ["m"]
        with pytest.raises(InvalidArgumentError):
            parse_model("a=")
