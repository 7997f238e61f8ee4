"""How much of nDCG@10 is left of codes, and of short vectors, on some judged sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benches.sae.lab import Lab
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.judged_vectors import JudgedVectors, Quality
from sparsight.retrieval.sae_baselines import ShortVectors
from sparsight.retrieval.sae_retention import Retention, dense_quality, parse_scorer, ratio, retentions

__all__ = ["Retained", "small_dev", "small_test"]


def small_test(lab: Lab) -> dict[str, JudgedVectors]:
    """Test sets that people judged: of few documents, so that much can be measured on them."""
    return {name: lab.data.judged[name] for name in ("scifact", "cranfield", "cacm")}


def small_dev(lab: Lab) -> dict[str, JudgedVectors]:
    """The like to make choices on."""
    return {name: lab.data.dev[name] for name in ("scitldr", "medquad", "squad_sent")}


class Retained:
    """Measures on sets; what the dense vectors themselves do there is measured once.

    Parameters
    ----------
    lab : Lab
    sets : mapping of JudgedVectors
    """

    def __init__(self, lab: Lab, sets: Mapping[str, JudgedVectors]) -> None:
        self.device, self.sets = lab.data.device, dict(sets)
        self._dense = {name: dense_quality(judged, device=self.device) for name, judged in self.sets.items()}

    def by_set(self, sae: SAE, k: int, scorer: str) -> list[Retention]:
        """Codes of k latents, an entry a set."""
        return [of for (of,) in self._found(sae, k, (scorer,))]

    def codes(self, sae: SAE, k: int, scorers: Sequence[str]) -> dict[str, float]:
        """Mean over the sets, by scorer."""
        means = np.mean([[one.ndcg for one in of] for of in self._found(sae, k, scorers)], axis=0)
        return dict(zip(scorers, means.tolist(), strict=True))

    def vectors(self, make: Callable[[JudgedVectors], ShortVectors]) -> float:
        """Mean over the sets of what is left by what ``make`` makes of each."""
        return float(np.mean([ratio(of.ndcg, self._dense[name].ndcg) for name, of in self._quality(make).items()]))

    def score(self, make: Callable[[JudgedVectors], ShortVectors] | None = None) -> float:
        """nDCG@10 itself, mean over the sets; without ``make`` that of the dense vectors."""
        found = self._dense if make is None else self._quality(make)
        return float(np.mean([of.ndcg.mean() for of in found.values()]))

    def _quality(self, make: Callable[[JudgedVectors], ShortVectors]) -> dict[str, Quality]:
        return {name: make(judged).quality(judged, device=self.device) for name, judged in self.sets.items()}

    def _found(self, sae: SAE, k: int, scorers: Sequence[str]) -> list[list[Retention]]:
        wanted = [parse_scorer(scorer) for scorer in scorers]
        return [retentions(sae, judged, [k], wanted, dense=self._dense[name], device=self.device)
                for name, judged in self.sets.items()]
