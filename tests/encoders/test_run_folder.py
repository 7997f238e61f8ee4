"""Runs as folders: settings that are kept, logs that are cut, and files that are whole or the old ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsight.encoders.run_folder import (
    append_line,
    chosen_device,
    keep_settings,
    pace,
    read_log,
    report_of,
    save_checkpoint,
    shorten_log,
    write_json,
)
from sparsight.errors import FailedPreconditionError, InvalidArgumentError


def test_settings_are_kept_and_compared(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    settings = {"k": 4, "ks": (1, 2), "path": Path("x"), "seconds": 3}
    keep_settings(folder, settings)
    keep_settings(folder, settings)
    assert json.loads((folder / "config.json").read_text()) == {"k": 4, "ks": [1, 2], "path": "x", "seconds": 3}
    keep_settings(folder, settings | {"seconds": 9}, free=["seconds"])
    assert json.loads((folder / "config.json").read_text())["seconds"] == 3
    with pytest.raises(FailedPreconditionError, match=r"k \(4 there, 5 here\), new \(None there, 1 here\)") as caught:
        keep_settings(folder, settings | {"k": 5, "new": 1})
    assert caught.value.details["keys"] == "k, new" and caught.value.reason == "OTHER_SETTINGS"
    with pytest.raises(FailedPreconditionError, match=r"seconds \(3 there, None here\)"):
        keep_settings(folder, {name: value for name, value in settings.items() if name != "seconds"})


def test_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    shorten_log(path, 3)
    assert not path.exists()
    line = append_line(path, 25, 1.26, {"loss": 1.23456789, "k": 4.0})
    assert line == {"step": 25, "seconds": 1.3, "loss": 1.23457, "k": 4.0}
    append_line(path, 50, 2.0, {"loss": 0.5})
    whole = path.read_bytes()
    shorten_log(path, 50)
    assert path.read_bytes() == whole and len(read_log(path)) == 2
    with path.open("a") as file:
        file.write('{"step": 60')
    shorten_log(path, 60)
    assert path.read_bytes() == whole
    shorten_log(path, 49)
    assert read_log(path) == [line]
    shorten_log(path, 0)
    assert read_log(path) == [] and [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_files_are_replaced_when_they_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "report.json", {"a": 1})
    save_checkpoint(tmp_path, {"step": 1, "weights": torch.ones(3)})
    with pytest.raises(TypeError):
        write_json(tmp_path / "report.json", {"a": object()})

    def fails(state: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="full"):
        save_checkpoint(tmp_path, {"step": 2})
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1}
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1


@pytest.mark.parametrize(("done", "left", "seconds", "expected"), [
    (10, 5, 2.0, "5 steps/s, 1 s left"), (1, 1000, 1.0, "1 steps/s, 17 min left"),
    (3, 119, 3.0, "1 steps/s, 119 s left"), (5, 0, 4.0, "1.25 steps/s, 0 s left"), (0, 0, 0.0, "0 steps/s, 0 s left")])
def test_pace(done: int, left: int, seconds: float, expected: str) -> None:
    assert pace(done, left, seconds) == expected


def test_report(tmp_path: Path) -> None:
    early = report_of(tmp_path, 0, 4, 0, 0.0)
    assert not early.finished and early.model is None and early.plot is None and early.last == {}
    append_line(tmp_path / "log.jsonl", 4, 1.0, {"loss": 0.5})
    (tmp_path / "training.svg").write_text("<svg/>")
    late = report_of(tmp_path, 4, 4, 3, 1.0)
    assert late.finished and late.model == tmp_path / "model" and late.plot == tmp_path / "training.svg"
    assert late.last["loss"] == 0.5 and (late.step, late.steps, late.new_steps) == (4, 4, 3)


def test_devices() -> None:
    assert chosen_device("cpu") == "cpu" and chosen_device("auto") in ("cpu", "cuda")
    with pytest.raises(InvalidArgumentError, match="expected auto, cpu or cuda, got 'gpu'") as caught:
        chosen_device("gpu")
    assert caught.value.field == "device"
