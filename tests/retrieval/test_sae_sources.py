from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import sparsight
from sparsight.encoders import SAE
from sparsight.errors import CheckpointError, InvalidArgumentError
from sparsight.retrieval.sae_sources import find_saes
from sparsight.types import DenseField, Document


def small(seed: int = 0) -> SAE:
    atoms = np.random.default_rng(seed).standard_normal((6, 4)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    return SAE(k=2, W_enc=atoms, b_enc=np.zeros(6, np.float32), W_dec=atoms, b_dec=np.zeros(4, np.float32))


def test_folders_and_names(tmp_path: Path, monkeypatch) -> None:
    for seed, name in enumerate(("first", "second")):
        small(seed).save(tmp_path / name)
    found = find_saes([str(tmp_path / "first"), f"mine={tmp_path / 'second'}"])
    assert [one.name for one in found] == ["first", "mine"]
    assert [one.sae.fingerprint for one in found] == [small(0).fingerprint, small(1).fingerprint]
    assert [one.encoder for one in found] == ["", ""]
    monkeypatch.chdir(tmp_path / "second")
    assert find_saes(["."])[0].name == "second"


def test_other_layouts(tmp_path: Path) -> None:
    sae = small()
    save_file({"encoder.weight": sae.W_enc, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec},
              tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"activation": "topk", "d_in": 4, "num_latents": 6, "k": 2}))
    (found,) = find_saes([str(tmp_path)])
    assert found.sae.k == 2 and found.sae.W_dec == pytest.approx(sae.W_dec)


def test_collections(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("things", [DenseField("vec", dimension=8)])
        things.upsert([Document(str(n), text="x", vectors={"vec": row.astype(np.float32)})
                       for n, row in enumerate(rng.standard_normal((80, 8)))])
        with pytest.raises(InvalidArgumentError, match="no SAE field"):
            find_saes([str(tmp_path / "things")])
        things.train_sae("sae", source="vec", n_latents=16, k=2, epochs=2)
        (one,) = find_saes([str(tmp_path / "things")])  # beside the process that writes to it
        assert (one.name, one.sae.n_latents, one.encoder) == ("things", 16, things.info().fingerprints.get("vec", ""))
        things.train_sae("other", source="vec", n_latents=8, k=2, epochs=2)
    assert {found.name: found.sae.n_latents for found in find_saes([f"t={tmp_path / 'things'}"])} == {
        "t.sae": 16, "t.other": 8}


def test_what_is_no_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        find_saes([str(tmp_path)])
    with pytest.raises(CheckpointError):
        find_saes([str(tmp_path / "none")])
    small().save(tmp_path / "a" / "model")
    small().save(tmp_path / "b" / "model")
    with pytest.raises(InvalidArgumentError, match="called model") as caught:
        find_saes([str(tmp_path / "a/model"), str(tmp_path / "b/model")])
    assert caught.value.field == "models"
