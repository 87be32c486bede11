"""Training and sampling of the paper's networks on a GPU, next to a plain PyTorch loop.

    python -m benchmarks.gpu

Without a GPU it prints one line. `python -m benchmarks.gpu cpu` runs the demo's network on the CPU,
to check the benchmark itself, without compiling.
"""

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from psld.diffusion.loop import sample
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import NetworkScore
from psld.grid.resolution import compose_model
from psld.networks.forward import forward_pass
from psld.training.batches import Batches
from psld.training.loop import Meter, optimize
from psld.training.model import build_network, forward_flops
from psld.training.ranks import Ranks
from psld.training.settings import TRAIN_FACTOR, ModelSettings
from psld.training.state import TrainingState
from psld.utils.device import device_name, peak_flops, use_device
from psld.utils.randomness import ShardNoise

NETWORKS = {
    "39M": ("cifar10", "cifar10-ablation", "cifar10-ablation", 128, 512),
    "97M": ("cifar10", "cifar10-sota", "cifar10-sota", 128, 512),
    "AFHQv2": ("afhqv2-128", "afhqv2-sota", "afhqv2-sota-psld", 32, 64),
}
"""Dataset, network, recipe; images of a training step and of a network evaluation in sampling."""
DEMO = {"demo": ("digits", "demo", "demo", 8, 8)}
WAYS = (("fp32", False), ("bf16", False), ("bf16", True))
"""Precision (fp32 is TF32 on a GPU), and whether the network is compiled."""
WARM_UP, STEPS = 3, 10

Action = Callable[[], object]


def main(name: str) -> None:
    if name != "cpu" and not torch.cuda.is_available():
        print("benchmarks.gpu: skipped, there is no GPU here")
        return
    device = use_device(name, tf32=True)
    print(f"{device_name(device)}, torch {torch.__version__}\n")
    trained, sampled = [], []
    for label, (dataset, network, recipe, train_images, sample_images) in (
        DEMO if name == "cpu" else NETWORKS
    ).items():
        words = [f"dataset={dataset}", f"network={network}", f"training={recipe}"]
        model = compose_model([*words, "training.micro_batch=null"], "benchmarks.gpu")
        for precision, compile in WAYS[: 2 if name == "cpu" else None]:
            way = f"{label}, {precision}{', compiled' if compile else ''}"
            print(f"{way} …", file=sys.stderr, flush=True)
            how = (model, device, precision, compile)
            trained.append([way, *fitting(training, train_images, *how)])
            sampled.append([way, *fitting(sampling, sample_images, *how)])
    print(f"Training, {STEPS} steps:\n\n{table(trained, 'a plain loop', 'drawing the batches')}")
    print(f"\nSampling, EM, {STEPS} steps:\n\n{table(sampled, 'bare evaluations', 'noise')}")


def fitting(measure: Callable[..., Iterator[str]], images: int, *how: object) -> list[str]:
    """Return the number of images and what is measured with it; halve it if memory runs out."""
    while True:
        try:
            return [str(images), *measure(images, *how)]
        except torch.OutOfMemoryError:
            images //= 2
        except RuntimeError as error:  # a compiler that is missing must not end the benchmark
            return [str(images), f"failed: {str(error).splitlines()[0][:60]}"]
        torch.cuda.empty_cache()


def table(rows: list[list[str]], baseline: str, input: str) -> str:
    headers = [
        "network",
        "images",
        "images/s",
        f"against {baseline}",
        f"share of {input}",
        "MFU",
        "GiB",
    ]
    return tabulate(rows, headers, "github", disable_numparse=True)


def training(
    size: int, model: ModelSettings, device: torch.device, precision: str, compile: bool
) -> Iterator[str]:
    """Measure whole steps against steps without draws, and against a loop of plain PyTorch."""
    process = model.process.build()
    state = TrainingState(build_network(model, process).to(device), model.training)
    called = forward_pass(state.network, precision, compile=compile)
    dataset, settings = model.dataset, model.training.model_copy(update={"batch_size": size})
    shape = (2048, dataset.channels, dataset.image_size, dataset.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ranks, loss_of = Ranks(0, 1, device), EpsilonLoss(process)
    batches, meter = Batches(images, True, NoisyStates(process), settings, ranks), Meter(ranks)
    fixed = batches.draw(0)

    def step(draws: bool) -> None:
        batch = batches.draw(state.step) if draws else fixed
        meter.add(state.step, *optimize(state, called, loss_of, batch, settings))

    z = torch.randn(size, *state.network.in_shape, device=device)
    t, target = torch.rand(size, device=device), torch.randn_like(fixed.eps)
    optimizer = torch.optim.Adam(state.network.parameters(), fused=True)

    def plain() -> None:
        (called(z, t).float() - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    state.network.train()
    actions = (lambda: step(True), lambda: step(False), plain)
    return described(state.network, device, precision, TRAIN_FACTOR, size, *actions)


def sampling(
    size: int, model: ModelSettings, device: torch.device, precision: str, compile: bool
) -> Iterator[str]:
    """Measure a sampler's steps against those without noise, and against bare evaluations."""
    process = model.process.build()
    network = build_network(model, process).to(device).eval().requires_grad_(False)
    called = forward_pass(network, precision, compile=compile)
    settings = EMSettings(integrator="em", striding="quadratic", steps=STEPS)
    shape = (size, *network.in_shape)
    z, t = torch.randn(shape, device=device), torch.rand(size, device=device)

    def run(draws: bool) -> None:
        with ShardNoise(0, 0, shape, device) as noise:
            integrate(process, settings, called, z, noise if draws else torch.zeros_like)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                called(z, t)

    actions = (lambda: run(True), lambda: run(False), bare)
    return described(network, device, precision, 1, STEPS * size, *actions, steps=1)


def integrate(
    process: LinearProcess,
    settings: EMSettings,
    network: nn.Module,
    z: Tensor,
    noise: Callable[[Tensor], Tensor],
) -> Tensor:
    return sample(process, settings, NetworkScore(network, len(z)), z, noise)


def described(
    network: nn.Module,
    device: torch.device,
    precision: str,
    passes: int,
    images: int,
    whole: Action,
    without_input: Action,
    baseline: Action,
    steps: int = STEPS,
) -> Iterator[str]:
    """Yield images/s, its ratio to the baseline, the share of the input, MFU, and peak memory.

    Args:
        passes: FLOPs of an image in units of the network's forward pass.
        images: evaluated by one call of `whole`.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    times = [seconds(action, device, steps) for action in (whole, without_input, baseline)]
    speed = images / times[0]
    yield f"{speed:.0f}"
    yield f"{times[2] / times[0]:.2f}"
    yield f"{max(0.0, 1 - times[1] / times[0]):.1%}"
    peak = peak_flops(device, precision)
    yield f"{speed * passes * forward_flops(network.eval()) / peak:.1%}" if peak else "?"
    on_gpu = device.type == "cuda"
    yield f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}" if on_gpu else "?"


def seconds(action: Action, device: torch.device, steps: int) -> float:
    """Return the seconds of one call, as the mean of `steps` calls after a warm-up."""
    for _ in range(WARM_UP):
        action()
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        action()
    wait(device)
    return (time.perf_counter() - started) / steps


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda:0")
