"""The file of results: where and how they were made, and rows by kind, into which other measurements can be merged."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benches.quality.files import write_text
from sparsight.errors import InvalidArgumentError

__all__ = ["OWN_KINDS", "PROVENANCE", "Row", "about_run", "merge", "read_results", "recorded", "write_results"]

Row = dict[str, Any]
OWN_KINDS = ("sets", "quality", "speed", "targets")
"""Kinds of rows that this benchmark makes; all others come from `merge`."""
PROVENANCE = ("command", "machine", "commit", "date")
"""What says where a figure is from; rows that are made in a run of their own carry it."""
_PACKAGES = ("numpy", "scipy", "torch", "transformers", "tokenizers", "ir-measures", "PyStemmer")
_ROOT = Path(__file__).resolve().parents[2]


def about_run(command: str, packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """Machine, commit, command, versions of the packages that are installed, and date."""
    found = re.search(r"model name\s*: (.*)", _read(Path("/proc/cpuinfo")))
    return {
        "machine": f"{found[1] if found else platform.machine()}, {len(os.sched_getaffinity(0))} of "
                   f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2), "commit": _commit(), "command": command,
        "versions": {"python": platform.python_version()} | _versions(packages),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def read_results(path: Path) -> dict[str, Any]:
    """What a file holds; nothing but an empty ``rows`` if it is not there.

    Raises
    ------
    InvalidArgumentError
        If it holds something else.
    """
    if not path.exists():
        return {"rows": {}}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidArgumentError(f"{path}: not JSON: {error}", field="merge", file=path) from None
    rows = results.get("rows") if isinstance(results, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(kind, list) for kind in rows.values()):
        raise InvalidArgumentError(f'{path}: expected {{"rows": {{KIND: [ROW, ...]}}}}', field="merge", file=path)
    return dict(results)


def merge(results: dict[str, Any], path: Path) -> None:
    """Take over the rows of a file, ``{"rows": {KIND: [ROW, ...]}}``: a kind that was there is replaced.

    Raises
    ------
    InvalidArgumentError
        If there is no such file, it holds something else, or a kind is one of ``OWN_KINDS``.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"no such file: {path}", field="merge", file=path)
    rows = read_results(path)["rows"]
    if own := [kind for kind in rows if kind in OWN_KINDS]:
        raise InvalidArgumentError(f"{path}: {', '.join(own)} cannot be merged, they are measured here",
                                   field="merge", file=path)
    results["rows"] |= rows


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write the file, a row a line."""
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items() if key != "rows"]
    kinds = [f"{json.dumps(kind)}: " + _lines("[", map(json.dumps, rows), "]")
             for kind, rows in results["rows"].items()]
    write_text(path, _lines("{", [*head, '"rows": ' + _lines("{", kinds, "}")], "}") + "\n")


def _lines(opening: str, entries: Iterable[str], closing: str) -> str:
    return f"{opening}\n" + ",\n".join(entries) + f"\n{closing}"


def recorded(path: Path) -> dict[str, str]:
    """Commit and date at which a file of the repository was last recorded; empty without its history."""
    commit, _, date = _git("log", "-1", "--format=%h %cs", "--", str(path)).partition(" ")
    return {"commit": commit, "date": date}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit() -> str:
    changed = "+changes" if _git("status", "--porcelain", "--", "*.py", "*.cpp", "*.hpp") else ""
    return _git("rev-parse", "--short", "HEAD") + changed


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=_ROOT).stdout.strip()
    except FileNotFoundError:  # a machine that only measures need not have it
        return ""


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
