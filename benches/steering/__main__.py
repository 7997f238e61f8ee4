"""``python -m benches.steering``: measure, then write the page and the picture. See benches/README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benches.quality.measure import say
from benches.quality.results import PROVENANCE, Row, about_run, read_results, write_results
from benches.steering import (
    away,
    control,
    examples,
    families,
    known,
    names,
    neutral,
    others,
    overlaps,
    shift,
    strengths,
    towards,
    words,
)
from benches.steering.papers import Papers
from benches.steering.report import write_page
from benches.steering.systems import system_rows
from benches.steering.targets import target_rows

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

_RESULTS = Path(__file__).resolve().parents[1] / "results/steering.json"
SECTIONS: dict[str, Callable[[Papers, Collection], list[Row]]] = {
    "examples": examples.section, "towards": towards.section, "strengths": strengths.section,
    "families": families.section, "names": names.section, "words": words.section,
    "others": others.section, "away": away.section, "overlaps": overlaps.section, "shift": shift.section,
    "control": control.section, "known": known.section, "neutral": neutral.section, "cost": strengths.cost}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sections that are asked for, and write what follows from all that is there."""
    parser = argparse.ArgumentParser(prog="python -m benches.steering", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--data", type=Path, help="folder of the corpora; without it the page is written again")
    parser.add_argument("--work", type=Path, help="folder that keeps embeddings and the collection")
    parser.add_argument("--device", default="cpu", help="of torch, for the encoder")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--commit", default="", help="that is measured, where git cannot tell")
    given = parser.parse_args(arguments)
    wanted = given.sections.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"expected sections among {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    results = read_results(_RESULTS)
    if given.data is not None:
        if given.work is None:
            parser.error("--data: expected --work, the folder of embeddings and the collection")
        given.work.mkdir(parents=True, exist_ok=True)
        papers = Papers(given.data, given.work, given.device)
        with papers.open() as database:
            collection = papers.collection(database)
            for section in wanted:
                measured = _measure(section, papers, collection, given.commit)
                results = read_results(_RESULTS)  # again: another run may have written other sections meanwhile
                _put(results["rows"], section, *measured)
                write_results(results, _RESULTS)
    kinds = {kind: rows for kind, rows in results["rows"].items() if kind not in ("targets", "systems")}
    results["rows"] = {"targets": target_rows(kinds), "systems": system_rows(kinds), **kinds}
    write_results(results, _RESULTS)
    write_page(results, _RESULTS)
    return 0


def _measure(section: str, papers: Papers, collection: Collection, commit: str) -> tuple[list[Row], Row]:
    """A section's rows, and the row that says where they are from."""
    say(f"{section} ...")
    started = time.monotonic()
    rows = SECTIONS[section](papers, collection)
    about = about_run(f"python -m benches.steering --data DIR --work DIR --sections {section}")
    origin = {key: about[key] for key in PROVENANCE} | {"commit": about["commit"] or commit}
    return rows, {"section": section, "seconds": round(time.monotonic() - started, 1), **origin}


def _put(kinds: dict[str, list[Row]], section: str, rows: Sequence[Row], origin: Row) -> None:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        kinds[kind] = [row for row in rows if row["kind"] == kind]
    kinds["sections"] = [row for row in kinds.get("sections", []) if row["section"] != section] + [origin]


if __name__ == "__main__":
    sys.exit(main())
