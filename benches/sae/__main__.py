"""``python -m benches.sae``: measure, then write the page and the pictures. See benches/README.md."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.quality.measure import say
from benches.quality.results import about_run, read_results, write_results
from benches.sae.data import MODEL, Data, load
from benches.sae.lab import Lab
from benches.sae.results import finished, keep, merge, write
from benches.sae.sections import find, names
from sparsight.errors import SparsightError

_RESULTS = Path(__file__).resolve().parents[1] / "results/sae.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, or write the page again; returns 1 if a section failed, else 0."""
    parser = _parser()
    given = parser.parse_args(arguments)
    path = given.results or (given.work / "sae.json" if given.small and given.work else _RESULTS)
    if given.data is not None and given.work is None:
        parser.error("--data: expected --work, the folder of embeddings and models")
    if given.data is None and not path.is_file():
        parser.error(f"expected --data, or results in {path}")
    try:
        results = read_results(path)
        failed = [] if given.data is None else _measure(given, results, path)
    except SparsightError as error:
        parser.error(str(error))
    write(results, path)
    say(f"{path}, and the page and the pictures beside it")
    for section in failed:
        say(f"{section} failed; what it says is above")
    return 1 if failed else 0


def _measure(given: argparse.Namespace, results: dict[str, Any], path: Path) -> list[str]:
    """Measure sections, each written when it ends; the names of those that failed."""
    started, failed = time.monotonic(), []
    wanted = given.sections.split(",") if given.sections else names()
    for section in set(wanted) - set(names()):
        find(section)  # raises
    data = load(given.data, given.work, given.device, given.small, model=given.model)
    lab = Lab(data, given.work, fresh=given.fresh)
    if results.get("data", data.key) != data.key:
        say("what was measured on other data is left out")
        results["rows"] = {}
    results |= _about(given, data)
    for section in wanted:
        kept = None if given.fresh else finished(given.work, section, data.key)
        if kept is None and 0 < given.slice <= time.monotonic() - started:
            say(f"{section}: no time left in this slice")
            continue
        if kept is None:
            kept = _section(given, lab, section)
        if kept is None:
            failed.append(section)
            continue
        merge(results, kept)
        write_results(results, path)
    return failed


def _section(given: argparse.Namespace, lab: Lab, section: str) -> dict[str, Any] | None:
    """Measure a section; None if it fails, which the others shall not suffer from."""
    say(f"{section} ...")
    started = time.monotonic()
    try:
        rows = find(section)(lab)
    except Exception:
        traceback.print_exc()
        return None
    seconds = round(time.monotonic() - started, 2)
    about = about_run(_command(given))
    if given.device.startswith("cuda"):
        import torch

        about["machine"] = f"{torch.cuda.get_device_name(given.device)}; {about['machine']}"
    origin = {key: about[key] for key in ("command", "machine", "date")}
    return keep(given.work, section, lab.data.key, rows,
                origin | {"commit": about["commit"] or given.commit, "seconds": seconds})


def _about(given: argparse.Namespace, data: Data) -> dict[str, Any]:
    return {"data": data.key, "model": Path(given.model).name, "small": data.small, "rows_trained": len(data.x),
            "rows_held": len(data.held), "width": data.x.shape[1]}  # fmt: skip


def _command(given: argparse.Namespace) -> str:
    """The command line without this machine's folders."""
    parts = ["python -m benches.sae --data DIR --work DIR", f"--device {given.device}"]
    if given.sections:
        parts.append(f"--sections {given.sections}")
    return " ".join([*parts, "--small"] if given.small else parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.sae", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--data", type=Path, help="folder of the corpora and sets, BEIR layout; without it the page is "
                        "written again, from the results and the files beside them")  # fmt: skip
    parser.add_argument("--work", type=Path, help="folder that keeps embeddings, models and finished rows")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--sections", default="", metavar="NAME,...", help=f"of {', '.join(names())}")
    parser.add_argument("--small", action="store_true", help="little data and tiny dictionaries: a try")
    parser.add_argument("--slice", type=float, default=0, metavar="SECONDS", help="begin no section after; 0: no end")
    parser.add_argument("--fresh", action="store_true", help="measure finished sections and train kept models again")
    parser.add_argument("--model", default=MODEL, help="name or folder of a dense encoder")
    parser.add_argument("--commit", default="", help="that is measured, where git cannot tell")
    parser.add_argument("--results", type=Path, help="JSON file; page and pictures go beside it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
