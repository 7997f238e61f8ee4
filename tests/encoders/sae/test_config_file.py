"""Training configurations in TOML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsight.encoders.sae import losses as module
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.config_file import read_sae_config
from sparsight.encoders.sae.losses import AuxK, Distill, Mutual, Nested, Reconstruction
from sparsight.errors import InvalidArgumentError

LOSSES = '[[losses]]\nkind = "reconstruction"\n[[losses]]\nkind = "distill"\nweight = 0.5\nks = [8, 32]\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    assert read_sae_config(written(tmp_path, "")) == SAEConfig()
    assert read_sae_config(str(written(tmp_path, "k = 16"))) == SAEConfig(k=16)


def test_values_reach_their_fields(tmp_path: Path) -> None:
    path = written(tmp_path, f"""
        n_latents = 4_096
        k = 16
        dictionary = "archetypal"
        preprocess = "whiten"
        relaxation = 1
        learning_rate = 1e-4
        {LOSSES}
        [[losses]]
        kind = "nested"
        widths = [64, 256]
        ks = []
        weights = "reverse"
    """)
    assert read_sae_config(path) == SAEConfig(
        n_latents=4096, k=16, dictionary="archetypal", preprocess="whiten", relaxation=1, learning_rate=1e-4,
        losses=(Reconstruction(), Distill(weight=0.5, ks=(8, 32)), Nested(ks=(), widths=(64, 256), weights="reverse")))


@pytest.mark.parametrize("name", [name for name in module.__all__ if name != "Loss"])
def test_every_loss_has_a_kind(tmp_path: Path, name: str) -> None:
    text = f'[[losses]]\nkind = "reconstruction"\ntilt = 0.5\n[[losses]]\nkind = "{name.lower()}"\n'
    assert read_sae_config(written(tmp_path, text)).losses == (Reconstruction(tilt=0.5), getattr(module, name)())


@pytest.mark.parametrize(("text", "field", "message"), [
    ("latents = 3", "latents", "unknown key latents; expected one of: n_latents, k, "),
    ("[train]\nk = 3", "train", "unknown key train; expected one of: n_latents"),
    ("k = 0", "k", "k: expected a whole number in [1, 1024], got 0"),
    ("k = 1.5", "k", "k: expected a whole number, got 1.5"),
    ('k = "8"', "k", "k: expected a whole number, got '8'"),
    ("k = true", "k", "k: expected a whole number, got True"),
    ("k = [8]", "k", "k: expected a whole number, got [8]"),
    ("learning_rate = nan", "learning_rate", "learning_rate: expected a number in [0, 1], got nan"),
    ('tie = "soft"', "tie", 'tie: expected one of "init", "hard", "aligned", got "soft"'),
    ("n_latents = 8", "k", "k: expected at most n_latents, 8, got 32"),
    ('pursuit = 0.1\nactivation = "batchtopk"', "pursuit", "pursuit: expected 0 with activation 'batchtopk', got 0.1"),
    ("losses = 3", "losses", "losses: expected tables, as [[losses]], got 3"),
    ("losses = []", "losses", "losses: expected at least one beside AuxK and Mutual, got ()"),
    ('losses = ["distill"]', "losses", "losses: expected tables, as [[losses]], got ['distill']"),
    ("[losses]\nweight = 1", "losses", "losses: expected tables, as [[losses]], got {'weight': 1}"),
    ("[[losses]]\nweight = 1", "losses[0].kind", 'losses[0].kind: expected one of "auxk", "contrast", "distill", '),
    ('[[losses]]\nkind = "Distill"', "losses[0].kind", "got 'Distill'"),
    ("[[losses]]\nkind = {}", "losses[0].kind", "got {}"),
    (f"{LOSSES}tua = 1", "losses[1].tua", "unknown key losses[1].tua; expected one of: weight, tau, terms, ks"),
    (f"{LOSSES}tau = 0", "losses[1].tau", "losses[1]: distill.tau: expected a number in [0.0001, 10000], got 0"),
    (f"{LOSSES}terms = 1.5", "losses[1].terms", "losses[1]: distill.terms: expected a whole number, got 1.5"),
    ('[[losses]]\nkind = "nested"\nks = 8', "losses[0].ks", "losses[0]: nested.ks: expected whole numbers, got 8"),
    ('[[losses]]\nkind = "nested"\nks = ["8"]', "losses[0].ks", "nested.ks: expected whole numbers, got ('8',)"),
    (f'activation = "batchtopk"\n{LOSSES}', "losses", "losses: expected no ks in distill with activation 'batchtopk'"),
])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, field: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        read_sae_config(path)
    assert caught.value.field == field and caught.value.message.startswith(f"{path}: ")
    assert caught.value.details["file"] == str(path)


def test_changes(tmp_path: Path) -> None:
    path = written(tmp_path, f"k = 16\n{LOSSES}")
    made = read_sae_config(path, ["k=8", "tie = hard", 'start="random"', "losses.distill.weight=0.25",
                                  "losses.reconstruction.tilt = 1", "losses.distill.ks=[2]"])
    assert made == SAEConfig(k=8, tie="hard", start="random",
                             losses=(Reconstruction(tilt=1), Distill(weight=0.25, ks=(2,))))


@pytest.mark.parametrize(("change", "field", "message"), [
    ("k", "changes", "changes: expected key=value or losses.kind.key=value, got 'k'"),
    ("=3", "changes", "changes: expected key=value"),
    ("train.k=3", "changes", "changes: expected key=value"),
    ("losses.distill=3", "changes", "changes: expected key=value"),
    ("losses=3", "changes", "changes: expected key=value"),
    ("k=x", "k", "k: expected a whole number, got 'x'"),
    ("kk=3", "kk", "unknown key kk"),
    ("losses.mutual.weight=1", "losses.mutual.weight", "expected one loss of kind 'mutual' in the file, got 0"),
    ("losses.auxk.weight=1", "losses.auxk.weight", "expected one loss of kind 'auxk' in the file, got 2"),
    ("losses.reconstruction.tilt=-1", "losses[0].tilt", "reconstruction.tilt: expected a number in [0, 100], got -1"),
])
def test_wrong_changes(tmp_path: Path, change: str, field: str, message: str) -> None:
    path = written(tmp_path, '[[losses]]\nkind = "reconstruction"\n' + '[[losses]]\nkind = "auxk"\n' * 2)
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        read_sae_config(path, [change])
    assert caught.value.field == field


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"run\.toml: no such file"):
        read_sae_config(tmp_path / "run.toml")
    with pytest.raises(InvalidArgumentError, match="no such file"):
        read_sae_config(tmp_path)
    with pytest.raises(InvalidArgumentError, match="not TOML"):
        read_sae_config(written(tmp_path, "[train"))


def test_a_report_says_what_a_file_would(tmp_path: Path) -> None:
    """Settings as reports have them read back as the same ones."""
    config = SAEConfig(k=8, losses=(Nested(ks=(2, 8)), AuxK(k=3), Mutual(refresh=5)))
    lines = [f"{name} = {value!r}".replace("'", '"') for name, value in config.described().items() if name != "losses"]
    for loss in config.described()["losses"]:
        lines += ["[[losses]]", *(f"{name} = {list(value) if isinstance(value, tuple) else value!r}".replace("'", '"')
                                  for name, value in loss.items())]
    assert read_sae_config(written(tmp_path, "\n".join(lines))) == config
