"""Measuring: every system on every set, hybrids, and what differs by more than chance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benches.quality.results import Row
from benches.quality.runs import Run, hybrid_run, single_run
from benches.quality.sets import JudgedSet, read_set
from benches.quality.systems import Scorer, System, make_scorer
from sparsight.retrieval.evaluation import Evaluation, compare, evaluate

__all__ = ["MEASURES", "Options", "measure_quality", "read_sets"]

MEASURES = ("nDCG@10", "R@100")


@dataclass(frozen=True)
class Options:
    """What to measure on; the command line's options."""

    data: Path
    sets: Sequence[str]
    cache: Path
    max_tokens: int = 256
    no_title_sets: Sequence[str] = ()
    max_documents: int = 20_000
    max_queries: int = 500
    baseline: str = "bm25"


def read_sets(options: Options) -> list[JudgedSet]:
    """The sets, sampled where they are large."""
    return [read_set(options.data / name, titles=name not in options.no_title_sets,
                     max_documents=options.max_documents, max_queries=options.max_queries) for name in options.sets]


def measure_quality(options: Options, sets: Sequence[JudgedSet], systems: Sequence[System]) -> list[Row]:
    """A row for each set and system, hybrids last."""
    evaluations: dict[str, dict[str, Evaluation]] = {judged.name: {} for judged in sets}
    nonzeros: dict[tuple[str, str], tuple[float, float]] = {}

    def note(judged: JudgedSet, name: str, run: Run, sizes: tuple[float, float]) -> None:
        evaluations[judged.name][name] = evaluate(run, judged.qrels, MEASURES)
        nonzeros[judged.name, name] = sizes
        say(f"{judged.name}: {name} nDCG@10 {evaluations[judged.name][name].mean['nDCG@10']:.4f}")

    def scorer_of(system: System, judged: JudgedSet) -> Scorer:
        return make_scorer(system, judged, options.max_tokens, options.cache)

    for judged in sets:
        for system in systems:
            scorer = scorer_of(system, judged)
            note(judged, system.name, single_run(judged, scorer), (scorer.document_nonzeros, scorer.query_nonzeros))
    pairs = hybrids(systems)
    for judged in sets:
        for dense in [system for system in systems if system.kind == "dense"]:
            second = scorer_of(dense, judged) if pairs else None
            for name, (sparse, other) in pairs.items():
                if other is dense and second is not None:
                    first = scorer_of(sparse, judged)
                    note(judged, name, hybrid_run(judged, first, second),
                         (first.document_nonzeros + second.document_nonzeros,
                          first.query_nonzeros + second.query_nonzeros))
    kinds = {system.name: system.kind for system in systems} | dict.fromkeys(pairs, "hybrid")
    parts = {name: [one.name, other.name] for name, (one, other) in pairs.items()}
    return [_row(judged, name, kind, evaluations[judged.name], nonzeros[judged.name, name], options.baseline)
            | ({"parts": parts[name]} if name in parts else {}) for judged in sets for name, kind in kinds.items()]


def hybrids(systems: Sequence[System]) -> dict[str, tuple[System, System]]:
    """Sparse and dense system by the hybrid's name: each of the one kind with each of the other."""
    return {f"{one.name} + {other.name}": (one, other) for other in systems if other.kind == "dense"
            for one in systems if one.kind == "sparse"}


def _row(judged: JudgedSet, name: str, kind: str, found: dict[str, Evaluation], sizes: tuple[float, float],
         baseline: str) -> Row:
    row: Row = {"set": judged.name, "system": name, "kind": kind}
    row |= {measure: round(found[name].mean[measure], 4) for measure in MEASURES}
    row |= {"document_nonzeros": round(sizes[0], 1), "query_nonzeros": round(sizes[1], 1)}
    if name != baseline:
        compared = compare(found[baseline], found[name], MEASURES[0])
        row["against"] = {"baseline": baseline, "difference": round(compared.difference, 4),
                          "interval": [round(end, 4) for end in compared.interval],
                          "p_value": round(compared.p_value, 5),
                          "wins": compared.wins, "losses": compared.losses, "ties": compared.ties}
    return row


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
