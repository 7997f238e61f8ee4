"""What a sparse autoencoder is trained to do: parts that are summed.

A loss is called with a :class:`~sparsight.encoders.sae.step.Step` and gives a number with a gradient. Reconstruction
errors are shares of the data's variance, so that weights mean the same for every embedder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from sparsight.encoders.config_files import check_value, wrong

if TYPE_CHECKING:
    import torch

    from sparsight.encoders.sae.step import Step

__all__ = ["AuxK", "Contrast", "Distill", "Loss", "Masked", "Mutual", "Nested", "Reconstruction", "WeightL2"]

_LIMITS: Mapping[str, Mapping[str, Any]] = {
    "weight": {"least": 0.0, "most": 1e6}, "tilt": {"least": 0.0, "most": 100.0}, "k": {"least": 0, "most": 1 << 20},
    "ks": {"least": 1, "most": 1024}, "widths": {"least": 1, "most": 1 << 20},
    "weights": {"choices": ("uniform", "reverse")}, "tau": {"least": 1e-4, "most": 1e4},
    "terms": {"least": 0, "most": 1 << 20}, "fraction": {"least": 0.0, "most": 0.9},
    "refresh": {"least": 1, "most": 1 << 30}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loss:
    """A part of what is minimised.

    Attributes
    ----------
    weight : float
        Its factor in the sum.

    Raises
    ------
    InvalidArgumentError
        If a value is of another type than its default or out of range; ``field`` is ``KIND.NAME``, as ``distill.tau``.
    """

    needs: ClassVar[str] = ""  # "queries" where a step must have some

    weight: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, check_value(
                f"{self.kind()}.{item.name}", getattr(self, item.name), item.default, **_LIMITS[item.name]))

    @classmethod
    def kind(cls) -> str:
        """Its name in files and reports."""
        return cls.__name__.lower()

    def levels(self, k: int) -> int:
        """Active latents that a step must choose for it, where k are asked for."""
        return k

    def __call__(self, step: Step) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Reconstruction(Loss):
    """Squared error, as a share of the variance.

    With ``tilt`` t > 0 rows that are rebuilt badly count more: ``(1 / t) log mean exp(t l)`` of the rows' errors l, t
    in units of one over their mean (Li et al. 2021, "Tilted Empirical Risk Minimization", ICLR).
    """

    tilt: float = 0.0

    def __call__(self, step: Step) -> torch.Tensor:
        wrong = step.error.square().sum(1)
        if self.tilt:
            t = self.tilt / wrong.detach().mean()
            return ((t * wrong).logsumexp(0) - math.log(len(wrong))) / t / step.variance
        return wrong.mean() / step.variance


@dataclass(frozen=True, slots=True)
class AuxK(Loss):
    """The error rebuilt by ``k`` latents that have long been silent, relative to its size: they come back to life.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders": weight 1/32; k of half the input's width where 0.
    """

    weight: float = 1 / 32
    k: int = 0

    def __call__(self, step: Step) -> torch.Tensor:
        dead = step.dead()
        k = self.k or max(step.x.shape[1] // 2, 1)
        error = step.error.detach()
        if not len(dead):
            return error.new_zeros(())
        rebuilt = step.decode(*step.choose_among(dead, min(k, len(dead))))
        missed = (error - rebuilt).square().sum(1).mean()
        return min(len(dead) / k, 1.0) * missed / error.square().sum(1).mean().clamp_min(1e-12)


@dataclass(frozen=True, slots=True)
class Nested(Loss):
    """Good codes of several sizes from one model.

    ``ks``: the reconstruction from the largest k' activations of each row, for every k' (multi-TopK of Gao et al. 2024;
    MSAE, Zaigrajew et al. 2025). ``widths``: from codes that may use the first w latents only (Matryoshka SAE, Bussmann
    et al. 2025). ``weights`` "uniform", or "reverse": the sparser the heavier, ``1 / level``.
    """

    ks: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    widths: tuple[int, ...] = ()
    weights: str = "uniform"

    def __post_init__(self) -> None:
        Loss.__post_init__(self)
        if not self.ks + self.widths:
            raise wrong("nested.ks", "at least one size in it or in widths", "none")

    def levels(self, k: int) -> int:
        return max(k, *self.ks) if self.ks else k

    def __call__(self, step: Step) -> torch.Tensor:
        errors = [step.x - step.bias - step.prefix(k) for k in sorted(self.ks)]
        errors += [step.x - step.bias - step.decode(*step.choose_first(width)) for width in sorted(self.widths)]
        total = step.x.new_zeros(())
        shares = [1.0 / (level if self.weights == "reverse" else 1) for level in range(1, len(errors) + 1)]
        for share, error in zip(shares, errors, strict=True):
            total = total + share / sum(shares) * error.square().sum(1).mean()
        return total / step.variance


@dataclass(frozen=True, slots=True)
class Distill(Loss):
    """Queries rank documents by codes as they do by embeddings.

    ``KL(softmax(q . x / tau) || softmax(s(q, z) / tau))`` over all documents of the step, ``s`` being what the index
    computes: query weights ``w_i . q``, of which the ``terms`` largest are kept (0: all), times the code divided by the
    norm of its reconstruction. Documents of a step are its queries' nearest neighbours, so that the order at the top is
    what is learnt. Needs no judgements. Kang et al. 2025, "Interpret and Control Dense Retrieval with Sparse Latent
    Features", NAACL, distil scores of reconstructions.

    ``ks`` asks the same of each row's k' largest activations too.
    """

    needs: ClassVar[str] = "queries"

    tau: float = 0.05
    terms: int = 256
    ks: tuple[int, ...] = ()

    def levels(self, k: int) -> int:
        return max((k, *self.ks))

    def __call__(self, step: Step) -> torch.Tensor:
        import torch

        assert step.queries is not None
        teacher = torch.log_softmax(step.teacher() / self.tau, 1)
        weights = step.query_weights(self.terms)
        total = teacher.new_zeros(())
        ks = self.ks or (step.k,)
        for k in ks:
            student = torch.log_softmax(step.scores(weights, k) / self.tau, 1)
            total = total + (teacher.exp() * (teacher - student)).sum(1).mean()
        return total / len(ks)


@dataclass(frozen=True, slots=True)
class Contrast(Loss):
    """Codes of a query and of its document are closer than codes of others: InfoNCE over cosines of codes.

    CSR (Wen et al. 2025, "Beyond Matryoshka") with real pairs: the best neighbour of each of the step's queries.
    ``tau`` 0.2 as there.
    """

    needs: ClassVar[str] = "queries"

    weight: float = 0.1
    tau: float = 0.2

    def __call__(self, step: Step) -> torch.Tensor:
        import torch

        assert step.queries is not None
        asked, documents = step.query_codes(), step.dense_codes()
        normalise = torch.nn.functional.normalize
        cosines = normalise(asked, dim=1) @ normalise(documents, dim=1).T
        return torch.nn.functional.cross_entropy(cosines / self.tau, step.teacher().argmax(1))


@dataclass(frozen=True, slots=True)
class Masked(Loss):
    """What was hidden is rebuilt from what was not: no use in learning the noise.

    A random ``fraction`` of the directions of a fixed random rotation is hidden in each step, and the error counts
    along them only ("Hiding Data Helps", Chidambaram et al. 2023, arXiv 2302.12715, for dictionaries larger than the
    truth's).
    """

    fraction: float = 0.2

    def __call__(self, step: Step) -> torch.Tensor:
        hidden = step.hidden_directions(self.fraction)  # (D, H), orthonormal columns
        width = len(hidden)
        seen = (step.x - (step.x @ hidden) @ hidden.T) * (width / (width - hidden.shape[1]))
        wrong = (step.x - step.bias - step.rebuilt(seen)) @ hidden
        return wrong.square().sum(1).mean() / (step.variance * hidden.shape[1] / width)


@dataclass(frozen=True, slots=True)
class Mutual(Loss):
    """Autoencoders that train together are drawn to the same features: one minus the mean best cosine.

    Marks et al. 2024, "Enhancing Neural Network Interpretability with Feature-Aligned Sparse Autoencoders" (mutual
    feature regularisation). Zero for one that trains alone. Which row of a peer is nearest is looked up again every
    ``refresh`` steps.
    """

    weight: float = 0.1
    refresh: int = 100

    def __call__(self, step: Step) -> torch.Tensor:
        total = step.x.new_zeros(())
        for rows, nearest in step.peers(self.refresh):
            total = total + (1 - (step.w_dec * rows[nearest]).sum(1)).mean()
        return total


@dataclass(frozen=True, slots=True)
class WeightL2(Loss):
    """Mean square of encoder rows, at most 1e-3: rows that nothing needs shrink."""

    weight: float = 1e-5

    def __call__(self, step: Step) -> torch.Tensor:
        return step.w_enc.square().sum(1).mean()
