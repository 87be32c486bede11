"""Measure the error of samplers, its components and its order, with an exactly known score.

    python -m benchmarks.exact                                      # all samplers of the project
    python -m benchmarks.exact --process "psld gamma=0.25" --sampler "em final_time=1e-5"
    python -m benchmarks.exact --sampler "k_diffusion.sampling.sample_heun disable=true"

The data is a mixture of Gaussians in one dimension, and the score is exact, as after a perfect
training. MODULE.FUNCTION is a variance-exploding sampler, as in k-diffusion: a function
(D, y, levels) → images, with a denoiser D(y, σ), states y at the first noise level, and decreasing
noise levels that end with 0. The benchmark passes one noise level per step, spaced as in Karras et
al. (2022), between the lowest and the highest noise level of the process.

The error is the Wasserstein-1 distance to the data: how far the samples must move, on average, to
become the data. It is at most the sum of three Wasserstein-1 distances:

    start   between the samples A, and samples B whose initial states are exact draws of the process
    steps   between B, and samples C of the last evaluation alone, from exact draws just before it
    end     between C, and the data

The table shows the error for each number of evaluations. If a sampler makes a different number of
evaluations than its column says, the number of the sampler follows after @. The three components
are shown for the last column. The order of convergence is measured, without draws, on the mean and
the covariance of one Gaussian. For functions, the order of the component `steps` is measured.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pydoc import locate
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from psld.config.settings import parse
from psld.diffusion.loop import sample
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import SamplerSettings, TimeGridSampler
from psld.diffusion.score import NetworkScore
from psld.diffusion.time_grid import level_range
from psld.sampling.named import named_process, named_sampler
from psld.utils.errors import UserError
from tests.diffusion.mixture import Mixture
from tests.diffusion.sampling import final_moments, marginal

DATA = Mixture(weights=(0.5, 0.3, 0.2), means=(-0.7, 0.1, 0.6), deviations=(0.1, 0.3, 0.1))
SAMPLERS = ("em", "em striding=quadratic", "sscs", "conjugate", "gddim", "rk45", "multistep")
SAMPLERS += ("multistep eta=0", "multistep root=flow eta=0", "few start_level=2 fall=null")
STEPS = (5, 10, 20, 40, 80)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""The tolerances of rk45, which has adaptive steps instead of a number of steps."""
IMAGES = 2**15
ABOVE = 1.01
"""The noise level just before the last evaluation, divided by the last noise level."""
ORDER_STEPS = (10, 20, 40, 80, 160, 320)
ROUNDING = 1e-7
"""An upper bound of the error that float32 coefficients cause in the moments of a Gaussian."""


class Run(NamedTuple):
    """The images that a sampler returns, and the number of evaluations per image."""

    images: Tensor
    evaluations: int


@dataclass(frozen=True)
class Sampler:
    """A sampler on a mixture."""

    data: Mixture
    budgets: Sequence[float]
    """Numbers of steps, tolerances (rk45), or numbers of levels."""

    def run(self, budget: float | None, law: Mixture | None, seed: int) -> Run:
        """Run from exact draws of the process for images of `law`.

        If `law` is None, run from the initial distribution of the sampler. If `budget` is None, run
        only the last evaluation, from exact draws just before it.
        """
        raise NotImplementedError

    def order(self, evaluations: Sequence[int], errors: Sequence[float]) -> float:
        """Return the order of the component `steps`, from errors above the sampling noise."""
        twice = (self.run(self.budgets[-1], self.data, seed).images for seed in (3, 4))
        return fitted_order(evaluations, errors, floor=2 * distance(*twice))


@dataclass(frozen=True)
class Ours(Sampler):
    """A sampler of the project on a process."""

    process: LinearProcess
    settings: SamplerSettings

    def run(self, budget: float | None, law: Mixture | None, seed: int) -> Run:
        process, settings, t = self.process, *self._settings(budget)
        law = self.data.gaussian() if settings.starts_from_data and not law else law
        choice, within, noise = normal((1, 1, process.blocks), seed)
        if law:
            z = mix(process.image_mean(t)[0, :, None], law.draw(choice, within))
            z = z + mix(process.image_factor(t)[0], noise)
        else:
            z = process.prior(noise)
        torch.manual_seed(seed)
        score = NetworkScore(self.data.network(process), batch_size=1)
        end = sample(process, settings, score, z, torch.randn_like, silent=True)
        return Run(end[:, :1], score.evaluations)

    def order(self, evaluations: Sequence[int], errors: Sequence[float]) -> float:
        """Return the order, measured without draws on the Gaussian with the moments of the data."""
        if not isinstance(self.settings, TimeGridSampler) or self.settings.levels:
            return math.nan
        grids = [changed(self.settings, steps=n, levels=None) for n in ORDER_STEPS]
        exact = [error(self.process, each, self.data.gaussian()) for each in grids]
        return fitted_order(ORDER_STEPS, exact, floor=ROUNDING)

    def _settings(self, budget: float | None) -> tuple[SamplerSettings, Tensor]:
        """Return the settings for a budget, and the first time of their time grid."""
        if not isinstance(self.settings, TimeGridSampler):
            finest = TOLERANCES[-1] / 100
            return changed(self.settings, tolerance=budget or finest), torch.tensor([1.0])
        changes: dict[str, object] = {"steps": budget}
        if budget is None:
            low = float(self.process.noise_level(self.settings.time_grid(self.process)[-1]))
            levels = [low * ABOVE**i for i in ((1, 0) if self.settings.denoise else (2, 1, 0))]
            changes = {"levels": levels, "start": "gaussian", "start_level": None}
            given = (self.settings.model_copy(update={"steps": n}) for n in count(2))
            changes["steps"] = next(s.steps for s in given if s.grid_steps == len(levels) - 1)
        settings = changed(self.settings, **changes)
        return settings, settings.time_grid(self.process)[:1]


@dataclass(frozen=True)
class Function(Sampler):
    """A variance-exploding sampler, (D, y, levels) → images."""

    function: Callable[..., Tensor]
    levels: tuple[float, float]
    """The lowest and the highest noise level."""

    def run(self, budget: float | None, law: Mixture | None, seed: int) -> Run:
        (low, high), evaluations = self.levels, 0
        levels = [*np.linspace(high ** (1 / 7), low ** (1 / 7), int(budget or 0)) ** 7, 0.0]
        if budget is None:
            levels = [ABOVE * low, low, 0.0]
        choice, within, noise = normal((1, 1, 1), seed)
        y = levels[0] * noise + (law.draw(choice, within) if law else 0)

        def denoise(y: Tensor, sigma: Tensor, **_: object) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return self.data.denoise(y, sigma)

        torch.manual_seed(seed)
        images = self.function(denoise, y, torch.tensor(levels, dtype=torch.float32))
        return Run(images, evaluations)


def changed(settings: SamplerSettings, **changes: object) -> SamplerSettings:
    """Return the settings with changes. Raises UserError for invalid changes."""
    return parse(type(settings), settings.model_dump() | changes, "exact")


def normal(blocks: tuple[int, ...], seed: int) -> tuple[Tensor, ...]:
    """Return standard normal numbers, 1×b×1×N for each b in `blocks`, from a Sobol sequence."""
    points = torch.quasirandom.SobolEngine(sum(blocks), scramble=True, seed=seed).draw(IMAGES)
    numbers = torch.special.ndtri(points.T.contiguous().clamp(1e-7, 1 - 1e-7))
    return numbers[None, :, None].split(blocks, dim=1)


def distance(images: Tensor, others: Tensor) -> float:
    """Return the Wasserstein-1 distance of two samples of equal size."""
    first, second = (each.flatten().sort().values for each in (images, others))
    return float((first - second).abs().mean())


def error(process: LinearProcess, settings: SamplerSettings, data: Mixture) -> float:
    """Return the largest error of mean and covariance at the final time, on one Gaussian."""
    found = final_moments(process, changed(settings, denoise=False), data)
    exact = marginal(process, settings.final_time, data)
    return max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True))


def fitted_order(evaluations: Sequence[float], errors: Sequence[float], floor: float = 0) -> float:
    """Return p of error ∝ evaluations⁻ᵖ, fitted to the last three errors above the floor."""
    above = [pair for pair in zip(evaluations, errors, strict=True) if pair[1] > floor][-3:]
    return -float(np.polyfit(*np.log(above).T, deg=1)[0]) if len(above) > 1 else math.nan


def cells(sampler: Sampler) -> list[str]:
    """Return the table row of a sampler, without the cell for its name."""
    data, budgets = sampler.data, sampler.budgets
    truth, last = data.draw(*normal((1, 1), 0)), sampler.run(None, data, 1).images
    own, exact = ([sampler.run(each, law, 2) for each in budgets] for law in (None, data))
    steps = [distance(run.images, last) for run in exact]
    row = [
        f"{distance(run.images, truth):.2g}"
        + (f" @ {run.evaluations}" if run.evaluations != budget else "")
        for run, budget in zip(own, budgets, strict=True)
    ]
    parts = [distance(own[-1].images, exact[-1].images), steps[-1], distance(last, truth)]
    order = sampler.order([run.evaluations for run in exact], steps)
    return [*row, *(f"{part:.2g}" for part in parts), "–" if math.isnan(order) else f"{order:.1f}"]


def words(text: str) -> tuple[str, dict[str, str]]:
    """Split "NAME KEY=VALUE …" into the name and the options."""
    name, *options = text.split()
    return name, dict(word.split("=", 1) for word in options)


def sampler_of(text: str, process: LinearProcess, data: Mixture, steps: Sequence[int]) -> Sampler:
    """Return the sampler of "NAME KEY=VALUE …". Raises UserError for unknown names."""
    name, options = words(text)
    if "." not in name:
        settings = named_sampler("exact", name, None, options)
        budgets = steps if isinstance(settings, TimeGridSampler) else TOLERANCES
        return Ours(data, budgets, process, settings)
    if not callable(function := locate(name)):
        raise UserError(f"{name}: no such function; MODULE.FUNCTION is needed")
    values = {key: yaml.safe_load(value) for key, value in options.items()}
    return Function(data, steps, partial(function, **values), level_range(process, 1e-3))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--process", default="psld", help='"NAME KEY=VALUE …"')
    parser.add_argument("--sampler", action="append", help="the same, or MODULE.FUNCTION")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    given = parser.parse_args()
    name, options = words(given.process)
    texts = given.sampler or SAMPLERS
    try:
        process = named_process("exact", {name: options}).build()
        samplers = [sampler_of(text, process, DATA, given.steps) for text in texts]
    except UserError as error:
        parser.error(str(error))
    columns = ["sampler", *map(str, given.steps), "start", "steps", "end", "order"]
    print("|", " | ".join(columns), "|\n|" + " --- |" * len(columns))
    for text, sampler in zip(texts, samplers, strict=True):
        try:
            print("|", " | ".join([f"`{text}`", *cells(sampler)]), "|", flush=True)
        except UserError as refused:
            print(f"| `{text}` | {refused} |")
    pairs = torch.randn(20, 2, 2, IMAGES, generator=torch.Generator().manual_seed(0))
    noise = fmean(distance(DATA.draw(*one), DATA.draw(*other)) for one, other in pairs)
    print(f"\nTwo sets of random draws have a distance of {noise:.2g}.")


if __name__ == "__main__":
    main()
