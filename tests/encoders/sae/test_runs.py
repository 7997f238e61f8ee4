"""Runs in folders: stopping and going on, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae import runs
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import AuxK, Distill, Masked, Reconstruction
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.encoders.sae.runs import train_run
from sparsight.encoders.sae.trainer import Trainer
from sparsight.encoders.sae.training import train_sae
from sparsight.errors import FailedPreconditionError, InvalidArgumentError, ShapeError

TINY = SAEConfig(n_latents=64, k=4, epochs=1, batch=64)  # 8 steps
STEPS = 8


@pytest.fixture(scope="module")
def x(planted: Callable[..., np.ndarray]) -> np.ndarray:
    return planted()


@pytest.fixture(scope="module")
def neighbours(planted: Callable[..., np.ndarray], x: np.ndarray) -> Neighbours:
    return nearest(planted(60, seed=5), x, 8)


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(runs, "_draw", lambda config, folder: None)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LOG_EVERY", 1)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) | {"seconds": 0} for line in (folder / "log.jsonl").read_text().splitlines()]


# --- stopping and going on ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("settings", [
    {}, {"activation": "jumprelu", "dictionary": "archetypal", "anneal_from": 3.0}, {"pursuit": 0.5},
    {"losses": (Reconstruction(tilt=0.5), Distill(terms=8), AuxK()), "gradient_weight": 0.5},
    {"losses": (Masked(),), "preprocess": "whiten", "activation": "batchtopk"}],
    ids=["plain", "archetypal", "pursuit", "distill", "masked"])
def test_a_run_of_many_stops_is_the_run_of_none(x: np.ndarray, neighbours: Neighbours, tmp_path: Path,
                                                settings: dict[str, Any]) -> None:
    config = replace(TINY, **settings)
    whole = train_run(x, config, tmp_path / "whole", neighbours=neighbours, device="cpu")
    parts = [train_run(x, config, tmp_path / "parts", neighbours=neighbours, device="cpu", slice_seconds=1e-9)
             for _ in range(STEPS)]  # a step each
    assert [report.step for report in parts] == list(range(1, STEPS + 1))
    assert [report.finished for report in parts] == [False] * (STEPS - 1) + [True]
    assert {(report.steps, report.new_steps) for report in parts} == {(STEPS, 1)} and whole.new_steps == STEPS
    assert parts[0].model is None and parts[-1].model == tmp_path / "parts" / "model"
    for name in ("model/sae.safetensors", "model/sae.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    expected, report = train_sae(x, config, neighbours=neighbours)
    assert SAE.load(tmp_path / "parts" / "model").fingerprint == expected.fingerprint
    assert json.loads((tmp_path / "parts" / "report.json").read_text())["fvu"] == report["fvu"]


def test_means_of_the_log_outlast_a_stop(x: np.ndarray, tmp_path: Path) -> None:
    train_run(x, TINY, tmp_path / "whole", device="cpu")
    while not train_run(x, TINY, tmp_path / "parts", device="cpu", slice_seconds=1e-9).finished:
        pass
    (line,), (other,) = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    assert line == pytest.approx(other, rel=1e-5)
    assert line["step"] == STEPS and line["k"] == 4 and line["l0"] == 4


@pytest.mark.usefixtures("every_step")
def test_a_killed_run_goes_on_from_its_checkpoint(x: np.ndarray, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    train_run(x, TINY, tmp_path / "whole", device="cpu")
    said: list[str] = []
    train_run(x, TINY, tmp_path / "killed", device="cpu", slice_seconds=1e-9)
    step = Trainer.step

    def fails(self: Trainer, number: int) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", fails)
    with pytest.raises(KeyboardInterrupt):
        train_run(x, TINY, tmp_path / "killed", device="cpu")
    assert [line["step"] for line in log_of(tmp_path / "killed")] == [1, 2, 3, 4, 5]
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 6')  # a line that was not finished
    monkeypatch.setattr(Trainer, "step", step)
    assert train_run(x, TINY, tmp_path / "killed", device="cpu", say=said.append).finished
    assert said[0] == "going on from step 1 of 8" and log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    models = [SAE.load(tmp_path / name / "model").fingerprint for name in ("killed", "whole")]
    assert models[0] == models[1]


def test_one_that_was_killed_while_it_finished(x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "finished", fails)
        train_run(x, TINY, tmp_path, device="cpu")
    assert not (tmp_path / "report.json").exists()
    report = train_run(x, TINY, tmp_path, device="cpu")
    assert report.finished and report.new_steps == 0 and SAE.load(tmp_path / "model").n_latents == 64


def test_checkpoints_in_between(x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(runs, "save_checkpoint", lambda folder, state: saved.append(state["step"]))
    train_run(x, TINY, tmp_path / "rarely", device="cpu")
    assert saved == [STEPS]
    saved.clear()
    monkeypatch.setattr(runs, "_CHECKPOINT_SECONDS", 0.0)
    train_run(x, TINY, tmp_path / "often", device="cpu")
    assert saved == list(range(1, STEPS + 1))


def test_a_finished_run_stays(x: np.ndarray, tmp_path: Path) -> None:
    first = train_run(x, TINY, tmp_path, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = train_run(x, TINY, tmp_path, device="cpu")
    assert again.finished and again.new_steps == 0 and again.last == first.last and again.model == first.model
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --- files ----------------------------------------------------------------------------------------------------


def test_files(x: np.ndarray, tmp_path: Path) -> None:
    report = train_run(x, TINY, tmp_path / "a" / "run", device="cpu")
    assert report.folder == tmp_path / "a" / "run" and report.seconds > 0
    names = {"config.json", "checkpoint.pt", "log.jsonl", "report.json", "model"}
    assert {path.name for path in report.folder.iterdir()} == names and report.plot is None
    kept = json.loads((report.folder / "config.json").read_text())
    assert kept["n_latents"] == 64 and kept["learning_rate"] == 3e-3 and kept["losses[1].kind"] == "auxk"
    assert kept["data.x"].startswith("600x16 ") and "data.neighbours" not in kept
    written = json.loads((report.folder / "report.json").read_text())
    assert written["steps"] == STEPS and written["last_fvu"] == report.last["fvu"] and 0 < written["fvu"] < 1
    assert set(report.last) == {"step", "seconds", "fvu", "l0", "reconstruction", "auxk", "k", "rate", "dead"}
    torch.load(report.folder / "checkpoint.pt", weights_only=True)


def test_the_picture(x: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = train_run(x, TINY, tmp_path, device="cpu", slice_seconds=1e-9)
    assert report.plot is None  # nothing was logged yet
    report = train_run(x, TINY, tmp_path, device="cpu")
    assert report.plot == tmp_path / "training.svg" and "</svg>" in report.plot.read_text()


def test_lines_of_progress(x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    train_run(x, TINY, tmp_path / "quiet", device="cpu", say=said.append)
    assert len(said) == 1 and said[0].startswith("step 8 of 8: FVU 0.") and "4 active, 0.0% silent" in said[0]
    assert said[0].endswith(" steps/s, 0 s left")
    monkeypatch.setattr(runs, "_LOG_EVERY", 2)
    monkeypatch.setattr(runs, "_SAY_SECONDS", 0.0)
    said.clear()
    train_run(x, TINY, tmp_path / "loud", device="cpu", say=said.append)
    assert [line.split(":")[0] for line in said] == [f"step {step} of 8" for step in (2, 4, 6, 8)]


# --- what is refused ------------------------------------------------------------------------------------------


def test_other_settings_and_data_are_refused(x: np.ndarray, neighbours: Neighbours, tmp_path: Path) -> None:
    config = replace(TINY, losses=(Reconstruction(), Distill()))
    train_run(x, config, tmp_path, neighbours=neighbours, device="cpu", slice_seconds=1e-9)
    changed = replace(config, k=3, losses=(Reconstruction(), Distill(weight=0.5)))
    with pytest.raises(FailedPreconditionError, match=r"k \(4 there, 3 here\), losses\[1\]\.weight \(1") as caught:
        train_run(x, changed, tmp_path, neighbours=neighbours, device="cpu")
    assert caught.value.details["keys"] == "k, losses[1].weight" and caught.value.reason == "OTHER_SETTINGS"
    with pytest.raises(FailedPreconditionError) as caught:
        train_run(x[::-1], config, tmp_path, neighbours=neighbours, device="cpu")
    assert caught.value.details["keys"] == "data.x"
    others = Neighbours(neighbours.queries, neighbours.rows[:, ::-1])
    with pytest.raises(FailedPreconditionError) as caught:
        train_run(x, config, tmp_path, neighbours=others, device="cpu")
    assert caught.value.details["keys"] == "data.neighbours"
    with pytest.raises(FailedPreconditionError) as caught:
        train_run(x, replace(config, losses=(*config.losses, AuxK())), tmp_path, neighbours=neighbours, device="cpu")
    assert caught.value.details["keys"] == "losses[2].kind, losses[2].weight, losses[2].k"
    assert train_run(np.asfortranarray(x), config, tmp_path, neighbours=neighbours, device="cpu").finished


def test_what_is_wrong_leaves_no_folder(x: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ShapeError):
        train_run(x[:3], TINY, tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match="expected neighbours"):
        train_run(x, replace(TINY, losses=(Distill(),)), tmp_path / "run")
    for device in ("gpu", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InvalidArgumentError, match="expected"):
            train_run(x, TINY, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()
