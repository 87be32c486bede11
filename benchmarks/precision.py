"""The speed and error of bf16, in sampling and in training.

python -m benchmarks.precision [REPEATS]
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from psld.diffusion.loop import sample
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import NetworkScore
from psld.grid.resolution import compose_model
from psld.networks.forward import Precision, forward_pass
from psld.training.model import build_network

STEPS = 3
NETWORKS = {
    "39 million parameters": (["dataset=cifar10", "network=cifar10-ablation"], 16, 32, 3),
    "the demo's, 0.6 million": (["dataset=digits", "network=demo"], 250, 8, 1),
}
"""Overrides, images in a batch, and the size and channels of an image."""
WAYS: tuple[Precision, ...] = ("fp32", "bf16")


def main(repeats: int) -> None:
    """Measure two networks, with random nonzero weights, on one thread."""
    torch.set_num_threads(1)
    for name, network in NETWORKS.items():
        print(f"{name}:")
        compare(*network, repeats)


def compare(overrides: list[str], images: int, size: int, channels: int, repeats: int) -> None:
    """Measure a network in both ways."""
    torch.manual_seed(0)
    model = compose_model([*overrides, "process=psld"], "benchmarks.precision")
    process = model.process.build()
    plain = build_network(model, process).eval()
    for parameter in plain.parameters():
        if parameter.dim() > 1:  # the last layers start near 0; this would hide the error
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    networks = {way: forward_pass(copy.deepcopy(plain), way) for way in WAYS}
    z, t = torch.randn(images, 2 * channels, size, size), torch.rand(images)
    noise = torch.randn(STEPS, *z.shape)
    settings = EMSettings(integrator="em", striding="quadratic", steps=STEPS)

    def evaluate(name: str) -> Tensor:
        return networks[name](z, t).float()

    def loop(name: str) -> Tensor:
        draws = iter(noise)
        score = NetworkScore(networks[name], images)
        states = sample(process, settings, score, process.prior(z), lambda _: next(draws))
        return states[:, :channels]

    def gradient(name: str) -> Tensor:
        networks[name].zero_grad()
        networks[name](z, t).float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in networks[name].parameters()])

    report(f"forward and backward pass, {images} images", gradient, repeats)
    with torch.no_grad():
        report(f"the network, {images} images", evaluate, repeats)
        report(f"EM with {STEPS} steps, {images} images", loop, repeats)


def report(what: str, run: Callable[[str], Tensor], repeats: int) -> None:
    """Run both ways in turn and print the speed and error of bf16 relative to fp32."""
    results = {name: run(name) for name in WAYS}
    seconds = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, taken in seconds.items():
            started = time.perf_counter()
            run(name)
            taken.append(time.perf_counter() - started)
    exact = results.pop("fp32")
    print(f"{what}, fp32: {statistics.median(seconds['fp32']):.2f} s")
    for name, result in results.items():
        gains = [a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True)]
        error = (result - exact).norm() / exact.norm()
        print(
            f"  {name}: {statistics.median(gains):.2f} times as fast "
            f"({min(gains):.2f} to {max(gains):.2f}), relative difference {error:.2%}, "
            f"largest {(result - exact).abs().max() / exact.std():.2g} deviations"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
