r"""Forward processes: published SDEs, friction that depends on time, and a chain of momenta.

    psld check processes:SubVP
    psld train process=processes:SubVP name=subvp
    psld train process=processes:Friction process.last=0.5 name=friction
    psld sample model=by-hand/friction sampler=em sampler.steps=20 shard_size=16 \
        output=samples/friction png=friction.png
    psld train process=vp-sde process.beta=cosine name=cosine
    psld train process=psld process.beta=processes:Warm name=warm

A denoiser is trained without a process, and can be sampled with each of these processes:

    psld train training.objective=denoiser name=denoiser
    psld sample model=by-hand/denoiser process=processes:VE sampler=em sampler.steps=20 \
        shard_size=16 output=samples/ve
    psld sample model=by-hand/denoiser process=processes:Chain process.order=4 sampler=few \
        sampler.steps=4 shard_size=16 output=samples/chain

`build` returns a `LinearProcess`. Its functions of time are called with float64 tensors of times.
`psld check` compares the kernel of a process with a solution of its differential equations.
"""

import math

import torch
from pydantic import Field

from psld.diffusion.process import LinearProcess
from psld.diffusion.schedules import IntegratedBeta, LinearBeta
from psld.parts import Beta, PhaseSpace, Process


class Warm(Beta):
    """A constant β after a linear increase. The integral of β is computed numerically."""

    value: float = Field(9.0, gt=0)
    """β at the end of the increase."""
    until: float = Field(0.2, gt=0, lt=1)
    """The time at which the increase ends."""

    def build(self):
        def beta(t):
            return self.value * (t / self.until).clamp(max=1)

        return IntegratedBeta(beta, jumps=[self.until])  # The slope of β jumps there.


class SubVP(Process):
    """The sub-VP SDE (Song et al., 2021, Eq. 29): dx = −½ β x dt + √(β (1 − exp(−2B))) dw."""

    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)

    def build(self):
        beta = LinearBeta(self.beta_min, self.beta_max)

        def noise(t):
            return -beta(t) * torch.expm1(-2 * beta.integral(t))

        return LinearProcess.of_sde(lambda t: -0.5 * beta(t), noise, prior_variance=[1.0])


class VE(Process):
    """The variance-exploding SDE (Song et al., 2021, Eq. 30), for denoisers: x = x₀ + σ(t) n.

    The states of an ε-network would have a standard deviation of up to `sigma_max`.
    """

    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(50.0, gt=0)

    def build(self):
        growth = math.log(self.sigma_max / self.sigma_min)

        def noise(t):
            return 2 * growth * (self.sigma_min * (growth * t).exp()) ** 2  # dσ²/dt

        return LinearProcess.of_sde([[0.0]], noise, prior_variance=[self.sigma_max**2])


class Friction(PhaseSpace):
    """PSLD whose friction Γ(t) changes linearly from `first` to `last`, critically damped."""

    first: float = Field(0.0, ge=0)
    last: float = Field(0.25, ge=0)

    def build(self):
        mass = 0.25

        def noise(t):
            gamma = self.first + (self.last - self.first) * t
            return [[gamma / 2, 0.0], [0.0, mass * (gamma + 2 / math.sqrt(mass)) / 2]]

        Q = [[0.0, -0.5], [0.5, 0.0]]
        return self.recipe(D=noise, Q=Q, S=[1.0, mass], initial_variance=[0.0, 0.04 * mass])


class Chain(PhaseSpace):
    """A chain of `order` − 1 momenta under critical damping; only the last momentum has noise.

    With q = ½, the squared couplings q²/(S_i S_(i+1)) are (k² − j²)/(4 j² − 1) for j = k − i.
    """

    order: int = Field(4, ge=2, le=4)
    """k. Order 2 is CLD. Higher orders need a larger β, or too much of the image remains."""

    @property
    def blocks(self):
        return self.order

    def build(self):
        k, S = self.order, [1.0]
        for j in range(k - 1, 0, -1):
            S.append(0.25 * (4 * j**2 - 1) / (k**2 - j**2) / S[-1])
        Q = [[0.5 * (j == i - 1) - 0.5 * (j == i + 1) for j in range(k)] for i in range(k)]
        D = [[k * S[-1] * (i == j == k - 1) for j in range(k)] for i in range(k)]
        return self.recipe(D=D, Q=Q, S=S, initial_variance=[0.0, *(0.04 * s for s in S[1:])])
