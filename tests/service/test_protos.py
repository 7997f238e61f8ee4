"""The protos: generated code is current, lint passes, and the conventions that lint does not know hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from sparsight.v1 import (
    collections_pb2,
    documents_pb2,
    encoding_pb2,
    features_pb2,
    operations_pb2,
    search_pb2,
    vectors_pb2,
)

GENERATE = Path(__file__).parents[2] / "protos" / "generate.py"
FILES = [
    module.DESCRIPTOR
    for module in (collections_pb2, documents_pb2, encoding_pb2, features_pb2, operations_pb2, search_pb2, vectors_pb2)
]
SERVICES = [service for file in FILES for service in file.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(GENERATE), *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=300
    )


def test_generated_code_is_current(tmp_path: Path) -> None:
    done = run("--check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="buf comes from the npm registry")
def test_lint(tmp_path: Path) -> None:
    done = run("--lint", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_belong_to_one_method_each() -> None:
    names = [method.input_type.name for method in METHODS]
    assert len(names) == len(set(names))
    assert [name for name, method in zip(names, METHODS, strict=True) if name != f"{method.name}Request"] == []


@pytest.mark.parametrize("method", [m for m in METHODS if m.name.startswith("List")], ids=lambda m: m.name)
def test_lists_have_pages(method) -> None:
    request, response = method.input_type.fields_by_name, method.output_type.fields_by_name
    assert request["page_size"].type == FieldDescriptor.TYPE_INT32
    assert request["page_token"].type == response["next_page_token"].type == FieldDescriptor.TYPE_STRING
    assert next(iter(method.output_type.fields)).number == 1 and next(iter(method.output_type.fields)).is_repeated


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (search_pb2.Query, "k"),
        (search_pb2.Query, "min_score"),
        (search_pb2.Edit, "strength"),
        (search_pb2.Effort, "recall"),
        (search_pb2.Overlap, "at_least"),
        (search_pb2.Retriever, "weight"),
        (search_pb2.Retriever, "max_query_terms"),
        (collections_pb2.SaeField, "k1"),
        (collections_pb2.Bm25Field, "b"),
        (features_pb2.TrainSaeRequest, "k"),
        (features_pb2.TrainSaeRequest, "max_query_terms"),
        (features_pb2.TrainSaeRequest, "k1"),
    ],
)
def test_zero_differs_from_absent_where_it_means_something(message, field: str) -> None:
    made = message.FromString(message(**{field: 0}).SerializeToString())
    assert made.HasField(field) and not message().HasField(field)


def test_vectors_are_packed() -> None:
    values = [1.0, -2.0, 0.5]
    # Field 1, wire type 2, 12 bytes: the values stand there as little-endian float32.
    assert vectors_pb2.DenseVector(values=values).SerializeToString() == (
        b"\x0a\x0c" + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0" + b"\x00\x00\x00\x3f"
    )


def test_long_work_is_an_operation() -> None:
    long = {m.name for m in METHODS if m.output_type.full_name == "google.longrunning.Operation"}
    assert long == {"TrainSae", "NameFeatures", "CompactCollection"}
