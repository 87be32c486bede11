"""Settings of samplers and of their guidance, validated without importing torch.

A sampler is a class: its fields are its options, and `build` constructs its integrator. Only
`build` and the computation of time grids import torch.
"""

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from psld.config.parts import Part
from psld.config.settings import Neutral
from psld.diffusion.guidance import Guidance, NoGuidance
from psld.diffusion.settings import ProcessSettings
from psld.utils.errors import UserError
from psld.utils.numbers import Tolerance

if TYPE_CHECKING:
    import torch

    from psld.diffusion.integrators import Inpainting, Integrator
    from psld.diffusion.process import LinearProcess


Level = Annotated[float, Field(le=1e6)]
"""A noise level σ. For images in [−1, 1], the noise levels of the processes are below 1,000."""

Power = Annotated[float, Field(ge=0.1, le=100)]


class SamplerSettings(Part):
    """The base class of samplers."""

    KEY = "integrator"
    noun = "sampler"
    recorded_attributes = ("evaluations",)

    evaluations: ClassVar[int | None] = None
    """Network evaluations (NFE) per image; None for samplers with adaptive steps. Samplers with a
    fixed time grid override the attribute with a property."""

    integrator: str
    """The kind of sampler."""
    final_time: float = Field(default=1e-3, gt=0, lt=1)
    """The forward time at which the integrator stops, unless `fall` stops it at a later time."""
    denoise: bool = True
    """End with an additional evaluation at `final_time`: a noise-free Euler step of the reverse SDE
    (for rk45, of the ODE) to time 0 or, for multistep, the predicted image."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network; the guide, the state and all coefficients stay in fp32. On a GPU,
    fp32 networks and guides multiply in TF32 (10 bits of mantissa), except in steps of rk45."""
    guidance: Guidance = NoGuidance()
    """What steers the samples: classes, or known pixels (inpainting)."""

    @property
    def starts_from_data(self) -> bool:
        """True if the initial distribution is fitted to the training images (not the prior)."""
        return getattr(self, "start", "prior") != "prior"

    @property
    def asks_for_classes(self) -> bool:
        return self.guidance.asks_for_classes

    def check_evaluations(self, counted: int) -> None:
        """Raise UserError if a custom part makes more or fewer evaluations than `evaluations`."""
        if self.evaluations not in (None, counted):
            raise UserError(
                f"sampler: {self.integrator} with guidance {self.guidance.kind}: takes {counted} "
                f"network evaluations, not {self.evaluations}; correct `grid_steps` of the sampler "
                "or `evaluations` of the guidance (None: not fixed)"
            )

    @property
    def cost(self) -> float:
        """A number that grows with the cost; figures order samplers of a family by this number."""
        return float(self.evaluations or 0)

    def check_process(self, process: "ProcessSettings | LinearProcess") -> None:
        """Raise UserError if the sampler does not support this kind of process."""

    def noise_levels(self, process: "LinearProcess") -> tuple[float, float]:
        """Return the smallest and the largest noise level at which the network is evaluated.

        Without network evaluations, return inf and 0.
        """
        from psld.diffusion.time_grid import level_range

        return level_range(process, self.final_time)

    def build(
        self,
        process: "LinearProcess",
        device: "torch.device",
        inpainting: "Inpainting | None" = None,
    ) -> "Integrator":
        """Build the integrator.

        An integrator that does not handle `inpainting` itself must have `replacement_times`. Raises
        UserError if the integrator does not support the process or inpainting.
        """
        raise NotImplementedError


class TimeGridSampler(SamplerSettings):
    """The base class of samplers with a fixed time grid."""

    predicts_images: ClassVar[bool] = False
    """True if the last step returns the predicted image, so that a single step is enough."""

    striding: Literal["uniform", "quadratic", "power", "lambda", "edm"]
    """The time grid: `uniform` or `quadratic` in time, or evenly spaced in t^(1/p) (`power`), in λ
    (`lambda`) or in σ_eff^(1/p) (`edm`). All except `uniform` place more steps near the data."""
    power: Power = 7.0
    """p of the time grids `power` and `edm` (ρ = 7 in EDM); the other time grids ignore p."""
    steps: int = Field(ge=0, le=100_000)
    """N: evaluations of the score per image, including the final evaluation (`denoise`). Each of
    them evaluates the network once, or twice under classifier-free guidance with a scale other than
    1. With start=gaussian or mixture, steps=0 returns images drawn from this distribution without
    the network; all other options are then ignored."""
    start: Annotated[Literal["prior", "gaussian", "mixture"], Neutral("prior")] = "prior"
    """The initial distribution: the `prior` at T; or, at the noise level `start_level`, a Gaussian
    with the mean and covariance of the training images (`gaussian`), or a mixture of Gaussians
    fitted to the training images (`mixture`)."""
    start_level: Level | None = Field(default=None, gt=0)
    """σ₀, the noise level of start=gaussian or mixture. Null: the level stored with the
    fitted distribution."""
    fall: Annotated[float | None, Field(gt=1, le=1e6), Neutral(None)] = None
    """With start=gaussian or mixture, stop at the noise level σ₀ / fall^K if `final_time` has a
    lower noise level; K is the number of steps of the time grid. If K is small, this keeps the
    steps from becoming too large. Null: stop at `final_time`."""
    levels: tuple[Level, ...] | None = None
    """The noise levels of the evaluations in descending order, in place of `striding`. `steps` must
    equal the number of levels. The first level is the noise level of the initial distribution."""

    @property
    def evaluations(self):
        each = self.guidance.evaluations
        return each and self.steps * each

    @property
    def grid_steps(self) -> int:
        """K: the number of steps of the time grid.

        An integrator that evaluates the score at both ends of a step has half as many steps as
        evaluations, rounded up. Its last step may be an Euler step with a single evaluation.
        """
        return self.steps - 1 if self.denoise else self.steps

    def time_grid(self, process: "LinearProcess") -> "torch.Tensor":
        """Return the K + 1 descending forward times at which the steps start and end.

        Raises UserError if the process does not reach the requested noise levels.
        """
        from psld.diffusion.time_grid import time_grid, times_of_levels

        if self.levels:
            from_prior = not self.starts_from_data
            return times_of_levels(process, self.levels, self.final_time, from_prior).clone()
        if self.starts_from_data and self.start_level is None:
            remedy = "set it, or use a model with a start"
            raise UserError(f"sampler.start_level: missing for start={self.start}; {remedy}")
        options = self.final_time, self.power, self.start_level, self.fall
        grid = time_grid(process, self.striding, self.grid_steps, *options)
        return grid.clone()  # Copy the grid, because the original is cached.

    def noise_levels(self, process):
        if not self.steps:
            return inf, 0.0
        last_is_evaluated = self.denoise or self.steps >= 2 * self.grid_steps
        ends = [-1 if last_is_evaluated else -2, 0]
        low, high = process.noise_level(self.time_grid(process)[ends])
        return float(low), float(high)

    @model_validator(mode="after")
    def _check_start_and_levels(self) -> "TimeGridSampler":
        once = self.starts_from_data and self.denoise and self.predicts_images
        if (self.steps == 1 and not once) or (self.steps == 0 and not self.starts_from_data):
            raise ValueError(
                f"steps is {self.steps}; at least 2 are needed. With start=mixture or gaussian, 0 "
                "draws images without the network, and multistep allows 1"
            )
        if self.starts_from_data and self.guidance.holes:
            raise ValueError(
                f"start={self.start} does not support known pixels; inpaint with start=prior"
            )
        if not self.starts_from_data and self.start_level is not None:
            raise ValueError("start_level is for start=mixture or gaussian; set it to null")
        if self.levels is not None:
            if len(self.levels) < 2 or not all(a > b for a, b in pairwise((*self.levels, 0))):
                raise ValueError(
                    f"levels must be at least 2 descending numbers above 0, got {list(self.levels)}"
                )
            if len(self.levels) != self.grid_steps + 1:
                raise ValueError(
                    f"levels has {len(self.levels)} noise levels; {self.grid_steps + 1} are needed "
                    f"for {self.steps} steps"
                )
            if self.start_level not in (None, self.levels[0]):
                raise ValueError(
                    "start_level must be null or the first of levels; leave out start_level"
                )
        return self


class EMSettings(TimeGridSampler):
    """Euler–Maruyama on the reverse SDE."""

    integrator: str = "em"

    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import EulerMaruyama

        return EulerMaruyama(process, self.time_grid(process), device)


class SSCSSettings(TimeGridSampler):
    """The symmetric splitting CLD sampler (SSCS) of the reverse SDE; it needs momentum."""

    integrator: str = "sscs"

    def check_process(self, process):
        if process.blocks == 1:
            raise UserError("sscs needs a process with momentum; use em, multistep or rk45")

    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import SymmetricSplitting

        self.check_process(process)
        return SymmetricSplitting(process, self.time_grid(process), device)


class RK45Settings(SamplerSettings):
    """Dormand–Prince 5(4) on the probability-flow ODE, with adaptive steps."""

    integrator: str = "rk45"
    tolerance: Tolerance
    """Relative and absolute error tolerance."""

    @property
    def cost(self):
        return 1 / self.tolerance

    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import ProbabilityFlow

        if inpainting:
            raise UserError(f"sampler.integrator: {NO_INPAINTING}")
        return ProbabilityFlow(process, self.final_time, self.tolerance)

    @model_validator(mode="after")
    def _check_fixed_grid_options(self) -> "RK45Settings":
        if self.guidance.holes:
            raise ValueError(NO_INPAINTING)
        if self.precision == "bf16":
            raise ValueError(
                "the rounding error of bf16 exceeds the tolerance of rk45; use precision=fp32, or "
                "a sampler with a fixed time grid"
            )
        return self


NO_INPAINTING = (
    "inpainting replaces the known pixels after each step of a fixed time grid, but rk45 has "
    "none; use another sampler"
)


class MultistepSettings(TimeGridSampler):
    """The exponential multistep sampler in whitened coordinates, for few network evaluations."""

    predicts_images = True

    integrator: str = "multistep"
    """Extrapolates past predictions of the image; the linear part of a step is exact."""
    root: Literal["flow", "straight"] = "straight"
    """The whitened coordinates. `straight`: only the first coordinate depends on the image. `flow`:
    the coordinates follow the probability-flow ODE."""
    order: int = Field(2, ge=1, le=3)
    """Number of predictions that a step uses; the first steps use fewer predictions."""
    eta: float = Field(1.0, ge=0, le=100)
    """η, the amount of noise. 0: deterministic. For k = 1, η = 1 gives the noise of the reverse
    SDE."""
    eta_interval: tuple[float, float] | None = (0.02, 0.5)
    """The lowest and the highest noise level σ_eff at which η acts; null: all levels."""
    corrector: bool = True
    """Correct each step with the prediction at its end time; this adds no evaluations."""
    interpolation: Literal["lambda", "t", "sqrt-t"] = "t"
    """The variable of the polynomial through the past predictions: λ = −log σ_eff, t, or √t."""

    def build(self, process, device, inpainting=None):
        from psld.diffusion.multistep import Multistep

        options = {"root", "order", "eta", "eta_interval", "corrector", "interpolation", "denoise"}
        chosen = {name: getattr(self, name) for name in options}
        return Multistep(process, self.time_grid(process), device, inpainting=inpainting, **chosen)

    @model_validator(mode="after")
    def _check_eta_interval(self) -> "MultistepSettings":
        if self.eta_interval and not 0 <= self.eta_interval[0] < self.eta_interval[1]:
            raise ValueError(f"eta_interval must be two ascending numbers, got {self.eta_interval}")
        return self
