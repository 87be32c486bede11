"""Settings of samplers and of their guidance, checked without torch.

A sampler is a class: its options, and `build`, which makes its integrator and needs torch.
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
"""A noise level; a process reaches less than 1,000 from images on [−1, 1]."""

Power = Annotated[float, Field(ge=0.1, le=100)]


class SamplerSettings(Part):
    """The settings of every sampler."""

    KEY = "integrator"
    noun = "sampler"
    recorded_attributes = ("evaluations",)

    evaluations: ClassVar[int | None] = None
    """Network evaluations per image; None for a sampler that chooses its steps."""

    integrator: str
    """The kind of sampler."""
    final_time: float = Field(default=1e-3, gt=0, lt=1)
    """The forward time at which the integrator stops, if `fall` does not stop it before."""
    denoise: bool = True
    """End with one more evaluation at `final_time`: a noise-free Euler step of the reverse SDE to
    time 0 (of rk45: of its ODE), or the predicted image (multistep)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; a guide, the state and all coefficients stay in fp32. On a GPU,
    networks in fp32, guides included, multiply with TF32's ten bits, except in rk45's steps."""
    guidance: Guidance = NoGuidance()
    """The guidance of the samples, if any."""

    @property
    def starts_from_data(self) -> bool:
        """True if the sampler begins at Gaussians of the training images."""
        return getattr(self, "start", "prior") != "prior"

    @property
    def asks_for_classes(self) -> bool:
        return self.guidance.asks_for_classes

    def check_evaluations(self, counted: int) -> None:
        """Raise UserError if a custom part takes another number than `evaluations`."""
        if self.evaluations not in (None, counted):
            raise UserError(
                f"sampler: {self.integrator} with guidance {self.guidance.kind}: takes {counted} "
                f"network evaluations, not {self.evaluations}; `grid_steps` of the sampler and "
                "`evaluations` of the guidance say how many (None: not fixed)"
            )

    @property
    def cost(self) -> float:
        """A number that grows with the work: figures draw samplers of a family by it."""
        return float(self.evaluations or 0)

    def check_process(self, process: "ProcessSettings | LinearProcess") -> None:
        """Raise UserError if the sampler cannot sample this kind of process."""

    def noise_levels(self, process: "LinearProcess") -> tuple[float, float]:
        """Return the smallest and the largest noise level that the network is asked for; if there
        is none, inf and 0."""
        from psld.diffusion.time_grid import level_range

        return level_range(process, self.final_time)

    def build(
        self,
        process: "LinearProcess",
        device: "torch.device",
        inpainting: "Inpainting | None" = None,
    ) -> "Integrator":
        """Build the integrator. Raises UserError if it does not suit the process or inpainting: one
        that ignores `inpainting` must have `replacement_times`."""
        raise NotImplementedError


class TimeGridSampler(SamplerSettings):
    """The settings of samplers with a fixed time grid."""

    predicts_images: ClassVar[bool] = False
    """True if the last step gives the predicted image, which needs no step before."""

    striding: Literal["uniform", "quadratic", "power", "lambda", "edm"]
    """The time grid: `uniform` or `quadratic` in time, evenly spaced in t^(1/p) (`power`), in λ
    (`lambda`), or in σ_eff^(1/p) (`edm`). All but `uniform` put more steps near the data."""
    power: Power = 7.0
    """p of the strides `power` and `edm` (EDM's ρ: 7); the others ignore it."""
    steps: int = Field(ge=0, le=100_000)
    """N: evaluations of the score per image, including the final one. Each evaluates the network
    once, or twice under classifier-free guidance (scale 1: once). With a start from images, 0 gives
    draws from the start's law: images without the network, whatever the other options are."""
    start: Annotated[Literal["prior", "gaussian", "mixture"], Neutral("prior")] = "prior"
    """Where the sampler begins: the prior at T; or, at the noise level `start_level`, the Gaussian
    with the mean and covariance of the training images, or a mixture of Gaussians of them."""
    start_level: Level | None = Field(default=None, gt=0)
    """σ₀ of a start from images. Null: the level that the start gives."""
    fall: Annotated[float | None, Field(gt=1, le=1e6), Neutral(None)] = None
    """With a start from images, the least last level is σ₀ / fall^K, K the number of steps between
    levels: a few steps do not reach to nearly 0. Null: the last level is that of `final_time`."""
    levels: tuple[Level, ...] | None = None
    """The noise levels of the evaluations, falling, in place of `striding`; `steps` is their
    number. The first is the start's."""

    @property
    def evaluations(self):
        each = self.guidance.evaluations
        return each and self.steps * each

    @property
    def grid_steps(self) -> int:
        """K: the steps of the time grid. An integrator that evaluates at both ends of a step has
        half as many, rounded up: its last step may be one of Euler's, from its first end alone."""
        return self.steps - 1 if self.denoise else self.steps

    def time_grid(self, process: "LinearProcess") -> "torch.Tensor":
        """Return the descending forward times at which the integrator's steps start and end.

        Raises UserError if the process does not have the noise levels.
        """
        from psld.diffusion.time_grid import time_grid, times_of_levels

        if self.levels:
            from_prior = not self.starts_from_data
            return times_of_levels(process, self.levels, self.final_time, from_prior).clone()
        if self.starts_from_data and self.start_level is None:
            where = "needs it where no model gives it"
            raise UserError(f"sampler.start_level: start={self.start} {where}")
        grid = self.final_time, self.power, self.start_level, self.fall
        return time_grid(process, self.striding, self.grid_steps, *grid).clone()  # It is kept.

    def noise_levels(self, process):
        if not self.steps:
            return inf, 0.0
        last_is_evaluated = self.denoise or self.steps >= 2 * self.grid_steps
        ends = [-1 if last_is_evaluated else -2, 0]
        low, high = process.noise_level(self.time_grid(process)[ends])
        return float(low), float(high)

    @model_validator(mode="after")
    def _start_fits(self) -> "TimeGridSampler":
        once = self.starts_from_data and self.denoise and self.predicts_images
        if (self.steps == 1 and not once) or (self.steps == 0 and not self.starts_from_data):
            raise ValueError(
                f"steps is {self.steps}; at least 2 are needed, or 0 for images of start=mixture "
                "or gaussian without the network, or with multistep 1 for the image predicted there"
            )
        if self.starts_from_data and self.guidance.holes:
            raise ValueError(f"start={self.start} has no known pixels; inpaint with start=prior")
        if not self.starts_from_data and self.start_level is not None:
            raise ValueError("start_level is for start=mixture or gaussian; set it to null")
        if self.levels is not None:
            if len(self.levels) < 2 or not all(a > b for a, b in pairwise((*self.levels, 0))):
                raise ValueError(
                    f"levels must be at least 2, fall and be above 0, got {list(self.levels)}"
                )
            if len(self.levels) != self.grid_steps + 1:
                raise ValueError(
                    f"levels has {len(self.levels)} noise levels; {self.grid_steps + 1} are needed "
                    f"for {self.steps} steps"
                )
            if self.start_level not in (None, self.levels[0]):
                raise ValueError("levels begin at the start: leave out start_level")
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
    """A sampler of the probability-flow ODE with adaptive steps: Dormand–Prince 5(4)."""

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
    def _suits_adaptive_steps(self) -> "RK45Settings":
        if self.guidance.holes:
            raise ValueError(NO_INPAINTING)
        if self.precision == "bf16":
            raise ValueError(
                "bf16 has an error above the tolerances of rk45, whose steps would follow the "
                "rounding; use precision=fp32, or a sampler with a fixed time grid"
            )
        return self


NO_INPAINTING = (
    "inpainting puts the known pixels back after each step of a fixed time grid, and rk45 has "
    "none; use another sampler"
)


class MultistepSettings(TimeGridSampler):
    """The exponential multistep sampler in whitened coordinates, for few evaluations."""

    predicts_images = True

    integrator: str = "multistep"
    """Past predictions of the image are extrapolated; the rest of a step is exact."""
    root: Literal["flow", "straight"] = "straight"
    """`straight`: only one combination of the blocks depends on the image; `flow`: the coordinates
    of the probability-flow ODE."""
    order: int = Field(2, ge=1, le=3)
    """Predictions that a step uses; the first steps use fewer."""
    eta: float = Field(1.0, ge=0, le=100)
    """η: noise. 0 is deterministic; for k = 1, 1 is the noise of the reverse SDE."""
    eta_interval: tuple[float, float] | None = (0.02, 0.5)
    """The noise levels (σ_eff, low and high) between which η acts; null means all levels."""
    corrector: bool = True
    """Repeat each step with the prediction at its end, without extra evaluations."""
    interpolation: Literal["lambda", "t", "sqrt-t"] = "t"
    """The variable of the polynomial through the past predictions: λ = −log σ_eff, t, or √t."""

    def build(self, process, device, inpainting=None):
        from psld.diffusion.multistep import Multistep

        options = {"root", "order", "eta", "eta_interval", "corrector", "interpolation", "denoise"}
        chosen = {name: getattr(self, name) for name in options}
        return Multistep(process, self.time_grid(process), device, inpainting=inpainting, **chosen)

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "MultistepSettings":
        if self.eta_interval and not 0 <= self.eta_interval[0] < self.eta_interval[1]:
            raise ValueError(f"eta_interval must be two rising numbers, got {self.eta_interval}")
        return self
