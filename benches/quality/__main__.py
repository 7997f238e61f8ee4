"""``python -m benches.quality``: measure, then write the page and the pictures. See benches/README.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.quality.files import write_text
from benches.quality.measure import Options, measure_quality, read_sets, say
from benches.quality.plots import plot, plot_targets
from benches.quality.report import markdown, summary
from benches.quality.results import OWN_KINDS, PROVENANCE, Row, about_run, merge, read_results, write_results
from benches.quality.sets import JudgedSet
from benches.quality.speed import measure_speed
from benches.quality.systems import BM25, System, models_of, parse_model
from benches.quality.targets import target_rows
from sparsight.errors import InvalidArgumentError

SETS = "scifact,cranfield,cacm,medquad,scitldr,squad_sent,arxiv_cs,arxiv_sci"
NO_TITLES = "arxiv_cs,arxiv_sci"
_RESULTS = Path(__file__).resolve().parents[1] / "results/quality.json"
_SPEED_QUERIES = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or merge what others measured; returns 0."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.data is None and (given.only == "speed" or not (given.merge or given.only)):
        parser.error("give --data to measure, --merge to add rows, or both")
    try:
        results = read_results(given.results)
        if given.only:
            again(results, given)
        elif given.data is not None:
            others = {kind: rows for kind, rows in results["rows"].items() if kind not in OWN_KINDS}
            results = measure(given)
            results["rows"] |= others
        for path in given.merge:
            merge(results, path)
    except InvalidArgumentError as error:
        parser.error(str(error))
    write(results, given.results)
    print(f"{given.results}, and the page and the pictures beside it")
    return 0


def write(results: dict[str, Any], path: Path) -> None:
    """The file of results with what follows from it: targets, page, pictures."""
    rows = results["rows"]
    rows.pop("targets", None)
    if targets := target_rows(results, path.parent):
        rows["targets"] = targets
        plot_targets(targets, path.with_name(f"{path.stem}_targets.svg"))
    write_results(results, path)
    write_text(path.with_suffix(".md"), markdown(results, path.stem))
    if "quality" in rows:
        plot(summary(results), path.with_suffix(".svg"))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The results of a run."""
    models, systems, options = _models(given), _systems(given), _options(given)
    if options.baseline not in (names := [system.name for system in systems]):
        raise InvalidArgumentError(f"expected a baseline among {', '.join(names)}, got {options.baseline!r}",
                                   field="baseline")
    results = about_run(_command(given, models))
    results["options"] = {"max_tokens": options.max_tokens, "max_documents": options.max_documents,
                          "max_queries": options.max_queries, "baseline": options.baseline}
    sets = read_sets(options)
    rows: dict[str, Any] = {"sets": [_about(judged, options) for judged in sets]}
    results["rows"] = rows
    rows["quality"] = measure_quality(options, sets, systems)
    if given.speed_texts:
        rows["speed"] = _speed(given, systems, sets[0], results)
    return results


def again(results: dict[str, Any], given: argparse.Namespace) -> None:
    """Replace the "speed" rows of results if they are asked for; quality stays as it was measured.

    Raises
    ------
    InvalidArgumentError
        If there is no quality, or no text to measure speed on.
    """
    if "quality" not in results["rows"]:
        raise InvalidArgumentError(f"--only {given.only}: no quality was measured in {given.results}", field="only")
    if given.only == "speed":
        if not given.speed_texts:
            raise InvalidArgumentError("--only speed: expected --speed-texts above 0", field="speed_texts")
        about = about_run(_command(given, _models(given)))
        results["rows"]["speed"] = _speed(given, _systems(given), read_sets(_options(given))[0], about)


def _speed(given: argparse.Namespace, systems: Sequence[System], judged: JudgedSet, about: dict[str, Any]) -> list[Row]:
    say("speed ...")
    texts, questions = _pick(judged.texts, given.speed_texts), _pick(judged.questions, _SPEED_QUERIES)
    made = measure_speed(systems, texts, questions, given.max_tokens, given.speed_rounds)
    where = {key: about[key] for key in (*PROVENANCE, "load_before")}
    return [row | {"set": judged.name} | where for row in made]


def _models(given: argparse.Namespace) -> dict[str, str]:
    """Names by label."""
    models: dict[str, str] = {}
    for label, name in map(parse_model, [*_names(given.models), *_names(given.reference), *_names(given.dense)]):
        if models.setdefault(label, name) != name:
            raise InvalidArgumentError(f"two models are called {label}; say LABEL=NAME", field="models")
    return models


def _systems(given: argparse.Namespace) -> list[System]:
    return [System(BM25, BM25, BM25), *(system for pair in _models(given).items() for system in models_of(*pair))]


def _options(given: argparse.Namespace) -> Options:
    return Options(given.data, _names(given.sets), given.cache.expanduser(), given.max_tokens,
                   _names(given.no_title_sets), given.max_documents, given.max_queries, given.baseline)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.quality", description=__doc__.split(": ", 1)[1])
    cache = Path(os.environ.get("SPARSIGHT_BENCH", "~/.cache/sparsight/bench")) / "quality"
    parser.add_argument("--data", type=Path, help="folder of the sets, BEIR layout")
    parser.add_argument("--only", choices=("speed", "targets"), help="keep the quality that was measured: replace the "
                        "rows of speed, or just make targets, page and pictures again")  # fmt: skip
    parser.add_argument("--sets", default=SETS, metavar="NAME,...")
    parser.add_argument("--models", default="", metavar="MODEL,...", help="NAME, FOLDER or LABEL=either")
    parser.add_argument("--reference", default="splade-tiny", metavar="MODEL", help='always measured; "" for none')
    parser.add_argument("--dense", default="all-MiniLM-L6-v2", metavar="MODEL", help='of the hybrids; "" for none')
    parser.add_argument("--baseline", default=BM25, metavar="SYSTEM", help="that the others are compared with")
    parser.add_argument("--max-tokens", type=int, default=256, help="word pieces after which documents are cut")
    parser.add_argument("--no-title-sets", default=NO_TITLES, metavar="NAME,...", help="whose titles are the queries")
    parser.add_argument("--max-documents", type=int, default=20_000, help="larger sets are sampled; 0: none")
    parser.add_argument("--max-queries", type=int, default=500, help="of a sampled set; 0: all")
    parser.add_argument("--speed-texts", type=int, default=128, help="documents that speed is measured on; 0: none")
    parser.add_argument("--speed-rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=cache, help="folder of encoded vectors")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="JSON file; page and pictures go beside it")
    parser.add_argument("--merge", type=Path, action="append", default=[], metavar="FILE",
                        help='{"rows": {KIND: [ROW, ...]}} of another measurement')  # fmt: skip
    return parser


def _command(given: argparse.Namespace, models: dict[str, str]) -> str:
    """The command line without this machine's folders."""
    named = [label if Path(name).is_dir() or label == name else f"{label}={name}" for label, name in models.items()]
    options = [f"--{name.replace('_', '-')} {getattr(given, name)}" for name in
               ("max_tokens", "max_documents", "max_queries", "speed_texts", "speed_rounds", "baseline")
               if getattr(given, name) != _parser().get_default(name)]  # fmt: skip
    if given.only:
        options.append(f"--only {given.only}")
    return " ".join(["python -m benches.quality --data DIR --sets", given.sets, "--models", ",".join(named), *options])


def _about(judged: JudgedSet, options: Options) -> dict[str, Any]:
    return {"name": judged.name, "documents": len(judged.documents), "queries": len(judged.queries),
            "all_documents": judged.all_documents, "all_queries": judged.all_queries, "sampled": judged.sampled,
            "repeated_ids": judged.repeated, "titles": judged.name not in options.no_title_sets}  # fmt: skip


def _pick(texts: list[str], count: int) -> list[str]:
    """Texts at equal distances."""
    return [texts[at] for at in np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int)]


def _names(given: str) -> list[str]:
    return [name for name in given.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
