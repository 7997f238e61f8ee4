"""A training run's log as a picture."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["plot_log"]

_LOSSES = ("loss", "siamese", "table", "mlm", "vectors")


def plot_log(log: Path, picture: Path, target: float) -> Path | None:
    """Draw losses, non-zeros and the penalty's weight over the steps.

    Parameters
    ----------
    log : Path
        ``log.jsonl`` of a run.
    picture : Path
        Written as SVG (or what its suffix says).
    target : float
        Non-zeros per document that the controller holds.

    Returns
    -------
    Path or None
        ``picture``; None without matplotlib or with an empty log.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    if not lines:
        return None
    figure = Figure(figsize=(8, 8), layout="constrained")
    losses, sizes, weights = figure.subplots(3, sharex=True)
    for axes, names in ((losses, _LOSSES), (sizes, ("nonzeros", "query_nonzeros")),
                        (weights, ("lambda", "query_lambda"))):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1,
                          marker="." if len(points) == 1 else None)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.set_yscale("log")
            axes.legend(loc="upper right")
    sizes.axhline(target, color="black", linestyle=":", linewidth=1)
    losses.set_ylabel("loss")
    sizes.set_ylabel("non-zeros per text")
    weights.set_ylabel("weight of the penalty")
    weights.set_xlabel("step")
    figure.savefig(picture)
    return picture
