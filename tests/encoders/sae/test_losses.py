"""Every loss and its gradients against the formula on dense codes, differentiated by torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsight.encoders.sae.losses import (
    AuxK,
    Contrast,
    Distill,
    Loss,
    Masked,
    Mutual,
    Nested,
    Reconstruction,
    WeightL2,
)
from sparsight.encoders.sae.neighbours import nearest
from sparsight.encoders.sae.step import Step
from sparsight.encoders.sae.trainer import Trainer
from sparsight.errors import InvalidArgumentError

B, D, N, K, Q = 40, 8, 24, 3, 5
TIES = ({}, {"tie": "hard"}, {"tie": "aligned"}, {"dictionary": "archetypal", "support": 5}, {"preprocess": "whiten"})
ids = lambda settings: "-".join(map(str, settings.values())) or "plain"  # noqa: E731


class Dense:
    """A step's formulas in plain torch, all latents of all rows at once."""

    def __init__(self, trainer: Trainer, x: torch.Tensor, queries: torch.Tensor | None) -> None:
        self.trainer, self.x, self.queries, p = trainer, x, queries, trainer.dictionary.parameters
        if "mix" in p:
            dictionary = trainer.dictionary
            mix = torch.zeros(N, N).scatter(1, dictionary.support, p["mix"])
            self.w_dec = functional.normalize(mix @ dictionary.centres + p["rest"])
        else:
            self.w_dec = p["w_dec"]
        tie = trainer.config.tie
        self.w_enc = self.w_dec if tie == "hard" else p["w_enc"]
        if tie == "aligned":
            self.w_enc = self.w_enc + (1 - (self.w_enc * self.w_dec).sum(1, keepdim=True)) * self.w_dec
        self.b_enc, self.b_dec = p["b_enc"], p["b_dec"]
        self.out = trainer.preprocessing.rows(self.w_dec)  # decoder rows as embeddings
        self.variance = trainer.x.var(0, correction=0).sum()

    def codes(self, x: torch.Tensor, k: int, among: Any = slice(None)) -> torch.Tensor:
        pre_acts = (x - self.b_dec) @ self.w_enc.T + self.b_enc
        order = torch.full_like(pre_acts, -torch.inf)
        # Latents compete with the size that they will have in the saved model; those of a part by pre-activation.
        sizes = self.out.norm(dim=1) if among == slice(None) else torch.ones(N)
        order[:, among] = (pre_acts * sizes)[:, among]
        return pre_acts.relu() * torch.zeros_like(order).scatter(1, order.topk(k).indices, 1.0)

    def errors(self, codes: torch.Tensor) -> torch.Tensor:
        return (self.x - codes @ self.w_dec - self.b_dec).square().sum(1)


@pytest.fixture
def case(planted: Callable[..., np.ndarray], trainer_of: Callable[..., Trainer]) -> Callable[..., tuple[Step, Dense]]:
    """A step of random weights, and the same densely."""

    def make(losses: tuple[Loss, ...], queries: bool = False, **settings: Any) -> tuple[Step, Dense]:
        x = planted(B, 12, D)
        trainer = trainer_of(x, n_latents=N, k=K, batch=B, losses=losses, **settings)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.dictionary.parameters.values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            trainer.dictionary.after_update()
        asked = torch.from_numpy(planted(Q, 12, D, seed=9)) if queries else None
        return Step(trainer, trainer.x, asked, K), Dense(trainer, trainer.x, asked)

    return make


def assert_same(step: Step, loss: torch.Tensor, expected: torch.Tensor) -> None:
    """Values and the gradients of all parameters."""
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    parameters = step.trainer.dictionary.parameters
    found, wanted = (torch.autograd.grad(value, list(parameters.values()), allow_unused=True, retain_graph=True)
                     for value in (loss, expected))
    for name, got, right in zip(parameters, found, wanted, strict=True):
        assert (got is None or not got.any()) if right is None else got is not None, name
        if right is not None and got is not None:
            torch.testing.assert_close(got, right, rtol=1e-3, atol=2e-5 * float(right.abs().max()) + 1e-7, msg=name)


# --- reconstruction -------------------------------------------------------------------------------------------


def test_reconstruction_by_hand() -> None:
    step: Any = SimpleNamespace(error=torch.tensor([[1.0, 0.0], [1.0, math.sqrt(2)]]), variance=4.0)  # errors 1 and 3
    assert Reconstruction()(step).item() == pytest.approx(2 / 4)
    assert Reconstruction(tilt=2)(step).item() == pytest.approx(math.log((math.e + math.e**3) / 2) / 4)
    assert Reconstruction(tilt=1e-3)(step).item() == pytest.approx(2 / 4, rel=1e-2)


@pytest.mark.parametrize("settings", TIES, ids=ids)
def test_reconstruction(case: Any, settings: dict[str, Any]) -> None:
    step, dense = case((Reconstruction(),), **settings)
    codes = dense.codes(dense.x, K)
    assert_same(step, Reconstruction()(step), dense.errors(codes).mean() / dense.variance)
    made = torch.zeros(B, N).scatter(1, step.latents, step.values)
    torch.testing.assert_close(made, codes)


def test_tilt_weighs_rows_by_their_errors(case: Any) -> None:
    step, dense = case((Reconstruction(),))
    errors = dense.errors(dense.codes(dense.x, K))
    t = 2 / errors.mean().item()
    plain = torch.log((t * errors).exp().mean()) / t / dense.variance
    assert_same(step, Reconstruction(tilt=2)(step), plain)
    weights = (t * errors).softmax(0).detach()  # the closed form of its gradient
    by_weights = (weights * errors).sum() / dense.variance
    w_dec = step.trainer.dictionary.parameters["w_dec"]
    (found,), (expected,) = (torch.autograd.grad(value, [w_dec], retain_graph=True) for value in (plain, by_weights))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert weights.max() > 1.5 * weights.min()


# --- silent latents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 4])
def test_auxk(case: Any, k: int) -> None:
    step, dense = case((Reconstruction(), AuxK(k=k)))
    dead = torch.tensor([1, 7, 20])
    step.trainer.dead = dead
    error = (dense.x - dense.codes(dense.x, K) @ dense.w_dec - dense.b_dec).detach()
    rebuilt = dense.codes(dense.x, min(k, 3), dead) @ dense.w_dec
    expected = min(3 / k, 1) * (error - rebuilt).square().sum() / error.square().sum()
    loss = AuxK(k=k)(step)
    assert_same(step, loss, expected)
    loss.backward()
    for name in ("w_enc", "w_dec", "b_enc"):  # nothing of the living ones
        gradient = step.trainer.dictionary.parameters[name].grad
        assert set(gradient.reshape(N, -1).any(1).nonzero()[:, 0].tolist()) <= {1, 7, 20} and gradient.any()


def test_auxk_of_negative_and_of_no_latents(case: Any) -> None:
    step, _ = case((Reconstruction(), AuxK()))
    assert AuxK()(step).item() == 0
    step.trainer.dead = torch.tensor([1, 7])
    with torch.no_grad():
        step.b_enc[[1, 7]] = -100.0  # living ones must not step in for them
    assert AuxK(k=2)(step).item() == pytest.approx(1.0)


# --- several sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"preprocess": "whiten"}], ids=ids)
@pytest.mark.parametrize(("weights", "shares"), [("uniform", [1, 1, 1, 1]), ("reverse", [1, 1 / 2, 1 / 3, 1 / 4])])
def test_nested(case: Any, settings: dict[str, Any], weights: str, shares: list[float]) -> None:
    loss = Nested(ks=(6, 2), widths=(16, 8), weights=weights)
    step, dense = case((loss,), **settings)
    assert loss.levels(K) == 6 and Nested(ks=(), widths=(4,)).levels(K) == K and step.latents.shape == (B, 6)
    codes = [dense.codes(dense.x, 2), dense.codes(dense.x, 6),
             dense.codes(dense.x, K, range(8)), dense.codes(dense.x, K, range(16))]
    errors = torch.stack([dense.errors(code).mean() for code in codes])
    assert_same(step, loss(step), (torch.tensor(shares) * errors).sum() / sum(shares) / dense.variance)
    assert_same(step, step.error.square().sum(1).mean(), dense.errors(dense.codes(dense.x, K)).mean())


def test_more_levels_than_latents(case: Any) -> None:
    loss = Nested(ks=(2, 100))
    step, dense = case((loss,))
    errors = (dense.errors(dense.codes(dense.x, 2)).mean() + dense.errors(dense.codes(dense.x, N)).mean()) / 2
    assert_same(step, loss(step), errors / dense.variance)


# --- rankings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"preprocess": "whiten"}], ids=ids)
@pytest.mark.parametrize("terms", [0, 5, 20])
@pytest.mark.parametrize("ks", [(), (1, 5)])
def test_distill(case: Any, settings: dict[str, Any], terms: int, ks: tuple[int, ...]) -> None:
    loss = Distill(tau=0.1, terms=terms, ks=ks)
    step, dense = case((loss,), queries=True, **settings)
    restored = dense.trainer.preprocessing.restored
    teacher = (dense.queries @ restored(dense.x).T / 0.1).softmax(1)
    weights = dense.queries @ dense.out.T
    if terms:  # negative ones count half
        matter = torch.where(weights > 0, weights, -weights / 2)
        weights = weights * torch.zeros_like(weights).scatter(1, matter.topk(terms).indices, 1.0)
        assert (step.query_weights(terms) != 0).sum(1).tolist() == [terms] * Q
    expected = torch.zeros(())
    for k in ks or (K,):
        codes = dense.codes(dense.x, k)
        scores = weights @ (codes / restored(codes @ dense.w_dec + dense.b_dec).norm(dim=1, keepdim=True)).T
        expected = expected + functional.kl_div((scores / 0.1).log_softmax(1), teacher, reduction="batchmean")
    assert_same(step, loss(step), expected / max(len(ks), 1))


def test_distilled_scores_are_those_of_the_index(case: Any) -> None:
    step, _ = case((Distill(),), queries=True, preprocess="whiten")
    sae, x = step.trainer.finish(), step.trainer.preprocessing.restored(step.x).numpy()
    weights = step.queries.numpy() @ sae.W_dec.T
    with torch.no_grad():
        found = step.scores(step.query_weights(0), K).numpy()
    np.testing.assert_allclose(found, weights @ sae.document_weights(x).toarray().T, rtol=1e-3, atol=1e-4)


def test_contrast(case: Any) -> None:
    step, dense = case((Contrast(),), queries=True)
    codes = dense.codes(dense.x, K)
    asked = dense.codes(dense.trainer.preprocessing(dense.queries), K)
    cosines = functional.cosine_similarity(asked[:, None], codes[None], dim=2)
    best = (dense.queries @ dense.trainer.preprocessing.restored(dense.x).T).argmax(1)
    expected = -(cosines / 0.2).log_softmax(1)[torch.arange(Q), best].mean()
    assert_same(step, Contrast()(step), expected)


def test_documents_of_a_step_are_the_queries_neighbours(planted: Any, trainer_of: Any) -> None:
    x, queries = planted(), planted(30, seed=4)
    trainer = trainer_of(x, nearest(queries, x, 8), losses=(Distill(),), neighbour_share=0.5, batch=64)
    seen = []
    for trainer._step in range(8):
        rows, asked = trainer._draw()
        assert len(rows) == 64 and len(asked) == 4
        best = np.argmax(asked.numpy() @ x.T, 1)
        np.testing.assert_array_equal(rows.numpy()[:32:8], best)
        seen += [tuple(row) for row in asked.tolist()]
    assert len(set(seen[:28])) == 28 and len(set(seen)) < len(seen)  # each once, then the next shuffle


# --- masked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_masked(case: Any, fraction: float) -> None:
    loss = Masked(fraction=fraction)
    step, dense = case((loss,))
    hidden = step.hidden_directions(fraction)
    assert hidden.shape == (D, round(D * fraction))
    seen = dense.x @ (torch.eye(D) - hidden @ hidden.T) / (1 - fraction)
    wrong = dense.x - dense.codes(seen, K) @ dense.w_dec - dense.b_dec
    expected = (wrong @ hidden).square().sum(1).mean() / (dense.variance * fraction)
    assert_same(step, loss(step), expected)


def test_masked_sees_nothing_of_what_is_hidden_and_counts_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q[:, :3]
    given = []

    def rebuilt(seen: torch.Tensor) -> torch.Tensor:
        given.append(seen)
        return seen  # wrong in seen directions by the scale, and nothing in hidden ones

    step: Any = SimpleNamespace(x=torch.randn(B, D, generator=generator), bias=torch.zeros(D), variance=2.0,
                                hidden_directions=lambda fraction: hidden, rebuilt=rebuilt)
    loss = Masked()(step)
    torch.testing.assert_close(given[0] @ hidden, torch.zeros(B, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, (step.x @ hidden).square().sum(1).mean() / (2 * 3 / 8))
    step.x = step.x + torch.randn(B, 3, generator=generator) @ hidden.T
    Masked()(step)
    torch.testing.assert_close(given[0], given[1], rtol=0, atol=1e-5)


def test_hidden_directions_differ_by_step_and_are_orthonormal(planted: Any, trainer_of: Any) -> None:
    trainer = trainer_of(planted())
    made = []
    for trainer._step in (0, 1, 0):
        made.append(trainer.hidden_directions(0.25))
        torch.testing.assert_close(made[-1].T @ made[-1], torch.eye(4), rtol=0, atol=1e-5)
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
    assert trainer.hidden_directions(0.9).shape == (16, 14) and trainer.hidden_directions(0.01).shape == (16, 1)


# --- weights --------------------------------------------------------------------------------------------------


def test_mutual(case: Any, planted: Any, trainer_of: Any) -> None:
    step, dense = case((Reconstruction(), Mutual()))
    assert Mutual()(step).item() == 0
    peers = [trainer_of(planted(B, 12, D), n_latents=n, k=K, seed=seed) for n, seed in ((N, 1), (10, 2))]
    step.trainer.others = peers
    rows = [peer.dictionary.decoder().detach() for peer in peers]
    expected = sum((1 - (dense.w_dec @ other.T).amax(1)).mean() for other in rows)
    loss = Mutual()(step)
    assert_same(step, loss, expected)
    loss.backward()
    assert all(parameter.grad is None for peer in peers for parameter in peer.dictionary.parameters.values())


def test_mutual_looks_for_partners_now_and_then(case: Any, planted: Any, trainer_of: Any) -> None:
    step, dense = case((Reconstruction(), Mutual()))
    peer = trainer_of(planted(B, 12, D), n_latents=N, k=K, seed=1)
    step.trainer.others = [peer]
    Mutual(refresh=3)(step)
    before = (dense.w_dec @ peer.dictionary.decoder().T).argmax(1)
    with torch.no_grad():
        peer.dictionary.parameters["w_dec"].copy_(peer.dictionary.parameters["w_dec"].flip(0))
    now = peer.dictionary.decoder().detach()
    for step.trainer._step, partners in ((1, before), (2, before), (3, (dense.w_dec @ now.T).argmax(1))):
        expected = (1 - (dense.w_dec * now[partners]).sum(1)).mean()
        torch.testing.assert_close(Mutual(refresh=3)(step), expected)


@pytest.mark.parametrize("settings", TIES[:3], ids=ids)
def test_weight_l2(case: Any, settings: dict[str, Any]) -> None:
    step, dense = case((WeightL2(),), **settings)
    assert_same(step, WeightL2()(step), dense.w_enc.square().sum() / N)


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "field", "message"), [
    (lambda: Reconstruction(tilt=-1.0), "reconstruction.tilt", "expected a number in [0, 100], got -1.0"),
    (lambda: Reconstruction(weight=math.nan), "reconstruction.weight", "expected a number in [0, 1e+06], got nan"),
    (lambda: AuxK(k=1.5), "auxk.k", "expected a whole number, got 1.5"),
    (lambda: Nested(ks=8), "nested.ks", "expected whole numbers, got 8"),
    (lambda: Nested(ks=(4, 0)), "nested.ks", "expected whole numbers in [1, 1024], got (4, 0)"),
    (lambda: Nested(ks=()), "nested.ks", "expected at least one size in it or in widths, got none"),
    (lambda: Nested(weights="even"), "nested.weights", 'expected one of "uniform", "reverse", got "even"'),
    (lambda: Distill(tau=0.0), "distill.tau", "expected a number in [0.0001, 10000], got 0.0"),
    (lambda: Distill(terms=True), "distill.terms", "expected a whole number, got True"),
    (lambda: Masked(fraction=1.0), "masked.fraction", "expected a number in [0, 0.9], got 1.0"),
    (lambda: Mutual(refresh=0), "mutual.refresh", "expected a whole number in [1, 1.07374e+09], got 0"),
], ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "")
def test_wrong_settings(made: Callable[[], Loss], field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        made()
    assert caught.value.field == field and caught.value.message == f"{field}: {message}"
