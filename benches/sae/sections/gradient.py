"""Latents chosen by what a retrieval loss depends on (Gradient SAE, 8) beside plain TopK."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab, Report
from benches.sae.sections._cells import cell, control, silent
from benches.sae.sections._retained import Retained, small_dev
from sparsight.encoders.sae.config import SAEConfig
from sparsight.retrieval.evaluation import Comparison, Evaluation, compare
from sparsight.retrieval.judged_vectors import Quality
from sparsight.retrieval.sae_retention import Retention

__all__ = ["section"]

_LATENTS = 4096
_K = 8
_WEIGHTS = (0.05, 0.5)
_SEEDS = 2
_SCORER = "decode-all"
_PLAIN, _GRADED = "TopK", "gradient"


def section(lab: Lab) -> list[Row]:
    """Rows "gradient": R@8 of both on the test sets, with the weight of the gradient that is best on the dev sets."""
    n, k = lab.scale(_LATENTS, 64), lab.scale(_K, 2)
    dev = Retained(lab, small_dev(lab))
    on_dev = {weight: dev.codes(lab.train(_GRADED, cell(lab, n, k, gradient_weight=weight))[0], k, (_SCORER,))[_SCORER]
              for weight in _WEIGHTS}
    best = max(_WEIGHTS, key=on_dev.__getitem__)
    test = Retained(lab, lab.data.judged)
    made: dict[str, Callable[..., SAEConfig]] = {_PLAIN: control, _GRADED: partial(cell, gradient_weight=best)}
    found = {name: [_run(lab, test, make(lab, n, k, seed=seed)) for seed in range(_SEEDS)]
             for name, make in made.items()}
    chosen = [row("gradient", model=_GRADED, weight=weight, seed=0, set="dev sets, mean", retention=kept, fvu="",
                  dead="", steps="") for weight, kept in on_dev.items()]
    settings = f"weight {best:g}, of {_WEIGHTS} the best on dev sets; {n:,} latents, {_SEEDS} seeds"
    return [*chosen, *(one for name, runs in found.items() for run in runs for one in run.rows(name)),
            *_criteria(found[_PLAIN], found[_GRADED], settings)]


@dataclass(frozen=True, eq=False)
class _Run:
    """One training, and its codes on every test set."""

    config: SAEConfig
    report: Report
    dead: float
    found: list[Retention]

    def rows(self, name: str) -> list[Row]:
        return [row("gradient", model=name, weight=self.config.gradient_weight, seed=self.config.seed, set=one.set,
                    retention=one.ndcg, fvu=self.report["fvu"], dead=self.dead, steps=self.report["steps"])
                for one in self.found]


def _run(lab: Lab, test: Retained, config: SAEConfig) -> _Run:
    sae, report = lab.train(_GRADED if config.gradient_weight else _PLAIN, config)
    return _Run(config, report, silent(sae), test.by_set(sae, config.k, _SCORER))


def _criteria(plain: Sequence[_Run], graded: Sequence[_Run], settings: str) -> list[Row]:
    before, after = (100 * np.mean([[one.ndcg for one in run.found] for run in runs], axis=0)
                     for runs in (plain, graded))
    gain, of = (after - before).mean(), compare(_pooled(plain), _pooled(graded))
    dead = [100 * float(np.mean([run.dead for run in runs])) for runs in (plain, graded)]
    k, name, sets = plain[0].config.k, "Gradient SAE", [one.set for one in plain[0].found]
    several = ", ".join(f"{at} {a:.1f} to {b:.1f}" for at, a, b in zip(sets, before, after, strict=True))
    return [
        asked(8, name, f"R@{k} above plain TopK's", gain, "at least", 1.0, unit="points",
              note=f"mean of {len(sets)} sets: {several}; {settings}"),
        asked(8, name, f"R@{k} rises by more than chance", of.p_value if of.difference > 0 else 1.0, "at most", 0.05,
              unit="p", note=f"{_said(of)}; 1 where it does not rise"),
        asked(8, name, "silent latents no more than plain TopK's", dead[1] - dead[0], "at most", 0.0, unit="points",
              note=f"{dead[1]:.2f} % against {dead[0]:.2f} %; {settings}"),
    ]  # fmt: skip


def _pooled(runs: Sequence[_Run]) -> Evaluation:
    """All queries of all sets, each measure averaged over seeds."""
    ndcg, recall = (np.mean([np.concatenate([getattr(one.quality, key) for one in run.found]) for run in runs], axis=0)
                    for key in ("ndcg", "recall"))
    return Quality(ndcg, recall).evaluation()


def _said(of: Comparison) -> str:
    low, high = of.interval
    queries = of.wins + of.losses + of.ties
    return (f"nDCG@10 {of.mean_a:.4f} to {of.mean_b:.4f}, 95 % interval of the difference {low:+.4f} to {high:+.4f}, "
            f"{of.wins:,} better, {of.losses:,} worse; paired randomisation over {queries:,} queries of all sets, "
            "seeds averaged")
