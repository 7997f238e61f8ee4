"""The training step of a k-sparse autoencoder: kernels against the specification, and that against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import ShapeError
from sparsight.kernels.gpu import sae_step as module
from sparsight.kernels.gpu.sae_step import TrainedRows, adam_rows, decode_loss, latent_order
from sparsight.kernels.reference import sae_step as reference
from sparsight.kernels.reference.sae_step import Autoencoder
from sparsight.kernels.reference.topk_encode import topk_positive

RATE = 1e-2


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(w_dec: torch.Tensor, device: str, dtype: torch.dtype = torch.float32) -> tuple[TrainedRows, Autoencoder]:
    """The same start for the kernels and for the specification.

    The encoder is moved away from the decoder: while they are equal a lone latent's value is the best there is, its
    gradient is rounding, and Adam's first steps are the sign of that.
    """
    rows = TrainedRows.start(w_dec.to(device), dtype)
    rows.w_enc.add_(0.1 * draw(*w_dec.shape, seed=99).to(device))
    rows.short_enc.copy_(rows.w_enc)
    model = Autoencoder.start(rows.w_dec.cpu().double().numpy())
    model.w_enc = rows.w_enc.cpu().double().numpy()
    return rows, model


def chosen(rows: TrainedRows, x: torch.Tensor, k: int, among: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Latents and values by the specification, from the weights' copies."""
    pre_acts = x.float() @ rows.short_enc.float().T + rows.b_enc
    if among is not None:
        pre_acts = torch.where(among, pre_acts, -torch.inf)
    return [torch.from_numpy(part).to(x.device) for part in topk_positive(pre_acts.cpu().numpy(), k)]


def fused_step(rows: TrainedRows, x: torch.Tensor, k: int, *, step: int, variance: float,
               row_weight: torch.Tensor | None = None, aux_k: int = 0, aux_weight: float = 0.0,
               dead_after: int = 0) -> torch.Tensor:
    """What a trainer does, with all latents looked at."""
    scale = torch.full((1,), 1 / (len(x) * variance), device=x.device)
    latents, values = chosen(rows, x, k)
    decoded = decode_loss(latents, values, rows.short_dec, x, scale, row_weight=row_weight)
    parts, found = [decoded], [latents]
    dead = rows.silent >= dead_after
    if aux_k and dead.any():
        latents, values = chosen(rows, x, aux_k, dead)
        scale = aux_weight * (dead.sum() / aux_k).clamp_max(1.0) / decoded.squared.sum()
        parts.append(decode_loss(latents, values, rows.short_dec, decoded.residual, scale))
        found.append(latents)
    flat = [torch.cat([part.reshape(-1) for part in some])
            for some in (found, [part.to_dec for part in parts], [part.to_enc for part in parts])]
    adam_rows(rows, latent_order(flat[0], len(rows.b_enc)), flat[1], flat[2],
              torch.cat([part.residual for part in parts]), x, k, step=step, learning_rate=RATE, aux_k=max(aux_k, 1))
    return decoded.squared


def same(rows: TrainedRows, model: Autoencoder, tolerance: float = 2e-6) -> None:
    """Weights and moments agree; steps are of size RATE, tolerances far below."""
    got = {"w_enc": rows.w_enc, "b_enc": rows.b_enc, "w_dec": rows.w_dec, "silent": rows.silent,
           "enc_mean": rows.moments[0], "enc_square": rows.moments[1], "dec_mean": rows.moments[2],
           "dec_square": rows.moments[3], "bias_mean": rows.bias_moments[0], "bias_square": rows.bias_moments[1]}
    wanted = {"w_enc": model.w_enc, "b_enc": model.b_enc, "w_dec": model.w_dec, "silent": model.silent,
              "enc_mean": model.means[0], "enc_square": model.squares[0], "dec_mean": model.means[2],
              "dec_square": model.squares[2], "bias_mean": model.means[1], "bias_square": model.squares[1]}
    for name, expected in wanted.items():
        np.testing.assert_allclose(got[name].cpu().numpy(), expected, rtol=1e-4, atol=tolerance, err_msg=name)


# --- the specification ----------------------------------------------------------------------------------------


class Plain:
    """One step after another by torch: dense codes, autograd, torch.optim.Adam."""

    def __init__(self, w_dec: torch.Tensor) -> None:
        self.w_dec = w_dec.clone().requires_grad_()
        self.w_enc, self.b_enc = w_dec.clone().requires_grad_(), torch.zeros(len(w_dec)).double().requires_grad_()
        self.adam = torch.optim.Adam([self.w_enc, self.b_enc, self.w_dec], lr=RATE, eps=6.25e-10)
        self.silent = torch.zeros(len(w_dec), dtype=torch.int64)

    def codes(self, x: torch.Tensor, k: int, among: torch.Tensor) -> torch.Tensor:
        pre_acts = x @ self.w_enc.T + self.b_enc
        found = pre_acts.masked_fill(~among, -torch.inf).topk(k, dim=1)
        return torch.zeros_like(pre_acts).scatter(1, found.indices, found.values.relu())

    def step(self, x: torch.Tensor, k: int, variance: float, aux_k: int, aux_weight: float, dead_after: int) -> None:
        z = self.codes(x, k, torch.ones(len(self.b_enc), dtype=torch.bool))
        error = x - z @ self.w_dec
        loss = error.square().sum(1).mean() / variance
        dead = self.silent >= dead_after
        if aux_k and dead.any():
            missed = error.detach() - self.codes(x, aux_k, dead) @ self.w_dec
            relative = missed.square().sum(1).mean() / error.detach().square().sum(1).mean()
            loss = loss + aux_weight * min(int(dead.sum()) / aux_k, 1.0) * relative
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            grad = self.w_dec.grad
            assert grad is not None
            grad -= (grad * self.w_dec).sum(1, keepdim=True) * self.w_dec
            self.adam.step()
            self.w_dec /= self.w_dec.norm(dim=1, keepdim=True)
        self.silent = torch.where((z > 0).any(0), 0, self.silent + len(x))


@pytest.mark.parametrize("aux_k", [0, 3, 30])
def test_specification_equals_autograd(aux_k: int) -> None:
    x = draw(6, 10, 8).double()
    model = Autoencoder.start(draw(24, 8, seed=1).numpy())
    plain = Plain(torch.from_numpy(model.w_dec))
    deaths = 0
    for step in range(6):
        settings: dict[str, Any] = {"variance": 8.0, "aux_k": min(aux_k, 24), "aux_weight": 0.5, "dead_after": 10}
        reference.sae_step(model, x[step].numpy(), 2, learning_rate=RATE, step=step, **settings)
        plain.step(x[step], 2, **settings)
        deaths += int((model.silent >= 10).sum())
    assert deaths > 10
    np.testing.assert_array_equal(model.silent, plain.silent.numpy())
    for got, expected in ((model.w_enc, plain.w_enc), (model.b_enc, plain.b_enc), (model.w_dec, plain.w_dec)):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5, atol=1e-5)  # codes are float32


def test_specification_learns() -> None:
    generator = np.random.default_rng(0)
    atoms = generator.normal(size=(24, 16))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    model = Autoencoder.start(generator.normal(size=(48, 16)))
    errors = []
    for step in range(400):
        codes = np.zeros((64, 24))
        codes[np.arange(64)[:, None], generator.integers(0, 24, (64, 2))] = generator.uniform(1, 2, (64, 2))
        squared = reference.sae_step(model, codes @ atoms, 2, variance=4.0, learning_rate=RATE, step=step, aux_k=8,
                                     aux_weight=1 / 32, dead_after=640)
        errors.append(squared.mean())
    assert np.mean(errors[-20:]) < 0.15 * np.mean(errors[:5])
    assert (np.abs(model.w_dec @ atoms.T).max(0) > 0.95).mean() > 0.8  # the planted atoms are found


def test_only_the_longest_silent_are_candidates() -> None:
    model = Autoencoder.start(np.eye(4))
    model.b_enc = np.full(4, 0.5)  # all would be positive
    model.silent = np.array([0, 50, 90, 70])
    before = model.w_enc.copy()
    x = np.array([[1.0, 0.1, 0.1, 0.1]])
    reference.sae_step(model, x, 1, variance=1.0, learning_rate=RATE, step=0, aux_k=3, aux_weight=1.0, dead_after=50,
                       candidates=2)
    assert np.flatnonzero((model.w_enc != before).any(1)).tolist() == [0, 2, 3]
    assert model.silent.tolist() == [0, 51, 91, 71]


# --- kernels --------------------------------------------------------------------------------------------------


def test_by_hand(device: str) -> None:
    """One row (2, 1) with the latent (1, 0) at value 1: residual (1, 1), and half its square as loss."""
    rows = TrainedRows.start(torch.eye(2, device=device), torch.float32)
    x = torch.tensor([[2.0, 1.0]], device=device)
    decoded = decode_loss(torch.tensor([[0]], dtype=torch.int32, device=device), torch.ones((1, 1), device=device),
                          rows.short_dec, x, torch.tensor([0.5], device=device))
    assert [part.tolist() for part in decoded] == [[[1, 1]], [[-1]], [[-1]], [2]]
    adam_rows(rows, latent_order(torch.tensor([0], dtype=torch.int32, device=device), 2), decoded.to_dec.view(-1),
              decoded.to_enc.view(-1), decoded.residual, x, 1, step=0, learning_rate=0.1)
    # dW_dec = -(1, 1), of which (0, -1) is not along the row; dW_enc = -(2, 1); Adam's first step is the rate's size.
    assert rows.w_enc.cpu()[0].tolist() == pytest.approx([1.1, 0.1]) and float(rows.b_enc[0]) == pytest.approx(0.1)
    assert rows.w_dec.cpu()[0].tolist() == pytest.approx([1 / 1.01**0.5, 0.1 / 1.01**0.5])
    assert rows.moments[2, 0].cpu().tolist() == pytest.approx([0.0, -0.1])
    assert rows.w_enc.cpu()[1].tolist() == [0, 1] and rows.silent.tolist() == [0, 1]
    assert torch.equal(rows.short_dec, rows.w_dec) and torch.equal(rows.short_enc, rows.w_enc)


@pytest.mark.parametrize(("rows", "k", "n", "d"), [(1, 1, 3, 16), (5, 3, 20, 40), (4, 8, 9, 33)])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_decode_loss(device: str, rows: int, k: int, n: int, d: int, weighted: bool) -> None:
    model = Autoencoder.start(draw(n, d, seed=1).numpy())
    model.b_enc[1:] -= 1.0  # fewer than k are positive
    x = draw(rows, d).double().numpy()
    z = reference.codes(model, x, k)
    latents, values = topk_positive(z.astype(np.float32), k)
    row_weight = np.linspace(0, 2, rows) if weighted else np.ones(rows)
    given = [torch.from_numpy(part).to(device) for part in (latents, values, model.w_dec.astype(np.float32),
                                                            x.astype(np.float32))]
    got = decode_loss(*given, torch.tensor([0.3], device=device),
                      row_weight=torch.from_numpy(row_weight).float().to(device) if weighted else None)
    residual = x - z @ model.w_dec
    np.testing.assert_allclose(got.residual.cpu(), residual, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.squared.cpu(), np.square(residual).sum(1), rtol=1e-5, atol=1e-5)
    made = [np.zeros((n, d)), np.zeros(n), np.zeros((n, d))]
    for row, place in zip(*np.nonzero(latents >= 0), strict=True):
        made[0][latents[row, place]] += float(got.to_enc[row, place]) * x[row]
        made[1][latents[row, place]] += float(got.to_enc[row, place])
        made[2][latents[row, place]] += float(got.to_dec[row, place]) * residual[row]
    for one, expected in zip(made, reference.gradients(model, x, z, residual, 0.3 * row_weight), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
    assert not got.to_dec.cpu().numpy()[latents < 0].any() and not got.to_enc.cpu().numpy()[latents < 0].any()


def test_values_of_zero_get_no_gradient(device: str) -> None:
    """As relu's; and what is no latent pulls at none, though -1 would be a row's number."""
    x = torch.tensor([[2.0, 1.0]], device=device)
    decoded = decode_loss(torch.tensor([[0, 1, -1]], dtype=torch.int32, device=device),
                          torch.tensor([[1.0, 0.0, 0.0]], device=device), torch.eye(2, device=device), x,
                          torch.ones(1, device=device))
    assert decoded.residual.tolist() == [[1, 1]]
    assert decoded.to_enc.tolist() == [[-2, 0, 0]] and decoded.to_dec.tolist() == [[-2, 0, 0]]


@pytest.mark.parametrize("n", [7, 40_000])
def test_order_by_hand(n: int) -> None:
    entries = latent_order(torch.tensor([3, 0, 3, -1, 5, 0, 3, -1], dtype=torch.int32), n)
    assert entries.latents.dtype == (torch.int16 if n == 7 else torch.int32)
    assert entries.order.tolist() == [3, 7, 1, 5, 0, 2, 6, 4]
    assert entries.starts[:8].tolist() == [2, 4, 4, 4, 7, 7, 8, 8] and len(entries.starts) == n + 1


@given(st.lists(st.integers(-1, 9), max_size=60))
def test_order(latents: list[int]) -> None:
    entries = latent_order(torch.tensor(latents, dtype=torch.int32), 10)
    found = [entries.order[first:last].tolist() for first, last in zip(entries.starts[:-1], entries.starts[1:],
                                                                       strict=True)]
    assert found == [[at for at, latent in enumerate(latents) if latent == wanted] for wanted in range(10)]


@pytest.mark.parametrize(("rows", "k", "n", "d"), [(6, 1, 12, 16), (9, 3, 20, 24), (5, 8, 9, 40)])
def test_steps_in_a_row(device: str, rows: int, k: int, n: int, d: int) -> None:
    trained, model = both(draw(n, d, seed=2), device)
    for step in range(4):
        x = draw(rows, d, seed=10 + step)
        squared = fused_step(trained, x.to(device), k, step=step, variance=float(d))
        expected = reference.sae_step(model, x.numpy(), k, variance=float(d), learning_rate=RATE, step=step)
        np.testing.assert_allclose(squared.cpu(), expected, rtol=1e-4)
    same(trained, model)
    assert k > 1 or (model.silent >= rows).any()  # some had no entry in the last step


def test_weights_of_rows(device: str) -> None:
    trained, model = both(draw(8, 16, seed=2), device)
    x, weight = draw(6, 16), torch.tensor([0.0, 3.0, 1.0, 0.0, 0.5, 1.0])
    fused_step(trained, x.to(device), 2, step=0, variance=16.0, row_weight=weight.to(device))
    reference.sae_step(model, x.numpy(), 2, variance=16.0, learning_rate=RATE, step=0, row_weight=weight.numpy())
    same(trained, model)


@pytest.mark.parametrize("chunk", [2, 4, 8])
def test_popular_latents(device: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents with no, one and many chunks of their own, with and without entries before and after them."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    trained, model = both(draw(6, 16, seed=2), device)
    for bias in (trained.b_enc, model.b_enc):
        bias[4] += 50.0  # active in every row
        bias[1] += 2.0
    for step in range(2):
        x = draw(19, 16, seed=10 + step)
        latents, _ = chosen(trained, x.to(device), 2)
        counts = np.bincount(latents[latents >= 0].cpu().numpy(), minlength=6)
        assert counts[4] == 19 and counts.min() < 4
        fused_step(trained, x.to(device), 2, step=step, variance=16.0)
        reference.sae_step(model, x.numpy(), 2, variance=16.0, learning_rate=RATE, step=step)
    same(trained, model, 1e-5)


def test_a_latent_with_more_entries_than_a_chunk(device: str) -> None:
    trained, model = both(draw(3, 16, seed=2), device)
    trained.b_enc[1] = model.b_enc[1] = 9.0
    x = draw(300, 16)
    fused_step(trained, x.to(device), 2, step=0, variance=16.0)
    reference.sae_step(model, x.numpy(), 2, variance=16.0, learning_rate=RATE, step=0)
    assert module._CHUNK < 300 // 2
    same(trained, model)


@pytest.mark.parametrize("aux_k", [1, 4, 16])
def test_auxk(device: str, aux_k: int) -> None:
    """Up to more than there are dead latents, some of which are active in the step itself."""
    trained, model = both(draw(14, 16, seed=2), device)
    settings: dict[str, Any] = {"variance": 16.0, "aux_k": aux_k, "aux_weight": 0.5, "dead_after": 6}
    dead = 0
    for step in range(4):
        x = draw(6, 16, seed=10 + step)
        fused_step(trained, x.to(device), 2, step=step, **settings)
        dead += int((model.silent >= 6).sum())
        reference.sae_step(model, x.numpy(), 2, learning_rate=RATE, step=step, **settings)
    assert dead > 4
    same(trained, model)


def test_ties_and_equal_rows(device: str) -> None:
    """Equal latents and equal rows of the batch: sums of equal terms, chosen by the lower latent."""
    trained, model = both(draw(4, 16, seed=2).repeat(2, 1), device)
    x = draw(2, 16).repeat(4, 1)
    for weights in (trained.w_enc, trained.short_enc, model.w_enc):
        weights[4:] = weights[:4]
    for step in range(2):
        fused_step(trained, x.to(device), 3, step=step, variance=16.0)
        reference.sae_step(model, x.numpy(), 3, variance=16.0, learning_rate=RATE, step=step)
        if step == 0:
            assert (trained.w_enc[:4] != trained.w_enc[4:]).any()  # the third of a row was one of a pair
    same(trained, model)


def test_bfloat16(device: str) -> None:
    """Gradients from short inputs, short weights and a short residual: within bfloat16's 8 bits of the exact ones."""
    trained, model = both(draw(20, 48, seed=2), device, torch.bfloat16)
    x = draw(24, 48).bfloat16()
    squared = fused_step(trained, x.to(device), 4, step=0, variance=48.0)
    # The specification from the weights as the kernels see them.
    start, _ = both(draw(20, 48, seed=2), "cpu", torch.bfloat16)
    model.w_enc, model.w_dec = start.short_enc.double().numpy(), start.short_dec.double().numpy()
    expected = reference.sae_step(model, x.double().numpy(), 4, variance=48.0, learning_rate=RATE, step=0)
    np.testing.assert_allclose(squared.cpu(), expected, rtol=1e-5)
    for got, wanted in zip((trained.moments[0], trained.bias_moments[0], trained.moments[2]), model.means, strict=True):
        assert np.linalg.norm(got.cpu().numpy() - wanted) < 5e-3 * np.linalg.norm(wanted)
    for short, weight in ((trained.short_dec, trained.w_dec), (trained.short_enc, trained.w_enc)):
        assert short.dtype == torch.bfloat16  # which the interpreter cuts off, where a GPU rounds
        torch.testing.assert_close(short.float(), weight, rtol=2**-7, atol=0)


def test_rows_keep_length_1_and_gradients_have_no_part_along_them(device: str) -> None:
    trained, _ = both(draw(10, 16, seed=2), device)
    before = trained.w_dec.clone()
    fused_step(trained, draw(12, 16).to(device), 3, step=0, variance=16.0)
    along, size = (trained.moments[2] * before).sum(1).abs(), trained.moments[2].norm(dim=1)
    assert size.min() > 0 and (along < 1e-6 * size.clamp_min(1e-3)).all()
    torch.testing.assert_close(trained.w_dec.norm(dim=1), torch.ones(10, device=device))


def test_latents_without_entries_glide_on(device: str) -> None:
    """As in dense Adam: their moments decay, and they move by them."""
    trained, model = both(torch.eye(16)[:2], device)
    before = []
    for step, row in enumerate((torch.eye(16)[:1] + 0.1, torch.eye(16)[1:2] + 0.1)):
        before.append((trained.moments[:, 0].clone(), trained.w_enc[0].clone()))
        x = row.repeat(2, 1)
        fused_step(trained, x.to(device), 1, step=step, variance=1.0)
        reference.sae_step(model, x.numpy(), 1, variance=1.0, learning_rate=RATE, step=step)
    decay = torch.tensor([0.9, 0.999, 0.9, 0.999], device=device)[:, None]
    torch.testing.assert_close(trained.moments[:, 0], decay * before[1][0])
    assert (trained.w_enc[0] != before[1][1]).all()
    same(trained, model)
    assert trained.silent.tolist() == [2, 0]


def test_equal_bits(device: str) -> None:
    made = []
    for _ in range(2):
        trained, _ = both(draw(12, 16, seed=2), device)
        for step in range(2):
            fused_step(trained, draw(10, 16, seed=step).to(device), 3, step=step, variance=16.0, aux_k=2,
                       aux_weight=0.1, dead_after=10)
        made.append((trained.w_enc, trained.b_enc, trained.w_dec, trained.moments))
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_what_does_not_fit() -> None:
    latents, values, x = torch.zeros((2, 3), dtype=torch.int32), torch.zeros(2, 3), torch.zeros(2, 16)
    weight, scale = torch.zeros(5, 16), torch.ones(1)
    for wrong in ((latents, values[:1], weight, x, scale), (latents, values, weight, x[:1], scale),
                  (latents, values, weight[:, :8], x, scale), (latents, values, weight, x, torch.ones(2)),
                  (latents, torch.zeros(3, 2).T, weight, x, scale)):
        with pytest.raises(ShapeError, match="expected"):
            decode_loss(*wrong)
    with pytest.raises(ShapeError, match="one weight a row"):
        decode_loss(latents, values, weight, x, scale, row_weight=torch.ones(3))
    rows, entries, factors = TrainedRows.start(torch.ones(5, 16), torch.float32), latent_order(latents[0], 5), values[0]
    settings: dict[str, Any] = {"step": 0, "learning_rate": RATE}
    for fewer in ((entries, factors, factors, x, x, 3), (entries, factors[:2], factors, x[:1], x[:1], 3)):
        with pytest.raises(ShapeError, match="entries"):
            adam_rows(rows, *fewer, **settings)
    with pytest.raises(ShapeError, match="expected residual"):
        adam_rows(rows, entries, factors, factors, x, x[:1], 3, **settings)
    with pytest.raises(ShapeError, match="starts"):
        adam_rows(rows, latent_order(latents[0], 4), factors, factors, x[:1], x[:1], 3, **settings)
    with pytest.raises(ShapeError, match="contiguous"):
        adam_rows(rows, entries, factors, torch.zeros(6)[::2], x[:1], x[:1], 3, **settings)
