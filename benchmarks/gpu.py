"""Training and sampling of the paper's networks on a GPU, compared with plain PyTorch loops.

`benchmarks.gpu_hour` runs these measurements one after the other, each in a separate process.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.settings import compose_model
from psld.diffusion.loop import sample
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import NetworkScore
from psld.models.build import build, forward_flops
from psld.models.settings import TRAIN_FACTOR, ModelSettings
from psld.networks.forward import forward_pass
from psld.training.batches import Batches
from psld.training.loop import Meter, optimize
from psld.training.ranks import Ranks
from psld.training.state import TrainingState
from psld.utils.device import peak_flops
from psld.utils.errors import is_out_of_memory
from psld.utils.randomness import ShardNoise


class Network(NamedTuple):
    """A network with its dataset and recipe, given by the names of their configs."""

    dataset: str
    network: str
    recipe: str
    micro_batch: int
    """The official batch size: images per GPU in the authors' scripts."""
    sampled: int
    """Images per network evaluation in sampling."""

    def settings(self) -> ModelSettings:
        words = [f"dataset={self.dataset}", f"network={self.network}", f"training={self.recipe}"]
        return compose_model(words, "benchmarks.gpu")


NETWORKS = {
    "39M": Network("cifar10", "cifar10-ablation", "cifar10-ablation", 32, 512),
    "97M": Network("cifar10", "cifar10-sota", "cifar10-sota", 16, 512),
    "AFHQv2": Network("afhqv2-128", "afhqv2-sota", "afhqv2-sota-psld", 8, 64),
}
TINY = {"demo": Network("digits", "demo", "demo", 16, 8)}
WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16-compiled": ("bf16", True)}
"""The precision (on a GPU, fp32 uses TF32), and True if the network is compiled."""
WARM_UP = 3
SUSTAINED = 100e12
"""The sustained FLOP/s that the planned GPU hours assume, as in docs/reproduction.md."""
IMAGES, EVALUATIONS = 50_000, 1_000
"""The number of images in a cell of Table 1, and the number of evaluations per image. The GPU hours
of sampling are computed from these numbers."""

Action = Callable[[], object]
Row = dict[str, str]


class Setting(NamedTuple):
    """How a network is measured."""

    network: Network
    precision: str
    compile: bool
    images: int
    """Images per batch."""
    device: torch.device
    steps: int


def measurements(device: torch.device) -> dict[str, tuple[str, Callable[[], Row]]]:
    """Return all measurements by name: a table title, and a function that measures a table row.

    On the CPU, only the demo's network is measured, with few steps and without compilation.
    """
    on_gpu, found = device.type == "cuda", {}
    for label, network in (NETWORKS if on_gpu else TINY).items():
        batch = network.settings().training.batch_size
        for way, (precision, compile) in WAYS.items():
            if compile and not on_gpu:
                continue
            for images in sorted({network.micro_batch, batch}):
                how = Setting(network, precision, compile, images, device, 10 if on_gpu else 2)
                name = f"train-{label}-{way}-{images}"
                found[name] = f"Training steps of {label}", partial(fitting, training, how)
            # Take many steps, because the first step also waits for its random numbers.
            steps = 100 if on_gpu else 3
            how = Setting(network, precision, compile, network.sampled, device, steps)
            measured = partial(fitting, sampling, how)
            found[f"sample-{label}-{way}"] = f"Sampling by EM with {label}", measured
    return found


def fitting(measure: Callable[[Setting], Row], how: Setting) -> Row:
    """Measure a row. If memory runs out, halve the batch and repeat."""
    while True:
        try:
            return measure(how)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Retry outside of the exception handler, which would keep the tensors alive.
        how = how._replace(images=how.images // 2)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def training(how: Setting) -> Row:
    """Compare training steps with steps on a fixed batch, and with a loop of plain PyTorch."""
    model, device = how.network.settings(), how.device
    process, dataset, size = model.process.build(), model.dataset, model.training.batch_size
    given = {"micro_batch": how.images, "precision": how.precision, "compile": how.compile}
    settings = model.training.model_copy(update=given)
    state = TrainingState(build(model, process).to(device), settings)
    called = forward_pass(state.network, how.precision, compile=how.compile)
    shape = (2048, dataset.channels, dataset.image_size, dataset.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ranks, loss_of = Ranks(0, 1, device), EpsilonLoss(process)
    batches, meter = Batches(images, True, NoisyStates(process), settings, ranks), Meter(ranks)
    fixed = batches.draw(0)

    def step(draws: bool) -> None:
        batch = batches.draw(state.step) if draws else fixed
        meter.add(state.step, *optimize(state, called, loss_of, batch, settings))

    state.network.train()
    whole = seconds(lambda: step(True), how)
    # Read the peak before the plain loop, whose optimizer needs additional memory.
    peak = torch.cuda.max_memory_allocated(device) - images.nbytes if peaks(device) else None
    without_draws = seconds(lambda: step(False), how)
    z = torch.randn(how.images, *state.network.in_shape, device=device)
    t, target = torch.rand(how.images, device=device), torch.randn_like(fixed.eps[: how.images])
    optimizer = torch.optim.Adam(state.network.parameters(), fused=True)

    def plain() -> None:
        for _ in range(size // how.images):
            (called(z, t).float() - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    shares = whole, without_draws, seconds(plain, how)
    flops = TRAIN_FACTOR * forward_flops(state.network.eval())
    row = described(how, size / whole, shares, flops, settings.steps * size)
    return row | {"GiB": gib(peak)}


def sampling(how: Setting) -> Row:
    """Compare sampling steps with steps without noise, and with bare network evaluations."""
    model, device = how.network.settings(), how.device
    process = model.process.build()
    network = build(model, process).to(device).eval().requires_grad_(False)
    called = forward_pass(network, how.precision, compile=how.compile)
    shape = (how.images, *network.in_shape)
    z, t = torch.randn(shape, device=device), torch.rand(how.images, device=device)

    def run(draws: bool, steps: int = how.steps) -> None:
        settings = EMSettings(integrator="em", striding="quadratic", steps=steps)
        score = NetworkScore(called, how.images)
        with ShardNoise(0, 0, shape, device) as noise:
            sample(process, settings, score, z, noise if draws else torch.zeros_like, silent=True)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(how.steps):
            called(z, t)

    run(True, steps=WARM_UP)
    once = how._replace(steps=1)
    whole, *others = (
        seconds(action, once, warm_up=0) for action in (lambda: run(True), lambda: run(False), bare)
    )
    speed = how.steps * how.images / whole
    row = described(how, speed, (whole, *others), forward_flops(network), IMAGES * EVALUATIONS)
    return row | {"GiB": gib(torch.cuda.max_memory_allocated(device) if peaks(device) else None)}


def described(
    how: Setting, speed: float, times: tuple[float, float, float], flops: int, images: int
) -> Row:
    """Return the row of a measurement.

    Args:
        speed: images per second.
        times: seconds that the complete work, the work without random input, and the plain loop
            take.
        flops: FLOPs per image.
        images: number of images of a complete training or of a cell, for the GPU hours.
    """
    whole, without_input, plain = times
    peak = peak_flops(how.device, how.precision)
    return {
        "precision": how.precision + (", compiled" if how.compile else ""),
        "images at once": str(how.images),
        "images/s": f"{speed:.0f}",
        "against a plain loop": f"{plain / whole:.2f}",
        "share of noise and data": f"{max(0.0, 1 - without_input / whole):.1%}",
        "MFU": f"{speed * flops / peak:.1%}" if peak else "?",
        "GPU hours": f"{images / speed / 3600:.1f}",
        f"planned at {SUSTAINED / 1e12:.0f} TFLOP/s": f"{images * flops / SUSTAINED / 3600:.1f}",
    }


def seconds(action: Action, how: Setting, warm_up: int = WARM_UP) -> float:
    """Return the mean seconds per call of `how.steps` calls after a warm-up."""
    for _ in range(min(warm_up, how.steps)):
        action()
    wait(how.device)
    started = time.perf_counter()
    for _ in range(how.steps):
        action()
    wait(how.device)
    return (time.perf_counter() - started) / how.steps


def wait(device: torch.device) -> None:
    if peaks(device):
        torch.cuda.synchronize(device)


def peaks(device: torch.device) -> bool:
    """Return whether the device records its peak memory."""
    return device.type == "cuda"


def gib(number: int | None) -> str:
    return "?" if number is None else f"{number / 2**30:.1f}"
