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

from benches.quality import vectors
from benches.quality.__main__ import main
from benches.quality.results import merge, read_results
from benches.quality.runs import best, fuse, single_run
from benches.quality.sets import JudgedSet, read_set
from benches.quality.systems import Scorer, models_of, parse_model
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
        for wrong in ('{"rows": {"quality": []}}', "[]", "{"):
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
