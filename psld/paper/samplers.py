"""Settings of the samplers that the paper and its rivals compare with. No torch."""

from typing import Literal

from pydantic import Field

from psld.diffusion.samplers import Power, TimeGridSampler


class GDDIMSettings(TimeGridSampler):
    """Generalized DDIM (Zhang, Tao and Chen, ICLR 2023): a baseline."""

    integrator: str = "gddim"
    """ε in the coordinates of the flow root, extrapolated in t; the drift is exact."""
    order: int = Field(2, ge=1, le=4)
    """Evaluations that a step uses; the first steps use fewer."""
    power: Power = 2.0
    """p of the strides `power` (2 is gDDIM's grid) and `edm`; the others ignore it."""

    def build(self, process, device, inpainting=None):
        from psld.paper.integrators import GDDIM

        return GDDIM(process, self.time_grid(process), device, self.order)


class ConjugateSettings(TimeGridSampler):
    """A conjugate integrator (Pandey, Rudolph and Mandt, 2310.07894): a baseline of order 1."""

    integrator: str = "conjugate"
    """Euler steps in coordinates A z with Ȧ = A (B − F)."""
    conjugation: Literal["identity", "ones"] = "identity"
    """B: strength·I (λ-DDIM-I) or strength·(all ones) (λ-DDIM-II)."""
    strength: float = Field(0.0, ge=-100, le=100)
    """λ of the paper, which searches for it at each number of evaluations; 0 is the exponential
    integrator."""

    def build(self, process, device, inpainting=None):
        from psld.paper.integrators import ConjugateIntegrator

        grid = self.time_grid(process)
        return ConjugateIntegrator(process, grid, device, self.conjugation, self.strength)
