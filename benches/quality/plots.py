"""The pictures: nDCG@10 against the size of vectors and the speed of making them; what was measured over the asked."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benches.quality.files import write_bytes
from benches.quality.report import figure
from benches.quality.results import Row

__all__ = ["drawing", "legend", "plot", "plot_targets"]

_MARKS = {"bm25": "s", "sparse": "o", "dense": "^", "hybrid": "D"}
_LABEL_WIDTH = 8.0  # a factor, since the axis is logarithmic
_COLOURS = {"bm25": "C7", "sparse": "C0", "dense": "C1", "hybrid": "C2"}
_VERDICTS = {True: ("C2", "met"), False: ("C3", "missed"), None: ("C7", "no bound: the figure itself")}


def plot(means: Sequence[Row], path: Path) -> None:
    """Write the picture of `report.summary`'s rows as SVG; the same rows give the same file."""
    with drawing(path, 1, 2, figsize=(13, 6), sharey=True) as (left, right):
        _points(left, means, "document_nonzeros", "mean non-zeros of a document (left is smaller)")
        _points(right, means, "texts_per_s", "documents encoded a second, one thread (right is faster)")
        left.set_ylabel(f"nDCG@10, mean of {', '.join(means[0]['sets'])}")
        kinds = dict.fromkeys(row["kind"] for row in means)
        legend(left, [(_MARKS[kind], _COLOURS[kind], kind) for kind in kinds], fontsize="small")


def plot_targets(rows: Sequence[Row], path: Path, most: float = math.inf) -> None:
    """Write the picture of `targets.target_rows` as SVG: a bar a row, measured over asked, and a line at 1.

    A row that was not measured is a name without a bar. Bars end at ``most``; a diamond is a row's "moonshot".
    """
    with drawing(path, figsize=(13, 0.5 + 0.32 * len(rows))) as (axes,):
        for height, row in enumerate(rows):
            times = min(row["times"] or 0, most)
            axes.barh(height, times, color=_VERDICTS[row["met"]][0], height=0.7)
            far = 0.0
            if row.get("moonshot") is not None:
                far = row["moonshot"] / row["asked"]
                far = min(1 / far if row["bound"] == "at most" else far, most)
                axes.plot(far, height, "D", color="black", markersize=4)
            axes.annotate(_beside(row), (max(times, far, 1), height), (4, 0), textcoords="offset points", fontsize=8,
                          va="center")  # fmt: skip
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlim(0, 1.3 * max([2, *(min(row["times"] or 0, most) for row in rows)]))
        axes.set_xlabel("measured / asked, of upper bounds asked / measured; the line: what was asked")
        axes.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=8)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        marks = [("s", *_VERDICTS[met]) for met in dict.fromkeys(row["met"] for row in rows)]
        if any("moonshot" in row for row in rows):
            marks.append(("D", "black", "moonshot"))
        legend(axes, marks, loc="upper right")


@contextmanager
def drawing(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[list[Any]]:
    """Axes to draw on; the file is written at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3}):
        figure, axes = plt.subplots(rows, columns, layout="constrained", squeeze=False, **options)
        yield list(axes.flat)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_bytes(path, lambda file: file.write(drawn.getvalue()))


def legend(axes: Any, entries: Sequence[tuple[str, str, str]], **options: Any) -> None:
    """Mark, colour and label of each entry."""
    from matplotlib.lines import Line2D

    axes.legend(handles=[Line2D([], [], linestyle="", marker=mark, color=colour, label=label)
                         for mark, colour, label in entries], **options)  # fmt: skip


def _beside(row: Row) -> str:
    """What stands at the end of a target's bar."""
    if row["measured"] is None:
        return "not measured"
    asked = "" if row["asked"] is None else f" (asked: {row['bound']} {figure(row['asked'])})"
    return f"{figure(row['measured'])} {row['unit']}{asked}"


def _points(axes: Any, means: Sequence[Row], what: str, label: str) -> None:
    of = sorted((row for row in means if row[what]), key=lambda row: row["nDCG@10"])
    heights = _apart([(row[what], row["nDCG@10"]) for row in of], 0.025 * _spread(means))
    axes.set_xscale("log")
    if of:
        axes.set_xlim(min(row[what] for row in of) / 1.5, max(row[what] for row in of) * _LABEL_WIDTH)
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
