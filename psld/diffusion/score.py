"""The score s(z, t) ≈ ∇ log p_t(z) as integrators use it, with a count of network evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from psld.diffusion.matrices import mix
from psld.utils.batching import Batching

Network = Callable[[Tensor, Tensor], Tensor]
"""ε(z, t): N×kC×H×W states and N forward times → N×pC×H×W. A result in half precision is cast to
the type of the states."""

ClassNetwork = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""ε(z, t, label), with shapes as in `Network`; the label None means no class."""

Logits = Callable[[Tensor, Tensor], Tensor]
"""Logits(z, t): N×kC×H×W states and N times → N×classes."""


def at_time(network: Network | ClassNetwork, t: float) -> Callable[..., Tensor]:
    """Return the network as a function of states, N×kC×H×W, and labels, at one forward time.

    A network with a method `at` precomputes its coefficients for this time, as `SeesImages` of
    `psld.diffusion.denoiser` does.
    """
    if tabulated := getattr(network, "at", None):
        return tabulated(t)
    return lambda z, *label: network(z, z.new_full(z.shape[:1], t, dtype=torch.float32), *label)


@dataclass(frozen=True)
class Prediction:
    """The score s = −L⁻ᵀ ε + g for the states z of a shard at one forward time."""

    eps: Tensor
    """ε, the noise in the predicted blocks, N×pC×H×W, in the type of z."""
    gradient: Tensor | None = None
    """g, N×kC×H×W: a gradient that is added to the network's score, such as a guide's gradient."""

    def mix(self, matrix: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return M ε + P g, N×rC×H×W, the term of the score in an integrator's step.

        Args:
            matrix: M, r×p; with `process.score_matrix` the result is the score itself.
            projection: P, r×k; the identity by default.
        """
        from_eps = mix(matrix, self.eps)
        if self.gradient is None:
            return from_eps
        if projection is None:
            return from_eps + self.gradient
        return from_eps + mix(projection, self.gradient)


class Score(Protocol):
    """A score function, which is evaluated for a complete shard at one forward time."""

    @property
    def evaluations(self) -> int:
        """NFE: number of function evaluations, here network evaluations per image, so far."""
        ...

    def __call__(self, z: Tensor, t: float) -> Prediction:
        """Return ε and the gradient at the states z, N×kC×H×W, and at the forward time t."""
        ...


def batching(size: int | Batching) -> Batching:
    """Return `size` as a `Batching`.

    A `Batching` reduces its size when memory runs out. Scores that share a `Batching` share its
    size.
    """
    return size if isinstance(size, Batching) else Batching(size)


class NetworkScore:
    """The score of an ε-network, which is evaluated on the images of a shard in batches.

    With one label y per image, the score uses classifier-free guidance (Ho and Salimans, 2022),

        ε = ε(z, t, ∅) + scale · (ε(z, t, y) − ε(z, t, ∅)),

    with two network evaluations per time. A scale of 1 gives the class-conditional score with one
    network evaluation per time.
    """

    def __init__(
        self,
        network: Network | ClassNetwork,
        batch_size: int | Batching,
        labels: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """`labels`: the class of each image of the shard, N."""
        self.network, self.labels, self.scale = network, labels, scale
        self.batched = batching(batch_size)
        self.evaluations = 0

    def __call__(self, z: Tensor, t: float) -> Prediction:
        self.evaluations += 1 if self.scale == 1 else 2
        network = at_time(self.network, t)

        def eps(z: Tensor, *label: Tensor) -> Tensor:
            found = network(z, *label).to(z.dtype)
            if self.scale == 1:
                return found
            return torch.lerp(network(z, None).to(z.dtype), found, self.scale)

        labels = () if self.labels is None else (self.labels,)
        return Prediction(self.batched(eps, z, *labels))


@dataclass
class GuidedScore:
    """A score plus a scaled gradient, s(z, t) + scale · g(z, t)."""

    score: Score
    gradient: Callable[[Tensor, float], Tensor]
    """g(z, t), N×kC×H×W: the gradient with respect to the state at one forward time."""
    scale: float = 1.0

    @property
    def evaluations(self) -> int:
        return self.score.evaluations

    def __call__(self, z: Tensor, t: float) -> Prediction:
        gradient = self.scale * self.gradient(z, t)
        plain = self.score(z, t)
        if plain.gradient is not None:
            gradient = plain.gradient + gradient
        return Prediction(plain.eps, gradient)


def class_gradient(
    guide: Logits, labels: Tensor, batch_size: int | Batching, official_time: bool = False
) -> Callable[[Tensor, float], Tensor]:
    """Return ∇_z log p(y | z_t), the gradient of guidance by a guide (paper, Eq. 13).

    The gradient is taken with respect to the complete state, position and momentum.

    Args:
        labels: the class y of each image of the shard, N.
        official_time: call the guide with the reverse time 1 − t, as the official code does,
            although guides are trained on forward times.
    """
    batched = batching(batch_size)

    def gradient(z: Tensor, t: float) -> Tensor:
        logits = at_time(guide, 1 - t if official_time else t)
        return batched(partial(_class_gradient, logits), z, labels)

    return gradient


@torch.enable_grad()
def _class_gradient(logits: Callable[[Tensor], Tensor], z: Tensor, labels: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    chosen = logits(z).log_softmax(dim=-1).gather(1, labels[:, None])
    return torch.autograd.grad(chosen.sum(), z)[0]
