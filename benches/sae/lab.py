"""What sections measure with: data on a device, trainings that are kept, and codes.

Trainings run on `Trainer` itself: rows are prepared once for all of them, and what is measured of a model afterwards is
measured on the device, where `train_many` takes the processor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benches.quality.files import write_text
from benches.quality.measure import say
from benches.sae.data import Data
from sparsight.encoders.fingerprint import digest_json
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.model import SAE, as_codes
from sparsight.errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

    from sparsight.encoders.sae.preprocessing import Preprocessing
    from sparsight.encoders.sae.trainer import Trainer

__all__ = ["Lab", "Report", "described", "measured"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Report = dict[str, Any]
Coding = Literal["encoder", "pursuit"]
T = TypeVar("T")

_DESCRIBED = 100_000  # rows that latents' statistics are taken from
_PURSUED = 4096  # rows whose codes are sought together


class Lab:
    """Models over the data, each trained once.

    Parameters
    ----------
    data : Data
    work : Path
        Trained models are kept below it, by what decides them.
    fresh : bool
        Train again what another run has kept there: after a change of the training itself.
    """

    def __init__(self, data: Data, work: Path, *, fresh: bool = False) -> None:
        self.data, self._fresh, self._folder = data, fresh, work / f"models-{data.key or 'unnamed'}"
        self._models: dict[str, tuple[SAE, Report]] = {}
        self._prepared: dict[str, tuple[Preprocessing, torch.Tensor]] = {}

    def say(self, text: str) -> None:
        """A line of progress, with the time."""
        say(text)

    def scale(self, full: T, small: T) -> T:
        """``small`` where there is little data, else ``full``."""
        return small if self.data.small else full

    def train(self, name: str, config: SAEConfig, *, rows: I64 | None = None) -> tuple[SAE, Report]:
        """The model of a configuration; ``name`` is for the progress alone.

        Returns
        -------
        sae : SAE
            With statistics of up to 100,000 of the rows.
        report : dict
            ``fvu``, ``l0`` and ``dead`` on `Data.held`, of codes by the encoder; ``rows``, ``steps``, ``seconds`` (the
            start included, what is measured afterwards not), ``config`` filled in, and ``last_*``: losses of the last
            step.
        """
        return self.train_many([config], name=name, rows=rows)[0]

    def train_many(self, configs: Sequence[SAEConfig], *, name: str = "", rows: I64 | None = None,
                   ) -> list[tuple[SAE, Report]]:
        """Models of configurations, one after the other; those with `Mutual` at the same time.

        ``held_out`` does not count: what is held out is `Data.held`. With ``rows``, ascending numbers, those rows of
        ``x`` alone are trained on; only configurations that need no neighbours can have them.
        """
        from sparsight.encoders.sae.trainer import has_peers

        wanted = [replace(config, held_out=0.0) for config in configs]
        together = any(map(has_peers, wanted))
        keys = [self._key(config, wanted if together else [], rows) for config in wanted]
        missing = [at for at, key in enumerate(keys) if not self._known(key)]
        if missing and together:
            missing = list(range(len(wanted)))
        for group in [missing] if together else [[at] for at in missing]:
            if group:
                made = self._train([wanted[at] for at in group], name, rows)
                for at, (sae, report) in zip(group, made, strict=True):
                    self._keep(keys[at], sae, report)
        return [self._models[key] for key in keys]

    def codes(self, sae: SAE, x: F32, k: int = 0, how: Coding = "encoder") -> csr_matrix:
        """Codes of rows, float32 (B, N), sorted, values above 0; ``k`` 0 takes the model's.

        Parameters
        ----------
        sae : SAE
        x : float32, shape (B, D)
        k : int
        how : "encoder" or "pursuit"
            Pursuit seeks the best code that the decoder has (:mod:`sparsight.encoders.sae.pursuit`).
        """
        from sparsight.encoders.sae.blocks import encode

        if how == "pursuit":
            latents, values = self.pursued(sae, x, k or sae.k)
            return as_codes(latents.cpu().numpy(), values.cpu().numpy(), sae.n_latents)
        own = replace(sae, k=k, threshold=np.zeros(0, np.float32)) if k else sae
        return encode(own, x, device=self.data.device)

    def held_figures(self, sae: SAE, k: int = 0, how: Coding = "encoder") -> Report:
        """``fvu``, ``l0`` and ``dead`` on `Data.held` of these codes."""
        return measured(sae, self.data.held, self.codes(sae, self.data.held, k, how), device=self.data.device)

    # --- training -------------------------------------------------------------------------------------------------

    def _train(self, configs: Sequence[SAEConfig], name: str, rows: I64 | None) -> list[tuple[SAE, Report]]:
        for config in configs:
            self.say(f"training {name or 'a model'}: N {config.n_latents}, k {config.k}, seed {config.seed} ...")
        started = self._now()
        trainers = [self._trainer(config, rows) for config in configs]
        for trainer in trainers:
            trainer.others = [other for other in trainers if other is not trainer]
        seen: list[dict[str, torch.Tensor]] = [{} for _ in trainers]
        for step in range(max(trainer.steps for trainer in trainers)):
            for number, trainer in enumerate(trainers):
                if step < trainer.steps:
                    seen[number] = trainer.step(step)
        seconds = self._now() - started
        return [self._finished(trainer, losses, seconds) for trainer, losses in zip(trainers, seen, strict=True)]

    def _trainer(self, config: SAEConfig, rows: I64 | None) -> Trainer:
        from sparsight.encoders.sae.plain import make_trainer

        asks = config.needs_neighbours
        if asks and rows is not None:
            raise InvalidArgumentError("neighbours are rows of all of x: expected no choice of rows", field="rows")
        preprocessing, x = self._inputs(config.preprocess)
        if rows is not None:
            x = x[rows]
        return make_trainer(x, config.filled(len(x), x.shape[1]), preprocessing, self.data.neighbours if asks else None)

    def _inputs(self, kind: str) -> tuple[Preprocessing, torch.Tensor]:
        """All rows as a training sees them, on the device."""
        from sparsight.encoders.sae.preprocessing import fit

        if kind not in self._prepared:
            preprocessing = fit(self._x, kind)
            self._prepared[kind] = preprocessing, preprocessing(self._x)
        return self._prepared[kind]

    @cached_property
    def _x(self) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.data.x).to(self.data.device)

    def _finished(self, trainer: Trainer, losses: dict[str, torch.Tensor], seconds: float) -> tuple[SAE, Report]:
        x, device = self.data.x, self.data.device
        some = x[np.linspace(0, len(x) - 1, min(_DESCRIBED, len(x))).astype(np.int64)]
        sae = described(trainer.finish(), some, device=device)
        report = {"rows": len(trainer.x), "steps": trainer.steps, "seconds": round(seconds, 3),
                  "config": trainer.config.described()}
        report |= {f"last_{name}": float(value) for name, value in losses.items()}
        return sae, report | self.held_figures(sae)

    def _now(self) -> float:
        """Seconds, once the device has done what it was given."""
        import torch

        if self.data.device.startswith("cuda"):
            torch.cuda.synchronize(self.data.device)
        return time.perf_counter()

    # --- what is kept ---------------------------------------------------------------------------------------------

    def _key(self, config: SAEConfig, beside: Sequence[SAEConfig], rows: I64 | None) -> str:
        filled = config.filled(len(self.data.x) if rows is None else len(rows), self.data.x.shape[1])
        return digest_json({"config": filled.described(), "beside": [other.described() for other in beside],
                            "rows": None if rows is None else digest_json(rows.tolist())})[:16]

    def _known(self, key: str) -> bool:
        if key not in self._models and not self._fresh and (self._folder / key / "report.json").is_file():
            try:
                sae = SAE.load(self._folder / key)
            except CheckpointError:
                return False
            self._models[key] = sae, json.loads((self._folder / key / "report.json").read_text())
        return key in self._models

    def _keep(self, key: str, sae: SAE, report: Report) -> None:
        self._models[key] = sae, report
        sae.save(self._folder / key)
        write_text(self._folder / key / "report.json", json.dumps(report))

    # --- codes ----------------------------------------------------------------------------------------------------

    def pursued(self, sae: SAE, x: F32, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes by pursuit on the device: latents int64 and values float32, both (B, k), largest first."""
        import torch

        from sparsight.encoders.sae.pursuit import best_codes

        atoms, bias = (torch.from_numpy(array).to(self.data.device) for array in (sae.W_dec, sae.b_dec))
        rows = torch.from_numpy(np.ascontiguousarray(x))
        parts = [best_codes(part.to(self.data.device) - bias, atoms, k, pool=sae.pool) for part in rows.split(_PURSUED)]
        return torch.cat([latents for latents, _ in parts]), torch.cat([values for _, values in parts])


def measured(sae: SAE, x: F32, codes: csr_matrix, *, device: str = "cpu") -> Report:
    """FVU, mean active latents and share of silent latents: ``fvu``, ``l0``, ``dead``.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
    codes : csr_matrix, shape (B, N)
        Of these rows.
    device : str
    """
    from sparsight.encoders.sae.blocks import errors

    wrong = float(np.square(errors(sae, x, codes, device=device), dtype=np.float64).sum())
    total = float(np.square(x - x.mean(0, dtype=np.float64)).sum())
    fired = np.zeros(sae.n_latents, bool)
    fired[codes.indices] = True
    return {"fvu": wrong / max(total, 1e-30), "l0": codes.nnz / len(x), "dead": 1.0 - float(fired.mean())}


def described(sae: SAE, x: F32, *, device: str = "cpu") -> SAE:
    """As :func:`sparsight.encoders.sae.model.describe_latents`, on a device and for all latents at once."""
    from sparsight.encoders.sae.blocks import encode, errors

    codes = encode(sae, x, device=device)
    norms = np.linalg.norm(x - errors(sae, x, codes, device=device), axis=1)
    weights = codes.data / np.repeat(np.maximum(norms, 1e-12), np.diff(codes.indptr))
    counts = np.bincount(codes.indices, minlength=sae.n_latents)
    alive = counts > 0
    largest = np.zeros(sae.n_latents, np.float32)
    np.maximum.at(largest, codes.indices, weights.astype(np.float32))
    # By latent, then value, in one sort: floats above 0 keep their order as whole numbers.
    keys = np.sort(codes.indices.astype(np.int64) << 32 | weights.astype(np.float32).view(np.int32))
    values = (keys & 0xFFFFFFFF).astype(np.int32).view(np.float32)
    # The quantile lies between two of a latent's sorted values, as numpy has it.
    first, place = (np.cumsum(counts) - counts)[alive], 0.9 * (counts[alive] - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, counts[alive] - 1)
    scale = np.zeros(sae.n_latents, np.float32)
    scale[alive] = values[first + below] + (place - below) * (values[first + above] - values[first + below])
    usual = np.median(largest[alive]) if alive.any() else 1.0
    return replace(sae, density=(counts / max(len(x), 1)).astype(np.float32), scale=scale,
                   impact_scale=np.where(alive, largest, usual).astype(np.float32))
