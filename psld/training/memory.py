"""The memory of a training step on a GPU, counted without one."""

import torch

from psld.diffusion.loss import Batch, GuideLoss
from psld.networks.forward import forward_pass
from psld.training.loop import optimize
from psld.training.model import build, build_process, objective
from psld.training.settings import TrainedSettings
from psld.training.state import TrainingState
from psld.utils.memory import PeakMemory


def training_memory(settings: TrainedSettings, images: int, ranks: int = 1) -> int:
    """Return the most bytes of tensors on a GPU in a training step of these settings.

    These are the weights, their average, Adam's moments, gradients and activations, of the step
    that `psld.training.loop` takes. Not counted: what is no tensor, and the training images, which
    are on the GPU too up to `psld.training.batches.RESIDENT_BYTES`.

    Takes one to three seconds on one core of a CPU for a network of the paper, whatever `images`,
    and draws no random numbers. With `compile` a step takes less.

    Args:
        settings: of a model or guide.
        images: images per forward pass, in place of `micro_batch`.
        ranks: the number of GPUs that share the batch.
    """
    process, data = build_process(settings), settings.dataset
    loss_of = objective(settings, process)
    noising = loss_of.noising
    part = settings.training.batch_size // ranks
    loop = settings.training.model_copy(update={"micro_batch": images})
    has_labels = isinstance(loss_of, GuideLoss) or settings.num_classes > 0
    with PeakMemory() as memory:
        with memory.without_values():
            state = TrainingState(build(settings, process).train(), loop)
            x0, eps, auxiliary = (
                torch.empty(part, blocks * data.channels, data.image_size, data.image_size)
                for blocks in (1, noising.blocks, noising.auxiliary)
            )
            labels = torch.empty(part, dtype=torch.int64) if has_labels else None
        # A later step has Adam's moments, and with several micro-batches, gradients of the others.
        for parameter in state.network.parameters():
            parameter.grad = torch.empty_like(parameter)
        state.optimizer.step()
        if ranks == 1 and images >= part:
            state.optimizer.zero_grad(set_to_none=True)
        t = noising.levels(torch.full((part,), 0.5, dtype=torch.float64))
        batch = Batch(x0, t, eps, auxiliary if noising.auxiliary else None, labels)
        # One micro-batch is a view of the whole batch, which is there, too.
        micro_batch, called = next(batch.split(images)), forward_pass(state.network, loop.precision)
        memory.peak = memory.live
        optimize(state, called, loss_of, micro_batch, loop)
    return memory.peak
