"""The pictures: latency against recall, bytes a document, build time, and growth with the number of documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.search.results import Row

__all__ = ["plot_all", "slope"]

_FLOOR = 3e-5  # where a recall of 1 is drawn on the logarithmic axis
_MARKS = "osD^v<>pXP*h"


def slope(documents: Sequence[float], times: Sequence[float]) -> float:
    """Exponent b of ``time = a * documents ** b``, fitted by least squares of logarithms."""
    return float(np.polyfit(np.log(documents), np.log(times), 1)[0])


def plot_all(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the plots that the rows allow, as SVG; the same rows give the same files."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3})
    folder.mkdir(parents=True, exist_ok=True)
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    style = {name: {"marker": _MARKS[at % len(_MARKS)], "color": f"C{at % 10}"} for at, name in enumerate(engines)}
    written = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        of = [row for row in rows if row["workload"] == workload]
        for k in sorted({row["k"] for row in of}):
            some = [row for row in of if row["k"] == k]
            written.append(_recall(some, style, folder / f"recall-{workload}-{k}.svg"))
        written.append(_costs(of, "bytes", "bytes a document", folder / f"bytes-{workload}.svg"))
        written.append(_costs(of, "build_s", "seconds to build", folder / f"build-{workload}.svg"))
    for family in dict.fromkeys(row["family"] for row in rows):
        for k in sorted({row["k"] for row in rows if row["family"] == family}):
            some = [row for row in rows if row["family"] == family and row["k"] == k]
            if len({row["documents"] for row in some}) > 1:
                written.append(_growth(some, style, folder / f"growth-{family}-{k}.svg"))
    return written


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _recall(rows: Sequence[Row], style: dict[str, Any], path: Path) -> Path:
    """Median time against 1 - recall, both logarithmic: lower and further right is better."""
    title = f"{rows[0]['workload']}, {rows[0]['documents']:,} documents, k = {rows[0]['k']}, one core"
    figure, axes = _figure(title, "1 - recall (better to the right)", "median µs")
    for engine, mode in dict.fromkeys((row["engine"], row["mode"]) for row in rows):
        points = sorted({(max(1 - row["recall_float"], _FLOOR), row["p50_us"])
                         for row in rows if (row["engine"], row["mode"]) == (engine, mode)})  # fmt: skip
        line = "-" if len(points) > 1 else ""
        filled = {"markerfacecolor": "white"} if mode == "exact" else {}
        axes.plot(*zip(*points, strict=True), line, label=f"{engine} {mode}", **style[engine], **filled)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.legend(fontsize="small")
    return _save(figure, path)


def _costs(rows: Sequence[Row], what: str, label: str, path: Path) -> Path:
    """One point an engine and build."""
    values = {}
    for row in rows:
        build = row["parameters"]["build"]["name"]
        name = row["engine"] if build == "only" else f"{row['engine']} {build}"
        values[name] = row[what] / row["documents"] if what == "bytes" else row[what]
    names = sorted(values, key=values.__getitem__)
    figure, axes = _figure(f"{rows[0]['workload']}, {rows[0]['documents']:,} documents", label, "")
    axes.plot([values[name] for name in names], names, "o")  # points, since a bar on this axis starts anywhere
    for name in names:
        axes.annotate(f"{values[name]:,.4g}", (values[name], name), (6, -3), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    return _save(figure, path)


def _growth(rows: Sequence[Row], style: dict[str, Any], path: Path) -> Path:
    """Median time against documents, with the fitted exponent: exact modes, and approximate ones at recall 0.99."""
    figure, axes = _figure(f"{rows[0]['family']}, k = {rows[0]['k']}, one core", "documents", "median µs")
    for engine in dict.fromkeys(row["engine"] for row in rows):
        for target in ("exact", "0.99"):
            of = [row for row in rows if (row["engine"], row["target"]) == (engine, target)]
            documents = sorted({row["documents"] for row in of})
            if len(documents) < 2:
                continue
            times = [min(row["p50_us"] for row in of if row["documents"] == n) for n in documents]  # the best build
            label = f"{engine} {target}: N^{slope(documents, times):.2f}"
            axes.plot(documents, times, "-" if target == "exact" else "--", label=label, **style[engine])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize="small")
    return _save(figure, path)
