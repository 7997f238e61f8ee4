from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from sparsight.encoders.training.losses import flops, kl_distillation
from sparsight.encoders.training.schedule import NonzeroController, learning_rate, quadratic
from sparsight.errors import InvalidArgumentError

# --- learning rate and ramp -----------------------------------------------------------------------------------


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(step, 6, 2.0, warmup=2, floor=0.5) for step in range(8)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[4] == pytest.approx(2 * 0.75)  # halfway
    assert rates[6:] == [1.0, 1.0]


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 100, 1e-3, warmup=10, floor=0.1) for step in range(100)]
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert max(rates) == 1e-3 and 1e-4 < rates[-1] < 1.01e-4


def test_learning_rate_without_warmup_or_descent() -> None:
    assert learning_rate(0, 10, 1.0) == 1.0
    assert [learning_rate(step, 4, 1.0, warmup=4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 0.0]


@pytest.mark.parametrize(("step", "warmup"), [(-1, 0), (0, -1), (0, 11)])
def test_learning_rate_checks(step: int, warmup: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"in \[0, 10\]"):
        learning_rate(step, 10, 1.0, warmup)


def test_quadratic() -> None:
    assert [quadratic(step, 4) for step in (0, 1, 2, 4, 9)] == [0, 1 / 16, 1 / 4, 1, 1]
    assert quadratic(0, 0) == 1


# --- the controller -------------------------------------------------------------------------------------------


def run(controller: NonzeroController, *, b: float, lag: float, noise: float, drift: float = 1.0,
        steps: int = 6000, seed: int = 0) -> list[float]:
    """Non-zeros of a plant whose equilibrium is 135 (weight / 0.001)^-b, at most 1500, times a drift."""
    generator = random.Random(seed)
    state, found = math.log(1500), []
    for step in range(steps):
        weight = max(controller.weight, 1e-12)
        wanted = min(math.log(135) - b * math.log(weight / 1e-3) + math.log(drift) * step / steps, math.log(1500))
        state += (wanted - state) / lag
        controller.update(math.exp(state) * max(1 + noise * generator.gauss(0, 1), 0))
        found.append(math.exp(state))
    return found


@pytest.mark.parametrize("b", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("lag", [1, 100, 400])
@pytest.mark.parametrize("start", [1e-4, 1e-2])
def test_a_plant_settles_at_the_target(b: float, lag: float, start: float) -> None:
    tail = run(NonzeroController(135, start, ramp=1000), b=b, lag=lag, noise=0.1)[-500:]
    assert min(tail) > 0.95 * 135 and max(tail) < 1.05 * 135


@pytest.mark.parametrize("drift", [2.0, 0.5])
def test_a_drifting_plant_is_followed(drift: float) -> None:
    for b in (0.3, 1.0):
        tail = run(NonzeroController(135, 1e-3, ramp=1000), b=b, lag=100, noise=0.1, drift=drift)[-500:]
        assert min(tail) > 0.95 * 135 and max(tail) < 1.05 * 135


def test_one_without_a_ramp() -> None:
    tail = run(NonzeroController(135, 1e-3), b=0.5, lag=50, noise=0.1)[-500:]
    assert min(tail) > 0.95 * 135 and max(tail) < 1.05 * 135


@pytest.mark.parametrize(("start", "target"), [(1e-3, 20), (1e-1, 60)])
def test_a_real_model_ends_at_the_target(start: float, target: int) -> None:
    """A small sparse encoder of 256 terms that distils noisy dense similarities; 200 non-zeros before training."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 256))
    optimiser = torch.optim.Adam(model.parameters())
    controller = NonzeroController(target, start, ramp=200)
    sizes = []
    for step in range(2000):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 2000, 3e-3, warmup=50, floor=0.1)
        inputs = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        weights = torch.log1p(torch.relu(model(inputs)))
        teacher = 8 * inputs @ inputs.T + torch.randn(64, 64)
        loss = kl_distillation(weights @ weights.T, teacher) + controller.weight * flops(weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sizes.append((weights > 0).sum().item() / 64)
        controller.update(sizes[-1])
    assert sizes[50] > 2 * target
    assert sum(sizes[-200:]) / 200 == pytest.approx(target, rel=0.05)
    assert controller.mean == pytest.approx(target, rel=0.05)


def test_the_ramp_is_quadratic() -> None:
    controller = NonzeroController(10, start=8.0, ramp=4)
    assert [controller.weight, *(controller.update(100) for _ in range(4))] == pytest.approx([0, 0.5, 2.0, 4.5, 8.0])
    assert controller.update(100) > 8.0


def test_the_ramp_waits_below_the_target() -> None:
    controller = NonzeroController(100, start=1.0, ramp=10)
    assert [controller.update(50) for _ in range(20)] == [0.0] * 20
    for _ in range(200):
        controller.update(500)
    assert controller.weight >= 1.0


def test_the_ramp_ends_where_the_target_is_met() -> None:
    controller = NonzeroController(100, start=1.0, ramp=1000, smooth=1)
    for _ in range(500):
        controller.update(200)
    assert controller.weight == 0.25
    assert controller.update(99) == 0.25  # goes on from here
    assert controller.update(99) < 0.25


def test_proportional_and_integral_parts_by_hand() -> None:
    controller = NonzeroController(100, start=1.0, smooth=1, gain=0.5, settle=10)
    first = controller.update(100 * math.e)  # error 1, no change of it
    assert math.log(first) == pytest.approx(0.05)
    assert math.log(controller.update(100)) == pytest.approx(0.05 - 0.5)  # error 0, changed by -1


def test_the_weight_stays_in_range_and_errors_are_limited() -> None:
    controller = NonzeroController(100, start=1.0)
    for _ in range(3000):
        controller.update(0)
    assert controller.weight == pytest.approx(1e-6)
    for _ in range(6000):
        controller.update(1e9)
    assert controller.weight == pytest.approx(1e6)


def test_the_mean_is_exponential() -> None:
    controller = NonzeroController(100, start=1.0, smooth=2)
    assert math.isnan(controller.mean)
    controller.update(30)
    assert controller.mean == 30
    controller.update(60)
    assert controller.mean == pytest.approx((30 / 2 + 60) / 1.5)


@pytest.mark.parametrize("stop", [0, 100, 700])
def test_it_goes_on_where_it_stopped(stop: int) -> None:
    whole, first = NonzeroController(50, 0.1, ramp=300), NonzeroController(50, 0.1, ramp=300)
    values = [200 * math.exp(-i / 400) for i in range(1000)]
    expected = [whole.update(value) for value in values]
    found = [first.update(value) for value in values[:stop]]
    resumed = NonzeroController(50, 0.1, ramp=300)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + [resumed.update(value) for value in values[stop:]] == expected
    assert resumed.state_dict() == whole.state_dict()


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="without 'sum'"):
        NonzeroController(50, 0.1).load_state_dict({"step": 3})


@pytest.mark.parametrize("arguments", [{"target": 0}, {"target": math.nan}, {"start": -1.0}, {"ramp": -1},
                                       {"smooth": 0}, {"gain": 0}, {"settle": 0}])
def test_settings_are_checked(arguments: dict[str, Any]) -> None:
    (name, value), = arguments.items()
    with pytest.raises(InvalidArgumentError, match=f"{name} .*got {value}"):
        NonzeroController(**({"target": 10, "start": 1.0} | arguments))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_measurements_are_checked(value: float) -> None:
    controller = NonzeroController(10, 1.0)
    before = controller.state_dict()
    with pytest.raises(InvalidArgumentError, match="non-zeros >= 0"):
        controller.update(value)
    assert str(controller.state_dict()) == str(before)
