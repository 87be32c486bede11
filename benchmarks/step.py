"""The overhead of the training loop over a network's forward and backward pass, and of its draws.

python -m benchmarks.step
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.settings import compose_model
from benchmarks.timing import compare
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.training.batches import Batches
from psld.training.loop import optimize
from psld.training.model import build
from psld.training.ranks import Ranks
from psld.training.state import TrainingState

LARGE = ["dataset=cifar10", "network=cifar10-ablation", "training=cifar10-ablation"]


def main() -> None:
    measure("the demo's network", [], repeats=7)
    measure(
        "39M, 16 images", [*LARGE, "training.batch_size=16", "training.micro_batch=16"], repeats=3
    )


def measure(name: str, overrides: list[str], repeats: int) -> None:
    """Compare whole steps with bare passes, and the CPU time of a batch's draws with a step's."""
    model = compose_model(overrides, "benchmarks.step")
    process = model.process.build()
    network = build(model, process)
    state = TrainingState(network, model.training)
    dataset, size = model.dataset, model.training.batch_size
    shape = (1437, dataset.channels, dataset.image_size, dataset.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ranks = Ranks(0, 1, torch.device("cpu"))
    batches = Batches(images, False, NoisyStates(process), model.training, ranks)
    loss_of = EpsilonLoss(process)
    z, t = torch.randn(size, *network.in_shape), torch.rand(size)

    def step() -> None:
        optimize(state, network, loss_of, batches.draw(state.step), model.training)

    def bare() -> None:
        network(z, t).square().mean().backward()

    compare(f"{name}: a training step against forward and backward alone", step, bare, repeats)
    step_seconds = cpu_seconds(step, repeats)
    draw_seconds = cpu_seconds(lambda: batches._draw_on_host(0), 20)
    print(f"{name}: {draw_seconds / step_seconds:.2%} of a step's CPU time draw its batch")


def cpu_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the CPU time of an action, of all threads, as the mean of some repetitions."""
    action()
    started = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - started) / repeats


if __name__ == "__main__":
    main()
