"""What the system tests share: the crash workload, and the libraries that watch a process's file operations.

Their helpers lie beside this file and are found by their names, here and in the child processes that run them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).parent))

from preloaded import compile_library  # found through the line above


@pytest.fixture(scope="session")
def crash_workload() -> ModuleType:
    return importlib.import_module("crash_workload")


@pytest.fixture(scope="session")
def syncspy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``syncspy.c``, compiled: to be preloaded into a process."""
    return compile_library("syncspy", tmp_path_factory.mktemp("syncspy"))
