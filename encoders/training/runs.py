"""A training run as a folder: its settings, its data, its checkpoints, its log, a picture of it, and the model.

======================  ==================================================================================
file                    content
======================  ==================================================================================
``config.json``         the settings the run was started with; going on with others is refused
``data/``               what :func:`~sparsight.encoders.training.dataset.prepare` made, unless ``run.prepared`` names
                        another folder
``checkpoint.pt``       where to go on
``log.jsonl``           means over some steps, a line each
``training.svg``        the log, drawn (with matplotlib installed)
``report.json``         steps and seconds, once the run is finished
``model/``              the model with int8 matrices; ``model-float32/`` as it was trained
======================  ==================================================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sparsight.encoders.training import processes
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import prepare
from sparsight.encoders.training.plots import plot_log
from sparsight.encoders.training.teachers import Say
from sparsight.encoders.training.trainer import Trainer
from sparsight.errors import FailedPreconditionError, InvalidArgumentError

__all__ = ["TrainingReport", "chosen_device", "train"]

# The model stays the same.
_FREE = ("run.slice_seconds", "run.checkpoint_every", "run.prepared", "run.output", "train.chunk_texts")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a slice came to.

    Attributes
    ----------
    finished : bool
        False if the slice ended first: the same call goes on.
    step, steps : int
        Steps done, and those of the whole run.
    new_steps : int
        Of them, those of this slice.
    seconds : float
        Spent on training, earlier slices included.
    folder : Path
    model : Path or None
        Folder of the model, when it is finished.
    plot : Path or None
        None where matplotlib is missing, or nothing was logged yet.
    last : mapping
        The log's last line.
    """

    finished: bool
    step: int
    steps: int
    new_steps: int
    seconds: float
    folder: Path
    model: Path | None
    plot: Path | None
    last: Mapping[str, float]


def train(config: SpladeTrainingConfig, device: str = "auto", say: Say = lambda line: None) -> TrainingReport:
    """Start the run in ``config.output``, or go on with it.

    Parameters
    ----------
    config : SpladeTrainingConfig
    device : "auto", "cpu" or "cuda"
        "auto" is a GPU where there is one.
    say : callable
        Gets lines of progress.

    Raises
    ------
    FailedPreconditionError
        If the folder has a run with other settings; ``details["keys"]`` names them.
    InvalidArgumentError
        If the device is not there.

    Notes
    -----
    ``slice_seconds`` count from here. The preparation of the data is not interrupted (a file that is finished is not
    made again), and at least one step is done. Under ``torchrun`` each process trains on its own part of the data.
    """
    began = time.monotonic()
    folder = config.output
    prepared = Path(config.prepared) if config.prepared else folder / "data"
    with processes.joined(chosen_device(device)) as place:
        first = processes.rank_and_count()[0] == 0
        if first:
            _keep_settings(config, folder)
        processes.wait_for_all()
        if (folder / "report.json").exists():
            done = json.loads((folder / "report.json").read_text("utf-8"))
            return _report(folder, done["steps"], done["steps"], 0, done["seconds"])
        if first:
            data = prepare(config, prepared, place, say)
        processes.wait_for_all()
        if not first:
            data = prepare(config, prepared, place, _silent)  # all of it is there
        trainer = Trainer(config, data, place, say if first else _silent)
        finished = trainer.run(folder, began)
        if first:
            plot_log(folder / "log.jsonl", folder / "training.svg", config.document_nonzeros)
            if finished:
                _write(folder / "report.json", {"steps": trainer.total, "seconds": round(trainer.seconds, 1)})
        processes.wait_for_all()
    return _report(folder, trainer.step, trainer.total, trainer.new_steps, trainer.seconds)


def _report(folder: Path, step: int, steps: int, new_steps: int, seconds: float) -> TrainingReport:
    lines = _lines(folder / "log.jsonl")
    plot = folder / "training.svg"
    return TrainingReport(step == steps, step, steps, new_steps, seconds, folder,
                          folder / "model" if step == steps else None, plot if plot.exists() else None,
                          lines[-1] if lines else {})


def chosen_device(name: str) -> str:
    """"cpu" or "cuda" for "auto"; InvalidArgumentError for one that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidArgumentError(f"expected auto, cpu or cuda, got {name!r}", field="device")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError("expected a GPU that torch can use, got none", field="device")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _keep_settings(config: SpladeTrainingConfig, folder: Path) -> None:
    """Write the settings down, or compare them with those that the folder was started with."""
    path = folder / "config.json"
    mine = json.loads(json.dumps(_flat(config), default=str))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, mine)
        return
    theirs = json.loads(path.read_text("utf-8"))
    keys = [key for key in {**theirs, **mine} if key not in _FREE and theirs.get(key) != mine.get(key)]
    if keys:
        differences = ", ".join(f"{key} ({theirs.get(key)} there, {mine.get(key)} here)" for key in keys)
        raise FailedPreconditionError(f"{folder} has a run with other settings: {differences}; choose another folder, "
                                      "or take these back", reason="OTHER_SETTINGS", keys=", ".join(keys))


def _write(path: Path, value: Any) -> None:
    path.with_suffix(".new").write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    path.with_suffix(".new").replace(path)


def _flat(config: SpladeTrainingConfig) -> dict[str, Any]:
    """Settings by their keys, "train.steps". Corpora by their folders' names: data may move."""
    made: dict[str, Any] = {f"{item.metadata['section']}.{item.name}": getattr(config, item.name)
                            for item in fields(config) if item.name != "sources"}
    for position, source in enumerate(config.sources):
        for name, value in asdict(source).items():
            made[f"data.sources[{position}].{name}"] = source.folder.name if name == "folder" else value
    return made


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _silent(line: str) -> None:
    pass
