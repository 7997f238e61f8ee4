from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import sparsight.encoders.training
from sparsight.encoders.training.config import SpladeTrainingConfig, read_config
from sparsight.encoders.training.pairs import TextSource
from sparsight.errors import InvalidArgumentError

SHIPPED = sorted(Path(sparsight.encoders.training.__file__).parent.glob("*.toml"))
SOURCE = '[[data.sources]]\nfolder = "papers"\n'
LEAST = SpladeTrainingConfig(sources=(TextSource(Path("papers")),))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, SOURCE))
    assert config == replace(LEAST, sources=(TextSource(tmp_path / "papers"),))
    assert (config.max_document_tokens, config.max_query_tokens, config.document_nonzeros) == (192, 48, 135)


def test_values_reach_their_fields(tmp_path: Path) -> None:
    path = written(tmp_path, """
        [model]
        backbone = "splade-tiny"
        head = "checkpoint"
        [[data.sources]]
        folder = "papers"
        splits = ["train", "dev"]
        pairs = 5
        weight = 2
        [[data.sources]]
        folder = "/far/away"
        titles = 1_000
        held_out = []
        keep_titles = false
        [teachers]
        bm25_weight = 2
        [train]
        steps = 900
        encoder_rate = 1e-4
        [sparsity]
        regulariser = "flops_l0"
        [run]
        output = "out/x"
        seed = 3
    """)
    config = read_config(path, data="/data")
    assert config == SpladeTrainingConfig(
        backbone="splade-tiny", head="checkpoint", bm25_weight=2, steps=900, encoder_rate=1e-4,
        regulariser="flops_l0", output=Path("out/x"), seed=3, sources=(
            TextSource(Path("/data/papers"), splits=("train", "dev"), pairs=5, weight=2),
            TextSource(Path("/far/away"), titles=1000, held_out=(), keep_titles=False)))


@pytest.mark.parametrize(("text", "field", "message"), [
    ("[trian]\nsteps = 1", "trian", "unknown key trian; expected one of: model, data, teachers, warmup, train, "),
    ("[train]\nstep = 1", "train.step", "unknown key train.step; expected one of: steps, mine_every"),
    ("[model]\nsteps = 1", "model.steps", "unknown key model.steps; expected one of: backbone"),
    ("[train]\nsteps = 0", "train.steps", r"train.steps: expected a whole number in [1, 1e+09], got 0"),
    ("[train]\nsteps = 1.5", "train.steps", "train.steps: expected a whole number, got 1.5"),
    ("[train]\nsteps = true", "train.steps", "train.steps: expected a whole number, got True"),
    ("[train]\nkl = true", "train.kl", "train.kl: expected a number, got True"),
    ("[train]\nkl = nan", "train.kl", "train.kl: expected a number in [0, 1e+06], got nan"),
    ('[train]\nkl = "1"', "train.kl", "train.kl: expected a number, got '1'"),
    ("[model]\nbackbone = 3", "model.backbone", "model.backbone: expected a string, got 3"),
    ('[model]\nhead = "x"', "model.head", 'model.head: expected one of "checkpoint", "new", got "x"'),
    ("[run]\noutput = 3", "run.output", "run.output: expected a string, got 3"),
    ("[train]\nrate_warmup = 9_000", "train.rate_warmup", "expected at most the 8000 steps, got 9000"),
    ("[train]\nsiamese_share = 0\ntable_share = 0", "train.siamese_share", "it or table_share above 0, got both 0"),
    ("[train]\nkl = 0\nmargin_mse = 0", "train.kl", "info_nce or margin_mse above 0, got all 0"),
    ("[teachers]\ndense_weight = 0\nbm25_weight = 0", "teachers.dense_weight", "a teacher of weight above 0"),
    ("[teachers]\nsparse_weight = 2", "teachers.sparse_teacher", 'a model, as its weight is 2, got ""'),
    ('[teachers]\ndense_teacher = ""\ndense_weight = 0\n[warmup]\nvector_steps = 9', "teachers.sparse_teacher",
     "as warmup.vector_steps is above 0"),
    ('[sparsity]\nregulariser = "flops_l0"\nl0_threshold = 150', "sparsity.l0_threshold",
     "expected less than document_nonzeros, 135, got 150"),
])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, field: str, message: str) -> None:
    path = written(tmp_path, f"{SOURCE}\n{text}")
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        read_config(path)
    assert caught.value.field == field and caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(("source", "field", "message"), [
    ("", "data.sources", "at least one source, got none"),
    ("data = 3", "data", "data: expected a section, got 3"),
    ("[data]\nsources = 3", "data.sources", "expected tables, as [[data.sources]], got 3"),
    ("[data]\nfolder = 3", "data.folder", "unknown key data.folder; expected one of: sources"),
    ("[[data.sources]]\nsplits = []", "data.sources[0].folder", "expected a folder, got none"),
    (f"{SOURCE}title = 3", "data.sources[0].title", "unknown key data.sources[0].title; expected one of: folder"),
    (f"{SOURCE}{SOURCE}titles = -3", "data.sources[1].titles", "expected a number of at least 0, got -3"),
    (f"{SOURCE}titles = 3.0", "data.sources[0].titles", "expected int, got 3.0"),
    (f"{SOURCE}titles = true", "data.sources[0].titles", "expected int, got True"),
    (f"{SOURCE}keep_titles = 1", "data.sources[0].keep_titles", "expected bool, got 1"),
    (f"{SOURCE}weight = inf", "data.sources[0].weight", "expected a number of at least 0, got inf"),
    (f'{SOURCE}splits = "train"', "data.sources[0].splits", "expected list, got 'train'"),
    (f"{SOURCE}splits = [1]", "data.sources[0].splits", "expected a list of strings, got [1]"),
])
def test_wrong_sources_are_named(tmp_path: Path, source: str, field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        read_config(written(tmp_path, source))
    assert caught.value.field == field


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no such file"):
        read_config(tmp_path / "run.toml")
    with pytest.raises(InvalidArgumentError, match="not TOML"):
        read_config(written(tmp_path, "[train"))


def test_it_is_checked_however_it_is_made() -> None:
    with pytest.raises(InvalidArgumentError, match=r"train\.steps: expected a whole number in"):
        replace(LEAST, steps=-1)
    with pytest.raises(InvalidArgumentError, match=r"run\.output: expected .*Path, got 'x'"):
        replace(LEAST, output="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", [field for field in fields(SpladeTrainingConfig) if field.name != "sources"],
                         ids=lambda field: field.name)
def test_every_setting_is_documented_and_limited(setting: Any) -> None:
    names = re.findall(r"^    (\w[\w, ]*) : ", SpladeTrainingConfig.__doc__ or "", re.MULTILINE)
    assert setting.name in ", ".join(names).split(", ")
    if isinstance(setting.default, int | float):
        assert setting.metadata["least"] <= setting.default <= setting.metadata["most"]


# --- what is shipped ------------------------------------------------------------------------------------------


def test_something_is_shipped() -> None:
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations(path: Path) -> None:
    config = read_config(path)
    folders = {source.folder.name for source in config.sources}
    assert len(folders) == len(config.sources)
    # Zero-shot results are reported on these.
    assert not folders & {"scifact", "cranfield", "cacm", "nfcorpus", "fiqa", "arguana", "scidocs"}
    assert not any(re.search(r"scifact|cranfield|cacm", str(folder), re.IGNORECASE) for folder in folders)
    for source in config.sources:
        assert "test" in source.held_out and not set(source.splits) & set(source.held_out)
        assert "test" not in source.splits
        assert source.folder.parent == path.parent, "a place on somebody's machine"
