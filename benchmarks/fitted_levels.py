"""Noise levels fitted to a model against the levels of `few`: are they worth a command?

    python -m benchmarks.fitted_levels FOLDER --grid digits-denoiser --model denoiser-psld-0.02

FOLDER is where the grid ran. Levels are fitted by endpoint matching (LD3, 2405.15506): with N
steps from the start of `few`, come near to what 40 steps make of the same noise. Both are without
noise in between, and a (1+1) search of 200 trials changes the increments of log σ. Then 1,000
samples at the fitted levels, with the sampler's own noise and of seeds that the search has not
seen, are compared with those of `few`: Fréchet distances, features / pixels.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import psld
from benchmarks.few_steps import SAMPLES, Reference, Row
from benchmarks.peers import spaced
from psld.diffusion.time_grid import level_range
from psld.sampling.named import compose_named
from psld.sampling.sample import cell_sampler
from psld.utils.errors import in_one_line

FINE = 40
NOISES = 100
"""Half of them to fit, the others to see if the fit holds."""
NOISE_SEED = 777
TRIALS = 200


def fitted(model: psld.LoadedModel, steps: int) -> tuple[list[float], str]:
    """Return falling noise levels, and the error of both halves before and after."""
    words = ["sampler=few", f"sampler.steps={steps}"]
    sampler = compose_named(words, "fitted_levels").sampler
    high = cell_sampler(model, None, sampler, NOISES).settings.start_level
    low, _ = level_range(model.process, sampler.final_time)

    def run(steps: int, **options: object) -> Tensor:
        given = {"sampler": "few", "seed": NOISE_SEED, "eta": 0.0, "raw": True, **options}
        return model.sample(NOISES, steps=steps, **given)

    fine = run(FINE, start_level=high)

    def levels(increments: Tensor) -> list[float]:
        passed = torch.softmax(increments, dim=0).cumsum(dim=0)
        return [high, *(high * (low / high) ** passed).tolist()]

    def errors(increments: Tensor) -> Tensor:
        error = (run(steps, levels=levels(increments)) - fine).flatten(1).square().mean(dim=1)
        return error.view(2, -1).mean(dim=1)

    best = -spaced(steps, low, high).log().diff()
    best = (best / best.sum()).log()
    first = error = errors(best)
    generator, size = torch.Generator().manual_seed(0), 0.5
    for _ in range(TRIALS):
        trial = best + size * torch.randn(best.shape, generator=generator, dtype=best.dtype)
        trial_error = errors(trial)
        if trial_error[0] < error[0]:
            best, error, size = trial, trial_error, min(1.0, 1.5 * size)
        else:
            size = max(0.02, 0.93 * size)
    halves = (
        f"{math.sqrt(a):.3f} to {math.sqrt(b):.3f}" for a, b in zip(first, error, strict=True)
    )
    return levels(best), "; ".join(halves)


@in_one_line()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the grid ran")
    parser.add_argument("--grid", default="digits-denoiser")
    parser.add_argument("--model", default="denoiser-psld-0.02")
    parser.add_argument("--metric", default="fd-classifier", help="whose classifier is used")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    given = parser.parse_args()
    model = psld.load(given.folder / "models" / given.grid / given.model)
    reference = Reference(given.folder, model.settings.dataset.name, given.metric)
    for steps in given.steps:
        started = time.monotonic()
        levels, errors = fitted(model, steps)
        print(f"{steps} steps, {time.monotonic() - started:.0f} s: ", end="")
        print(", ".join(f"{level:.3g}" for level in levels))
        print(f"  error of the images without noise, fitted; other half: {errors}")
        for seed in given.seeds:
            options = {"sampler": "few", "steps": steps, "seed": seed}
            images = [model.sample(SAMPLES, **options | o) for o in ({}, {"levels": levels})]
            ours, other = (Row.of({"": [reference.distances(each)]}) for each in images)
            ratio = other.over(ours)
            print(f"  seed {seed}: few {ours}; fitted {other}; ratio {ratio}", flush=True)


if __name__ == "__main__":
    main()
