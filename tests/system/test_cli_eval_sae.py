"""``sparsight eval-sae`` from arguments to files, with a tiny random encoder and an autoencoder over its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import SAE, SAEConfig, load_encoder, train_sae
from sparsight.retrieval.evaluation import evaluate
from sparsight.service.cli import main

WORDS = ["cat", "dog", "red", "blue", "old", "house", "mat", "bird", "sun", "sea", "tree", "road"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def make_encoder(folder: Path) -> None:
    """A random BERT of 16 dimensions with a word-piece tokenizer over ``PIECES``."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertModel(config).eval().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
                                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(PIECES[:5])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder in ``dense``, a set of 300 documents in ``tiny``, an autoencoder over their vectors in ``sae``."""
    place = tmp_path_factory.mktemp("eval-sae")
    make_encoder(place / "dense")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(300)]
    (place / "tiny/qrels").mkdir(parents=True)
    write(place / "tiny/corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)])
    write(place / "tiny/queries.jsonl", [{"_id": f"q{n}", "text": texts[n].split(" ", 1)[1]} for n in range(40)])
    (place / "tiny/qrels/test.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(40)))
    vectors = load_encoder(str(place / "dense"), precision="float32").encode(texts)
    train_sae(vectors, SAEConfig(n_latents=32, k=4, epochs=30, batch=64))[0].save(place / "sae")
    return place


def write(path: Path, lines: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def dense_ndcg(place: Path) -> float:
    """Of the set's vectors, encoded and evaluated the long way."""
    encoder = load_encoder(str(place / "dense"), precision="float32")
    texts, asked = ([json.loads(line)["text"] for line in (place / f"tiny/{name}.jsonl").read_text().splitlines()]
                    for name in ("corpus", "queries"))
    scores = encoder.encode(asked, mode="query") @ encoder.encode(texts).T
    run = {f"q{n}": [(f"d{d}", float(score)) for d, score in enumerate(row)] for n, row in enumerate(scores)}
    return evaluate(run, {f"q{n}": {f"d{n}": 1} for n in range(40)}, ["nDCG@10"]).mean["nDCG@10"]


@pytest.fixture
def run(place: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSIGHT_PRECISION", "float32")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*options: object, code: int = 0, models: tuple[object, ...] = ()) -> Any:
        capsys.readouterr()
        given = ["eval-sae", *(models or (place / "sae",)), "--encoder", place / "dense", "--device", "cpu",
                 "--cache", place / "cache", *options]  # fmt: skip
        got = main([str(word) for word in given])
        out, err = capsys.readouterr()
        assert got == code, (out, err)
        assert "Traceback" not in err
        return json.loads(out) if "--json" in options else out

    return run


SHORT = ("--ks", "2,4", "--scorers", "decode-16,symmetric", "--baselines", "random,pca,pq")


def test_a_report(place, run, tmp_path):
    found = run("--sets", place / "tiny", *SHORT, "--out", "report", "--json")
    files = [Path(name) for name in found["files"]]
    assert [path.name for path in files][:2] == ["sae.json", "sae.md"]
    assert {path.parent for path in files} == {Path("report")} and all((tmp_path / path).is_file() for path in files)
    assert json.loads((tmp_path / "report/sae.json").read_text()) == {"about": found["about"], "rows": found["rows"]}
    rows = found["rows"]
    assert list(rows) == ["models", "sets", "reconstruction", "retention", "baselines", "comparisons"]
    assert [(row["model"], row["n_latents"], row["k"]) for row in rows["models"]] == [("sae", 32, 4)]
    (of_set,) = rows["sets"]
    assert (of_set["set"], of_set["documents"], of_set["queries"]) == ("tiny", 300, 40)
    assert of_set["nDCG@10"] == pytest.approx(dense_ndcg(place), abs=1e-6)
    assert {(row["model"], row["scorer"], row["k"]) for row in rows["retention"]} == {
        (model, scorer, k) for model in ("sae", "random atoms (32)") for scorer in ("decode-16", "symmetric")
        for k in (2, 4)}  # fmt: skip
    assert {row["system"] for row in rows["baselines"]} == {"PCA", "PCA, 8 bits", "PQ"}
    value = {(row["model"], row["k"]): row["retention"] for row in rows["retention"] if row["scorer"] == "decode-16"}
    assert value["sae", 4] > value["sae", 2] > 0
    assert found["about"]["encoder fingerprint"] == load_encoder(str(place / "dense")).fingerprint[:16]


def test_equal_options_give_equal_figures_from_the_cache(place, run, monkeypatch):
    from sparsight.encoders import DenseEncoder

    first = run("--sets", place / "tiny", *SHORT, "--json")["rows"]
    monkeypatch.setattr(DenseEncoder, "encode", lambda *_, **__: pytest.fail("it was encoded before"))
    assert run("--sets", place / "tiny", *SHORT, "--json")["rows"] == first


def test_a_table_is_printed(place, run):
    out = run("--sets", place / "tiny", *SHORT)
    assert "decode-16" in out and "random atoms (32)" in out and "sae-report/sae.md" in out


def test_options_reach_what_they_are_for(place, run, tmp_path):
    SAE.load(place / "sae").save(tmp_path / "twin")
    np.save(tmp_path / "fit.npy", np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32))
    given = ("--sets", f"{place / 'tiny'}", "--ks", "3", "--scorers", "symmetric", "--json")
    plain_rows = run(*given, "--baselines", "pca")["rows"]
    fitted = run(*given, "--baselines", "pca", "--fit", tmp_path / "fit.npy")
    assert fitted["rows"]["baselines"] != plain_rows["baselines"]
    assert fitted["rows"]["retention"] == plain_rows["retention"]
    assert fitted["about"]["baselines fitted to"] == "300 vectors of fit.npy"
    corpus = run(*given, "--baselines", "pca", "--fit", place / "tiny")
    assert corpus["rows"]["baselines"] == plain_rows["baselines"]  # its documents are the set's own
    sampled = run(*given, "--baselines", "", "--max-documents", "100", "--max-queries", "10")["rows"]
    assert [(row["documents"], row["queries"]) for row in sampled["sets"]] == [(100, 10)] and sampled["baselines"] == []
    full = run(*given, "--baselines", "", "--full-weights", models=(f"a={place / 'sae'}", tmp_path / "twin"))["rows"]
    assert {(row["model"], row["bits"]) for row in full["retention"]} == {("a", 32), ("twin", 32)}


@pytest.mark.parametrize(("options", "field", "code"), [
    (("--ks", "two"), "ks", 2), (("--device", "odd"), "device", 2), (("--ks", "0"), "ks", 1),
    (("--scorers", "odd"), "scorers", 1), (("--baselines", "odd"), "baselines", 1), (("--split", "dev"), "split", 1),
    (("--fit", "none.npy"), "fit", 1), (("--ks", ""), "ks", 1)])
def test_wrong_options(place, run, options, field, code):
    assert run("--sets", place / "tiny", *options, "--json", code=code)["error"]["field"] == field


def test_what_does_not_fit_together(place, run, tmp_path):
    sae = SAE.load(place / "sae")
    eye = np.eye(8, dtype=np.float32)
    SAE(k=2, W_enc=eye, b_enc=eye[0], W_dec=eye, b_dec=eye[0]).save(tmp_path / "narrow")
    error = run("--sets", place / "tiny", "--json", code=1, models=(tmp_path / "narrow",))["error"]
    assert (error["type"], error["field"]) == ("IncompatibleModelError", "encoder") and "16" in error["message"]
    sae.save(tmp_path / "sae")
    error = run("--sets", place / "tiny", "--json", code=1, models=(place / "sae", tmp_path / "sae"))["error"]
    assert error["field"] == "models"
    assert run("--sets", tmp_path / "none", "--json", code=1)["error"]["type"] == "InvalidArgumentError"
    assert run("--json", code=2)["error"]["reason"] == "USAGE"  # no sets


def test_an_autoencoder_of_a_collection(place, run, tmp_path):
    import sparsight
    from sparsight.types import DenseField, Document

    texts = [json.loads(line)["text"] for line in (place / "tiny/corpus.jsonl").read_text().splitlines()]
    with sparsight.open(tmp_path / "data") as database:
        things = database.create_collection("things", [DenseField("dense", encoder=str(place / "dense"))])
        things.upsert([Document(str(n), text=text) for n, text in enumerate(texts)])
        things.train_sae("sae", n_latents=16, k=4, epochs=5)
    found = run("--sets", place / "tiny", *SHORT, "--json", models=(tmp_path / "data/things",))
    assert [(row["model"], row["n_latents"]) for row in found["rows"]["models"]] == [("things", 16)]
    other = tmp_path / "other"
    make_encoder(other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    refused = run("--sets", place / "tiny", "--encoder", other, "--json", code=1, models=(tmp_path / "data/things",))
    assert refused["error"]["type"] == "IncompatibleModelError"
