"""The overhead of the training loop over a network's forward and backward pass.

python -m benchmarks.step
"""

import numpy as np
import torch

from benchmarks.timing import compare
from psld.diffusion.loss import EpsilonLoss
from psld.grid.composing import compose_model
from psld.training.batches import Batches
from psld.training.loop import optimize
from psld.training.model import build_network, build_process
from psld.training.ranks import Ranks
from psld.training.state import TrainingState


def main() -> None:
    model = compose_model([], "benchmarks.step")
    process = build_process(model)
    network = build_network(model, process)
    state = TrainingState(network, model.training)
    ranks = Ranks(0, 1, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (1437, 1, 8, 8), dtype=np.uint8)
    batches = Batches(images, False, process, model.training, ranks)
    loss_of = EpsilonLoss(process)
    size = model.training.batch_size
    z, t = torch.randn(size, 2, 8, 8), torch.rand(size)

    def step() -> None:
        optimize(state, network, loss_of, batches.draw(state.step), model.training)

    def bare() -> None:
        network(z, t).square().mean().backward()

    compare("training step against forward and backward alone", step, bare)


if __name__ == "__main__":
    main()
