"""What the system tests share: the crash workload, and the library that watches a process's file operations."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def crash_workload() -> ModuleType:
    """``crash_workload.py`` beside this file; the folder is no package, and not on the path."""
    name = "crash_workload"
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def syncspy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``syncspy.c``, compiled: to be preloaded into a process (the kernels need a compiler too, so there is one)."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang", os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    assert compiler, f"no C compiler among {names}"
    library = tmp_path_factory.mktemp("syncspy") / "syncspy.so"
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "syncspy.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
