"""The custom processes of this study; docs/examples/processes.py explains them."""

import torch
from pydantic import Field

from psld.diffusion.process import LinearProcess
from psld.diffusion.schedules import LinearBeta
from psld.parts import PhaseSpace, Process


class SubVP(Process):
    """The sub-VP SDE (Song et al., 2021, Eq. 29)."""

    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)

    def build(self):
        beta = LinearBeta(self.beta_min, self.beta_max)

        def noise(t):
            return -beta(t) * torch.expm1(-2 * beta.integral(t))

        return LinearProcess.of_sde(lambda t: -0.5 * beta(t), noise, prior_variance=[1.0])


class Friction(PhaseSpace):
    """PSLD whose friction Γ(t) changes linearly from `first` to `last`, critically damped."""

    first: float = Field(ge=0)
    last: float = Field(ge=0)

    def build(self):
        mass = 0.25

        def noise(t):
            gamma = self.first + (self.last - self.first) * t
            return [[gamma / 2, 0.0], [0.0, mass * (gamma + 4) / 2]]

        Q = [[0.0, -0.5], [0.5, 0.0]]
        return self.recipe(D=noise, Q=Q, S=[1.0, mass], initial_variance=[0.0, 0.04 * mass])
