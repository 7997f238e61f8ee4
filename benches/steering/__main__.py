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
from benches.steering.papers import ENCODER, Papers
from benches.steering.report import put_beside, write_page
from benches.steering.systems import system_rows
from benches.steering.targets import target_rows
from benches.steering.trained import dictionary_of

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

_RESULTS = Path(__file__).resolve().parents[1] / "results"
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
    parser.add_argument("--encoder", default=ENCODER, help="name or folder of the dense encoder (%(default)s); another "
                        "one has a dictionary trained for it, and a page of its own beside")
    parser.add_argument("--device", default="cpu", help="of torch, for the encoder and its dictionary")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--commit", default="", help="that is measured, where git cannot tell")
    given = parser.parse_args(arguments)
    wanted = given.sections.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"expected sections among {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    if given.data is not None:
        if given.work is None:
            parser.error("--data: expected --work, the folder of embeddings and the collection")
        papers = Papers(given.data, given.work, given.device, given.encoder)
        with papers.open() as database:
            collection = papers.collection(database, dictionary_of(papers))
            for section in wanted:
                measured = _measure(section, papers, collection, given.commit)
                path = _path(given.encoder)
                results = read_results(path)  # again: another run may have written other sections meanwhile
                _put(results["rows"], section, *measured)
                write_results(results, path)
    for path in sorted(_RESULTS.glob("steering-*.json")):
        _follow(path)
    _follow(_path(ENCODER), others=sorted(_RESULTS.glob("steering-*.json")))
    return 0


def _path(encoder: str) -> Path:
    """The file of an encoder's results, by the last part of its name."""
    return _RESULTS / ("steering.json" if encoder == ENCODER else f"steering-{Path(encoder).name}.json")


def _follow(path: Path, others: Sequence[Path] = ()) -> None:
    """Write what follows from the rows of a file, with what other encoders have beside it, and the page."""
    results = read_results(path)
    kinds = {kind: rows for kind, rows in results["rows"].items() if kind not in ("targets", "systems")}
    results["rows"] = {"targets": target_rows(kinds), "systems": system_rows(kinds), **kinds}
    for other in others:
        put_beside(results["rows"], read_results(other)["rows"], other.stem.partition("-")[2])
    write_results(results, path)
    write_page(results, path)


def _measure(section: str, papers: Papers, collection: Collection, commit: str) -> tuple[list[Row], Row]:
    """A section's rows, and the row that says where they are from."""
    say(f"{section} ...")
    started = time.monotonic()
    rows = SECTIONS[section](papers, collection)
    encoder = "" if papers.encoder == ENCODER else f" --encoder {Path(papers.encoder).name}"
    about = about_run(f"python -m benches.steering --data DIR --work DIR{encoder} --sections {section}")
    origin = {key: about[key] for key in PROVENANCE} | {"commit": about["commit"] or commit}
    return rows, {"section": section, "seconds": round(time.monotonic() - started, 1), **origin}


def _put(kinds: dict[str, list[Row]], section: str, rows: Sequence[Row], origin: Row) -> None:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        kinds[kind] = [row for row in rows if row["kind"] == kind]
    kinds["sections"] = [row for row in kinds.get("sections", []) if row["section"] != section] + [origin]


if __name__ == "__main__":
    sys.exit(main())
