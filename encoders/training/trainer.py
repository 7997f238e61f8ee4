"""The steps of a SPLADE training run: warm start, then distillation; checkpoints and the log.

A run goes on from its last checkpoint and ends a slice when its time is up. What a step draws depends on the seed and
the step's number alone, so a resumed run sees the data that an uninterrupted one would have seen. Where
torch.distributed is initialised, every process draws its own part of each step, gradients are averaged, and the first
one writes.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsight.encoders.run_folder import append_line, pace, save_checkpoint, shorten_log
from sparsight.encoders.training import processes
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import Dataset
from sparsight.encoders.training.draws import Draw, Draws
from sparsight.encoders.training.model import export
from sparsight.encoders.training.objectives import Objectives
from sparsight.encoders.training.schedule import learning_rate
from sparsight.encoders.training.self_mining import self_mined
from sparsight.encoders.training.teachers import Say

__all__ = ["Trainer"]

_LOG_EVERY = 25
_SAY_SECONDS = 10.0


class Trainer:
    """A run in a folder.

    Parameters
    ----------
    config : SpladeTrainingConfig
    data : Dataset
    device : str
        "cuda" trains in bfloat16 with float32 copies of the weights; "cpu" in float32.
    say : callable
        Gets a line of progress now and then.

    Raises
    ------
    InvalidArgumentError
        If the backbone has no mask for ``mlm_steps``, or for ``vector_steps`` another vocabulary than the teacher.
    """

    def __init__(self, config: SpladeTrainingConfig, data: Dataset, device: str, say: Say) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.device, self.say = config, data, device, say
        self.rank, self.count = processes.rank_and_count()
        self.draws = Draws(config, data, self.rank, self.count)
        self.objectives = Objectives(config, data, device, self.rank)
        self.model = self.objectives.model
        table = self.model.table
        self.masters = [parameter.detach().clone() for parameter in self.model.parameters()]
        if device != "cpu":
            self.model.bert.to(torch.bfloat16)
        self.parameters = list(self.model.parameters())
        self.table_at = next(i for i, parameter in enumerate(self.parameters) if parameter is table)
        groups = [{"params": [m for i, m in enumerate(self.masters) if i != self.table_at and m.ndim > 1],
                   "weight_decay": config.weight_decay},
                  {"params": [m for i, m in enumerate(self.masters) if i != self.table_at and m.ndim == 1],
                   "weight_decay": 0.0},
                  {"params": [self.masters[self.table_at]], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=device != "cpu")
        self.step = 0
        self.seconds = 0.0
        self.warm_steps = config.mlm_steps + config.vector_steps
        self._said, self._first = 0.0, (0, 0.0)  # when the last line was said; this slice's first step, and when
        self._log: list[dict[str, Any]] = []  # of the steps since the last line; tensors, so that no step waits

    # --- the run ----------------------------------------------------------------------------------------------

    @property
    def new_steps(self) -> int:
        """Steps of this slice."""
        return self.step - self._first[0]

    @property
    def total(self) -> int:
        """Steps of the run, those of the warm start included."""
        return self.warm_steps + self.config.steps

    def run(self, folder: Path, since: float | None = None) -> bool:
        """Train until the end or until the slice's time is up; true at the end, when the model is written.

        Parameters
        ----------
        folder : Path
            Gets ``checkpoint.pt``, ``log.jsonl`` and at the end ``model`` (int8) and ``model-float32``.
        since : float, optional
            When the slice began, by `time.monotonic`; now if left out. At least one step is done.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._resume(folder)
        total = self.total
        began = time.monotonic()
        since = began if since is None else since
        self._said, self._first = began, (self.step, began)
        if self._mined_by(self.step):
            self._mine(folder, self._mined_by(self.step))
        with ThreadPoolExecutor(1) as ahead:
            drawn = ahead.submit(self.draws.draw, self.step)
            while self.step < total:
                draw = drawn.result()
                if self._mined_by(self.step + 1) == self.step + 1 < total:
                    self._one(draw)  # the next draw waits for what is mined after this step
                    self._mine(folder, self.step + 1)
                    drawn = ahead.submit(self.draws.draw, self.step + 1)
                else:
                    drawn = ahead.submit(self.draws.draw, self.step + 1)
                    self._one(draw)
                self.step += 1
                if self.step % _LOG_EVERY == 0 or self.step == total:
                    self._report(folder, self.seconds + time.monotonic() - began)
                late = bool(self.config.slice_seconds) and processes.first_says(
                    self.config.slice_seconds < time.monotonic() - since, self.device)
                if late or self.step % self.config.checkpoint_every == 0 or self.step == total:
                    self._save(folder, self.seconds + time.monotonic() - began)
                if late and self.step < total:
                    self.seconds += time.monotonic() - began
                    return False
        self.seconds += time.monotonic() - began
        self._restore_masters()
        if self.rank == 0:
            export(self.model, self.config, folder / "model")
            export(self.model, self.config, folder / "model-float32", quantise=False)
        return True

    def _mined_by(self, step: int) -> int:
        """The last step up to ``step`` before which candidates are mined; 0 for none."""
        every = self.config.mine_every
        rounds = (step - self.warm_steps) // every if every else 0
        return self.warm_steps + rounds * every if rounds > 0 else 0

    def _mine(self, folder: Path, step: int) -> None:
        """Add the model's own candidates to the teachers'."""
        if self.rank == 0:
            self_mined(folder, step, self.model, self.data, self.config.candidates)
        processes.wait_for_all()
        own = self_mined(folder, step, self.model, self.data, self.config.candidates)
        self.draws.candidates = np.concatenate([self.data.candidates, own], axis=1)
        self.say(f"mined the model's own candidates before step {step:,}")

    def _one(self, draw: Draw) -> None:
        """One step: rates, losses, gradients, update."""
        config, step = self.config, self.step
        warm = step < self.warm_steps
        done, total = (step, self.warm_steps) if warm else (step - self.warm_steps, config.steps)
        peak = config.warm_rate if warm else config.encoder_rate
        rate = learning_rate(done, total, peak, min(config.rate_warmup, total // 4), config.rate_floor)
        for group, value in zip(self.optimiser.param_groups,
                                (rate, rate, 0.0 if warm else learning_rate(done, total, config.table_rate,
                                                                            config.rate_warmup, config.rate_floor)),
                                strict=True):
            group["lr"] = value
        if step < config.mlm_steps:
            loss, seen = self.objectives.mlm(draw, step)
        elif warm:
            loss, seen = self.objectives.vectors(draw)
        else:
            loss, seen = self.objectives.distil(draw)
        loss.backward()
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        gradients = [master.grad for master in self.masters if master.grad is not None]
        processes.average(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.clamp(config.clip / (norm + 1e-6), max=1.0))
        self.optimiser.step()
        torch._foreach_copy_([p.data for p in self.parameters], self.masters)
        seen |= {"loss": loss.detach(), "rate": torch.tensor(rate), "norm": norm}
        self._log.append(seen)

    # --- files ------------------------------------------------------------------------------------------------

    def _restore_masters(self) -> None:
        self.model.bert.to(torch.float32)
        with torch.no_grad():
            for parameter, master in zip(self.model.parameters(), self.masters, strict=True):
                parameter.copy_(master)

    def _report(self, folder: Path, seconds: float) -> None:
        """A line of the log: means of what the steps since the last one saw."""
        names = self._log[-1].keys()
        means = {name: float(np.mean([float(entry[name]) for entry in self._log if name in entry])) for name in names}
        self._log.clear()
        if self.rank:
            return
        line = append_line(folder / "log.jsonl", self.step, seconds, means)
        now = time.monotonic()
        if now - self._said >= _SAY_SECONDS or self.step == self.total:
            self._said = now
            self.say(self._progress(line, now))

    def _progress(self, line: dict[str, float], now: float) -> str:
        step, began = self._first
        return (f"step {self.step:,} of {self.total:,}: loss {line['loss']:.4g}, {line['nonzeros']:.0f} non-zeros, "
                f"rate {line['rate']:.2g}, {pace(self.step - step, self.total - self.step, now - began)}")

    def _save(self, folder: Path, seconds: float) -> None:
        if self.rank:
            return
        seen = [{name: float(value) for name, value in entry.items()} for entry in self._log]
        state = {"step": self.step, "seconds": seconds, "masters": self.masters, "log": seen,
                 "optimiser": self.optimiser.state_dict(),
                 "controls": {name: control.state_dict() for name, control in self.objectives.controls.items()}}
        save_checkpoint(folder, state)

    def _resume(self, folder: Path) -> None:
        path = folder / "checkpoint.pt"
        if not path.exists():
            self._shorten_log(folder)
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for master, saved, parameter in zip(self.masters, state["masters"], self.parameters, strict=True):
                master.copy_(saved)
                parameter.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        for name, control in self.objectives.controls.items():
            control.load_state_dict(state["controls"][name])
        self.step, self.seconds, self._log = state["step"], state["seconds"], state["log"]
        self._shorten_log(folder)
        self.say(f"going on from step {self.step:,} of {self.total:,}")

    def _shorten_log(self, folder: Path) -> None:
        if self.rank == 0:
            shorten_log(folder / "log.jsonl", self.step)
