"""A report on autoencoders as a page and as pictures.

`PAGES` and `PICTURES` hold what shows the lists of rows by name; a list without an entry becomes a plain table.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.retrieval.judged_vectors import NDCG
from sparsight.retrieval.sae_report import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PAGES", "PICTURES", "draw", "markdown", "table"]

Lines = list[str]


def markdown(report: Report, about: Mapping[str, Any], pictures: Sequence[Path] = ()) -> str:
    """The page; ``about`` says how it was made, ``pictures`` lie beside it."""
    lines = ["# Sparse autoencoders: what their codes keep", ""]
    lines += [*(f"- {key}: {value}" for key, value in about.items()), ""]
    lines += [line for path in pictures for line in (f"![{path.stem}]({path.name})", "")]
    for name, rows in report.items():
        if rows:
            show = PAGES.get(name, _plain)
            lines += [f"## {name.capitalize()}", "", *show(rows)]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Lines:
    """A Markdown table and an empty line; the first ``left`` columns are texts."""
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [*("| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])), ""]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value).replace("|", "\\|")


def _plain(rows: Sequence[Row]) -> Lines:
    head = list(dict.fromkeys(key for row in rows for key in row))
    return table(head, ([row.get(key) for key in head] for row in rows))


def _retention(rows: Sequence[Row]) -> Lines:
    lines = ["nDCG@10 of the codes divided by that of the dense vectors, by active latents of a document. Scorers: "
             "decode-M takes the M most important weights `w_i . x` of a query (the largest where it says size), "
             "symmetric its own code (of M latents); documents' weights are divided by the length of the "
             "reconstruction unless it says raw. Postings are what a query "
             "reads on average, at the largest k. Random atoms and centroids are dictionaries that were not trained; "
             "about as many centroids as documents remember the documents.", ""]  # fmt: skip
    for name, of_set in _by(rows, "set"):
        lines += [f"### {name}", "", *_by_k(of_set, ("model", "scorer", "mode"), last="postings")]
    return lines


def _baselines(rows: Sequence[Row]) -> Lines:
    lines = ["Retention of short forms of the dense vectors. At equal dimensions they have k numbers; at equal bytes "
             "they have, rounded down, the bytes of k postings: ceil(log2 n_latents) bits for the latent and 8 for its "
             "weight, each. Parts that all documents share are not counted.", ""]  # fmt: skip
    for name, of_set in _by(rows, "set"):
        sized = [row for row in of_set if row["k"] is not None]
        lines += [f"### {name}", "", *_by_k(sized, ("system", "equal", "n_latents"), last="bytes")]
        others = [row for row in of_set if row["k"] is None]
        if others:
            lines += table(("system", "bytes", "retention"), ([row[key] for key in ("system", "bytes", "retention")]
                                                              for row in others))  # fmt: skip
    return lines


def _by_k(rows: Sequence[Row], names: Sequence[str], last: str) -> Lines:
    """Retention with a column for each k; what ``last`` is at the largest k."""
    if not rows:
        return []
    ks = sorted({row["k"] for row in rows})
    lines = []
    for key, found in _by(rows, *names):
        of_k = {row["k"]: row for row in found}
        kept = [of_k[k]["retention"] if k in of_k else None for k in ks]
        lines.append([*(key if isinstance(key, tuple) else (key,)), *kept, of_k[max(of_k)][last]])
    return table((*names, *(f"k = {k}" for k in ks), last), lines, len(names))


def _comparisons(rows: Sequence[Row]) -> Lines:
    note = ("Differences in nDCG@10, codes minus baseline: 95 % bootstrap interval over queries, p of the paired "
            "randomisation test (two-sided, not corrected for the number of comparisons).")
    lines = []
    for row in rows:
        lines.append([row["set"], row["model"], row["scorer"], row["k"], row["against"], f"{row['difference']:+.3f}",
                      f"{row['low']:+.3f} to {row['high']:+.3f}", f"{row['p_value']:.4f}",
                      f"{row['wins']} / {row['losses']} / {row['ties']}"])  # fmt: skip
    head = ("set", "model", "scorer", "k", "against", "difference", "interval", "p", "better / worse / same")
    return [note, "", *table(head, lines, 5)]


PAGES: dict[str, Callable[[Sequence[Row]], Lines]] = {
    "retention": _retention, "baselines": _baselines, "comparisons": _comparisons}
"""What makes a part of the page of a list of rows."""


def draw(report: Report, folder: Path) -> list[Path]:
    """Write as SVG each of `PICTURES` whose rows are there; the same rows give the same files.

    Returns
    -------
    list of Path
        What was written; nothing without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return []
    written = []
    for name, (kind, picture) in PICTURES.items():
        if not report.get(kind):
            continue
        with matplotlib.rc_context({"svg.hashsalt": "sparsight", "svg.fonttype": "none", "axes.grid": True,
                                    "grid.alpha": 0.3}):  # fmt: skip
            figure = Figure(layout="constrained")
            picture(figure, report)
            drawn = io.BytesIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
        written.append(folder / f"{name}.svg")
        written[-1].write_bytes(drawn.getvalue())
    return written


def _by_set(figure: Figure, report: Report, picture: Callable[[Axes, Report], None]) -> None:
    """A picture for each set, side by side, of that set's rows."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(row["set"] for row in report["retention"]))
    figure.set_size_inches(5.5 * len(names), 5)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.set_title(name)
        axes.set_prop_cycle(color=[colormaps["tab20"](at) for at in range(20)])
        axes.set_ylabel(f"{NDCG} relative to the dense vectors'")
        picture(axes, {kind: [row for row in rows if row.get("set") == name] for kind, rows in report.items()})
        axes.set_xscale("log", base=2)
        axes.legend(fontsize="small")


def _against(axes: Axes, of_set: Report, x: str, label: str, equal: Sequence[str]) -> None:
    """Retention of each model by the first scorer, and of baselines."""
    codes = of_set["retention"]
    first = [row for row in codes if row["scorer"] == codes[0]["scorer"]]
    for name, rows in _by(first, "model", "mode"):
        _line(axes, rows, x, " ".join(name).removesuffix(" topk"), "o-")
    for name, rows in _by([row for row in of_set.get("baselines", []) if row["equal"] in equal], "system"):
        _line(axes, rows, x, name, "^--" if rows[0]["k"] is not None else "s")
    axes.set_xlabel(f"{label}; codes: {codes[0]['scorer']}")


def _scorers(axes: Axes, of_set: Report) -> None:
    """Retention of the first model by every scorer."""
    codes = of_set["retention"]
    for name, rows in _by([row for row in codes if row["model"] == codes[0]["model"]], "scorer"):
        _line(axes, rows, "k", name, "o-")
    axes.set_xlabel(f"active latents of a document ({codes[0]['model']})")


def _line(axes: Axes, rows: Sequence[Row], x: str, label: str, style: str) -> None:
    points = sorted({(row[x], row["retention"]) for row in rows})
    axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)


PICTURES: dict[str, tuple[str, Callable[[Figure, Report], None]]] = {
    "retention": ("retention", partial(_by_set, picture=partial(
        _against, x="k", label="active latents, or dimensions, of a document", equal=("dimensions",)))),
    "bytes": ("retention", partial(_by_set, picture=partial(
        _against, x="bytes", label="bytes of a document", equal=("dimensions", "bytes", "")))),
    "scorers": ("retention", partial(_by_set, picture=_scorers)),
}  # fmt: skip
"""Name of the file: the list of rows that it needs, and what draws into its figure."""


def _by(rows: Sequence[Row], *keys: str) -> list[tuple[Any, list[Row]]]:
    """Rows with equal values of keys, in the order of their first ones."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys), []).append(row)
    return list(groups.items())
