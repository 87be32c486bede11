"""Settings of processes and of samplers, checked without torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psld.config.settings import Settings

Matrix = tuple[tuple[float, ...], ...]


class VPSDESettings(Settings):
    """The variance-preserving SDE: dx = −½β(t) x dt + √β(t) dw."""

    kind: Literal["vp-sde"]
    beta_min: float = Field(0.1, gt=0)
    """β(0)."""
    beta_max: float = Field(20.0, gt=0)
    """β(1); β is linear in between."""

    @property
    def blocks(self) -> int:
        """The number of blocks of variables, including the image."""
        return 1


class PhaseSpaceSettings(Settings):
    """The settings of every process with momentum: noise schedule and perturbation kernel."""

    beta_min: float = Field(8.0, gt=0)
    """β(0). The paper uses a constant β = 8."""
    beta_max: float = Field(8.0, gt=0)
    """β(1); β is linear in between."""
    matching: Literal["hsm", "dsm"] = "hsm"
    """Condition the kernel on x₀ alone (hybrid score matching) or on (x₀, m₀) (denoising)."""
    factor: Literal["lower", "upper"] = "lower"
    """The triangular factor L of Σ = L Lᵀ that turns the predicted noise into a score."""
    numerical_eps: float = Field(1e-9, ge=0)
    """Added to the diagonal of Σ(t), which is singular at t = 0."""


class PSLDSettings(PhaseSpaceSettings):
    """Phase space Langevin diffusion under critical damping."""

    kind: Literal["psld"]
    gamma: float = Field(ge=0)
    """Γ: friction on the position. 0 is critically damped Langevin diffusion (CLD)."""
    mass_inverse: float = Field(4.0, gt=0)
    """M⁻¹. Critical damping, (Γ − ν)² = 4 M⁻¹, gives the momentum's friction ν = Γ + 2 √M⁻¹."""
    kappa: float = Field(0.04, gt=0)
    """κ: the momentum starts as N(0, κM)."""

    @property
    def blocks(self) -> int:
        """The number of blocks of variables: position and momentum."""
        return 2


class RecipeSettings(PhaseSpaceSettings):
    """Any process of the recipe on k blocks, the first of which is the image."""

    kind: Literal["recipe"]
    D: Matrix
    """k×k, symmetric and positive semi-definite: the noise on each block."""
    Q: Matrix
    """k×k, skew-symmetric: the rotation of blocks into each other."""
    S: tuple[float, ...]
    """k stationary variances."""
    initial_variance: tuple[float, ...]
    """k variances at t = 0; 0 for the image."""

    @property
    def blocks(self) -> int:
        """The number of blocks of variables, including the image."""
        return len(self.S)

    @model_validator(mode="after")
    def _shapes_agree(self) -> "RecipeSettings":
        k = len(self.S)
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


Root = Literal["flow", "straight"]
"""The whitened coordinates of a multistep sampler: of the probability flow, or straight ones."""

Interpolation = Literal["lambda", "t", "sqrt-t"]
"""The variable in which past predictions are interpolated: λ = −log σ_eff, t, or √t."""

Conjugation = Literal["identity", "ones"]
"""The matrix B of a conjugate integrator, without its factor."""


class IntegratorSettings(Settings):
    """The settings of every sampler."""

    final_time: float = Field(1e-3, gt=0, lt=1)
    """The forward time at which the integrator stops."""
    denoise: bool = True
    """End with one more evaluation at `final_time`: a noise-free Euler step to time 0, or the
    predicted image (multistep)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; a guide, the state and all coefficients stay in fp32. On a GPU,
    networks in fp32, guides included, multiply with TF32's ten bits, except under rk45."""

    def unused(self) -> set[str]:
        """Return the options to leave out of a dump.

        They have no effect with these other options, or were added later and have their default.
        """
        return {"precision"} if self.precision == "fp32" else set()

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out unused options: samplers that make the same images have the same dump."""
        unused = self.unused()
        return {key: value for key, value in serialize(self).items() if key not in unused}


class GridSettings(IntegratorSettings):
    """The settings of samplers with a fixed time grid."""

    striding: Literal["uniform", "quadratic", "power", "lambda", "edm"]
    """The time grid: `uniform` or `quadratic` in time, evenly spaced in t^(1/p) (`power`), in λ
    (`lambda`), or in σ_eff^(1/p) (`edm`). All but `uniform` put more steps near the data."""
    power: float = Field(7.0, gt=0)
    """p of the strides `power` and `edm` (EDM's ρ: 7); the others ignore it."""
    steps: int = Field(ge=2)
    """N: evaluations of the score per image, including the final one. Each evaluates the network
    once, or twice under classifier-free guidance."""

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.striding in ("power", "edm") else {"power"})


class SDESettings(GridSettings):
    """A sampler of the reverse SDE with a fixed time grid."""

    integrator: Literal["em", "sscs"]
    """Euler–Maruyama (em), or the symmetric splitting sampler (sscs), which needs momentum."""


class RK45Settings(IntegratorSettings):
    """A sampler of the probability-flow ODE with adaptive steps."""

    integrator: Literal["rk45"]
    """Dormand–Prince 5(4), as in SciPy."""
    tolerance: float = Field(gt=0, lt=1)
    """Relative and absolute error tolerance."""


class MultistepSettings(GridSettings):
    """The exponential multistep sampler in whitened coordinates, for few evaluations."""

    integrator: Literal["multistep"]
    """Past predictions of the image are extrapolated; the rest of a step is exact."""
    root: Root = "straight"
    """`straight`: only one combination of the blocks depends on the image; `flow`: the coordinates
    of the probability-flow ODE."""
    order: int = Field(2, ge=1, le=3)
    """Predictions that a step uses; the first steps use fewer."""
    eta: float = Field(1.0, ge=0)
    """η: noise. 0 is deterministic; for k = 1, 1 is the noise of the reverse SDE."""
    eta_interval: tuple[float, float] | None = (0.02, 0.5)
    """The noise levels (σ_eff, low and high) between which η acts; null means all levels."""
    corrector: bool = True
    """Repeat each step with the prediction at its end, without extra evaluations."""
    interpolation: Interpolation = "t"
    """The variable of the polynomial through the past predictions."""

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.eta else {"eta_interval"})

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "MultistepSettings":
        if self.eta_interval and not 0 <= self.eta_interval[0] < self.eta_interval[1]:
            raise ValueError(f"eta_interval must be two rising numbers, got {self.eta_interval}")
        return self


class GDDIMSettings(GridSettings):
    """Generalized DDIM (Zhang, Tao and Chen, ICLR 2023): a baseline."""

    integrator: Literal["gddim"]
    """ε in the coordinates of the flow root, extrapolated in t; the drift is exact."""
    order: int = Field(2, ge=1, le=4)
    """Evaluations that a step uses; the first steps use fewer."""
    power: float = Field(2.0, gt=0)
    """p of the strides `power` (2 is gDDIM's grid) and `edm`; the others ignore it."""


class ConjugateSettings(GridSettings):
    """A conjugate integrator (Pandey, Rudolph and Mandt, 2310.07894): a baseline of order 1."""

    integrator: Literal["conjugate"]
    """Euler steps in coordinates A z with Ȧ = A (B − F)."""
    conjugation: Conjugation = "identity"
    """B: strength·I (λ-DDIM-I) or strength·(all ones) (λ-DDIM-II)."""
    strength: float = 0.0
    """λ of the paper, which searches for it at each number of evaluations; 0 is the exponential
    integrator."""

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.strength else {"conjugation"})


IntegrationSettings = (
    SDESettings | RK45Settings | MultistepSettings | GDDIMSettings | ConjugateSettings
)
"""Any sampler without its guidance."""
