"""Training by fused steps: on a GPU if there is one, else in Triton's interpreter, in a process of its own.

Triton reads the switch once, so the tests of other modules would decide. The interpreter is slow: dictionaries here are
tiny. Kernels have their own tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

if find_spec("triton") is None:
    pytest.skip("needs triton (the gpu extra)", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ready = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not ready, reason="run by test_interpreted")
N, D, ROWS = 14, 16, 26


@pytest.mark.skipif(ready, reason="this is that process, or there is a GPU")
def test_interpreted() -> None:
    """Runs the tests below with the interpreter."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], check=False,
                          env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "failed" not in done.stdout


def make(x: torch.Tensor | None = None, **options: Any) -> Any:
    """A trainer of float32 products."""
    from sparsight.encoders.sae.fused import FusedTrainer

    x = data() if x is None else x
    settings: dict[str, Any] = {"n_latents": N, "k": 2, "batch": 6, "steps": 4, "seed": 3, "dtype": torch.float32}
    return FusedTrainer(x.to(DEVICE), **(settings | options))


def data(rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1))


def follow(trainer: Any, steps: int, **options: Any) -> Any:
    """The specification's autoencoder after the same batches; AuxK where the trainer has it."""
    from sparsight.kernels.reference.sae_step import Autoencoder, sae_step

    model = Autoencoder.start(trainer.rows.w_dec.cpu().double().numpy())
    for i in range(steps):
        trainer.step(i)
        batch = trainer.inputs.cpu().float().numpy()
        squared = sae_step(model, batch, trainer.ks[i], variance=trainer.variance, learning_rate=trainer.rate(i),
                           step=i, aux_k=trainer.aux_k if trainer.aux_now else 0, aux_weight=trainer.aux_weight,
                           dead_after=trainer.dead_after, **options)
        assert trainer.fvu() == pytest.approx(squared.mean() / trainer.variance, rel=1e-4)
    return model


def same(trainer: Any, model: Any) -> None:
    w_enc, b_enc, w_dec = (part.cpu().numpy() for part in trainer.finish())
    np.testing.assert_allclose(w_enc, model.w_enc, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(b_enc, model.b_enc, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(w_dec, model.w_dec, rtol=1e-4, atol=1e-5)
    assert trainer.rows.silent.tolist() == model.silent.tolist()


@inside
def test_equals_the_specification() -> None:
    trainer = make()
    assert trainer.variance == pytest.approx(float(data().square().sum(1).mean()), rel=1e-5)
    same(trainer, follow(trainer, 4))


@inside
def test_auxk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are read a look later; dead latents are then trained, the longest silent."""
    from sparsight.encoders.sae import fused

    monkeypatch.setattr(fused, "_LOOK", 2)
    monkeypatch.setattr(fused, "_CANDIDATES", 3)
    trainer = make(aux_k=3, aux_weight=0.5, dead_after=6, steps=5)
    model = follow(trainer, 5, candidates=3)
    assert trainer.aux_now  # since step 4: at step 2 two latents or more were dead, at step 0 none
    same(trainer, model)
    plain = make(aux_k=3, aux_weight=0.0, dead_after=6, steps=5)
    follow(plain, 5)
    changed = (plain.rows.w_enc != trainer.rows.w_enc).any(1)
    assert not plain.aux_now and 1 <= int(changed.sum()) <= 3


@inside
def test_k_may_change() -> None:
    trainer = make(k_schedule=lambda i: 5 - i)
    assert trainer.ks == [5, 4, 3, 2]
    same(trainer, follow(trainer, 4))


@inside
def test_large_dictionaries_choose_among_group_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three tiles' latents: what the other way chooses, up to the order of sums."""
    from sparsight.encoders.sae import fused

    x, made = data(), []
    for dense in (4096, 0):
        monkeypatch.setattr(fused, "_DENSE", dense)
        trainer = make(x, n_latents=200, k=2, batch=2, steps=1, dead_after=10**9)
        trainer.step(0)
        made.append(trainer)
    assert made[0].latents[:4].sort().values.tolist() == made[1].latents[:4].sort().values.tolist()
    torch.testing.assert_close(made[0].rows.w_dec, made[1].rows.w_dec, rtol=1e-4, atol=1e-5)


@inside
def test_order_of_the_data() -> None:
    """Every epoch has each row at most once, in another order, and the rows left over wait."""
    x = torch.arange(1, 8).float()[:, None] + torch.zeros(7, D)
    trainer = make(x, n_latents=2, k=1, batch=3, steps=6)
    seen = [trainer._next_batch(i)[0][:, 0].tolist() for i in range(6)]
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 6 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    weighted = make(x, n_latents=2, k=1, batch=3, steps=6, row_weight=x[:, 0])
    rows, weights = weighted._next_batch(0)
    assert rows[:, 0].tolist() == weights.tolist() == seen[0]


@inside
def test_weights_of_rows_and_given_decoder_rows() -> None:
    w_dec = 3 * torch.randn(N, D, generator=torch.Generator().manual_seed(4))
    made = [make(w_dec=w_dec, row_weight=weight) for weight in (None, torch.ones(ROWS), torch.linspace(0, 2, ROWS))]
    for trainer in made:
        torch.testing.assert_close(trainer.rows.w_dec.cpu(), torch.nn.functional.normalize(w_dec, dim=1))
        trainer.step(0)
    assert torch.equal(made[0].rows.w_enc, made[1].rows.w_enc)
    assert not torch.equal(made[0].rows.w_enc, made[2].rows.w_enc)


@inside
def test_learning_rate() -> None:
    trainer = make(steps=1000, learning_rate=0.5, n_latents=2, k=1)
    assert [trainer.rate(i) for i in (0, 4, 9, 500, 700, 850, 999)] == pytest.approx(
        [0.05, 0.25, 0.5, 0.5, 0.5, 0.25, 0.5 / 300])


@inside
def test_equal_seeds_give_equal_bits() -> None:
    made = []
    for seed in (3, 3, 4):
        trainer = make(seed=seed, steps=2)
        for i in range(2):
            trainer.step(i)
        made.append(trainer.finish())
    assert all(torch.equal(one, other) for one, other in zip(made[0], made[1], strict=True))
    assert not torch.equal(made[0][0], made[2][0])


@inside
def test_steps_come_in_order() -> None:
    trainer = make(steps=2, n_latents=2, k=1, batch=2)
    for wrong in (1, -1, 2):
        with pytest.raises(InvalidArgumentError, match="expected step 0 of 2"):
            trainer.step(wrong)
    trainer.step(0)
    trainer.step(1)
    with pytest.raises(InvalidArgumentError, match="expected step 2 of 2, got 2"):
        trainer.step(2)


@inside
@pytest.mark.parametrize("change", [
    {"k": 0}, {"k": N + 1}, {"n_latents": 500, "k": 129}, {"batch": 0}, {"batch": ROWS + 1}, {"steps": 0},
    {"learning_rate": -1.0}, {"aux_k": 129}, {"k_schedule": lambda i: 0 if i == 3 else 2},
])  # fmt: skip
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="expected"):
        make(**change)


@inside
def test_wrong_arrays() -> None:
    for change in ({"x": data()[0]}, {"w_dec": torch.zeros(N, D + 1)}, {"row_weight": torch.zeros(ROWS + 1)}):
        with pytest.raises(ShapeError, match="expected"):
            make(**change)
    for wrong in (torch.zeros(ROWS, D), data() * torch.nan):
        with pytest.raises(InvalidVectorError, match="finite"):
            make(wrong)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA GPU")
@pytest.mark.parametrize("n_latents", [2048, 8192])
def test_learns_on_a_gpu(n_latents: int) -> None:
    """Planted atoms, in bfloat16, both ways to choose, with AuxK and a falling k; twice the same bits."""
    generator = torch.Generator("cuda").manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(512, 384, generator=generator, device="cuda"), dim=1)
    which = torch.randint(512, (32_768, 8), generator=generator, device="cuda")
    x = (5 * (1 + torch.rand(32_768, 8, 1, generator=generator, device="cuda")) * atoms[which]).sum(1)
    made = []
    for _ in range(2):
        trainer = make(x - x.mean(0), n_latents=n_latents, k=8, batch=4096, steps=400, dtype=None, dead_after=40_000,
                       k_schedule=lambda i: max(8, 32 - i // 8))
        for i in range(400):
            trainer.step(i)
        assert trainer.x.dtype == torch.bfloat16 and trainer.fvu() < 0.1
        made.append(trainer.finish())
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))
