"""Settings of processes and of training noise levels, validated without importing torch.

A process is a class: its fields are its options, and `build` constructs the process. Only `build`
imports torch.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from psld.config.parts import Part
from psld.config.settings import Neutral, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from psld.diffusion.process import LinearProcess

Matrix = tuple[tuple[float, ...], ...]


class Beta(Part):
    """The base class of noise schedules β(t), t ∈ [0, 1]."""

    noun = "beta"

    kind: str

    def build(self) -> "Callable[[Tensor], Any]":
        """Return β as a function of float64 times of any shape.

        The integral of a plain function is computed numerically. If β jumps, return an
        `IntegratedBeta` of `psld.diffusion.schedules` with the times of the jumps.
        """
        raise NotImplementedError


class ShippedBeta(Beta):
    """A schedule whose settings object is the function β(t), with its integral B(t) = ∫₀ᵗ β ds."""

    def build(self):
        return self

    def __call__(self, t: "Tensor") -> "Tensor":
        """Return β(t)."""
        raise NotImplementedError

    def integral(self, t: "Tensor") -> "Tensor":
        """Return B(t), without cancellation for small t."""
        raise NotImplementedError


class ConstantBeta(ShippedBeta):
    """A constant β."""

    kind: str = "constant"
    value: float = Field(gt=0)

    def __call__(self, t):
        return self.value + 0 * t

    def integral(self, t):
        return self.value * t


class CosineBeta(ShippedBeta):
    """The cosine schedule (Nichol and Dhariwal, 2021, Eq. 17), truncated before its singularity:

        √ᾱ(t) = exp(−B(t)/2) = cos θ(t) / cos θ(0),      θ(t) = (u t + s)/(1 + s) · π/2.

    The original schedule has u = 1 and an unbounded β. Here u < 1 is such that √ᾱ(1) = `left`.
    """

    kind: str = "cosine"
    left: float = Field(0.01, gt=0, lt=1)
    """√ᾱ at T = 1."""
    offset: float = Field(0.008, ge=0, le=1)
    """s, which makes β positive at t = 0."""

    @property
    def _angle(self) -> tuple[float, float]:
        """θ(0) and dθ/dt."""
        first = self.offset / (1 + self.offset) * math.pi / 2
        return first, math.acos(self.left * math.cos(first)) - first

    def __call__(self, t):
        first, rate = self._angle
        return 2 * rate * (first + rate * t).tan()

    def integral(self, t):
        first, rate = self._angle
        fallen = 2 * (rate * t / 2).sin() ** 2 + math.tan(first) * (rate * t).sin()
        return -2 * (-fallen).log1p()


class SigmoidBeta(ShippedBeta):
    """β(t) = low + (high − low) sigmoid(steepness · (t − ½))."""

    kind: str = "sigmoid"
    low: float = Field(0.1, ge=0)
    high: float = Field(20.0, gt=0)
    steepness: float = Field(12.0, gt=0, le=100)

    def __call__(self, t):
        return self.low + (self.high - self.low) * (self.steepness * (t - 0.5)).sigmoid()

    def integral(self, t):
        w = self.steepness
        area = ((w * t).expm1() / (1 + math.exp(w / 2))).log1p() / w
        return self.low * t + (self.high - self.low) * area


class LogLinearBeta(ShippedBeta):
    """β(t) = low · (high/low)ᵗ: the logarithm of β is linear in t."""

    kind: str = "log-linear"
    low: float = Field(0.1, gt=0)
    """β(0)."""
    high: float = Field(50.0, gt=0)
    """β(1)."""

    def __call__(self, t):
        return self.low * (t * math.log(self.high / self.low)).exp()

    def integral(self, t):
        growth = math.log(self.high / self.low)
        return self.low * ((growth * t).expm1() / growth if growth else t)


class ProcessSettings(Part):
    """The base class of forward processes."""

    noun = "process"
    recorded_attributes = ("blocks",)

    blocks: ClassVar[int] = 1
    """k, the number of blocks of a state. A subclass may override `blocks` with a property."""

    kind: str

    @property
    def title(self) -> str:
        """A short description of the process."""
        return self.kind

    def build(self) -> "LinearProcess":
        """Return the process."""
        raise NotImplementedError


class ScheduledSettings(ProcessSettings):
    """The common settings of processes with a noise schedule, which is linear by default."""

    beta_min: float = Field(8.0, gt=0)
    """β(0). The paper uses a constant β = 8."""
    beta_max: float = Field(8.0, gt=0)
    """β(1); β(t) is linear in t."""
    beta: Annotated[
        Beta | None,
        BeforeValidator(lambda given: None if given == "linear" else given),
        Neutral(None),
    ] = Field(None, exclude_if=lambda beta: beta is None)
    """The noise schedule. Null, or `linear`: linear from beta_min to beta_max."""

    def schedule(self) -> "Callable[[Tensor], Any]":
        """Return β as a function of time."""
        from psld.diffusion.schedules import LinearBeta

        return self.beta.build() if self.beta else LinearBeta(self.beta_min, self.beta_max)

    @model_validator(mode="after")
    def _check_beta(self) -> "ScheduledSettings":
        for name in ("beta_min", "beta_max"):
            if self.beta and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} belongs to the linear schedule; leave it out, or set beta to null"
                )
        return self


class VPSDESettings(ScheduledSettings):
    """The variance-preserving SDE (Song et al., 2021): dx = −½β(t) x dt + √β(t) dw."""

    kind: str = "vp-sde"
    beta_min: float = Field(0.1, gt=0)
    """β(0)."""
    beta_max: float = Field(20.0, gt=0)
    """β(1); β(t) is linear in t."""

    def build(self):
        from psld.diffusion.process import LinearProcess

        given = [[0.5]], [[0.0]], [1.0], self.schedule()
        return LinearProcess(*given, initial_variance=[0.0])


class PhaseSpaceSettings(ScheduledSettings):
    """The common settings of processes with momentum: noise schedule and perturbation kernel."""

    blocks = 2

    matching: Literal["hsm", "dsm"] = "hsm"
    """`hsm` (hybrid score matching) conditions the kernel on x₀, `dsm` (denoising) on (x₀, m₀)."""
    factor: Literal["lower", "upper"] = "lower"
    """The triangular factor L of Σ = L Lᵀ, which converts the predicted noise to a score."""
    numerical_eps: float = Field(1e-9, ge=0)
    """Added to the diagonal of Σ(t), which is singular at t = 0."""

    def recipe(self, **matrices: Any) -> "LinearProcess":
        """Return the process with these settings and the given D, Q, S and initial_variance.

        D and Q may be functions of time (`LinearProcess`).
        """
        from psld.diffusion.process import LinearProcess

        names = ("matching", "factor", "numerical_eps")
        options = {name: getattr(self, name) for name in names}
        return LinearProcess(beta=self.schedule(), **matrices, **options)


class PSLDSettings(PhaseSpaceSettings):
    """Phase space Langevin diffusion (paper, Eq. 6) under critical damping:

    D = ½ diag(Γ, Mν),   Q = ½ [[0, −1], [1, 0]],   S = diag(1, M),   ν = Γ + 2 √M⁻¹
    """

    kind: str = "psld"
    gamma: float = Field(ge=0)
    """Γ: friction on the position. 0 gives critically damped Langevin diffusion (CLD)."""
    mass_inverse: float = Field(4.0, gt=0)
    """M⁻¹. Critical damping, (Γ − ν)² = 4 M⁻¹, sets the friction ν = Γ + 2 √M⁻¹ on the momentum."""
    kappa: float = Field(0.04, gt=0)
    """κ: the initial momentum is drawn from N(0, κM)."""

    @property
    def title(self):
        return f"{self.kind} Γ = {self.gamma:g}"

    def build(self):
        mass, nu = 1 / self.mass_inverse, self.gamma + 2 * math.sqrt(self.mass_inverse)
        return self.recipe(
            D=[[self.gamma / 2, 0.0], [0.0, mass * nu / 2]],
            Q=[[0.0, -0.5], [0.5, 0.0]],
            S=[1.0, mass],
            initial_variance=[0.0, self.kappa * mass],
        )


class RecipeSettings(PhaseSpaceSettings):
    """Any process of the recipe with constant matrices on k blocks; block 0 is the image."""

    kind: str = "recipe"
    D: Matrix
    """k×k, symmetric and positive semi-definite: the noise on each block."""
    Q: Matrix
    """k×k, skew-symmetric: the coupling between blocks."""
    S: tuple[float, ...]
    """k stationary variances."""
    initial_variance: tuple[float, ...]
    """k variances at t = 0, with 0 for the image."""

    @property
    def blocks(self):
        return len(self.S)

    def build(self):
        given = {name: getattr(self, name) for name in ("D", "Q", "S", "initial_variance")}
        return self.recipe(**given)

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
