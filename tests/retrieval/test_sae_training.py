from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsight.encoders import SAE
from sparsight.errors import FailedPreconditionError, InvalidArgumentError
from sparsight.retrieval.sae_training import train_sae_run

SETTINGS = """
n_latents = 32
k = 4
epochs = 4
batch = 64

[[losses]]
kind = "reconstruction"

[[losses]]
kind = "distill"
weight = 0.1
terms = 8
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 16)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", x[:40] + rng.normal(size=(40, 16)).astype(np.float16) / 10)
    (tmp_path / "sae.toml").write_text(SETTINGS)
    return tmp_path


def test_a_run_goes_on_and_ends_as_one_that_was_not_stopped(files: Path) -> None:
    said: list[str] = []
    whole = train_sae_run(files / "sae.toml", files / "x.npy", files / "whole", queries=files / "q.npy")
    assert whole.finished and whole.model == files / "whole/model"
    slices = 0
    while not (report := train_sae_run(files / "sae.toml", files / "x.npy", files / "sliced", queries=files / "q.npy",
                                       slice_seconds=1e-6, say=said.append)).finished:
        slices += 1
        assert report.new_steps == 1
    assert slices == whole.steps - 1 and any("going on from step" in line for line in said)
    assert SAE.load(files / "sliced/model").fingerprint == SAE.load(files / "whole/model").fingerprint


def test_without_queries_the_vectors_are(files: Path) -> None:
    said: list[str] = []
    report = train_sae_run(files / "sae.toml", files / "x.npy", files / "run", changes=["k=2"], say=said.append)
    assert report.finished and "300 queries" in said[0]
    assert SAE.load(files / "run/model").k == 2
    with pytest.raises(FailedPreconditionError):
        train_sae_run(files / "sae.toml", files / "x.npy", files / "run")


def test_bad_files_are_named(files: Path) -> None:
    np.save(files / "flat.npy", np.zeros(4, np.float32))
    np.save(files / "wide.npy", np.zeros((4, 17), np.float32))
    for name, message in (("none.npy", "none.npy"), ("flat.npy", r"\(4,\)"), ("sae.toml", "sae.toml")):
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            train_sae_run(files / "sae.toml", files / name, files / "run")
        assert caught.value.field == "vectors"
    with pytest.raises(InvalidArgumentError, match="16 components, got 17"):
        train_sae_run(files / "sae.toml", files / "x.npy", files / "run", queries=files / "wide.npy")
