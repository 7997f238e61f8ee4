"""What changes from step to step: the learning rate, and the weight of the sparsity penalty.

`NonzeroController` finds that weight itself. A published weight fits one batch size, one number of devices and one
scale of scores; a wanted number of non-zeros per document is what one actually means.
"""

from __future__ import annotations

import math
from typing import Any

from sparsight.errors import InvalidArgumentError

__all__ = ["NonzeroController", "learning_rate", "quadratic"]

_MAX_ERROR = 2.0  # of the logarithm: from a factor of 7 on, all is equally wrong
_MAX_RANGE = 1e6  # how far the weight may move from where it started, as a factor either way
_MIN_RAMP = 0.1  # share of the ramp before which crossing the target is taken for noise


def learning_rate(step: int, steps: int, peak: float, warmup: int = 0, floor: float = 0.0) -> float:
    """Rate at a step: linear up to the peak, then half a cosine down to the floor.

    Parameters
    ----------
    step : int
        From 0. Steps at and after ``steps`` have the floor.
    steps : int
        Of the whole training.
    peak : float
        Highest rate.
    warmup : int
        Steps that rise: step i < warmup has ``peak (i + 1) / warmup``. At most ``steps``.
    floor : float
        Lowest rate at the end, as a share of the peak.

    References
    ----------
    Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR.

    Examples
    --------
    >>> [round(learning_rate(step, 6, 1.0, warmup=2, floor=0.1), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < 0 or not 0 <= warmup <= steps:
        raise InvalidArgumentError(f"expected a step >= 0 and warm-up steps in [0, {steps}], got {step} and {warmup}",
                                   field="warmup")
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= steps:
        return peak * floor
    done = (step - warmup) / (steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def quadratic(step: float, until: float) -> float:
    """Share of the sparsity penalty at a step: ``(step / until)^2`` up to 1, which it keeps. 1 if ``until`` is 0.

    References
    ----------
    Paria et al. 2020, "Minimizing FLOPs to Learn Efficient Sparse Representations", ICLR.
    """
    return min(step / until, 1.0) ** 2 if until > 0 else 1.0


class NonzeroController:
    """Keeps the mean number of non-zeros per document at a target by moving the weight of the sparsity penalty.

    Call `update` once a step with what the step measured; ``weight`` is what the next step should use.

    First a ramp: ``start * quadratic(i, ramp)``. It waits while documents are below the target (a penalty would push
    them further), and ends when they come down to it, or after ``ramp`` steps. From there on, a proportional-integral
    controller of the logarithm: with ``e = log(mean / target)``, limited to [-2, 2],

    ``log weight += gain (e - e_before) + gain / settle * e``.

    The mean is an exponential one over about ``smooth`` steps.

    Parameters
    ----------
    target : float
        Non-zeros per document, above 0.
    start : float
        Weight at the ramp's end, above 0. The controller moves it by a factor of a million either way at most.
    ramp : int
        Steps of the ramp; 0 for none.
    smooth : int
        Steps that the measured mean remembers.
    gain : float
        How strongly the weight follows the error at once.
    settle : int
        Steps in which a lasting error moves the weight as much again; about as long as the model takes to follow.

    Notes
    -----
    Tried on plants where the number of non-zeros goes as ``weight ** -b`` (b 0.3 to 1.5) after a lag of 1 to 400 steps,
    measured with 2 to 15 % of noise, with ``start`` off by up to 10: after 6,000 steps within 5 % of the target, and
    also where the plant itself doubles its output over that time. A small sparse encoder with a noisy teacher came
    within 3 % on average in 2,000 steps, with ``start`` off by up to 1000. One that learnt its data by heart stayed
    10 % below: as its ranking loss vanishes, hardly any weight is small enough. A second integral, for the drift, did
    not mend that and made the others worse; gains of 0.5 and 1 with half of ``settle`` swung further. Multiplying by
    1.1 or 0.9 every 200 steps, the published way, moves at one speed whatever the error, and never comes to rest.
    """

    def __init__(self, target: float, start: float, ramp: int = 0, *, smooth: int = 50, gain: float = 2.0,
                 settle: int = 200) -> None:
        given = {"target": target, "start": start, "smooth": smooth, "gain": gain, "settle": settle}
        for name, value in given.items():
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgumentError(f"expected {name} above 0, got {value}", field=name)
        if ramp < 0:
            raise InvalidArgumentError(f"expected ramp of at least 0 steps, got {ramp}", field="ramp")
        self.target, self.start, self.ramp = float(target), float(start), int(ramp)
        self.smooth, self.gain, self.settle = int(smooth), float(gain), int(settle)
        self._sum = self._mass = 0.0  # of the exponential mean; the mass mends its first steps
        self._ramped = 0
        self._ramping = ramp > 0
        self._log_weight = math.log(start)
        self._error = math.nan  # of the step before; NaN where there was none

    @property
    def weight(self) -> float:
        """Weight of the penalty for the next step."""
        if self._ramping:
            return self.start * quadratic(self._ramped, self.ramp)
        return math.exp(self._log_weight)

    @property
    def mean(self) -> float:
        """Exponential mean of the non-zeros per document; NaN before the first step."""
        return self._sum / self._mass if self._mass else math.nan

    def update(self, nonzeros: float) -> float:
        """Take a step's mean number of non-zeros per document and give the next ``weight``.

        Raises
        ------
        InvalidArgumentError
            If it is negative or not finite; nothing has changed then.
        """
        if not (math.isfinite(nonzeros) and nonzeros >= 0):
            raise InvalidArgumentError(f"expected a number of non-zeros >= 0, got {nonzeros}", field="nonzeros")
        keep = 1 - 1 / self.smooth
        self._sum = keep * self._sum + nonzeros
        self._mass = keep * self._mass + 1
        error = math.log(max(self.mean / self.target, 1e-9))
        error = min(max(error, -_MAX_ERROR), _MAX_ERROR)
        if self._ramping:
            self._ramp_on(error)
        else:
            self._control(error)
        self._error = error
        return self.weight

    def _ramp_on(self, error: float) -> None:
        if error > 0:
            self._ramped += 1
        elif self._ramped < _MIN_RAMP * self.ramp:
            return
        if error <= 0 or self._ramped >= self.ramp:
            self._log_weight = math.log(self.weight)  # goes on from where the ramp is
            self._ramping = False

    def _control(self, error: float) -> None:
        before = error if math.isnan(self._error) else self._error
        moved = self._log_weight + self.gain * (error - before) + self.gain / self.settle * error
        middle, reach = math.log(self.start), math.log(_MAX_RANGE)
        self._log_weight = min(max(moved, middle - reach), middle + reach)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on: settings and state, as plain numbers."""
        return {name.removeprefix("_"): value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. The settings stay this controller's: a target may change on resuming.

        Raises
        ------
        InvalidArgumentError
            If the state is not one of `state_dict`.
        """
        private = [name for name in vars(self) if name.startswith("_")]
        missing = [name for name in private if name.removeprefix("_") not in state]
        if missing:
            raise InvalidArgumentError(f"expected a controller's state, got one without {missing[0][1:]!r}",
                                       field="state")
        for name in private:
            setattr(self, name, type(getattr(self, name))(state[name.removeprefix("_")]))
