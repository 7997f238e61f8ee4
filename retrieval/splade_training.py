"""Training encoders from settings files: the command's door to :mod:`sparsight.encoders.training`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sparsight.encoders.training.runs import TrainingReport

__all__ = ["train_splade"]


def train_splade(paths: Sequence[str | Path], *, data: str | Path | None = None, out: str | Path | None = None,
                 slice_seconds: float = 0.0, device: str = "auto", changes: Sequence[str] = (),
                 say: Callable[[str], None] = lambda line: None) -> list[TrainingReport]:
    """Start the runs of settings files one after another, or go on with them.

    Parameters
    ----------
    paths : sequence of paths of TOML files
        Keys: :class:`~sparsight.encoders.training.config.SpladeTrainingConfig`. A later run may have an earlier one's
        model as its teacher.
    data : path, optional
        Where the sources' folders are; each file's own folder if left out.
    out : path, optional
        Folder of the run, if it is one; ``run.output`` if left out.
    slice_seconds : float
        Stop after so long, all runs together; 0 takes each file's ``run.slice_seconds``.
    device : "auto", "cpu" or "cuda"
    changes : sequence of "section.key=value"
        Other values for settings, of all the files.
    say : callable
        Gets lines of progress.

    Returns
    -------
    list of TrainingReport
        Of the runs that were come to. All are done if there is one for each path and the last is finished.

    Raises
    ------
    InvalidArgumentError
        If a setting is unknown or out of range, the device is not there, or ``out`` is given for several runs.
    FailedPreconditionError
        If a folder has a run with other settings.
    """
    from sparsight.encoders.training.config import read_config
    from sparsight.encoders.training.runs import train

    if out is not None and len(paths) != 1:
        raise InvalidArgumentError(f"expected no folder for {len(paths)} runs: each has its run.output", field="out")
    began = time.monotonic()
    runs = [read_config(path, data, changes) for path in paths]  # all of them, before the first begins
    reports: list[TrainingReport] = []
    for run in runs:
        left = slice_seconds - (time.monotonic() - began) if slice_seconds else run.slice_seconds
        if slice_seconds:
            if left <= 0 and any(report.new_steps for report in reports):
                break
            left = max(left, 1e-3)  # 0 would be no limit
        run = replace(run, output=Path(out) if out else run.output, slice_seconds=left)
        reports.append(train(run, device, say))
        if not reports[-1].finished:
            break
    return reports
