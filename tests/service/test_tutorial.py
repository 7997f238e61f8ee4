"""The tutorial for steering: executed, and what it shows is what it would show now.

The notebook is stored with its outputs. After a change of it, or of what it shows, execute and store it again::

    python tests/service/test_tutorial.py --write
"""

from __future__ import annotations

import ast
import html
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

TUTORIAL = Path(__file__).resolve().parents[2] / "service" / "steering_tutorial.ipynb"
LIMIT_BYTES = 200_000
TOLERANCE = 0.002
"""Of scores and strengths: processors add float32 numbers in different orders."""

_DECIMAL = re.compile(r"(?<![\d.])[-+]?\d{1,3}\.\d+")  # not arXiv's ids
_BARS = re.compile(r"[█░]+")
_OF_A_MACHINE = re.compile(r"/(?:home|root|tmp|work|usr|var|opt)\b|\b127\.0\.0\.1:\d|\bseconds? elapsed|Warning\b")


def load() -> Any:
    return nbformat.read(TUTORIAL, as_version=4)


def execute(notebook: Any, folder: Path) -> Any:
    """Run all cells in a kernel of this very Python, in an empty folder: as one who has installed the package."""
    with tempfile.TemporaryDirectory(prefix="kernel") as sockets:  # whose paths must be short
        # No kernels but our own: one of that name in somebody's home folder may be of another Python.
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
                                     transport="ipc", connection_file=f"{sockets}/kernel.json")
        client = NotebookClient(notebook, km=manager, timeout=300, record_timing=False, coalesce_streams=True,
                                resources={"metadata": {"path": str(folder)}})
        environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "HF_HUB_OFFLINE": "1"}
        client.execute(cleanup_kc=True, env=environment)
    return notebook


def shown(cell: Any) -> list[str]:
    """What a cell's outputs say: the text that was printed, and each value as text and as a page."""
    said = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream" and output.name == "stdout":
            said.append(output.text)
        said += [data for kind, data in sorted(output.get("data", {}).items()) if kind.startswith("text/")]
    return said


def parts(text: str) -> tuple[list[str], list[float]]:
    """Words and numbers; lengths of bars follow from the numbers."""
    plain = html.unescape(re.sub(r"<[^>]+>", " ", text)) if text.startswith("<b>") else text
    plain = " ".join(_BARS.sub("", plain).split())
    return _DECIMAL.split(plain), list(map(float, _DECIMAL.findall(plain)))


def check_same(stored: Any, now: Any) -> None:
    """That a cell's outputs say the same, numbers within the tolerance; AssertionError otherwise."""
    before, after = [[parts(text) for text in shown(cell)] for cell in (stored, now)]
    why = f"stored outputs are of the past; python tests/service/test_tutorial.py --write\n{now.source}"
    assert [words for words, _ in before] == [words for words, _ in after], why
    assert [numbers for _, numbers in before] == [pytest.approx(numbers, abs=TOLERANCE) for _, numbers in after], why


def write() -> None:
    """Execute the notebook and store it with what came out."""
    notebook = load()
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })
    for cell in notebook.cells:
        if any(output.get("name") == "stderr" for output in cell.get("outputs", ())):
            raise SystemExit(f"not stored: this printed a warning\n{cell.source}\n{cell.outputs}")
    TUTORIAL.write_text(nbformat.writes(notebook) + "\n")
    print(f"{TUTORIAL.name}: {len(notebook.cells)} cells, {TUTORIAL.stat().st_size:,} bytes")


# --- as it is stored --------------------------------------------------------------------------------------


def test_it_can_be_read_as_it_is_stored() -> None:
    notebook = load()
    nbformat.validate(notebook)
    assert TUTORIAL.stat().st_size < LIMIT_BYTES
    assert notebook.cells[0].source.startswith("# ")
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type != "code":
            continue
        assert before.cell_type == "markdown", f"no word before:\n{cell.source}"
        assert len(cell.source.splitlines()) <= 10, cell.source
        assert cell.execution_count, "not executed: python tests/service/test_tutorial.py --write"
        assert not [output for output in cell.outputs
                    if output.output_type == "error" or output.get("name") == "stderr"], cell.source
        for said in shown(cell):
            assert not _OF_A_MACHINE.search(said), said


def test_its_links_lead_somewhere() -> None:
    links = [target for cell in load().cells if cell.cell_type == "markdown"
             for target in re.findall(r"\]\(([^)#]+)", cell.source)]
    assert links
    for target in links:
        assert (TUTORIAL.parent / target).exists(), target


def test_a_stale_output_is_noticed() -> None:
    def cell(text: str, page: str) -> Any:
        data = {"text/plain": text, "text/html": page}
        return nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("execute_result", data)])

    stored = cell("score\n 0.5041 ██ 12 sea", "<b>score</b><table><tr><td>0.5041</td><td>&lt;sea&gt;</td></tr></table>")
    for same in (stored, cell("score\n 0.5050 ███ 12 sea", stored.outputs[0].data["text/html"])):
        check_same(stored, same)
    for other in ("score\n 0.5099 ██ 12 sea", "score\n 0.5041 ██ 13 sea", "score\n 0.5041 ██ 12 see", "score", ""):
        with pytest.raises(AssertionError, match="of the past"):
            check_same(stored, cell(other, stored.outputs[0].data["text/html"]))
    with pytest.raises(AssertionError, match="of the past"):
        check_same(stored, cell(stored.outputs[0].data["text/plain"], "<b>score</b>"))
    with pytest.raises(AssertionError, match="of the past"):
        check_same(stored, nbformat.v4.new_code_cell("x"))


# --- executed ---------------------------------------------------------------------------------------------


def test_a_kernel_is_not_on_the_network(tmp_path: Path) -> None:
    source = ("import psutil\n"
              "sorted({end.ip for c in psutil.Process().net_connections() for end in (c.laddr, c.raddr) if end})")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    (addresses,) = shown(execute(notebook, tmp_path).cells[0])
    assert set(ast.literal_eval(addresses)) <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_what_it_shows_is_what_it_would_show_now(tmp_path: Path) -> None:
    stored = load()
    fresh = execute(load(), tmp_path)  # a cell that fails, by one of its asserts too, raises
    for cell, again in zip(stored.cells, fresh.cells, strict=True):
        check_same(cell, again)
        warned = [output.text for output in again.get("outputs", ()) if output.get("name") == "stderr"]
        assert not any("Warning" in text for text in warned), warned


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    write()
