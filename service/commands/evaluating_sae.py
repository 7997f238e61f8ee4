"""``sparsight eval-sae``: how much of a dense encoder's retrieval quality autoencoders' codes keep, beside baselines.

The judged sets are embedded once and kept in a cache. Every document is scored with weights as the index holds them;
what is measured, and more ways to: :mod:`sparsight.retrieval.sae_report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sparsight.service.commands.common import JsonOption, Output, Usage

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sparsight.retrieval.sae_report import Report

__all__ = ["evaluate_sae"]

_ALL = "all"


def evaluate_sae(
    models: Annotated[list[str], typer.Argument(metavar="[NAME=]PATH...", help="Folder of an autoencoder, of any "
                                                "layout that is read, or of a collection with SAE fields.")],
    sets: Annotated[str, typer.Option(metavar="DIR,...", help="Judged sets: BEIR folders, or ir_datasets:NAME.")],
    encoder: Annotated[str, typer.Option(metavar="MODEL", help="The dense encoder that the autoencoders "
                                         "read.")] = "all-MiniLM-L6-v2",
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the report: sae.json, sae.md and, with "
                                     "matplotlib, pictures.")] = "sae-report",
    split: Annotated[str, typer.Option(help="Judgements to use.")] = "test",
    no_titles: Annotated[str, typer.Option(metavar="NAME,...", help="Sets whose documents' titles are left out: those "
                                           "whose queries are the titles.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Word pieces after which documents are cut.")] = 256,
    max_documents: Annotated[int, typer.Option(min=0, help="Larger sets are sampled; 0: none.")] = 0,
    max_queries: Annotated[int, typer.Option(min=0, help="Of a sampled set; 0: all.")] = 0,
    ks: Annotated[str, typer.Option("--ks", metavar="K,...", help="Active features of a document; each autoencoder's "
                                    "own number is measured too.")] = "2,4,8,16,32,64",
    scorers: Annotated[str, typer.Option(metavar="NAME,...", help="decode or symmetric, then -M or -all, -size, -idf, "
                                         "-raw as wanted. Baselines meet the first.")] = _ALL,
    baselines: Annotated[str, typer.Option(metavar="NAME,...", help="random, centroids, truncation, pca, pq, opq, "
                                           'int8, binary; "" for none.')] = _ALL,
    fit: Annotated[str, typer.Option(metavar="PATH", help="What baselines are fitted to: a corpus, or vectors in a "
                                     ".npy file. Each set's own documents if left out.")] = "",
    full_weights: Annotated[bool, typer.Option("--full-weights", help="Documents' weights in float32, not in the "
                                               "index's 8 bits.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to embed and to score.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of samples and of baselines.")] = 0,
    cache: Annotated[str, typer.Option(metavar="DIR", help="Where vectors are kept.", show_default="beside the "
                                       "models")] = "",
    as_json: JsonOption = False,
) -> None:
    """Measure how much retrieval quality the codes of sparse autoencoders keep."""
    if device not in ("auto", "cpu", "cuda"):
        raise Usage(f"--device: expected auto, cpu or cuda, got {device!r}", field="device")
    numbers = [_number(part) for part in _parts(ks)]
    with Output.of(as_json) as output:
        from sparsight.retrieval.sae_evaluation import evaluate_saes, write_report
        from sparsight.retrieval.sae_report import BASELINES
        from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, parse_scorer

        with output.progress() as progress:
            report, about = evaluate_saes(
                models, _parts(sets), encoder=encoder, split=split, no_titles=_parts(no_titles), max_tokens=max_tokens,
                max_documents=max_documents, max_queries=max_queries, ks=numbers,
                scorers=DEFAULT_SCORERS if scorers == _ALL else tuple(map(parse_scorer, _parts(scorers))),
                baselines=BASELINES if baselines == _ALL else _parts(baselines), fit=fit, rounded=not full_weights,
                device=device, seed=seed, cache=cache, progress=_Steps(progress))
        files = write_report(report, about, out)
        output.result({"about": about, "rows": report, "files": files})
        if not as_json:
            _print(output, report)
            output.console.print(f"written: {', '.join(map(str, files))}", soft_wrap=True)


class _Steps:
    """A bar for each thing that is being done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total or None)
        self._progress.update(self._bars[what], completed=done)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Usage(f"--ks: expected whole numbers, got {text!r}", field="ks") from None


def _print(output: Output, report: Report) -> None:
    """Retention of each model by the first scorer, set by set."""
    rows = report["retention"]
    rows = [row for row in rows if row["scorer"] == rows[0]["scorer"]]
    ks = sorted({row["k"] for row in rows})
    table = Table(title=f"nDCG@10 relative to the dense vectors', {rows[0]['scorer']}, by active features of a "
                        "document", title_justify="left")
    for name in ("set", "model"):
        table.add_column(name)
    for k in ks:
        table.add_column(str(k), justify="right")
    for key in dict.fromkeys((row["set"], row["model"], row["mode"]) for row in rows):
        kept = {row["k"]: row["retention"] for row in rows if (row["set"], row["model"], row["mode"]) == key}
        table.add_row(key[0], key[1] + " (thresholds)" * (key[2] == "threshold"),
                      *(f"{kept[k]:.3f}" if k in kept else "" for k in ks))
    output.console.print(table)
