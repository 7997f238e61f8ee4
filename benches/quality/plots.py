"""The picture: nDCG@10 against the size of documents' vectors, and against the speed of making them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.quality.files import write_bytes
from benches.quality.results import Row

__all__ = ["plot"]

_MARKS = {"bm25": "s", "sparse": "o", "dense": "^", "hybrid": "D"}
_LABEL_WIDTH = 8.0  # a factor, since the axis is logarithmic
_COLOURS = {"bm25": "C7", "sparse": "C0", "dense": "C1", "hybrid": "C2"}


def plot(means: Sequence[Row], path: Path) -> None:
    """Write the picture of `report.summary`'s rows as SVG; the same rows give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained", sharey=True)
        _points(left, means, "document_nonzeros", "mean non-zeros of a document (left is smaller)")
        _points(right, means, "texts_per_s", "documents encoded a second, one thread (right is faster)")
        left.set_ylabel(f"nDCG@10, mean of {', '.join(means[0]['sets'])}")
        kinds = dict.fromkeys(row["kind"] for row in means)
        left.legend(handles=[plt.Line2D([], [], linestyle="", marker=_MARKS[kind], color=_COLOURS[kind], label=kind)
                             for kind in kinds], fontsize="small")  # fmt: skip
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_bytes(path, lambda file: file.write(drawn.getvalue()))


def _points(axes: Any, means: Sequence[Row], what: str, label: str) -> None:
    of = sorted((row for row in means if row[what]), key=lambda row: row["nDCG@10"])
    heights = _apart([(row[what], row["nDCG@10"]) for row in of], 0.025 * _spread(means))
    axes.set_xscale("log")
    axes.margins(x=0.3)
    axes.set_xlabel(label)
    for row, height in zip(of, heights, strict=True):
        axes.plot(row[what], row["nDCG@10"], _MARKS[row["kind"]], color=_COLOURS[row["kind"]])
        axes.annotate(row["system"], (row[what], height), (7, 0), textcoords="offset points", fontsize=7, va="center")


def _spread(means: Sequence[Row]) -> float:
    values = [row["nDCG@10"] for row in means]
    return max(values) - min(values) or 0.1


def _apart(points: Sequence[tuple[float, float]], gap: float) -> list[float]:
    """Heights of the labels of points, given from low to high: raised until none covers a lower one close by."""
    placed: list[tuple[float, float]] = []
    for x, height in points:
        for other, taken in placed:
            if max(x / other, other / x) < _LABEL_WIDTH and height < taken + gap:
                height = taken + gap
        placed.append((x, height))
    return [height for _, height in placed]
