"""``sparsight verify`` and ``sparsight repair``: is what is stored what was written, and if not, make it so again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from sparsight.errors import NotFoundError
from sparsight.service.commands.common import (
    DEFAULT_DATA,
    DataOption,
    JsonOption,
    Output,
    ServerOption,
    Usage,
    open_store,
)
from sparsight.types import VerifyReport

__all__ = ["repair", "verify"]


def verify(data: DataOption = "", server: ServerOption = "", as_json: JsonOption = False) -> None:
    """Check every checksum and invariant of the stored data; exit code 1 when something is wrong."""
    with Output.of(as_json) as output:
        reports = _verify_server(data, server) if server else _verify_folder(data)
        ok = all(report.ok for report in reports.values())
        output.result({"ok": ok, "collections": {name: _plain(report) for name, report in reports.items()}})
        for name, report in reports.items():
            state = "[green]sound[/]" if report.ok else f"[red]{len(report.faults)} faults[/]"
            output.console.print(f"{escape(name)}: {state}, {report.documents} documents, {report.segments} segments, "
                                 f"{report.bytes_checked} bytes")
            for fault in report.faults:
                output.console.print(f"  {escape(fault)}")
        if not ok:
            output.notes.print("sparsight: stored data is damaged; `sparsight repair` rebuilds what can be rebuilt")
            raise typer.Exit(1)


def repair(data: DataOption = "", as_json: JsonOption = False) -> None:
    """Rebuild damaged segments from the catalogue; documents that are lost are named. No server may be running."""
    from sparsight.retrieval.engine import repair as repair_root

    with Output.of(as_json) as output:
        root = _root(data)
        repaired = repair_root(root)
        left = {name: report for name, report in _verify_folder(data).items() if not report.ok}
        output.result({
            "ok": not left,
            "repaired": repaired,
            "faults": {name: list(report.faults) for name, report in left.items()},
        })
        for name, done in repaired.items():
            output.console.print(f"{escape(name)}: {done.documents} documents indexed again, {len(done.lost)} lost")
            for lost in done.lost:
                output.console.print(f"  lost: {escape(lost)}")
        if not repaired:
            output.console.print("nothing to repair")
        for name, report in left.items():
            for fault in report.faults:
                output.notes.print(f"sparsight: {escape(name)}: {escape(fault)}")
        if left:
            raise typer.Exit(1)


def _root(data: str) -> Path:
    root = Path(data or DEFAULT_DATA)
    if not root.is_dir():
        raise NotFoundError(f"there is no data folder {root} (choose one with --data)", field="data", folder=root)
    return root


def _verify_folder(data: str) -> dict[str, VerifyReport]:
    # Not through a Database: what is damaged may not open.
    from sparsight.retrieval.engine import verify as verify_root

    return verify_root(_root(data))


def _verify_server(data: str, server: str) -> dict[str, VerifyReport]:
    if data:
        raise Usage("give --data or --server, not both", field="data")
    with open_store("", server) as store:
        return {info.name: store.collection(info.name).verify() for info in store.list_collections()}


def _plain(report: VerifyReport) -> dict[str, Any]:
    return {"ok": report.ok, "documents": report.documents, "segments": report.segments,
            "bytes_checked": report.bytes_checked, "faults": list(report.faults)}
