"""``python -m benches.search``: measure, then write the table and the plots. See benches/README.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benches.search.case import ROOT, Options
from benches.search.engines import ENGINES
from benches.search.plots import plot_all
from benches.search.report import write_report
from benches.search.results import Results
from benches.search.runner import Runner
from benches.search.truth import KS

WORKLOADS = (
    "splade@100000", "splade@200000", "splade", "splade_short", "sae_16k", "sae_64k",
    "generated_splade_100000", "generated_splade_300000", "generated_splade_1000000",
)  # fmt: skip


def main() -> int:
    """Measure what is not measured yet.

    Returns
    -------
    int
        1 if an engine failed, else 0.
    """
    default = Options(Path(os.environ.get("SPARSIGHT_BENCH", "~/.cache/sparsight/bench")).expanduser(),
                      ROOT / "benches/results/search.json", WORKLOADS, tuple(ENGINES))  # fmt: skip
    parser = argparse.ArgumentParser(prog="python -m benches.search", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--vectors", type=Path, default=default.vectors, help="folder of workloads, and for scratch")
    parser.add_argument("--results", type=Path, default=default.results, help="JSON file; table and plots go beside it")
    parser.add_argument("--workloads", nargs="+", default=default.workloads, metavar="NAME",
                        help="file's name, name@documents for a sample, generated_{splade,sae}_documents")  # fmt: skip
    parser.add_argument("--engines", nargs="+", default=default.engines, choices=list(ENGINES), metavar="NAME",
                        help=", ".join(ENGINES))  # fmt: skip
    parser.add_argument("--builds", nargs="+", default=default.builds, metavar="NAME",
                        help="of the engines that have several")  # fmt: skip
    parser.add_argument("--k", nargs="+", type=int, default=default.ks, choices=KS, dest="ks")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--queries", type=int, default=default.queries, help="test queries")
    parser.add_argument("--tuning", type=int, default=default.tuning, help="tuning queries")
    parser.add_argument("--core", type=int, default=default.core, help="the core to search on")
    parser.add_argument("--limit-s", type=float, default=default.limit_s, help="longest time of one process")
    parser.add_argument("--peers-python", type=Path, default=default.peers_python)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of the named parts")
    parser.add_argument("--report-only", action="store_true", help="table and plots of the rows that are there")
    given = vars(parser.parse_args())
    report_only = given.pop("report_only")
    options = Options(**given)
    failures: list[str] = []
    if not report_only:
        if any(ENGINES[name].peer for name in options.engines) and not options.peers_python.exists():
            parser.error(f"{options.peers_python} is missing: make bench-peers installs the peers")
        runner = Runner(options)
        runner.run()
        failures = runner.failures
    rows = Results(options.results).rows
    table = options.results.with_suffix(".md")
    write_report(rows, table)
    plots = plot_all(rows, options.results.with_suffix(""))
    print(f"{len(rows)} rows: {options.results}, {table}, {len(plots)} plots in {options.results.with_suffix('')}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
