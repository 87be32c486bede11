"""Measure the overhead of the training loop over plain PyTorch loops.

    python -m benchmarks.step

For the demo's network and for a large network, the program prints the time of a step divided by the
time of the forward and backward pass, and the fraction of the step's CPU time that drawing the
batch takes. For a custom network, the program prints the time of a step divided by the time of the
same step in plain PyTorch, with random draws, Adam, gradient clipping and the moving average of the
weights. For a process whose matrices depend on time, the program compares steps with those of a
process with constant matrices.
"""

import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.settings import compose_model
from benchmarks.timing import compare
from psld.diffusion.loss import Batch, EpsilonLoss, NoisyStates
from psld.diffusion.process import LinearProcess
from psld.models.build import build, loss_of
from psld.parts import Network
from psld.training.batches import Batches
from psld.training.loop import optimize
from psld.training.ranks import Ranks
from psld.training.state import TrainingState

LARGE = ["dataset=cifar10", "network=cifar10-ablation", "training=cifar10-ablation"]
IMAGES = 64
"""The batch size for the custom network."""
VARYING = 128
"""The batch size for the process whose matrices depend on time."""


def main() -> None:
    measure("the demo's network", [], repeats=7)
    measure(
        "39M, 16 images", [*LARGE, "training.batch_size=16", "training.micro_batch=16"], repeats=3
    )
    own_network("a custom network", repeats=7)
    varying_process("a friction that depends on time", repeats=15)


def measure(name: str, overrides: list[str], repeats: int) -> None:
    """Compare a step with a forward and backward pass, and with the drawing of its batch."""
    model = compose_model(overrides, "benchmarks.step")
    process = model.process.build()
    network = build(model, process)
    state = TrainingState(network, model.training)
    dataset, size = model.dataset, model.training.batch_size
    shape = (1437, dataset.channels, dataset.image_size, dataset.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ranks = Ranks(0, 1, torch.device("cpu"))
    batches = Batches(images, False, NoisyStates(process), model.training, ranks)
    loss = EpsilonLoss(process)
    z, t = torch.randn(size, *network.in_shape), torch.rand(size)

    def step() -> None:
        optimize(state, network, loss, batches.draw(state.step), model.training)

    def bare() -> None:
        network(z, t).square().mean().backward()

    compare(f"{name}: a training step against forward and backward alone", step, bare, repeats)
    step_seconds = cpu_seconds(step, repeats)
    draw_seconds = cpu_seconds(lambda: batches._draw_on_host(0), 20)
    print(f"{name}: {draw_seconds / step_seconds:.2%} of a step's CPU time draw its batch")


class Patches(Network):
    """A transformer on image patches, written as a user would write a custom network."""

    width: int = 256
    depth: int = 6

    def build(self, in_channels, out_channels, image_size, num_classes):
        return Transformer(in_channels, out_channels, image_size // 4, self.width, self.depth)


class Transformer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, side: int, width: int, depth: int):
        super().__init__()
        self.into = nn.Conv2d(in_channels, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, side**2, width) / 8)
        self.level = nn.Linear(1, width)
        layers = [
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers)
        self.out = nn.ConvTranspose2d(width, out_channels, 4, 4)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        tokens = self.into(y).flatten(2).transpose(1, 2) + self.place
        hidden = self.layers(tokens + self.level(t[:, None])[:, None])
        side = y.shape[-1] // 4
        return self.out(hidden.transpose(1, 2).unflatten(2, (side, side)))


def own_network(name: str, repeats: int) -> None:
    """Compare steps of a denoiser with steps of a plain PyTorch loop."""
    words = ["network=benchmarks.step:Patches", "training.objective=denoiser", "dataset=cifar10"]
    words += [f"training.batch_size={IMAGES}", f"training.micro_batch={IMAGES}"]
    words += ["dataset.flip=false"]
    model = compose_model(words, "benchmarks.step")
    training, process, deviation = model.training, model.process.build(), 0.5
    network, loss = build(model, process, deviation), loss_of(model, process, deviation)
    images = np.random.default_rng(0).integers(0, 256, (2000, 3, 32, 32), dtype=np.uint8)
    state, ranks = TrainingState(network, training), Ranks(0, 1, torch.device("cpu"))
    batches = Batches(images, False, loss.noising, training, ranks)
    millions = sum(each.numel() for each in network.parameters()) / 1e6

    def step() -> None:
        optimize(state, network, loss, batches.draw(state.step), training)

    plain, average = deepcopy(network), deepcopy(network)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-4, fused=True)
    tensors, law = torch.from_numpy(images), loss.facts.law

    def by_hand() -> None:
        x0 = tensors[torch.randint(len(tensors), (IMAGES,))].float() / 127.5 - 1
        sigma = (law.center + law.width * torch.randn(IMAGES)).exp()
        noise = sigma[:, None, None, None] * torch.randn_like(x0)
        weight = (sigma**2 + 0.25) / (sigma**2 * 0.25)
        error = plain(x0 + noise, sigma) - x0
        (weight[:, None, None, None] * error**2).mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_([*average.parameters()], [*plain.parameters()], 1e-4)

    plain.train(), network.train()
    compare(f"{name} ({millions:.1f}M): a step against one by hand", step, by_hand, repeats)


def varying_process(name: str, repeats: int) -> None:
    """Compare PSLD with a friction Γ(t) with PSLD: a training step, and its noisy states alone."""
    model = compose_model([f"training.batch_size={VARYING}"], "benchmarks.step")
    constant = model.process.build()

    def noise(t: Tensor) -> list[list[Tensor | float]]:
        return [[0.01 * (1 + t), 0.0], [0.0, (0.01 * (1 + t) + 2) / 4]]

    varying = LinearProcess(
        noise, [[0.0, -0.5], [0.5, 0.0]], [1, 0.25], 8, initial_variance=[0, 0.01]
    )
    network = build(model, constant)
    x0, eps = torch.randn(VARYING, 1, 8, 8), torch.randn(VARYING, 2, 8, 8)

    def states(process: LinearProcess) -> Callable[[], object]:
        return lambda: process.perturb(x0, torch.rand(VARYING, dtype=torch.float64), eps)

    def step(process: LinearProcess) -> Callable[[], object]:
        loss = EpsilonLoss(process)

        def run() -> None:
            t = torch.rand(VARYING, dtype=torch.float64)
            loss(network, Batch(x0, t, eps, None)).backward()

        return run

    compare(f"{name}: a step against a constant one", step(varying), step(constant), repeats)
    compare(f"{name}: noisy states alone", states(varying), states(constant), 5 * repeats)


def cpu_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the mean CPU time of an action, summed over all threads."""
    action()
    started = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - started) / repeats


if __name__ == "__main__":
    main()
