"""The three doors have the same methods: embedded, over gRPC, and over gRPC from asyncio."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsight.retrieval.collection import Collection as EmbeddedCollection
from sparsight.retrieval.engine import Database
from sparsight.service.aclient import AsyncClient, AsyncCollection
from sparsight.service.client import Client, Collection

# What only one of them can have: searches are stopped by a flag here and by ending the call there, a server asks no
# language model for a client, and a client has somewhere to connect to.
ONLY_EMBEDDED = {"cancel", "language_model"}
ONLY_REMOTE = {"wait_ready"}


def methods(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")}


def parameters(method: Any, without: set[str]) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name not in without]


@pytest.mark.parametrize(("embedded", "remote"), [(Database, Client), (EmbeddedCollection, Collection)])
def test_client_has_the_engines_methods(embedded: type, remote: type) -> None:
    assert set(methods(remote)) - ONLY_REMOTE == set(methods(embedded))
    for name, method in methods(embedded).items():
        keeps = "timeout" in inspect.signature(method).parameters
        without = ONLY_EMBEDDED if keeps else ONLY_EMBEDDED | {"timeout"}
        assert parameters(methods(remote)[name], without) == parameters(method, ONLY_EMBEDDED), name


@pytest.mark.parametrize(("sync", "twin"), [(Client, AsyncClient), (Collection, AsyncCollection)])
def test_async_twin_has_the_same_methods(sync: type, twin: type) -> None:
    assert set(methods(sync)) == set(methods(twin))
    for name, method in methods(sync).items():
        other = methods(twin)[name]
        assert inspect.iscoroutinefunction(other), name
        assert parameters(other, set()) == parameters(method, set()), name
        returns = str(inspect.signature(method).return_annotation)
        assert str(inspect.signature(other).return_annotation).replace("Async", "") == returns, name
    assert parameters(twin, set()) == parameters(sync, set())


@pytest.mark.parametrize("remote", [Client, Collection])
def test_every_request_takes_a_timeout(remote: type) -> None:
    for name, method in methods(remote).items():
        assert name == "close" or "timeout" in inspect.signature(method).parameters, name


@pytest.mark.parametrize("module", ["client", "aclient", "server"])
def test_imports_are_light_and_quiet(module: str, tmp_path: Path) -> None:
    heavy = ["torch", "transformers", "faiss", "sparsight.retrieval.engine", "sparsight.index.store"]
    if module != "server":
        heavy += [
            "sparsight.kernels",
            "sparsight.encoders",
            "sparsight.index",
            "sparsight.retrieval",
            "structlog",
            "scipy",
        ]
    code = f"import sys, sparsight.service.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
