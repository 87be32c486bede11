"""Settings of processes and of samplers, checked without torch."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

Matrix = tuple[tuple[float, ...], ...]


class VPSDESettings(Settings):
    """The variance-preserving SDE: dx = −½β(t) x dt + √β(t) dw."""

    kind: Literal["vp-sde"]
    beta_min: float = Field(0.1, gt=0)
    """β(0)."""
    beta_max: float = Field(20.0, gt=0)
    """β(1); β is linear in between."""


class PhaseSpaceSettings(Settings):
    """What every process with momentum shares: the noise schedule and the perturbation kernel."""

    beta_min: float = Field(8.0, gt=0)
    """β(0). The paper uses a constant β = 8."""
    beta_max: float = Field(8.0, gt=0)
    """β(1); β is linear in between."""
    matching: Literal["hsm", "dsm"] = "hsm"
    """Condition the kernel on x₀ alone (hybrid score matching) or on (x₀, m₀) (denoising)."""
    factor: Literal["lower", "upper"] = "lower"
    """Which triangular factor L of Σ = L Lᵀ turns the predicted noise into a score."""
    numerical_eps: float = Field(1e-9, ge=0)
    """Added to the diagonal of Σ(t), which is singular at t = 0."""


class PSLDSettings(PhaseSpaceSettings):
    """Phase space Langevin diffusion under critical damping; CLD is Γ = 0."""

    kind: Literal["psld"]
    gamma: float = Field(ge=0)
    """Γ: friction on the position. 0 is critically damped Langevin diffusion (CLD)."""
    mass_inverse: float = Field(4.0, gt=0)
    """M⁻¹. Critical damping, (Γ − ν)² = 4 M⁻¹, then gives ν = Γ + 2 √M⁻¹."""
    kappa: float = Field(0.04, gt=0)
    """κ: the momentum starts as N(0, κM)."""

    @property
    def nu(self) -> float:
        """ν: friction on the momentum."""
        return self.gamma + 2 * math.sqrt(self.mass_inverse)


class RecipeSettings(PhaseSpaceSettings):
    """Any process of the recipe on k blocks, the first of which is the image."""

    kind: Literal["recipe"]
    D: Matrix
    """k×k, symmetric and positive semi-definite: how much noise each block receives."""
    Q: Matrix
    """k×k, skew-symmetric: how the blocks turn into each other."""
    S: tuple[float, ...]
    """k stationary variances."""
    initial_variance: tuple[float, ...]
    """k variances at t = 0; that of the image is 0."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> "RecipeSettings":
        k = len(self.S)
        for name in ("D", "Q"):
            rows = getattr(self, name)
            if len(rows) != k or any(len(row) != k for row in rows):
                raise ValueError(f"{name} must be {k}×{k}, since S names {k} blocks")
        if len(self.initial_variance) != k:
            raise ValueError(f"initial_variance must have {k} entries, since S names {k} blocks")
        return self


ProcessSettings = Annotated[
    VPSDESettings | PSLDSettings | RecipeSettings, Field(discriminator="kind")
]


class IntegratorSettings(Settings):
    """What every sampler has."""

    final_time: float = Field(1e-3, gt=0, lt=1)
    """Forward time at which the integrator stops."""
    denoise: bool = True
    """End with one noise-free Euler step from `final_time` to 0."""


class SDESamplerSettings(IntegratorSettings):
    """A sampler of the reverse SDE with a fixed time grid."""

    integrator: Literal["em", "sscs"]
    """Euler–Maruyama (em), or the symmetric splitting sampler (sscs), which needs momentum."""
    striding: Literal["uniform", "quadratic"]
    """The time grid; quadratic striding puts more steps near the data."""
    steps: int = Field(ge=2)
    """N: network evaluations per image, the final denoising step included."""


class ODESamplerSettings(IntegratorSettings):
    """A sampler of the probability-flow ODE with adaptive steps."""

    integrator: Literal["rk45"]
    """Dormand–Prince 5(4), as in SciPy."""
    tolerance: float = Field(gt=0, lt=1)
    """Relative and absolute error tolerance."""
