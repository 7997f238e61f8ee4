"""A training run's log as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsight.encoders.run_folder import read_log

__all__ = ["Panel", "plot_log"]


@dataclass(frozen=True, slots=True)
class Panel:
    """Some of a log's values over the steps, as one of a picture's parts.

    Attributes
    ----------
    label : str
        Of the vertical axis, which is logarithmic: values that are not above 0 are left out.
    names : tuple of str
        Keys of the log's lines; those that no line has are left out.
    level : float
        Where a dotted line stands; 0 for none.
    """

    label: str
    names: tuple[str, ...]
    level: float = 0.0


def plot_log(log: Path, picture: Path, panels: Sequence[Panel]) -> Path | None:
    """Draw a log.

    Parameters
    ----------
    log : Path
        ``log.jsonl`` of a run.
    picture : Path
        Written as SVG (or what its suffix says).
    panels : sequence of Panel
        At least one; from top to bottom.

    Returns
    -------
    Path or None
        ``picture``; None without matplotlib or with an empty log.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = read_log(log)
    if not lines:
        return None
    figure = Figure(figsize=(8, 2.7 * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for name in panel.names:
            points = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1,
                          marker="." if len(points) == 1 else None)
        axes.set_ylabel(panel.label)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.set_yscale("log")
            axes.legend(loc="upper right")
        if panel.level:
            axes.axhline(panel.level, color="black", linestyle=":", linewidth=1)
    axes.set_xlabel("step")
    figure.savefig(picture)
    return picture
