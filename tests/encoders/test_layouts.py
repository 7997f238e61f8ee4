"""A Router's folders, as sentence-transformers 6.2.0 writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder
from sparsight.encoders.layouts import read_layout
from sparsight.encoders.settings import read_settings
from sparsight.errors import CheckpointError

from .conftest import PIECES, write_json

ROUTER = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.router.Router"}]
TABLE, TRANSFORMER, POOLING = "query_0_SparseStaticEmbedding", "document_0_MLMTransformer", "document_1_SpladePooling"


def router(**changes: Any) -> dict[str, Any]:
    types = {TABLE: "x.SparseStaticEmbedding", TRANSFORMER: "x.MLMTransformer", POOLING: "x.SpladePooling",
             "other": "x.Dense"}
    return {"types": types, "structure": {"query": [TABLE], "document": [TRANSFORMER, POOLING]},
            "parameters": {"default_route": "document", "route_mappings": {}}} | changes


@pytest.fixture
def folder(splade_folder: Path, tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    folder = tmp_path / "router"
    shutil.copytree(splade_folder, folder / TRANSFORMER)
    write_json(folder / POOLING / "config.json", {"pooling_strategy": "max", "activation_function": "log1p_relu"})
    write_json(folder / TABLE / "config.json", {"frozen": False})
    save_file({"weight": np.linspace(1, 2, len(PIECES), dtype=np.float32)}, folder / TABLE / "model.safetensors")
    write_json(folder / "modules.json", ROUTER)
    write_json(folder / "router_config.json", router())
    return folder


def test_inference_free(folder: Path, splade_folder: Path) -> None:
    layout, settings = read_layout(folder), read_settings(folder)
    assert (layout.transformer, layout.query_table) == (folder / TRANSFORMER, folder / TABLE)
    assert (settings.kind, settings.head, settings.query, settings.activation) == (
        "sparse", "splade", "table", "log1p_log1p_relu")
    encoder: Any = load_encoder(str(folder))
    cat = PIECES.index("cat")
    terms, values = encoder.encode_query("Cat cat")
    assert terms.tolist() == [cat]
    assert values[0] == pytest.approx(1 + cat / (len(PIECES) - 1))
    np.testing.assert_allclose(
        encoder.encode(["the cat"]).toarray(),
        np.log1p(load_encoder(str(splade_folder)).encode(["the cat"]).toarray()), rtol=1e-5)  # type: ignore[union-attr]
    siamese: Any = load_encoder(f"{folder}#siamese")
    assert siamese.fingerprint == encoder.fingerprint
    assert (siamese.encode(["the cat"], mode="query") != encoder.encode(["the cat"])).nnz == 0


def test_the_transformer_may_lie_at_the_root(splade_folder: Path, folder: Path) -> None:
    for path in splade_folder.iterdir():
        shutil.copy(path, folder)
    write_json(folder / "router_config.json", {
        "types": {TABLE: "x.SparseStaticEmbedding", "": "x.MLMTransformer", POOLING: "x.SpladePooling"},
        "structure": {"query": [TABLE], "document": ["", POOLING]}})
    assert read_layout(folder).transformer == folder
    assert load_encoder(str(folder)).encode(["cat"]).nnz  # type: ignore[union-attr]


def test_a_table_in_json(folder: Path) -> None:
    write_json(folder / TABLE / "config.json", {"frozen": True, "path": "elsewhere/idf.json"})
    write_json(folder / "idf.json", {"cat": 7.5})
    encoder: Any = load_encoder(str(folder))
    assert encoder.encode_query("the cat")[1].tolist() == [7.5]


def test_both_routes_alike(folder: Path) -> None:
    write_json(folder / "router_config.json",
               router(structure={"query": [TRANSFORMER, POOLING], "document": [TRANSFORMER, POOLING]}))
    assert read_settings(folder).query == "encoder" and read_layout(folder).query_table is None


@pytest.mark.parametrize("change", [
    {"structure": {"query": [TABLE]}},
    {"structure": {"query": ["other"], "document": [TRANSFORMER, POOLING]}},
    {"structure": {"query": [TABLE], "document": [TRANSFORMER, "other"]}},
    {"structure": {"query": [TABLE], "document": [TRANSFORMER]}},
    {"structure": {"query": [TABLE], "document": ["nowhere", POOLING]}},
    {"structure": {"query": [TABLE], "document": [TRANSFORMER, POOLING], "image": []}},
    {"structure": [TABLE]},
    {"types": None},
    {"parameters": {"route_mappings": {"('query', None)": "document"}}},
    {"types": {"../x": "x.MLMTransformer", POOLING: "x.SpladePooling", TABLE: "x.SparseStaticEmbedding"},
     "structure": {"query": [TABLE], "document": ["../x", POOLING]}},
])
def test_other_routers_are_refused(folder: Path, change: dict[str, Any]) -> None:
    write_json(folder / "router_config.json", router(**change))
    with pytest.raises(CheckpointError):
        read_layout(folder)


def test_a_table_that_is_not_there(folder: Path) -> None:
    (folder / TABLE / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="table"):
        read_settings(folder)
    (folder / "router_config.json").unlink()
    with pytest.raises(CheckpointError, match="router_config"):
        read_settings(folder)
    (folder / "modules.json").write_text(json.dumps([*ROUTER, {"path": "1_Normalize", "type": "x.Normalize"}]))
    with pytest.raises(CheckpointError, match="not supported"):
        read_settings(folder)
