"""What holds for the package as a whole: what it exports, what imports what, how heavy it is."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

import sparsight
import sparsight.errors as errors
import sparsight.types as types

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 45 * 10**6

# Which of our packages each may import, besides itself; `types` and `errors` are everybody's.
ARROWS = {
    "kernels": set(),
    "index": {"kernels"},
    "encoders": {"kernels"},
    "retrieval": {"index", "encoders", "kernels"},
    "service": {"retrieval", "kernels", "v1"},  # of the kernels, the flag that stops a search
    "sparsight": {"retrieval", "service"},
}
HEAVY = ("torch", "transformers", "faiss", "scipy", "pyarrow", "sqlite3", "sparsight.retrieval", "sparsight.index",
         "sparsight.encoders", "sparsight.kernels")


def run(code: str, *flags: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, *flags, "-c", code], cwd="/", capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the front door -------------------------------------------------------------------------------------------


def test_version_is_the_same_everywhere():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert sparsight.__version__ == stated
    assert importlib.metadata.version("sparsight") == stated


def test_exports():
    assert sparsight.__all__ == ["__version__", "aconnect", "connect", "explore", "open"]
    for name in sparsight.__all__:
        assert getattr(sparsight, name) is not None


@pytest.mark.parametrize("module", [types, errors])
def test_values_and_errors_are_at_the_front_door(module):
    for name in module.__all__:
        assert getattr(sparsight, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparsight.nonsense


@pytest.mark.parametrize("name", ["errors", "types", "Query", "NotFoundError"])
def test_they_can_be_the_first_thing_imported(name):
    assert run(f"from sparsight import {name}") == ""


def test_every_error_of_the_module_is_exported():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), errors.SparsightError) for name in defined)


@pytest.mark.parametrize("name", ["encoders", "index", "kernels", "retrieval", "service", "protos"])
def test_the_folders_are_no_packages_of_their_own(name):
    # In a fresh interpreter: `python -m pytest` puts the folder it is called in, the root, on its own path.
    found = run(f"import importlib.util; spec = importlib.util.find_spec({name!r}); "
                "print(spec and (spec.origin or list(spec.submodule_search_locations)))")
    assert str(ROOT) not in found


# --- imports --------------------------------------------------------------------------------------------------


def imports(source: str, package: str) -> set[str]:
    """Modules under `sparsight` that the source imports, absolute."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "sparsight" else {module}
    return {name for name in found if name.split(".")[0] == "sparsight"}


@pytest.mark.parametrize("package", ARROWS)
def test_imports_go_one_way(package):
    allowed = ARROWS[package] | {package, "types", "errors"}
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imports(path.read_text(), package):
            part = name.split(".")[1] if "." in name else "sparsight"
            if part in allowed or name in ("sparsight", "sparsight.__version__"):
                continue
            pytest.fail(f"{path.relative_to(ROOT)} imports {name}")


def test_nothing_imports_tests_or_benches():
    for package in ARROWS:
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) (tests|benches)\b", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize(("module", "limit_s"), [("sparsight", 0.5), ("sparsight.service.client", 2.0),
                                                  ("sparsight.service.cli", 2.0)])
def test_imports_are_quick_quiet_and_light(module, limit_s):
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        out = run(f"import sys, {module}; sys.stderr.write(' '.join(sys.modules)); print(end='')")
        seconds.append(time.perf_counter() - started)
        assert out == ""
    assert min(seconds) < limit_s
    loaded = set(run(f"import sys, {module}; print(*sys.modules)").split())
    # The command line must be light too: `sparsight --help` needs no model.
    assert not [name for name in HEAVY if name in loaded]


# --- size and the wheel ---------------------------------------------------------------------------------------


def test_tracked_files_stay_small():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    total = sum(path.lstat().st_size for path in paths if path.exists())
    assert total < LIMIT_BYTES, f"{total} bytes"


def test_the_constraints_hold_here():
    """What make installs is what the tests ran with."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if line.startswith("#") or not version:
            continue
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert installed.split("+")[0] == version, name


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # In the build folder of the install, which compiles again only what has changed since.
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path, ROOT],
                   cwd=tmp_path, check=True, timeout=300)
    (wheel,) = tmp_path.glob("sparsight-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("demo_data/arxiv_2000.jsonl.gz", "steering_tutorial.ipynb"):
        assert f"sparsight/service/{name}" in names
    assert any(name.startswith("sparsight/v1/search_pb2") for name in names)
    assert not [name for name in names if name.startswith(("tests", "kernels", "index")) or name.endswith(".cpp")]
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--quiet", "--target", site, wheel], check=True, timeout=120)
    # -S: no site module, so no .pth files, so no editable install of the checkout in front of the wheel's.
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    out = run("import sparsight.kernels, sparsight.service.cli as cli; print(sparsight.__path__[0]); "
              "print(*sparsight.kernels.available_paths()); cli.main(['version', '--json'])", "-S", PYTHONPATH=path)
    where, paths, versions = out.splitlines()
    assert Path(where).is_relative_to(site)
    assert "portable" in paths.split()
    assert json.loads(versions)["sparsight"] == sparsight.__version__
