"""The choice of an implementation, and that importing the kernels is quiet and light."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sparsight.errors import InvalidArgumentError
from sparsight.kernels import available_paths, default_path, topk_documents, topk_encode
from sparsight.kernels.paths import ENVIRONMENT_VARIABLE

TERMS, WEIGHTS = np.array([1], np.uint32), np.array([1], np.int16)


@pytest.fixture
def postings(postings_of):
    return postings_of([{1: 2}], [1])


def test_portable_and_reference_are_always_there(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert {"portable", "reference"} <= set(available_paths()) <= {"avx512", "avx2", "portable", "reference"}
    assert default_path() == available_paths()[0] != "reference"


@pytest.mark.parametrize("path", available_paths())
def test_a_named_path_runs(postings, path):
    assert topk_documents(postings, TERMS, WEIGHTS, 1, path=path).path == path


def test_auto_is_the_default_path(postings, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert topk_documents(postings, TERMS, WEIGHTS, 1).path == default_path()


def test_the_environment_forces_auto_but_not_a_named_path(postings, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    assert default_path() == "reference"
    assert topk_documents(postings, TERMS, WEIGHTS, 1).path == "reference"
    assert topk_documents(postings, TERMS, WEIGHTS, 1, path="portable").path == "portable"


@pytest.mark.parametrize("path", ["", "sse9", "AVX2", "cuda"])
def test_unknown_paths_are_refused(postings, path, monkeypatch):
    with pytest.raises(InvalidArgumentError) as raised:
        topk_documents(postings, TERMS, WEIGHTS, 1, path=path)
    assert raised.value.field == "path"
    assert "portable" in raised.value.details["expected"]
    with pytest.raises(InvalidArgumentError):
        topk_encode(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.ones(1, np.float32), 1, path=path)
    if path:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, path)
        with pytest.raises(InvalidArgumentError) as raised:
            default_path()
        assert raised.value.field == ENVIRONMENT_VARIABLE


def test_import_is_quiet_and_light():
    code = (
        "import sys, sparsight.kernels; "
        "heavy = {'torch', 'transformers', 'faiss', 'scipy', 'grpc'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_there_is_no_top_level_kernels_package():
    """Asked from another folder: ``python -m pytest`` itself puts the current one on the path."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('kernels') is not None)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
