"""Settings of processes and of training noise levels, validated without importing torch.

Only `build`, which constructs a process, imports torch.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

if TYPE_CHECKING:
    from psld.diffusion.process import LinearProcess

Matrix = tuple[tuple[float, ...], ...]


class VPSDESettings(Settings):
    """The variance-preserving SDE (Song et al., 2021): dx = −½β(t) x dt + √β(t) dw."""

    blocks: ClassVar[int] = 1

    kind: Literal["vp-sde"]
    beta_min: float = Field(0.1, gt=0)
    """β(0)."""
    beta_max: float = Field(20.0, gt=0)
    """β(1); β(t) is linear in t."""

    def build(self) -> "LinearProcess":
        from psld.diffusion.process import LinearBeta, LinearProcess

        beta = LinearBeta(self.beta_min, self.beta_max)
        return LinearProcess(D=[[0.5]], Q=[[0.0]], S=[1.0], beta=beta, initial_variance=[0.0])


class PhaseSpaceSettings(Settings):
    """The common settings of processes with momentum: noise schedule and perturbation kernel."""

    beta_min: float = Field(8.0, gt=0)
    """β(0). The paper uses a constant β = 8."""
    beta_max: float = Field(8.0, gt=0)
    """β(1); β(t) is linear in t."""
    matching: Literal["hsm", "dsm"] = "hsm"
    """`hsm` (hybrid score matching) conditions the kernel on x₀, `dsm` (denoising) on (x₀, m₀)."""
    factor: Literal["lower", "upper"] = "lower"
    """The triangular factor L of Σ = L Lᵀ, which converts the predicted noise to a score."""
    numerical_eps: float = Field(1e-9, ge=0)
    """Added to the diagonal of Σ(t), which is singular at t = 0."""

    def _process(self, **recipe: Any) -> "LinearProcess":
        """Return the process with the matrices D, Q, S and initial_variance in `recipe`."""
        from psld.diffusion.process import LinearBeta, LinearProcess

        beta = LinearBeta(self.beta_min, self.beta_max)
        options = self.model_dump(include={"matching", "factor", "numerical_eps"})
        return LinearProcess(beta=beta, **recipe, **options)


class PSLDSettings(PhaseSpaceSettings):
    """Phase space Langevin diffusion (paper, Eq. 6) under critical damping:

    D = ½ diag(Γ, Mν),   Q = ½ [[0, −1], [1, 0]],   S = diag(1, M),   ν = Γ + 2 √M⁻¹
    """

    blocks: ClassVar[int] = 2

    kind: Literal["psld"]
    gamma: float = Field(ge=0)
    """Γ: friction on the position. 0 gives critically damped Langevin diffusion (CLD)."""
    mass_inverse: float = Field(4.0, gt=0)
    """M⁻¹. Critical damping, (Γ − ν)² = 4 M⁻¹, sets the friction ν = Γ + 2 √M⁻¹ on the momentum."""
    kappa: float = Field(0.04, gt=0)
    """κ: the initial momentum is drawn from N(0, κM)."""

    def build(self) -> "LinearProcess":
        mass, nu = 1 / self.mass_inverse, self.gamma + 2 * math.sqrt(self.mass_inverse)
        return self._process(
            D=[[self.gamma / 2, 0.0], [0.0, mass * nu / 2]],
            Q=[[0.0, -0.5], [0.5, 0.0]],
            S=[1.0, mass],
            initial_variance=[0.0, self.kappa * mass],
        )


class RecipeSettings(PhaseSpaceSettings):
    """Any process of the recipe on k blocks; block 0 is the image."""

    kind: Literal["recipe"]
    D: Matrix
    """k×k, symmetric and positive semi-definite: the noise on each block."""
    Q: Matrix
    """k×k, skew-symmetric: the coupling between blocks."""
    S: tuple[float, ...]
    """k stationary variances."""
    initial_variance: tuple[float, ...]
    """k variances at t = 0, with 0 for the image."""

    @property
    def blocks(self) -> int:
        return len(self.S)

    def build(self) -> "LinearProcess":
        return self._process(D=self.D, Q=self.Q, S=self.S, initial_variance=self.initial_variance)

    @model_validator(mode="after")
    def _check_shapes(self) -> "RecipeSettings":
        k = self.blocks
        for name in ("D", "Q"):
            rows = getattr(self, name)
            if len(rows) != k or any(len(row) != k for row in rows):
                raise ValueError(f"{name} must be {k}×{k}, because S has {k} entries")
        if len(self.initial_variance) != k:
            raise ValueError(f"initial_variance must have {k} entries, because S has {k}")
        return self


ProcessSettings = Annotated[
    VPSDESettings | PSLDSettings | RecipeSettings, Field(discriminator="kind")
]


class NoiseLaw(Settings):
    """The log-normal distribution of noise levels σ in training (Karras et al., 2022, §5)."""

    center: float = -1.2
    """Mean of ln σ."""
    width: float = Field(1.2, gt=0)
    """Standard deviation of ln σ."""
    low: float = Field(2e-5, gt=0)
    """The smallest σ; smaller draws are clipped to this value."""
    high: float = Field(1000.0, gt=0)
    """The largest σ; larger draws are clipped to this value. A sampler may use levels up to
    `high`."""

    @model_validator(mode="after")
    def _check_order(self) -> "NoiseLaw":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self
