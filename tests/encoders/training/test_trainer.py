"""Training of a tiny random BERT: what is learnt, that it can be repeated and resumed, and its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.loading import load_encoder
from sparsight.encoders.packed import PackedTexts
from sparsight.encoders.training import trainer as trainer_module
from sparsight.encoders.training.batches import document_idf
from sparsight.encoders.training.config import SpladeTrainingConfig, read_config
from sparsight.encoders.training.dataset import prepare
from sparsight.encoders.training.plots import Panel, plot_log
from sparsight.encoders.training.runs import train
from sparsight.encoders.training.trainer import Trainer
from sparsight.errors import FailedPreconditionError, InvalidArgumentError
from sparsight.retrieval.splade_training import train_splade


def log_of(config: SpladeTrainingConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]


def weights_of(config: SpladeTrainingConfig) -> bytes:
    return b"".join((config.output / folder / name).read_bytes() for folder in ("model", "model-float32")
                    for name in ("model.safetensors", "query_weights.safetensors"))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "_LOG_EVERY", 1)


def new_trainer(config: SpladeTrainingConfig) -> Trainer:
    return Trainer(config, prepare(config, config.output / "data", "cpu", lambda line: None), "cpu", lambda line: None)


# --- learning -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_step")
def test_every_phase_lowers_its_loss(make_config: Any) -> None:
    config = make_config(mlm_steps=40, vector_steps=40, steps=60, batch_queries=21, document_penalty=1e-6,
                         weight_decay=0.0)
    assert train(config, "cpu").finished
    log = log_of(config)
    assert [line["step"] for line in log] == list(range(1, 141))
    for name in ("mlm", "vectors", "siamese", "table"):
        values = [line[name] for line in log if name in line]
        assert len(values) in (40, 60)
        assert np.mean(values[-10:]) < 0.97 * np.mean(values[:10]), name


@pytest.mark.slow
def test_the_number_of_nonzeros_is_held(make_config: Any) -> None:
    config = make_config(mlm_steps=0, vector_steps=0, steps=500, ramp=50, document_nonzeros=20.0,
                         document_penalty=0.1, rate_floor=0.5)
    train(config, "cpu")
    last = [line["nonzeros"] for line in log_of(config)][-8:]  # means over 25 steps
    assert np.mean(last) == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize("settings", [
    {"regulariser": "flops_l0", "l0_threshold": 10}, {"regulariser": "flops_idf"}, {"regulariser": "l1"},
    {"info_nce": 1.0, "kl": 0.0, "margin_mse": 0.0, "dense_weight": 0.0, "bm25_weight": 0.0, "sparse_weight": 0.0},
    {"query_nonzeros": 10.0}, {"table_share": 0.0},
    {"head": "new", "activation": "log1p_log1p_relu", "siamese_share": 0.0},
], ids=lambda settings: "-".join(settings))
def test_other_settings_train(make_config: Any, settings: dict[str, Any]) -> None:
    config = make_config(mlm_steps=1, vector_steps=1, steps=3, **settings)
    report = train(config, "cpu")
    assert report.finished and np.isfinite(list(report.last.values())).all()


# --- repeating and resuming -----------------------------------------------------------------------------------


def test_a_seed_decides_everything(make_config: Any, tmp_path: Path) -> None:
    first, second, other = (make_config(output=tmp_path / name, seed=seed) for name, seed in
                            (("first", 0), ("second", 0), ("other", 1)))
    for config in (first, second, other):
        train(config, "cpu")
    assert weights_of(first) == weights_of(second) != weights_of(other)


@pytest.mark.usefixtures("every_step")
def test_resuming_changes_nothing(make_config: Any, tmp_path: Path) -> None:
    settings = {"mlm_steps": 2, "vector_steps": 2, "steps": 4, "query_nonzeros": 12.0}
    whole = make_config(output=tmp_path / "whole", **settings)
    train(whole, "cpu")
    parts = make_config(output=tmp_path / "parts", slice_seconds=1e-3, **settings)
    reports = [train(parts, "cpu") for _ in range(8)]  # a step each
    assert [report.step for report in reports] == list(range(1, 9))
    assert [report.finished for report in reports] == [False] * 7 + [True]
    assert reports[3].model is None and reports[-1].model == parts.output / "model"
    assert weights_of(parts) == weights_of(whole)
    without_time = [[{**line, "seconds": 0} for line in log_of(config)] for config in (whole, parts)]
    assert without_time[0] == without_time[1]


def test_means_of_the_log_outlast_a_stop(make_config: Any, tmp_path: Path) -> None:
    settings = {"mlm_steps": 0, "vector_steps": 0, "steps": 3}
    whole = make_config(output=tmp_path / "whole", **settings)
    parts = make_config(output=tmp_path / "parts", slice_seconds=1e-3, **settings)
    train(whole, "cpu")
    while not train(parts, "cpu").finished:
        pass
    (line,), (other,) = log_of(whole), log_of(parts)
    assert line | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, rel=1e-5)


@pytest.mark.usefixtures("every_step")
def test_steps_after_the_checkpoint_are_logged_once(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    one = Trainer._one

    def fails(self: Trainer, draw: Any) -> None:
        if self.step == 13:
            raise KeyboardInterrupt
        one(self, draw)

    monkeypatch.setattr(Trainer, "_one", fails)
    with pytest.raises(KeyboardInterrupt):
        train(config, "cpu")
    assert log_of(config)[-1]["step"] == 13
    with (config.output / "log.jsonl").open("a") as file:
        file.write('{"step": 1')  # a line that was not finished
    monkeypatch.setattr(Trainer, "_one", one)
    said: list[str] = []
    train(config, "cpu", said.append)
    assert [line["step"] for line in log_of(config)] == list(range(1, 21))
    assert "going on from step 10 of 20" in said


def test_a_finished_run_stays(make_config: Any) -> None:
    config = make_config()
    train(config, "cpu")
    before = weights_of(config)
    assert train(config, "cpu").finished and weights_of(config) == before and len(log_of(config)) == 1


def test_other_settings_are_refused(make_config: Any) -> None:
    config = make_config()
    train(config, "cpu")
    train(replace(config, slice_seconds=5.0, checkpoint_every=7, chunk_texts=3), "cpu")  # say nothing of the model
    source = replace(config.sources[0], titles=3)
    with pytest.raises(FailedPreconditionError, match=r"train\.steps \(8 there, 9 here\)") as caught:
        train(replace(config, steps=9, sources=(source,)), "cpu")
    assert caught.value.details["keys"] == "train.steps, data.sources[0].titles"


# --- files ----------------------------------------------------------------------------------------------------


def test_the_model_loads(make_config: Any) -> None:
    config = make_config()
    report = train(config, "cpu")
    texts = ["the cat sat on a mat", "big red house"]
    for folder in (report.model, config.output / "model-float32"):
        siamese, table = load_encoder(str(folder)), load_encoder(f"{folder}#table")
        assert table.fingerprint == siamese.fingerprint
        assert table.settings.query == "table" and siamese.settings.query == "encoder"
        np.testing.assert_array_equal(table.encode(texts).toarray(), siamese.encode(texts).toarray())
        asked = table.encode(texts, mode="query").toarray()
        assert (asked > 0).sum(1).tolist() == [6, 3]


def test_without_queries_through_the_model_the_table_is_the_default(make_config: Any) -> None:
    report = train(make_config(siamese_share=0.0, table_share=1.0), "cpu")
    assert load_encoder(str(report.model)).settings.query == "table"


def test_the_model_is_the_one_that_was_trained(make_config: Any) -> None:
    config = make_config()
    trainer = new_trainer(config)
    trainer.run(config.output)
    texts = trainer.data.documents.rows(np.arange(5))
    with torch.no_grad():
        weights = trainer.model.weights(trainer.objectives._logits(texts)).numpy()
    words = json.loads(next((config.output / "data").glob("texts*.json")).read_text())["documents"][:5]
    found = load_encoder(str(config.output / "model-float32")).encode(words, max_tokens=32).toarray()
    np.testing.assert_allclose(found, weights, rtol=1e-4, atol=1e-5)


def test_the_picture(make_config: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = make_config()
    report = train(config, "cpu")
    assert report.plot == config.output / "training.svg" and "</svg>" in report.plot.read_text()
    assert plot_log(tmp_path / "none.jsonl", tmp_path / "none.svg", [Panel("loss", ("loss",))]) is None


def test_document_idf() -> None:
    rows = [[1, 1, 2], [], [2, 2, 2], [1, 0]] * 20_000  # several chunks
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    documents = PackedTexts(np.array([id for row in rows for id in row], np.uint16), starts)
    n = np.array([20_000, 40_000, 40_000, 0])
    np.testing.assert_allclose(document_idf(documents, 4), np.log1p((80_000 - n + 0.5) / (n + 0.5)), rtol=1e-6)
    assert document_idf(PackedTexts(np.zeros(0, np.uint16), np.zeros(1, np.int64)), 3).shape == (3,)


def test_a_backbone_of_another_vocabulary(make_config: Any) -> None:
    config = make_config()
    data = prepare(config, config.output / "data", "cpu", lambda line: None)
    data.sparse = tuple(rows[:, :50] for rows in data.sparse)
    with pytest.raises(InvalidArgumentError, match=r"sparse_teacher: expected the backbone's \d+ terms, got 50"):
        Trainer(config, data, "cpu", lambda line: None)


@pytest.mark.parametrize("device", ["gpu", pytest.param("cuda", marks=pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is one"))])
def test_devices_are_checked(make_config: Any, device: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected"):
        train(make_config(), device)


# --- chunks and processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["mlm", "vectors", "distil"])
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_have_the_same_gradients(make_config: Any, phase: str, chunk: int) -> None:
    gradients = []
    for size in (0, chunk):
        config = make_config(chunk_texts=size, document_penalty=1.0, ramp=0)
        trainer = new_trainer(config)
        draw, objectives = trainer.draws.draw(0), trainer.objectives
        loss, _ = objectives.mlm(draw, 0) if phase == "mlm" else getattr(objectives, phase)(draw)
        loss.backward()
        gradients.append([parameter.grad for parameter in trainer.parameters])
    for whole, chunked in zip(*gradients, strict=True):
        assert (whole is None) == (chunked is None)
        if whole is not None:
            torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()) + 1e-9)


_RANK = """
import sys, torch
from pathlib import Path
from sparsight.encoders.training.config import read_config
from sparsight.encoders.training import runs
torch.set_num_threads(1)
made = []
class Kept(runs.Trainer):
    def __init__(self, *given):
        super().__init__(*given)
        made.append(self)
runs.Trainer = Kept
report = runs.train(read_config(sys.argv[1]), "cpu")
torch.save([report.finished, made[0].parameters, made[0].objectives.controls["documents"].state_dict()], sys.argv[2])
"""


def written(config: SpladeTrainingConfig, path: Path, **other: Any) -> Path:
    """The configuration of `make_config` as a file."""
    path.write_text(f"""
        [model]
        backbone = "{config.backbone}"
        head = "checkpoint"
        max_document_tokens = 32
        max_query_tokens = 16
        [[data.sources]]
        folder = "{config.sources[0].folder}"
        splits = ["train"]
        titles = 15
        sentences = 15
        held_out = []
        [teachers]
        dense_teacher = "{config.dense_teacher}"
        candidates = 10
        [warmup]
        mlm_steps = 1
        [train]
        steps = 2
        rate_warmup = 0
        batch_queries = 4
        documents_per_query = 3
        [sparsity]
        document_nonzeros = 30
        [run]
        output = "{config.output}"
    """)
    return path


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_stay_equal(make_config: Any, tmp_path: Path) -> None:
    config = make_config()
    path = written(config, tmp_path / "run.toml")
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000),
                   "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [subprocess.Popen([sys.executable, "-c", _RANK, str(path), str(tmp_path / f"rank{rank}.pt")], cwd=tmp_path,
                              env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
             for rank in range(2)]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert first[0] and second[0] and first[2] == second[2]
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    assert load_encoder(str(config.output / "model")) is not None
    alone = replace(read_config(path), output=tmp_path / "alone")
    trainer = new_trainer(alone)
    trainer.run(alone.output)
    assert not all(torch.equal(a, b) for a, b in zip(first[1], trainer.parameters, strict=True)), "both took part"


# --- settings and the command ---------------------------------------------------------------------------------


def test_settings_can_be_changed(make_config: Any, tmp_path: Path) -> None:
    path = written(make_config(), tmp_path / "run.toml")
    config = read_config(path, None, ["train.steps=100", "sparsity.regulariser = l1", 'teachers.dense_teacher="x=y"'])
    assert (config.steps, config.regulariser, config.dense_teacher) == (100, "l1", "x=y")
    for change, message in (("steps=1", "section.key=value"), ("train.steps", "section.key=value"),
                            ("train.step=1", "unknown key train.step"), ("train.steps=x", "a whole number, got 'x'"),
                            ("data.sources=[]", "a setting of one value"), ("trian.steps=1", "unknown key trian")):
        with pytest.raises(InvalidArgumentError, match=message):
            read_config(path, None, [change])


def test_the_command(make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparsight.service.cli import main

    path = written(make_config(), tmp_path / "run.toml")

    def run(*words: str, code: int = 0) -> tuple[Any, str]:
        capsys.readouterr()
        assert main(["train-splade", str(path), "--device", "cpu", "--set", "warmup.mlm_steps=0", *words]) == code
        out, err = capsys.readouterr()
        return (json.loads(out) if "--json" in words else out), err

    run_folder = tmp_path / "out"
    out, _ = run("--out", str(run_folder), "--slice", "0.001")
    assert f"step 1 of 2 of {run_folder}: the same command goes on from there" in out
    reports, err = run("--out", str(run_folder), "--json")
    report, = reports["runs"]
    assert reports["finished"] and report["finished"] and (report["step"], report["steps"]) == (2, 2)
    assert "going on from step 1" in err
    assert report["model"] == str(run_folder / "model") and report["last"]["step"] == 2
    assert "step 2 of 2: loss " in err and " non-zeros, rate " in err
    assert load_encoder(report["model"]).settings.query == "encoder"
    out, _ = run("--out", str(run_folder))
    assert "trained 2 steps in" in out and str(run_folder / "model") in out
    report, _ = run("--out", str(run_folder), "--set", "train.steps=3", "--json", code=1)
    assert report["error"]["reason"] == "OTHER_SETTINGS" and report["error"]["details"]["keys"] == "train.steps"
    assert run("--device", "tpu", code=2)[1].startswith("sparsight: --device: expected auto, cpu or cuda")
    assert "unknown key train.step" in run("--set", "train.step=1", code=1)[1]
    assert run("--data", str(tmp_path), "--out", str(tmp_path / "moved"), "--slice", "0.001", "--json")[0][
        "runs"][0] | {"seconds": 0, "last": {}} == {
            "finished": False, "step": 1, "steps": 2, "seconds": 0, "model": None, "plot": None, "last": {},
            "out": str(tmp_path / "moved")}


def test_runs_one_after_another(make_config: Any, tmp_path: Path) -> None:
    """The second run's teacher is what the first one made; they share what was prepared."""
    first, second = (replace(make_config(), output=tmp_path / name) for name in ("first", "second"))
    paths = [written(first, tmp_path / "first.toml"), written(second, tmp_path / "second.toml")]
    teacher = f'sparse_teacher = "{tmp_path}/first/model#siamese"\n[warmup]'
    paths[1].write_text(paths[1].read_text().replace("[warmup]", teacher))
    options: Any = {"device": "cpu", "changes": [f"run.prepared={tmp_path}/data"]}
    slices = [train_splade(paths, slice_seconds=0.001, **options)]
    while not (len(slices[-1]) == 2 and slices[-1][-1].finished):
        slices.append(train_splade(paths, slice_seconds=0.001, **options))
        assert len(slices) < 10
    assert [report.finished for report in slices[0]] == [False]
    assert [report.finished for report in train_splade(paths, **options)] == [True, True]
    assert len(list((tmp_path / "data").glob("texts-*.json"))) == 1 and not (tmp_path / "first" / "data").exists()
    with pytest.raises(InvalidArgumentError, match="expected no folder for 2 runs"):
        train_splade(paths, out=tmp_path / "third", **options)


def test_candidates_are_mined_on_the_way(make_config: Any, tmp_path: Path) -> None:
    whole = make_config(steps=6, mine_every=2)
    assert train(whole, "cpu").finished
    warm = whole.mlm_steps + whole.vector_steps
    mined = sorted(path.name for path in whole.output.glob("self-mined-*.npy"))
    assert mined == [f"self-mined-{warm + after}.npy" for after in (2, 4)]
    found = np.load(whole.output / mined[0])
    assert found.shape[1] == whole.candidates and (found >= 0).any()
    sliced = make_config(steps=6, mine_every=2, output=tmp_path / "sliced", slice_seconds=1e-3, checkpoint_every=100)
    while not train(sliced, "cpu").finished:
        pass
    assert weights_of(whole) == weights_of(sliced)
