"""A training run as a folder: what it was started with, where to go on, its log, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsight.errors import FailedPreconditionError, InvalidArgumentError

__all__ = ["TrainingReport", "append_line", "chosen_device", "keep_settings", "pace", "read_log", "report_of",
           "save_checkpoint", "shorten_log", "write_json"]


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


def report_of(folder: Path, step: int, steps: int, new_steps: int, seconds: float) -> TrainingReport:
    """The report on a run whose files are in ``folder``."""
    lines, plot = read_log(folder / "log.jsonl"), folder / "training.svg"
    return TrainingReport(step == steps, step, steps, new_steps, seconds, folder,
                          folder / "model" if step == steps else None, plot if plot.exists() else None,
                          lines[-1] if lines else {})


def chosen_device(name: str) -> str:
    """"cpu" or "cuda" for "auto"; InvalidArgumentError for one that is not there."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InvalidArgumentError(f"expected auto, cpu or cuda, got {name!r}", field="device")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError("expected a GPU that torch can use, got none", field="device")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def keep_settings(folder: Path, settings: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Write settings down in ``config.json``, or compare them with those that the folder was started with.

    ``free`` are keys that may differ. Raises FailedPreconditionError if others do; ``details["keys"]`` names them.
    """
    path = folder / "config.json"
    mine = json.loads(json.dumps(settings, default=str))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
        return
    theirs = json.loads(path.read_text("utf-8"))
    keys = [key for key in {**theirs, **mine} if key not in free and theirs.get(key) != mine.get(key)]
    if keys:
        differences = ", ".join(f"{key} ({theirs.get(key)} there, {mine.get(key)} here)" for key in keys)
        raise FailedPreconditionError(f"{folder} has a run with other settings: {differences}; choose another folder, "
                                      "or take these back", reason="OTHER_SETTINGS", keys=", ".join(keys))


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``checkpoint.pt``, which is the old one until the new one is complete."""
    import torch

    torch.save(state, folder / "unfinished-checkpoint.pt")
    (folder / "unfinished-checkpoint.pt").replace(folder / "checkpoint.pt")


def write_json(path: Path, value: Any) -> None:
    """Write a file beside its place, and put it there."""
    path.with_suffix(".new").write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    path.with_suffix(".new").replace(path)


def append_line(path: Path, step: int, seconds: float, means: Mapping[str, float]) -> dict[str, float]:
    """Add a line to a log, and give it back."""
    line = {"step": step, "seconds": round(seconds, 1),
            **{name: float(f"{value:.6g}") for name, value in means.items()}}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log; none where there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def shorten_log(path: Path, step: int) -> None:
    """Drop what was logged after a step: those steps come again."""
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        path.with_name("unfinished-log.jsonl").write_text("".join(kept), "utf-8")
        path.with_name("unfinished-log.jsonl").replace(path)


def pace(done: int, left: int, seconds: float) -> str:
    """Speed and time left, for a line of progress: "2.5 steps/s, 40 s left"."""
    speed = done / max(seconds, 1e-9)
    remaining = left / max(speed, 1e-9)
    time_left = f"{remaining / 60:.0f} min" if remaining >= 120 else f"{remaining:.0f} s"
    return f"{speed:.3g} steps/s, {time_left} left"
