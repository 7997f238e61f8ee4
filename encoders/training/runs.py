"""A training run as a folder: its settings, its data, its checkpoints, its log, a picture of it, and the model.

======================  ==================================================================================
file                    content
======================  ==================================================================================
``config.json``         the settings the run was started with; going on with others is refused
``data/``               what :func:`~sparsight.encoders.training.dataset.prepare` made
``checkpoint.pt``       where to go on
``log.jsonl``           means over some steps, a line each
``training.svg``        the log, drawn (with matplotlib installed)
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

_FREE = ("run.slice_seconds", "run.checkpoint_every", "run.output", "train.chunk_texts")  # the model stays the same


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a slice came to.

    Attributes
    ----------
    finished : bool
        False if the slice ended first: the same call goes on.
    step, steps : int
        Steps done, and those of the whole run.
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
    with processes.joined(chosen_device(device)) as place:
        first = processes.rank_and_count()[0] == 0
        if first:
            _keep_settings(config, folder)
            data = prepare(config, folder / "data", place, say)
        processes.wait_for_all()
        if not first:
            data = prepare(config, folder / "data", place, _silent)  # all of it is there
        trainer = Trainer(config, data, place, say if first else _silent)
        finished = trainer.run(folder, began)
        plot = plot_log(folder / "log.jsonl", folder / "training.svg", config.document_nonzeros) if first else None
        processes.wait_for_all()
    lines = _lines(folder / "log.jsonl")
    return TrainingReport(finished, trainer.step, trainer.total, trainer.seconds, folder,
                          folder / "model" if finished else None, plot, lines[-1] if lines else {})


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
        path.with_suffix(".new").write_text(json.dumps(mine, indent=2) + "\n", "utf-8")
        path.with_suffix(".new").replace(path)
        return
    theirs = json.loads(path.read_text("utf-8"))
    keys = [key for key in {**theirs, **mine} if key not in _FREE and theirs.get(key) != mine.get(key)]
    if keys:
        differences = ", ".join(f"{key} ({theirs.get(key)} there, {mine.get(key)} here)" for key in keys)
        raise FailedPreconditionError(f"{folder} has a run with other settings: {differences}; choose another folder, "
                                      "or take these back", reason="OTHER_SETTINGS", keys=", ".join(keys))


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
