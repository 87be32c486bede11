"""The work, speed and error of bf16, in sampling and in training.

python -m benchmarks.precision [REPEATS]
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.settings import compose_model
from psld.diffusion.loop import sample
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import NetworkScore
from psld.networks.forward import Precision, UnderAutocast, forward_pass
from psld.training.model import build

STEPS = 3
NETWORKS = {
    "39 million parameters": (["dataset=cifar10", "network=cifar10-ablation"], 16, 32, 3),
    "the demo's, 0.6 million": (["dataset=digits", "network=demo"], 250, 8, 1),
}
"""Overrides, images in a batch, and the size and channels of an image."""
WAYS: tuple[Precision, ...] = ("fp32", "bf16")
COUNTED = {
    "39 million parameters": ["dataset=cifar10", "network=cifar10-ablation"],
    "97 million parameters": ["dataset=cifar10", "network=cifar10-sota"],
}


class Work(TorchDispatchMode):
    """Counts the kernels of a computation, and the bytes that they read and write.

    Attention, which is one kernel on a GPU, counts as its products here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name == "_unsafe_view" or "empty" in name):
            self.kernels += 1
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return result


def main(repeats: int) -> None:
    """Count the work of two networks without values; measure two with random nonzero weights."""
    torch.set_num_threads(1)
    for name, overrides in COUNTED.items():
        for way in WAYS:
            count(f"{name}, {way}", overrides, way, images=128)
    for name, network in NETWORKS.items():
        print(f"{name}:")
        compare(*network, repeats)


def count(name: str, overrides: list[str], way: Precision, images: int) -> None:
    """Print the work of an evaluation, and of both passes without dropout."""
    model = compose_model([*overrides, "process=psld"], "benchmarks.precision")
    process = model.process.build()
    with torch.device("meta"):
        network = build(model, process).eval()
        inputs = torch.empty(images, *network.in_shape), torch.empty(images)
    called, found = forward_pass(network, way), []
    for backward in (False, True):
        with torch.set_grad_enabled(backward), Work() as work:
            error = called(*inputs).float().square().mean()
            if backward:
                error.backward()
        found.append(f"{work.kernels} kernels, {work.bytes / 1e9:.0f} GB")
    print(f"{name}, {images} images: {found[0]}; with the backward pass {found[1]}")


def compare(overrides: list[str], images: int, size: int, channels: int, repeats: int) -> None:
    """Measure a network in all ways."""
    torch.manual_seed(0)
    model = compose_model([*overrides, "process=psld"], "benchmarks.precision")
    process = model.process.build()
    plain = build(model, process).eval()
    for parameter in plain.parameters():
        if parameter.dim() > 1:  # the last layers start near 0; this would hide the error
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    networks = {way: forward_pass(copy.deepcopy(plain), way) for way in WAYS}
    networks["autocast"] = UnderAutocast(copy.deepcopy(plain))  # torch's own way to bf16
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
    """Run all ways in turn; print the speed and error of the others relative to fp32."""
    ways = (*WAYS, "autocast")
    results = {name: run(name) for name in ways}
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, taken in seconds.items():
            started = time.process_time()
            run(name)
            taken.append(time.process_time() - started)
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
