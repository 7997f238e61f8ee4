"""Whole trainings: what is learnt, that they can be repeated, what steps count, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae import training
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import (
    AuxK,
    Contrast,
    Distill,
    Masked,
    Mutual,
    Nested,
    Reconstruction,
    WeightL2,
)
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.encoders.sae.training import measure, prepared, train_many, train_sae
from sparsight.errors import InvalidArgumentError, InvalidVectorError, SearchStoppedError, ShapeError

QUICK = SAEConfig(n_latents=64, k=4, epochs=30, batch=64)
SHORT = replace(QUICK, epochs=4)
Trained = tuple[SAE, dict[str, Any]]


@pytest.fixture(scope="module")
def x(planted: Callable[..., np.ndarray]) -> np.ndarray:
    return planted()


@pytest.fixture(scope="module")
def neighbours(planted: Callable[..., np.ndarray], x: np.ndarray) -> Neighbours:
    return nearest(planted(60, seed=5), x, 8)


@pytest.fixture(scope="module")
def trained(x: np.ndarray) -> Trained:
    return train_sae(x, QUICK)


def share_missed(sae: SAE, x: np.ndarray) -> float:
    return float(np.square(x - sae.decode(sae.encode(x))).sum() / np.square(x - x.mean(0)).sum())


# --- learning -------------------------------------------------------------------------------------------------


def test_it_learns(trained: Trained, x: np.ndarray) -> None:
    sae, report = trained
    assert np.diff(sae.encode(x).indptr).max() <= 4
    assert share_missed(sae, x) < 0.2  # the mean alone leaves 1.0
    assert report["fvu"] < 0.3 and 0 < report["l0"] <= 4 and report["train_dead"] <= 0.1
    assert (report["rows"], report["held_out_rows"], report["steps"]) == (540, 60, 30 * 8)
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-5)
    assert report["last_l0"] == 4 and report["last_fvu"] == report["last_reconstruction"] < 0.25


def test_better_than_the_start_and_than_components(trained: Trained, x: np.ndarray, trainer_of: Any) -> None:
    start = trainer_of(x, start="random").finish()
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    four_components = 1 - np.square(singular[:4]).sum() / np.square(singular).sum()
    assert share_missed(trained[0], x) < four_components < 1
    assert share_missed(trained[0], x) < 0.6 * share_missed(start, x)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {}, "batchtopk": {"activation": "batchtopk"}, "jumprelu": {"activation": "jumprelu"},
    "archetypal": {"dictionary": "archetypal", "support": 8}, "hard": {"tie": "hard"}, "aligned": {"tie": "aligned"},
    "whiten": {"preprocess": "whiten"}, "rows": {"start": "rows"}, "random": {"start": "random"},
    "gradient": {"gradient_weight": 1.0}, "pursuit": {"pursuit": 0.3}, "anneal": {"anneal_from": 4.0},
    "nested": {"losses": (Nested(ks=(2, 4, 8), widths=(16,)), AuxK())}, "tilt": {"losses": (Reconstruction(tilt=1.0),)},
    "masked": {"losses": (Masked(),)}, "distill": {"losses": (Reconstruction(), Distill(weight=0.3, terms=16))},
    "contrast": {"losses": (Reconstruction(), Contrast())}, "l2": {"losses": (Reconstruction(), WeightL2(weight=1e-3))},
    "whiten-batchtopk": {"preprocess": "whiten", "activation": "batchtopk"}}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns(x: np.ndarray, neighbours: Neighbours, trainer_of: Any, name: str) -> None:
    config = replace(SHORT, epochs=8, **SETTINGS[name])
    sae, report = train_sae(x, config, neighbours=neighbours)
    assert 0 < report["l0"] <= (4 if config.activation == "topk" else 5) and report["train_fvu"] < 0.6
    start = trainer_of(x, nearest(x[:9], x, 4), **{**SETTINGS[name], "start": "random"}).finish()
    assert report["train_fvu"] < share_missed(replace(start, threshold=np.zeros(0, np.float32)), x)
    assert sae.mode == ("threshold" if config.activation != "topk" else "topk")
    assert report["config"]["losses"][0]["kind"] == config.losses[0].kind()


def test_distilled_codes_rank_as_embeddings_do(planted: Any) -> None:
    """Queries that no training had: how far the order that the index would give is from the embeddings' own."""
    rows = planted(1600)
    documents, given, asked = rows[:600], nearest(rows[600:1400], rows[:600], 4), torch.from_numpy(rows[1400:])
    teacher = (asked @ torch.from_numpy(documents).T / 0.2).softmax(1)
    found = {}
    for weight in (0.0, 3.0):
        losses = (Reconstruction(), Distill(weight=weight, tau=0.2, terms=0))
        sae, _ = train_sae(documents, replace(QUICK, epochs=100, batch=540, neighbour_share=0.7, losses=losses),
                           neighbours=given)
        scores = torch.from_numpy(asked.numpy() @ sae.W_dec.T @ sae.document_weights(documents).toarray().T)
        found[weight] = float(torch.nn.functional.kl_div((scores / 0.2).log_softmax(1), teacher, reduction="batchmean"))
    assert found[3.0] < 0.97 * found[0.0]


# --- thresholds -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(planted: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = planted(6000)
    return rows[:4000], rows[4000:]


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
@pytest.mark.parametrize("preprocess", ["center", "whiten"])
def test_k_are_active_on_average_in_rows_never_seen(many: tuple[np.ndarray, np.ndarray], activation: str,
                                                    preprocess: str) -> None:
    own, fresh = many
    sae, report = train_sae(own, SAEConfig(n_latents=64, k=4, epochs=6, batch=256, activation=activation,
                                           preprocess=preprocess, held_out=0.25))
    assert report["l0"] == pytest.approx(4, rel=1e-3) and report["held_out_rows"] == 1000
    assert measure(sae, fresh)["l0"] == pytest.approx(4, rel=0.02)
    assert np.diff(sae.encode(fresh).indptr).std() > 0.3  # some rows have more, some fewer
    alone = [sae.encode(row[None]) for row in fresh[:20]]
    assert all((a != b).nnz == 0 for a, b in zip(alone, sae.encode(fresh[:20]), strict=True))
    thresholds = sae.threshold / np.linalg.norm(sae.W_enc, axis=1)
    assert thresholds.min() > 0 and (activation == "jumprelu" or np.ptp(sae.threshold) == 0)


def test_jumprelus_learnt_l0_is_near_k(many: tuple[np.ndarray, np.ndarray]) -> None:
    _, report = train_sae(many[0], SAEConfig(n_latents=64, k=4, epochs=10, batch=256, activation="jumprelu"))
    assert report["last_l0"] == pytest.approx(4, rel=0.15)


def test_calibration_keeps_the_proportions_of_thresholds(many: tuple[np.ndarray, np.ndarray]) -> None:
    (trainer,), train, test = prepared(many[0], [SAEConfig(n_latents=64, k=4, epochs=2, activation="jumprelu")], None,
                                       "cpu")
    for step in range(trainer.steps):
        trainer.step(step)
    learnt = trainer.finish()
    sae, _ = training.finished(trainer, many[0], train, test, {})
    factors = sae.threshold / learnt.threshold
    assert np.ptp(factors) < 1e-5 * factors.mean() and np.ptp(learnt.threshold) > 0.01 * learnt.threshold.mean()


def test_few_held_out_rows_do_not_decide_thresholds(x: np.ndarray) -> None:
    sae, _ = train_sae(x, replace(SHORT, activation="batchtopk", held_out=0.02))  # 12 rows
    assert measure(sae, x)["l0"] == pytest.approx(4, rel=1e-3)


# --- seeds ----------------------------------------------------------------------------------------------------


def without_seconds(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "seconds"}


def test_same_seed_same_bits(trained: Trained, x: np.ndarray) -> None:
    again, report = train_sae(x, QUICK)
    assert again.fingerprint == trained[0].fingerprint
    assert without_seconds(report) == without_seconds(trained[1])
    other, _ = train_sae(x, replace(QUICK, seed=1))
    assert other.fingerprint != trained[0].fingerprint


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_can_be_repeated(x: np.ndarray, neighbours: Neighbours, name: str) -> None:
    config = replace(SHORT, epochs=2, **SETTINGS[name])
    one, two = (train_sae(x, config, neighbours=neighbours)[0].fingerprint for _ in range(2))
    assert one == two


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_any_seed(x: np.ndarray, seed: int) -> None:
    losses = (Masked(), AuxK())
    _, report = train_sae(x, replace(SHORT, epochs=1, seed=seed, centroids_seed=seed, losses=losses))
    assert np.isfinite(report["fvu"])


def test_callers_random_state_is_left_alone(x: np.ndarray, neighbours: Neighbours) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    for settings in SETTINGS.values():
        train_sae(x, replace(SHORT, epochs=1, **settings), neighbours=neighbours)
    assert torch.equal(torch.rand(3), expected) and np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]


def test_every_row_is_seen_once_an_epoch(x: np.ndarray, trainer_of: Any) -> None:
    trainer = trainer_of(x, batch=64)
    assert (trainer.per_epoch, trainer.steps) == (9, 270)
    epochs: list[list[int]] = [[], []]
    for trainer._step in range(18):
        rows, queries = trainer._draw()
        assert queries is None
        epochs[trainer._step // 9] += rows.tolist()
    assert all(len(set(rows)) == len(rows) == 576 for rows in epochs) and epochs[0] != epochs[1]


# --- several together -----------------------------------------------------------------------------------------


def test_runs_side_by_side_are_the_runs_alone(x: np.ndarray, neighbours: Neighbours) -> None:
    configs = [SHORT, replace(SHORT, seed=3), replace(SHORT, n_latents=32, k=2, batch=100, epochs=2),
               replace(SHORT, activation="jumprelu"), replace(SHORT, losses=(Reconstruction(), Distill())),
               replace(SHORT, dictionary="archetypal", losses=(Masked(),))]
    together = train_many(x, configs, neighbours=neighbours)
    for config, (sae, report) in zip(configs, together, strict=True):
        alone, expected = train_sae(x, config, neighbours=neighbours)
        assert sae.fingerprint == alone.fingerprint and without_seconds(report) == without_seconds(expected)


def test_mutual_draws_seeds_together(x: np.ndarray) -> None:
    cosines, missed = {}, {}
    for weight in (0.0, 0.5):
        losses = (Reconstruction(), Mutual(weight=weight))
        configs = [replace(QUICK, epochs=20, start="random", seed=seed, losses=losses) for seed in (0, 1)]
        (one, report), (other, _) = train_many(x, configs)
        cosines[weight] = (one.W_dec @ other.W_dec.T).max(1).mean()
        missed[weight] = report["train_fvu"]
    assert cosines[0.5] > cosines[0.0] + 0.02 and missed[0.5] < 1.3 * missed[0.0]


@pytest.mark.parametrize(("change", "field"), [({"preprocess": "whiten"}, "config.preprocess"),
                                               ({"held_out": 0.2}, "config.held_out")])
def test_what_runs_together_must_share(x: np.ndarray, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the same") as caught:
        train_many(x, [QUICK, replace(QUICK, **change)])
    assert caught.value.field == field
    with pytest.raises(InvalidArgumentError, match="at least one configuration"):
        train_many(x, [])


# --- steps ----------------------------------------------------------------------------------------------------


def test_radial_gradient_is_removed(x: np.ndarray, trainer_of: Any) -> None:
    trainer = trainer_of(x)
    trainer.step(0)
    row = trainer.dictionary.parameters["w_dec"]
    before = row.detach().clone()
    trainer.step(1)
    assert float((row.grad * before).sum(1).abs().max()) < 1e-5 * float(row.grad.norm(dim=1).max())


def test_dead_latents_are_counted_in_samples(x: np.ndarray, trainer_of: Any) -> None:
    trainer = trainer_of(x, k=1, batch=50)
    assert trainer.dead_after == 50 * 64 and trainer_of(x, k=32).dead_after == 600
    trainer.step(0)
    silent = trainer.silent.tolist()
    assert set(silent) == {0, 50} and sum(count == 0 for count in silent) <= 50
    trainer.silent[3] = 10**6
    with torch.no_grad():
        trainer.dictionary.parameters["b_enc"][3] = -100.0
    trainer.step(32)  # one of the steps that look
    assert trainer.dead.tolist() == [3]


def test_dead_latents_come_back(x: np.ndarray, trainer_of: Any) -> None:
    left = {}
    for losses in ((Reconstruction(),), (Reconstruction(), AuxK(weight=0.3))):
        trainer = trainer_of(x, epochs=40, losses=losses)
        with torch.no_grad():
            trainer.dictionary.parameters["b_enc"][:32] = -1.0  # only the nearest rows get them above 0
        trainer.silent[:32] = 10**6
        for step in range(trainer.steps):
            trainer.step(step)
        left[len(losses)] = int((trainer.silent > len(x)).sum())
    assert left[1] >= 24 and left[2] <= 12


def test_k_falls(x: np.ndarray, trainer_of: Any) -> None:
    trainer = trainer_of(x, epochs=10, batch=60, anneal_from=4.0, anneal_until=0.5)
    assert trainer.steps == 100
    assert [trainer.k_at(step) for step in (0, 25, 50, 99)] == [16, 10, 4, 4]
    plain = trainer_of(x)
    assert {plain.k_at(step) for step in range(plain.steps)} == {4}
    coarse = trainer_of(x, k=12, epochs=10, batch=60, anneal_from=8.0, anneal_until=0.9)
    found = [coarse.k_at(step) for step in range(100)]
    assert found[0] == 64 and found[-1] == 12 and found == sorted(found, reverse=True)  # at most n_latents
    assert all(k % 8 == 0 for k in found if k > 16)


def test_k_is_drawn(x: np.ndarray, trainer_of: Any) -> None:
    settings = {"k": 8, "epochs": 40, "batch": 60, "nested_ks": (2, 2, 4, 8)}
    trainer = trainer_of(x, **settings)
    found = [trainer.k_at(step) for step in range(trainer.steps)]
    assert found == [trainer_of(x, **settings).k_at(step) for step in range(trainer.steps)]
    assert found != [trainer_of(x, **settings, seed=1).k_at(step) for step in range(trainer.steps)]
    shares = {k: found.count(k) / len(found) for k in (2, 4, 8)}
    assert shares == pytest.approx({2: 0.5, 4: 0.25, 8: 0.25}, abs=0.08)  # 400 draws
    assert trainer.step(0)["l0"] <= found[0] and trainer.step(1)["l0"] <= found[1]


def test_drawn_k_makes_short_codes_better(x: np.ndarray, trainer_of: Any) -> None:
    wrong = {}
    for name, more in (("one k", {}), ("drawn", {"nested_ks": (1, 8)})):
        trainer = trainer_of(x, k=8, epochs=60, batch=60, pursuit=0.5, **more)
        for step in range(trainer.steps):
            trainer.step(step)
        sae = trainer.finish()
        wrong[name] = float(np.square(x - sae.decode(sae.encode(x, k=1, mode="pursuit"))).sum())
    assert wrong["drawn"] < 0.95 * wrong["one k"]


def test_the_rate_rises_and_falls(x: np.ndarray, trainer_of: Any) -> None:
    trainer = trainer_of(x, epochs=10, batch=60, learning_rate=0.01, warm_up=0.1, cool_down=0.2)
    found = [trainer.rate_at(step) for step in range(100)]
    assert found[0] == pytest.approx(0.001) and found[9:81] == pytest.approx([0.01] * 72)
    assert found[90] == pytest.approx(0.005) and found[99] == pytest.approx(0.0005)
    level = trainer_of(x, epochs=10, batch=60, learning_rate=0.01, cool_down=0.0)
    assert {level.rate_at(step) for step in range(100)} == {0.01}


def test_a_bonus_favours_what_a_ranking_depends_on(x: np.ndarray, trainer_of: Any, planted: Any) -> None:
    """A latent's factor is 1 + weight |w . g| over its mean, g being the gradient of the queries' loss at the row."""
    from sparsight.encoders.sae.step import Step

    trainer = trainer_of(x, nearest(planted(9, seed=2), x, 4), gradient_weight=0.5)
    rows, queries = trainer.x[:30], torch.from_numpy(planted(30, seed=2))  # as many queries as rows
    made = Step(trainer, rows, queries, 4)
    inputs = trainer.preprocessing.restored(rows).requires_grad_()
    scores = queries @ inputs.T / 0.05
    torch.nn.functional.cross_entropy(scores, scores.argmax(1), reduction="sum").backward()
    assert inputs.grad is not None
    pulls = (inputs.grad @ made.w_dec.T).abs()
    expected = 1 + 0.5 * pulls / pulls.mean(1, keepdim=True)
    torch.testing.assert_close(trainer.bonus(made), expected.detach(), rtol=1e-3, atol=1e-4)
    pre_acts = (rows @ made.w_enc.T).detach()
    assert torch.equal(made.latents, (pre_acts * expected).topk(4).indices)
    codes = trainer.preprocessing(queries) @ made.w_enc.T
    plain = torch.zeros_like(codes).scatter(1, codes.topk(4).indices, 1.0) * codes.relu()
    torch.testing.assert_close(made.query_codes(), plain)  # queries have none


def test_state_and_restore(x: np.ndarray, trainer_of: Any) -> None:
    import io

    for settings in (SETTINGS["jumprelu"], SETTINGS["archetypal"], {"losses": (Masked(), AuxK())}):
        whole, first, second = (trainer_of(x, batch=50, **settings) for _ in range(3))
        for trainer in (whole, first):
            with torch.no_grad():
                trainer.dictionary.parameters["b_enc"][:32] = -1.0
            trainer.silent[:32] = 10**6  # dead at the look of step 0; the next is that of step 32
        for step in range(40):
            whole.step(step)
        for step in range(17):
            first.step(step)
        assert len(first.dead) > 0
        file = io.BytesIO()
        torch.save(first.state(), file)
        file.seek(0)
        second.restore(torch.load(file, weights_only=True))
        for step in range(17, 40):
            second.step(step)
        assert whole.finish().fingerprint == second.finish().fingerprint
        assert torch.equal(whole.silent, second.silent) and torch.equal(whole.dead, second.dead)


# --- the call -------------------------------------------------------------------------------------------------


def test_progress_and_cancel(x: np.ndarray) -> None:
    calls: list[tuple[int, int]] = []
    with pytest.raises(SearchStoppedError, match="after 3 of"):
        train_sae(x, QUICK, progress=lambda done, total: calls.append((done, total)),
                  cancelled=lambda: len(calls) == 3)
    assert calls == [(1, 240), (2, 240), (3, 240)]


def test_few_rows(planted: Callable[..., np.ndarray]) -> None:
    for settings in ({}, {"activation": "batchtopk"}, {"activation": "jumprelu"}, {"preprocess": "whiten"}):
        sae, report = train_sae(planted(16), SAEConfig(epochs=2, **settings))
        assert sae.n_latents == 256 and sae.k == 32 and report["held_out_rows"] == 1


def test_nothing_held_out(x: np.ndarray) -> None:
    _, report = train_sae(x, replace(SHORT, held_out=0.0))
    assert report["held_out_rows"] == 0 and report["rows"] == 600 and report["fvu"] == report["train_fvu"]


def test_held_out_rows_are_not_trained_on(x: np.ndarray) -> None:
    _, train, test = prepared(x, [replace(SHORT, seed=1)], None, "cpu")
    _, same, _ = prepared(x, [replace(SHORT, seed=2)], None, "cpu")
    np.testing.assert_array_equal(train, same)  # whatever the seed
    assert len(test) == 60 and not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert {row.tobytes() for row in x} == {row.tobytes() for row in np.concatenate([train, test])}


@pytest.mark.parametrize("kind", ["center", "whiten"])
def test_inputs_are_centred_and_whitened_by_a_background(x: np.ndarray, planted: Any, kind: str) -> None:
    other = (planted(300, seed=9) * np.linspace(0.5, 2, x.shape[1]) + 0.1).astype(np.float32)
    config = replace(SHORT, preprocess=kind, held_out=0.0)
    (trainer,), _, _ = prepared(x, [config], None, "cpu", background=other)
    seen = trainer.preprocessing(torch.from_numpy(other))
    assert seen.mean(0).abs().max() < 1e-4
    if kind == "whiten":
        covariance = seen.T @ seen / len(seen)
        assert (covariance - torch.eye(len(covariance))).abs().max() < 0.05  # but for the ridge
    else:
        assert seen.square().sum(1).mean() == pytest.approx(x.shape[1] * np.square(other - other.mean(0)).sum(1).mean(),
                                                            rel=1e-3)
    torch.testing.assert_close(trainer.preprocessing.restored(trainer.x), torch.from_numpy(x), atol=1e-5, rtol=0)
    ((sae, report),) = train_many(x, [config], background=other)
    ((same, _),) = train_many(x, [config], background=x)
    ((own, _),) = train_many(x, [config])
    assert report["fvu"] == pytest.approx(share_missed(sae, x)) and report["fvu"] < 0.9
    assert same.fingerprint == own.fingerprint != sae.fingerprint


@pytest.mark.parametrize(("rows", "error"), [
    (np.ones((5, 3), np.float32), ShapeError), (np.ones((1, 16), np.float32), ShapeError),
    (np.full((5, 16), np.nan, np.float32), InvalidVectorError), (np.ones((5, 16), np.int64), ShapeError)])
def test_wrong_background(x: np.ndarray, rows: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        train_many(x, [SHORT], background=rows)
    assert caught.value.field == "background"  # type: ignore[attr-defined]


def test_neighbours_that_are_held_out_are_replaced(x: np.ndarray, planted: Any) -> None:
    asked = planted(40, seed=5)
    given = nearest(asked, x, 8)
    (trainer,), train, test = prepared(x, [replace(SHORT, losses=(Distill(),), held_out=0.5)], given, "cpu")
    held = {row.tobytes() for row in test}
    assert len(trainer.found) == len(trainer.queries) <= 40
    numbers = {query.tobytes(): rows for query, rows in zip(given.queries, given.rows, strict=True)}
    for query, rows in zip(trainer.queries.numpy(), trainer.found.numpy(), strict=True):
        wanted = [x[row].tobytes() for row in numbers[query.tobytes()]]
        first = next(row for row in wanted if row not in held)
        assert [train[row].tobytes() for row in rows] == [row if row not in held else first for row in wanted]


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 65}, {"epochs": -1}, {"held_out": 0.9}, {"anneal_from": 0.5}])
def test_wrong_settings(x: np.ndarray, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        train_sae(x, SAEConfig(**({"n_latents": 64, "k": 4} | change)))
    assert caught.value.field.startswith("config.")


def test_wrong_rows(x: np.ndarray) -> None:
    for wrong in (x[:15], x[0], x.astype(np.float64)):
        with pytest.raises(ShapeError):
            train_sae(wrong, QUICK)
    with pytest.raises(InvalidVectorError, match="finite"):
        train_sae(np.where(x > 0.5, np.nan, x).astype(np.float32), QUICK)
    with pytest.raises(InvalidVectorError, match="equal rows"):
        train_sae(np.ones((20, 4), np.float32), QUICK)
    with pytest.raises(InvalidArgumentError, match="device that torch can use"):
        train_sae(x, QUICK, device="abacus")


def test_wrong_neighbours(x: np.ndarray, planted: Any) -> None:
    distilled = replace(SHORT, losses=(Distill(),))
    for config in (distilled, replace(SHORT, gradient_weight=0.5)):
        with pytest.raises(InvalidArgumentError, match="expected neighbours, got none") as caught:
            train_sae(x, config)
        assert caught.value.field == "neighbours"
    asked = planted(3, seed=5)
    for queries, rows in ((asked[:, :8], np.zeros((3, 2), np.int64)), (asked, np.full((3, 2), 600)),
                          (asked, np.full((3, 2), -1)), (asked[:0], np.zeros((0, 2), np.int64)),
                          (asked, np.zeros((3, 0), np.int64))):
        with pytest.raises(ShapeError, match="neighbours among 600 rows"):
            train_sae(x, distilled, neighbours=Neighbours(queries, rows))
    held = training._held_out(600, 0.1)[:6].reshape(3, 2)
    with pytest.raises(InvalidArgumentError, match="not held out, got none"):
        train_sae(x, distilled, neighbours=Neighbours(asked, held))
    assert train_sae(x, SHORT, neighbours=Neighbours(asked, np.full((3, 2), 600)))  # nothing asks for them


# --- the report -----------------------------------------------------------------------------------------------


def test_measure_by_hand() -> None:
    eye = np.eye(3, dtype=np.float32)
    sae = SAE(k=1, W_enc=eye, b_enc=np.zeros(3, np.float32), W_dec=eye, b_dec=np.zeros(3, np.float32))
    found = measure(sae, np.array([[2, 0, 0], [0, 2, 1], [-2, 0, 0], [4, 2, -1]], np.float32))
    # Missed: nothing, 1, 4, and 4 + 1. From the mean (1, 1, 0): 2, 3, 10, and 11.
    assert found == {"fvu": pytest.approx(10 / 26), "l0": 0.75, "dead": pytest.approx(1 / 3)}


def test_measure_in_blocks(trained: Trained, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(trained[0], x)
    monkeypatch.setattr(training, "_EVALUATE_AT_ONCE", 7)
    assert measure(trained[0], x) == pytest.approx(whole, rel=1e-6)
