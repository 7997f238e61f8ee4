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
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sparsight.encoders.run_folder import TrainingReport, chosen_device, keep_settings, report_of, write_json
from sparsight.encoders.training import processes
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import prepare
from sparsight.encoders.training.plots import Panel, plot_log
from sparsight.encoders.training.teachers import Say
from sparsight.encoders.training.trainer import Trainer

__all__ = ["TrainingReport", "chosen_device", "train"]

# The model stays the same.
_FREE = ("run.slice_seconds", "run.checkpoint_every", "run.prepared", "run.output", "train.chunk_texts")


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
            keep_settings(folder, _flat(config), _FREE)
        processes.wait_for_all()
        if (folder / "report.json").exists():
            done = json.loads((folder / "report.json").read_text("utf-8"))
            return report_of(folder, done["steps"], done["steps"], 0, done["seconds"])
        if first:
            data = prepare(config, prepared, place, say)
        processes.wait_for_all()
        if not first:
            data = prepare(config, prepared, place, _silent)  # all of it is there
        trainer = Trainer(config, data, place, say if first else _silent)
        finished = trainer.run(folder, began)
        if first:
            plot_log(folder / "log.jsonl", folder / "training.svg", [
                Panel("loss", ("loss", "siamese", "table", "mlm", "vectors")),
                Panel("non-zeros per text", ("nonzeros", "query_nonzeros"), config.document_nonzeros),
                Panel("weight of the penalty", ("lambda", "query_lambda"))])
            if finished:
                write_json(folder / "report.json", {"steps": trainer.total, "seconds": round(trainer.seconds, 1)})
        processes.wait_for_all()
    return report_of(folder, trainer.step, trainer.total, trainer.new_steps, trainer.seconds)


def _flat(config: SpladeTrainingConfig) -> dict[str, Any]:
    """Settings by their keys, "train.steps". Corpora by their folders' names: data may move."""
    made: dict[str, Any] = {f"{item.metadata['section']}.{item.name}": getattr(config, item.name)
                            for item in fields(config) if item.name != "sources"}
    for position, source in enumerate(config.sources):
        for name, value in asdict(source).items():
            made[f"data.sources[{position}].{name}"] = source.folder.name if name == "folder" else value
    return made


def _silent(line: str) -> None:
    pass
