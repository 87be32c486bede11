"""Compare distance and speed of the student, of our samplers and of diffusers samplers.

    pip install diffusers
    python -m studies.one.peers digits fd-classifier

Run this program in the folder in which the study has run for the dataset. It prints the Fréchet
distance (the mean over three trainings, and their range) and the speed of each sampler.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

import psld

EM = {"sampler": "em", "striding": "quadratic"}
STUDENT = {"sampler": "few", "steps": 1}
OURS = {
    "few, 2": {"sampler": "few", "steps": 2},
    "few, 3": {"sampler": "few", "steps": 3},
    "few without noise, 10": {"sampler": "few", "steps": 10, "eta": 0},
    "EM from the mixture, 10": {**EM, "start": "mixture", "steps": 10},
    "EM from the mixture, 100": {**EM, "start": "mixture", "steps": 100},
    "EM from the prior, 100": {**EM, "steps": 100},
}
SCHEDULERS = {"DPM++ 2M": DPMSolverMultistepScheduler, "UniPC": UniPCMultistepScheduler}


FALL = 3.0
"""As in configs/sampler/few.yaml: last noise level = first noise level / FALL^(steps − 1)."""


def levels(first: float, last: float, steps: int, power: float) -> Tensor:
    """Return decreasing noise levels, evenly spaced in σ^(1/power)."""
    return torch.linspace(first ** (1 / power), last ** (1 / power), steps) ** power


@torch.no_grad()
def by_scheduler(scheduler: type, denoiser: nn.Module, y: Tensor, sigmas: Tensor) -> Tensor:
    """Sample with a scheduler of diffusers, starting from noisy images y at the first noise level.

    The state of the scheduler at noise level σ is α y with α = (1 + σ²)^(-1/2).
    """
    steps = scheduler(solver_order=2, prediction_type="sample", final_sigmas_type="zero")
    steps.set_timesteps(len(sigmas))
    steps.sigmas = torch.cat([sigmas, torch.zeros(1)])
    steps.set_begin_index(0)
    alphas = (1 + steps.sigmas**2) ** -0.5
    x = alphas[0] * y
    for i, t in enumerate(steps.timesteps):
        images = denoiser(x / alphas[i], sigmas[i].expand(len(x)))
        x = steps.step(images, t, x).prev_sample
    return x


def programs(model: psld.LoadedModel, student: psld.LoadedModel) -> dict[str, Callable]:
    """Return a function that samples n images for each sampler, keyed by the sampler's name."""

    def ours(chosen: psld.LoadedModel, words: dict) -> Callable[[int], Tensor]:
        return lambda n: chosen.sample(n, seed=1, **words)

    def theirs(scheduler: type, steps: int, as_few: bool) -> Callable[[int], Tensor]:
        start, denoiser = model.start, psld.denoiser(model)
        sigma, lowest = start.level(), float(model.process.noise_level(torch.tensor(1e-3)))
        few = sigma, max(lowest, sigma / FALL ** (steps - 1)), steps, 2.0
        grid = levels(*few) if as_few else levels(sigma, lowest, steps, 7.0)

        def sample(n: int) -> Tensor:
            data = model.settings.dataset
            shape = (n, data.channels, data.image_size, data.image_size)
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(shape, generator=generator)
            y = start.data.draw(noise, sigma, which=torch.rand(n, generator=generator))
            x = torch.cat([by_scheduler(scheduler, denoiser, part, grid) for part in y.split(250)])
            return ((x + 1) * 127.5).round().clamp(0, 255).byte()

        return sample

    made = {"student, 1": ours(student, STUDENT)}
    made |= {name: ours(model, words) for name, words in OURS.items()}
    for name, scheduler in SCHEDULERS.items():
        for steps in (3, 10):
            for label, as_few in (("levels of few", True), ("Karras's levels", False)):
                made[f"{name}, {steps}, {label}"] = theirs(scheduler, steps, as_few)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("metric", help="such as fd-classifier")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=250, help="images of a timed run")
    options = parser.parse_args()
    torch.set_num_threads(1)

    distances: dict[str, list[float]] = {}
    for seed in ("", "-seed1", "-seed2"):
        names = f"{options.dataset}{seed}", f"{options.dataset}-student{seed}"
        made = programs(*(psld.load(f"models/one/{name}", device="cpu") for name in names))
        for name, sample in made.items():
            result = psld.evaluate(sample(options.samples), options.dataset, options.metric)
            distances.setdefault(name, []).append(result.value)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(5):  # Alternate the samplers, so that other load affects all of them.
        for name, sample in made.items():
            started = time.process_time()
            sample(options.timed)
            seconds[name].append(time.process_time() - started)
    slowest = np.array(seconds["EM from the prior, 100"])
    print("| sampler, evaluations | distance | of each training | images a CPU second | EM is 1 |")
    print("|:--|--:|:--|--:|--:|")
    for name, values in distances.items():
        ratio = statistics.median(slowest / seconds[name])
        speed = options.timed / statistics.median(seconds[name])
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"| {name} | {np.mean(values):.2f} | {spread} | {speed:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
