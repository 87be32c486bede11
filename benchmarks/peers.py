"""Samplers that others wrote against `few`, on the same networks and from the same start.

    pip install k-diffusion diffusers 'setuptools<81'      # in an environment of their own
    python -m benchmarks.peers FOLDER --grid digits-denoiser --models denoiser-psld-0.02

FOLDER is where the grid ran. Every sampler runs three times over: as it comes (noise at σ = 80 and
Karras's levels), from our start at our levels, and from our start at levels that GITS finds.
All samplers see the denoiser D(y; σ) of the model. The table has two Fréchet distances of 1,000
samples, features / pixels, the ratio to `few`, and the p-value of the difference, as in
few_steps. It is not corrected for the number of rows: of twenty, one is below 0.05 by chance.
Measured cells are kept in FOLDER/peers.jsonl.
"""

import argparse
import math
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import Tensor

import psld
from benchmarks.few_steps import BATCH, SAMPLES, Cell, Distances, Kept, Reference, Row
from psld.data.store import to_uint8
from psld.diffusion.gaussian import GaussianData
from psld.sampling.named import named_sampler
from psld.sampling.sample import cell_sampler
from psld.training.manifest import ModelManifest, read_manifest
from psld.training.model import Model
from psld.utils.errors import in_one_line

Denoise = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Tensor], Tensor]
"""A sampler: (D, y at the first level, levels with 0 at the end) → images."""

OURS = ("few", "multistep")
SETTINGS = ("as it comes", "our start", "GITS")
KARRAS = (0.002, 80.0, 7.0)
"""σ_min, σ_max and ρ of Karras et al. (2022)."""
CHURN = {"s_churn": 1.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
"""Options of Karras et al. (2022) for ImageNet, with less churn: they are for 256 levels."""
TEACHER_LEVELS, TEACHER_IMAGES = 61, 100


# -- samplers ----------------------------------------------------------------------------------


def k_diffusion(name: str, **options: float) -> Sampler:
    def run(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
        from k_diffusion import sampling

        sampler = getattr(sampling, f"sample_{name}")
        return sampler(denoise, y, levels.float(), disable=True, **options)

    return run


def diffusers(name: str, **options: object) -> Sampler:
    """A scheduler of diffusers, for x = y / √(1 + σ²) and the prediction of the image."""

    def run(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
        import diffusers as library

        scheduler = getattr(library, name)(prediction_type="sample", **options)
        scheduler.set_timesteps(len(levels) - 1)
        scheduler.sigmas = levels.float()
        scheduler.timesteps = torch.arange(len(levels) - 1, 0, -1)
        scheduler.set_begin_index(0)
        x = y / (1 + levels[0] ** 2).sqrt().float()

        def image(x: Tensor, level: Tensor) -> Tensor:
            return denoise(x * (1 + level**2).sqrt().float(), level.float().expand(len(x)))

        for step, level in zip(scheduler.timesteps[:-1], levels[:-2], strict=True):
            x = scheduler.step(image(x, level), step, x).prev_sample
        return image(x, levels[-2])  # DEIS has no step to σ = 0, and UniPC's gives the same

    return run


ADAMS_BASHFORTH = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
    """iPNDM of fourth order (Zhang and Chen, 2023), with weights by index."""
    slopes: list[Tensor] = []
    for now, following in pairwise(levels[:-1]):
        slope = (y - denoise(y, now.float().expand(len(y)))) / now.float()
        slopes = [slope, *slopes][:4]
        weights = ADAMS_BASHFORTH[len(slopes) - 1]
        y = y + (following - now).float() * sum(w * d for w, d in zip(weights, slopes, strict=True))
    return denoise(y, levels[-2].float().expand(len(y)))


SAMPLERS: dict[str, Sampler] = {
    "DPM++ 2M (k-diffusion)": k_diffusion("dpmpp_2m"),
    "DPM++ 3M SDE (k-diffusion)": k_diffusion("dpmpp_3m_sde"),
    "LMS (k-diffusion)": k_diffusion("lms"),
    "UniPC (diffusers)": diffusers("UniPCMultistepScheduler"),
    "DEIS (diffusers)": diffusers("DEISMultistepScheduler"),
    "iPNDM": ipndm,
}
HEUN = {
    "Heun (k-diffusion)": k_diffusion("heun"),
    "Heun with churn (k-diffusion)": k_diffusion("heun", **CHURN),
}
"""They evaluate twice for each level but the last, so they run at odd numbers only."""


# -- levels ------------------------------------------------------------------------------------


def spaced(steps: int, low: float, high: float, rho: float = 2.0) -> Tensor:
    """Return falling levels, evenly spaced in σ^(1/ρ); those of `few` are so in √σ."""
    share = torch.linspace(1, 0, steps, dtype=torch.float64)
    return (low ** (1 / rho) + (high ** (1 / rho) - low ** (1 / rho)) * share) ** rho


def gits(denoise: Denoise, y: Tensor, low: float, high: float, steps: int) -> Tensor:
    """Levels of GITS (Chen et al., 2024): the cheapest path through a teacher's trajectory.

    The cost of a step is the error of one Euler step between two points of it.
    """
    levels = spaced(TEACHER_LEVELS, low, high)
    points, slopes = [y], []
    for now, following in pairwise(levels):
        slope = (points[-1] - denoise(points[-1], now.float().expand(len(y)))) / now.float()
        slopes.append(slope)
        points.append(points[-1] + (following - now).float() * slope)
    count = len(levels)
    cost = torch.full((count, count), math.inf)
    for i in range(count - 1):
        for j in range(i + 1, count):
            euler = points[i] + (levels[j] - levels[i]).float() * slopes[i]
            cost[i, j] = (euler - points[j]).flatten(1).norm(dim=1).mean()
    best, back = cost[0].clone(), []
    for _ in range(steps - 2):
        totals = best[:, None] + cost
        best, previous = totals.min(dim=0)
        back.append(previous)
    path = [count - 1]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return levels[[0, *reversed(path)]]


# -- cells -------------------------------------------------------------------------------------


class Subject:
    """A trained model as a denoiser, with our sampler's start and levels."""

    def __init__(self, folder: Path) -> None:
        self.model: Model = psld.load(folder)
        dataset = self.model.settings.dataset
        self.shape = (dataset.channels, dataset.image_size, dataset.image_size)

    def levels(self, steps: int) -> tuple[float, float]:
        """The lowest and the highest noise level of `few`."""
        sampler = named_sampler("peers", "few", steps, {})
        settings = cell_sampler(self.model, None, sampler, BATCH).settings
        return settings.noise_levels(self.model.process)

    def denoise(self, n: int, seed: int) -> Denoise:
        """D(y; σ) of n images; the momentum of a network of states is drawn from the seed."""
        if not self.model.settings.serves_every_process:
            return psld.denoiser(self.model, n, seed)
        network = psld.denoiser(self.model)
        return lambda y, sigma: torch.cat(
            [network(*part) for part in zip(y.split(BATCH), sigma.split(BATCH), strict=True)]
        )

    def images(self, sampler: str, setting: str, steps: int, seed: int) -> Tensor:
        if sampler in OURS:
            return self.model.sample(SAMPLES, sampler=sampler, steps=steps, seed=seed)
        denoise = self.denoise(SAMPLES, seed)
        count = (steps + 1) // 2 if sampler in HEUN else steps
        if setting == "as it comes":
            levels, random = spaced(count, *KARRAS), torch.Generator().manual_seed(seed)
            y = levels[0].float() * torch.randn(SAMPLES, *self.shape, generator=random)
        else:
            low, high = self.levels(steps)
            data = self.model.start.data
            y, levels = drawn(data, SAMPLES, high, seed), spaced(count, low, high)
            if setting == "GITS":
                others = drawn(data, TEACHER_IMAGES, high, seed + 1000)
                levels = gits(self.denoise(TEACHER_IMAGES, seed), others, low, high, count)
        torch.manual_seed(seed)
        run = (SAMPLERS | HEUN)[sampler]
        return to_uint8(run(denoise, y, torch.cat([levels, torch.zeros(1)])))


def drawn(data: GaussianData, n: int, sigma: float, seed: int) -> Tensor:
    """Draw n images with noise, x + σ n, from the law of a start."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *data.shape, generator=random)
    return data.draw(noise, sigma, which=torch.rand(n, generator=random))


@in_one_line()
@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the grid ran")
    parser.add_argument("--grid", default="digits-denoiser")
    parser.add_argument("--metric", default="fd-classifier", help="whose classifier is used")
    parser.add_argument(
        "--models", nargs="+", default=["denoiser-psld-0.02"], help="trainings of one model"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    given = parser.parse_args()
    models = given.folder / "models" / given.grid
    dataset = read_manifest(models / given.models[0], ModelManifest).settings.dataset.name
    reference = Reference(given.folder, dataset, given.metric)
    subjects = {name: Subject(models / name) for name in given.models}
    kept = Kept(given.folder / "peers.jsonl", reference)

    def one(name: str, seed: int, sampler: str, setting: str, steps: int) -> Distances:
        subject = subjects[name]
        made = given.metric, subject.model.weights_sha256, subject.model.start.sha256
        cell = Cell(*made, f"{sampler}, {setting}", steps, seed)
        return kept.distances(cell, lambda: subject.images(sampler, setting, steps, seed))

    def row(*how: str | int) -> Row:
        return Row.of({name: [one(name, seed, *how) for seed in given.seeds] for name in subjects})

    print(f"{'steps':>5}  {'features, pixels':>16}  {'/ few':>13}  p (features; pixels)  sampler")
    for steps in given.steps:
        ours = row("few", "", steps)
        names = [*SAMPLERS, *(HEUN if steps % 2 else ())]
        rows = [(name, "") for name in OURS] + list(product(names, SETTINGS))
        for sampler, setting in rows:
            theirs = row(sampler, setting, steps)
            p = "" if sampler == "few" else theirs.p_values(ours)
            print(
                f"{steps:5}  {theirs!s:>16}  {theirs.over(ours):>13}  {p:20}  {sampler}, {setting}"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
