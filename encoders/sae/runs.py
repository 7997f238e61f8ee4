"""A training run as a folder, which the same call goes on with after a stop: its settings, checkpoint, log and model.

====================  ==================================================================================
file                  content
====================  ==================================================================================
``config.json``       the settings the run was started with, and digests of its data; going on with others is refused
``checkpoint.pt``     where to go on
``log.jsonl``         means over some steps, a line each
``training.svg``      the log, drawn (with matplotlib installed)
``report.json``       what :func:`~sparsight.encoders.sae.training.train_sae` reports, once the run is finished
``model/``            the autoencoder, as :meth:`SAE.load <sparsight.encoders.sae.model.SAE.load>` reads it
====================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.run_folder import (
    TrainingReport,
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
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.training import checked, finished, prepared

if TYPE_CHECKING:
    from sparsight.encoders.sae.neighbours import Neighbours
    from sparsight.encoders.sae.trainer import Trainer

__all__ = ["train_run"]

_LOG_EVERY = 25
_SAY_SECONDS = 10.0
_CHECKPOINT_SECONDS = 60.0
Say = Callable[[str], None]


def train_run(x: NDArray[np.float32], config: SAEConfig, folder: str | Path, *, neighbours: Neighbours | None = None,
              device: str = "auto", slice_seconds: float = 0.0, say: Say = lambda line: None) -> TrainingReport:
    """Start the run in a folder, or go on with it; on a CPU with the bits of a run that was never stopped.

    Parameters
    ----------
    x : float32, shape (B, D)
    config : SAEConfig
    folder : str or Path
        Made if it is not there.
    neighbours : Neighbours, optional
        As for :func:`~sparsight.encoders.sae.training.train_sae`.
    device : "auto", "cpu" or "cuda"
        "auto" is a GPU where there is one.
    slice_seconds : float
        The run stops after so long, with a checkpoint to go on from; 0 for no limit. At least one step is done.
    say : callable
        Gets lines of progress.

    Raises
    ------
    FailedPreconditionError
        If the folder has a run with other settings or of other data; ``details["keys"]`` names them.
    ShapeError, InvalidVectorError, InvalidArgumentError
        As for ``train_sae``, and if the device is not there.

    Notes
    -----
    A process that is killed loses a minute at most. A finished run is not trained again. Runs that train together
    (``Mutual``) do not come in folders.
    """
    began, folder, place = time.monotonic(), Path(folder), chosen_device(device)
    (config,) = checked(x, [config], neighbours)
    keep_settings(folder, _settings(x, config, neighbours))
    if (folder / "report.json").exists():
        done = json.loads((folder / "report.json").read_text("utf-8"))
        return report_of(folder, done["steps"], done["steps"], 0, done["seconds"])
    (trainer,), train, test = prepared(x, [config], neighbours, place)
    run = _Run(trainer, folder, say)
    run.resume(place)
    first = run.step
    run.go(began, slice_seconds)
    _draw(config, folder)
    if run.step == trainer.steps:
        last = {f"last_{name}": value for name, value in read_log(folder / "log.jsonl")[-1].items()
                if name not in ("step", "seconds", "k", "rate")}
        sae, report = finished(trainer, x, train, test, {"seconds": round(run.seconds, 3), **last})
        sae.save(folder / "model")
        write_json(folder / "report.json", report)
    return report_of(folder, run.step, trainer.steps, run.step - first, run.seconds)


class _Run:
    """Steps of a trainer, with a checkpoint and a log of them in a folder."""

    def __init__(self, trainer: Trainer, folder: Path, say: Say) -> None:
        self.trainer, self.folder, self.say = trainer, folder, say
        self.step, self.seconds = 0, 0.0
        self._log: list[dict[str, Any]] = []  # of the steps since the last line; tensors, so that no step waits

    def resume(self, device: str) -> None:
        """Go on from the checkpoint, where there is one."""
        import torch

        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
            self.trainer.restore(state["trainer"])
            self.step, self.seconds, self._log = state["step"], state["seconds"], state["log"]
            self.say(f"going on from step {self.step:,} of {self.trainer.steps:,}")
        shorten_log(self.folder / "log.jsonl", self.step)

    def go(self, since: float, slice_seconds: float) -> None:
        """Train until the end, or until so many seconds after ``since``, and save where that is."""
        before, first, began, total = self.seconds, self.step, time.monotonic(), self.trainer.steps
        said = saved = began
        stop = False
        while self.step < total and not stop:
            self._log.append(self._one())
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - began
            stop = bool(slice_seconds) and now - since > slice_seconds
            if self.step % _LOG_EVERY == 0 or self.step == total:
                line = self._write_line()
                if now - said >= _SAY_SECONDS or self.step == total:
                    said = now
                    self.say(self._progress(line) + pace(self.step - first, total - self.step, now - began))
            if stop or self.step == total or now - saved >= _CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    def _one(self) -> dict[str, Any]:
        trainer, step = self.trainer, self.step
        seen = trainer.step(step)
        return {**seen, "k": trainer.k_at(step), "rate": trainer.rate_at(step),
                "dead": len(trainer.dead) / trainer.config.n_latents}

    def _write_line(self) -> dict[str, float]:
        """A line of the log: means of what the steps since the last one saw."""
        means = {name: float(np.mean([float(entry[name]) for entry in self._log if name in entry]))
                 for name in self._log[-1]}
        self._log.clear()
        return append_line(self.folder / "log.jsonl", self.step, self.seconds, means)

    def _progress(self, line: dict[str, float]) -> str:
        return (f"step {self.step:,} of {self.trainer.steps:,}: FVU {line['fvu']:.3g}, {line['l0']:.3g} active, "
                f"{line['dead']:.1%} silent, rate {line['rate']:.2g}, ")

    def _save(self) -> None:
        seen = [{name: float(value) for name, value in entry.items()} for entry in self._log]
        save_checkpoint(self.folder, {"step": self.step, "seconds": self.seconds, "log": seen,
                                      "trainer": self.trainer.state()})


def _draw(config: SAEConfig, folder: Path) -> None:
    from sparsight.encoders.training.plots import Panel, plot_log

    kinds = tuple(dict.fromkeys(loss.kind() for loss in config.losses))
    plot_log(folder / "log.jsonl", folder / "training.svg", [
        Panel("fraction of variance unexplained", ("fvu",)), Panel("losses", (*kinds, "prediction")),
        Panel("active latents", ("l0", "k"), config.k), Panel("share of silent latents", ("dead",))])


def _settings(x: NDArray[np.float32], config: SAEConfig, neighbours: Neighbours | None) -> dict[str, Any]:
    """All that decides a run, by keys that can be named."""
    made = config.described()
    for number, loss in enumerate(made.pop("losses")):
        made |= {f"losses[{number}].{name}": value for name, value in loss.items()}
    made["data.x"] = _digest(x)
    if neighbours is not None and config.needs_neighbours:
        made["data.neighbours"] = _digest(neighbours.queries, neighbours.rows)
    return made


def _digest(*arrays: NDArray[Any]) -> str:
    """Shapes, and the start of the SHA-256 of all bytes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return " ".join([*("x".join(map(str, array.shape)) for array in arrays), total.hexdigest()[:16]])
